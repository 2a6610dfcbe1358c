"""Detection and readers of network files: CAREamics, bioimage.io and others."""
