"""Binning and the sufficient statistics of a reference set."""
