"""Readers of network files: checkpoints of this package, CAREamics, bioimage.io."""
