"""Metrics that are the same numbers however a data set was divided."""
