"""What the packages share. Each wheel has a copy of its own, ``<package>/_core``, so that it is
whole by itself; nothing here is public."""
