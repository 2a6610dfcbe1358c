"""The numerical core: statistics, estimators, lookup tables, scores and expected errors."""
