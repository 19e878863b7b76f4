"""The version of every wheel and conda package."""

VERSION = "0.1.0"
