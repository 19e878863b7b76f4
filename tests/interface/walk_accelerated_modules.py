"""The calls of accelerated_modules that succeed."""

from __future__ import annotations

import io

import accelerated_modules

from tests.interface.walk import Call, Walk


def call(name: str, parameter: str) -> Call:
    return Call(getattr(accelerated_modules, name), {"file": io.StringIO()})


WALK = Walk("accelerated_modules", {"file": "file"}, call)
