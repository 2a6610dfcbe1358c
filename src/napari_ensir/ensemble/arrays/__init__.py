"""Reading images: blocks, sets of images, intensity ranges and threads."""
