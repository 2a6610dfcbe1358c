"""What napari.yaml points at besides panels: menu, reader, writer, sample data, demo."""
