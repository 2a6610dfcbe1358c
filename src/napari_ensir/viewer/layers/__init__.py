"""Access to napari layers: pixels, names, placement and choice."""
