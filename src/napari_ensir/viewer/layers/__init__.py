"""Layers: their data, placement and choice."""
