"""The panel that fits a lookup table."""
