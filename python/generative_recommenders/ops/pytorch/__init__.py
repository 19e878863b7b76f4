"""The ops in plain PyTorch: the reference of the tests, and what runs on a CPU."""
