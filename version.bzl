"""The version of every wheel and conda package, and the day it is dated with (CHANGELOG.md)."""

VERSION = "0.3.0"
RELEASE_DATE = "2026-11-26"
