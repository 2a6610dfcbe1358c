"""The napari viewer: a folder for each panel, magicgui controls, layers, results and plugin entry points."""
