"""A build with most HSTU_DISABLE_ switches on: what is left works, the rest names its flag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hstu_attn
import pytest
import torch
from hstu_attn.ops import LIBRARY, build_info

from tests.hstu_attn.cases import assert_right, make_case, run

pytestmark = pytest.mark.skipif(
    not build_info()["disabled"], reason="this build of hstu_attn has everything switched on"
)

KEPT = {"BF16", "CAUSAL", "HDIM64"}
CAUSAL: dict[str, Any] = {"window": (-1, 0), "dim": 64}
OFF: dict[str, dict[str, Any]] = {
    "LOCAL": {"window": (8, 0)},
    "CONTEXT": {"contexts": 3},
    "TARGET": {"targets": 3},
    "ARBITRARY": {"n_func": 3, "window": (-1, -1)},
    "RAB": {"rab_heads": 1},
    "FP16": {"dtype": torch.float16},
    "HDIM32": {"dim": 32},
    "HDIM128": {"dim": 128},
    "HDIM256": {"dim": 256},
}


def test_the_report_names_what_is_left_out() -> None:
    info = build_info()
    assert set(info["enabled"]) == KEPT
    assert {"BACKWARD", "86OR89", *OFF} <= set(info["disabled"])


def test_what_is_left_out_is_not_in_the_binary() -> None:
    assert Path(LIBRARY).stat().st_size < 2 * 2**20  # the whole build has 28 MiB
    assert b"bwd_kernel" not in Path(LIBRARY).read_bytes()


def test_the_version_is_the_whole_build_s() -> None:
    assert build_info()["version"] == hstu_attn.__version__


def test_what_is_left_works(gpu: str) -> None:
    case = make_case(device=gpu, **CAUSAL)
    out = hstu_attn.hstu_attn_varlen_func(**case.arguments())
    assert_right({"out": out}, case)


@pytest.mark.parametrize("switch", OFF)
def test_what_is_left_out_is_refused_by_name(gpu: str, switch: str) -> None:
    case = make_case(device=gpu, **{**CAUSAL, **OFF[switch]})
    with pytest.raises(RuntimeError, match=f"not in this build .HSTU_DISABLE_{switch}.$"):
        hstu_attn.hstu_attn_varlen_func(**case.arguments())


def test_a_backward_that_was_left_out_is_refused_by_name(gpu: str) -> None:
    with pytest.raises(RuntimeError, match=r"not in this build .HSTU_DISABLE_BACKWARD."):
        run(make_case(device=gpu, **CAUSAL))
