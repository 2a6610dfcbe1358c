"""The napari viewer: one folder for each panel, magicgui controls, layers, results and plugin entry points."""
