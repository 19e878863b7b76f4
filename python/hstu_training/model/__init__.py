"""The two models."""
