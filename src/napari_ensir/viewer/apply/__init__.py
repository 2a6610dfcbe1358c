"""The panel that applies a lookup table."""
