"""Checks of a module's arguments: each error names the argument, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dynamicemb.arguments import checks
from dynamicemb.dynamicemb_config import DynamicEmbTableOptions
from dynamicemb.types import DynamicEmbPoolingMode


def resolved_device(given: torch.device | str | None) -> torch.device:
    if given is None:
        given = "cuda" if torch.cuda.is_available() else "cpu"
    device = checks.torch_device(given, "device")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def checked_options(options: Sequence[DynamicEmbTableOptions]) -> list[DynamicEmbTableOptions]:
    if not isinstance(options, (list, tuple)):
        checks.fail(f"table_options must be a list of DynamicEmbTableOptions, got {options!r}")
    given = list(options)
    for t, one in enumerate(given):
        checks.instance(one, DynamicEmbTableOptions, f"table_options[{t}]")
    if not given:
        raise ValueError("dynamicemb: table_options must hold at least one table, got none")
    for t, one in enumerate(given):
        if one.embedding_dtype is None:
            one.embedding_dtype = torch.float32
        one.check(f"table_options[{t}]")
        if one != given[0] or one.embedding_dtype != given[0].embedding_dtype:
            raise ValueError(
                f"dynamicemb: table_options[{t}] and table_options[0] must agree in training, "
                "caching, external_storage, index_type, score_strategy, dist_type, admit_strategy "
                "and embedding_dtype"
            )
    return given


def checked_names(names: Sequence[str] | None, tables: int) -> list[str]:
    made = [f"t_{t}" for t in range(tables)] if names is None else names
    listed = isinstance(made, (list, tuple)) and all(isinstance(name, str) for name in made)
    if not listed or len(made) != tables or len(set(made)) != tables:
        raise ValueError(f"dynamicemb: table_names must be {tables} distinct names, got {made!r}")
    return list(made)


def checked_map(given: Sequence[int] | None, tables: int) -> list[int]:
    if given is None:
        return list(range(tables))
    made = checks.sequence(given, "feature_table_map", 0)
    if sorted(made) != made or set(made) != set(range(tables)):
        raise ValueError(
            f"dynamicemb: feature_table_map must ascend and name each table of 0 to {tables - 1}, "
            f"got {made}"
        )
    return made


def check_offsets(offsets: Tensor, n: int) -> None:
    falls = bool((offsets[1:] < offsets[:-1]).any())
    if falls or int(offsets[0]) != 0 or int(offsets[-1]) != n:
        raise ValueError(
            f"dynamicemb: offsets must ascend from 0 to the number of indices, {n}, got "
            f"{offsets[:4].tolist()} ... {offsets[-4:].tolist()}"
        )


def check_frequencies(frequencies: Tensor, indices: Tensor) -> None:
    checks.tensor(frequencies, "frequency_counters")
    if frequencies.shape != indices.shape or frequencies.dtype != torch.int64:
        raise ValueError(
            f"dynamicemb: frequency_counters must be int64 of shape {tuple(indices.shape)}, got "
            f"{frequencies.dtype} {tuple(frequencies.shape)}"
        )


def check_weights(weights: Tensor, indices: Tensor, pooling: DynamicEmbPoolingMode) -> None:
    checks.tensor(weights, "per_sample_weights")
    if pooling == DynamicEmbPoolingMode.NONE:
        raise ValueError(
            "dynamicemb: per_sample_weights need pooling_mode SUM or MEAN, and it is NONE "
            "(frequencies are frequency_counters)"
        )
    if weights.shape != indices.shape or not weights.is_floating_point():
        raise ValueError(
            f"dynamicemb: per_sample_weights must be floats of shape {tuple(indices.shape)}, "
            f"got {weights.dtype} {tuple(weights.shape)}"
        )
