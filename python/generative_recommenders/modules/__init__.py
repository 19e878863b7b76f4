"""The modules of HSTU models on the ops of this package."""
