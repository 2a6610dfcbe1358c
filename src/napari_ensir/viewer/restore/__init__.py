"""The panel that restores an image."""
