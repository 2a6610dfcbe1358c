"""Combining candidates with a table: lookup, the weighted sum, and tables of folds."""
