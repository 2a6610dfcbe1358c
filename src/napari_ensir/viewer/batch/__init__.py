"""The panel that processes folders of images."""
