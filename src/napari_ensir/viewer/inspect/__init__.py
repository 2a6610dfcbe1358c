"""The panel that shows a lookup table."""
