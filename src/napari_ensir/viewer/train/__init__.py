"""The panel that trains a network."""
