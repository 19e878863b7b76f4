"""What the release programs end with when something is wrong."""

from __future__ import annotations


class Refused(Exception):
    """A reason in one line, with what to do about it."""
