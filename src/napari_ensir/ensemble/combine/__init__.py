"""Combination of candidates with a table of weights."""
