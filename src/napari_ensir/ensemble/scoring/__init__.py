"""Metrics, tables of scores and cross-validation."""
