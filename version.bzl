"""The version of every wheel and conda package, and the day it is dated with (CHANGELOG.md)."""

VERSION = "0.3.0"
RELEASE_DATE = "2026-11-26"

# The oldest PyTorch, its pre-releases and nightlies included: NVIDIA's containers have 2.10.0a0+...
# What packages check at import agrees (MINIMUM_TORCH).
TORCH = "torch>=2.10.dev0"
