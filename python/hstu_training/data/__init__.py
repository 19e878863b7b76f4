"""Data sets as memory-mapped columns, and batches of them."""
