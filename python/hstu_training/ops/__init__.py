"""What the layers are computed with."""
