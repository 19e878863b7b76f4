"""The ops: one function each, and ``kernel=`` says what computes it."""
