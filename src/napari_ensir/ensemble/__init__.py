"""The numbers: bins, statistics, estimators, lookup table. Knows nothing of napari or Qt."""
