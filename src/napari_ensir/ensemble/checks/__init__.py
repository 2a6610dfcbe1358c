"""Checks for data that will not give a good table: misalignment, noise, exposure, sparse bin sets."""
