"""Held-out comparison of ensemble methods and baselines."""
