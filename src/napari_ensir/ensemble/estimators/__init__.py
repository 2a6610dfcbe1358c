"""Estimators: functions from statistics to weights."""
