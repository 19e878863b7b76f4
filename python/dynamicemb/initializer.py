"""Initializers as the kernels read them: a mode, four numbers and a seed for each table."""

from __future__ import annotations

import hashlib
import math
import struct

from dynamicemb.types import DynamicEmbInitializerArgs, DynamicEmbInitializerMode, enum_of

MODES = {mode: number for number, mode in enumerate(DynamicEmbInitializerMode)}


def double_bits(value: float) -> int:
    """A float64 as the int64 with the same bits."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def table_seed(seed: int, table: str) -> int:
    """The int64 that the rows of a table are drawn with."""
    return int.from_bytes(
        hashlib.sha256(f"{seed}:{table}".encode()).digest()[:8], "little", signed=True
    )


def _finite(value: float, name: str) -> float:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not real or not math.isfinite(value):
        raise ValueError(f"dynamicemb: initializer {name} must be a finite number, got {value!r}")
    return float(value)


def init_words(args: DynamicEmbInitializerArgs) -> list[int]:
    """The mode and four float64 of ``RowInfo`` in csrc/dynamicemb/dynamicemb.h."""
    mode = enum_of(DynamicEmbInitializerMode, args.mode, "initializer mode")
    numbers = [0.0, 0.0, 0.0, 0.0]
    if mode in (DynamicEmbInitializerMode.NORMAL, DynamicEmbInitializerMode.TRUNCATED_NORMAL):
        mean, deviation = _finite(args.mean, "mean"), _finite(args.std_dev, "std_dev")
        if deviation < 0:
            raise ValueError(f"dynamicemb: initializer std_dev must be >= 0, got {deviation}")
        low, high = -1.0, 1.0
        if mode is DynamicEmbInitializerMode.TRUNCATED_NORMAL:
            lower = mean - 2 * deviation if args.lower is None else _finite(args.lower, "lower")
            upper = mean + 2 * deviation if args.upper is None else _finite(args.upper, "upper")
            if lower > upper:
                raise ValueError(f"dynamicemb: initializer lower {lower} is above upper {upper}")
            if deviation > 0:
                low, high = (
                    math.erf((x - mean) / deviation / math.sqrt(2)) for x in (lower, upper)
                )
        numbers = [mean, deviation, low, high]
    elif mode is DynamicEmbInitializerMode.UNIFORM:
        lower = 0.0 if args.lower is None else _finite(args.lower, "lower")
        upper = 1.0 if args.upper is None else _finite(args.upper, "upper")
        if lower > upper:
            raise ValueError(f"dynamicemb: initializer lower {lower} is above upper {upper}")
        numbers = [lower, upper, 0.0, 0.0]
    elif mode is DynamicEmbInitializerMode.CONSTANT:
        numbers[0] = _finite(args.value, "value")
    return [MODES[mode], *map(double_bits, numbers)]
