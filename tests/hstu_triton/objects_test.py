"""Objects of triton_library: equal bytes from another folder, how they are launched, their cost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import triton
from generative_recommenders.ops.triton._attention_configs import Config, configuration

from tests.hstu_triton.cases import INTERPRETED  # noqa: F401 - Triton is imported as elsewhere

if "OBJECTS" not in os.environ:
    pytest.skip("tools/bazel test //tests/hstu_triton/... builds them", allow_module_level=True)

ROWS = sorted(Path(p) for p in os.environ["OBJECTS"].split() if p.endswith(".row.json"))
COMPILE = Path(os.environ["COMPILE"]).resolve()
TWICE = os.environ["TWICE"].split()
# Bytes of each thread that may lie in local memory; more where that was measured as the fastest.
STACK = 64
FASTEST = {
    "attention_fwd.128.long.causal sm_90": 144,
    "attention_bwd_columns.128.long.causal sm_90": 80,
    "attention_bwd_columns.128.long.general sm_90": 176,
    "attention_bwd_rows.256.long.general sm_90": 376,
    "attention_fwd.256.long.general sm_90": 112,
}


def name_of(row: Path) -> str:
    return row.name.removesuffix(".row.json")


def named(row: Path) -> str:
    return f"{row.parent.name} {name_of(row)}"


def cubin(row: Path) -> Path:
    return row.with_name(name_of(row) + ".cubin")


@pytest.mark.parametrize("row", [r for r in ROWS if not TWICE or name_of(r) in TWICE], ids=named)
def test_another_folder_gives_equal_bytes(row: Path, tmp_path: Path) -> None:
    kernels = Path("python/generative_recommenders/ops/triton")
    shutil.copytree(kernels, tmp_path / "elsewhere" / kernels)
    site, out = tmp_path / "site.txt", tmp_path / "other.cubin"
    site.write_text(f"{Path(triton.__file__).parents[1]}\n")
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, COMPILE, site, tmp_path / "elsewhere/python", row.resolve(), out]
    subprocess.run(command, env=variables, cwd=tmp_path, check=True)
    for end in ("", ".json", ".ptx"):
        ours, theirs = (Path(f"{path}{end}").read_bytes() for path in (cubin(row), out))
        assert sha256(ours).hexdigest() == sha256(theirs).hexdigest(), end


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_an_object_says_how_it_is_launched_and_fits_the_gpu(row: Path) -> None:
    of = json.loads(Path(f"{cubin(row)}.json").read_text())
    memory = {"sm_80": 163, "sm_90": 227}[of["arch"]] * 1024
    assert of["shared"] <= memory and of["registers"] <= 255 and of["scratch"] == 0
    kernel, _, *rest = of["name"].split(".")
    assert of["stack"] <= FASTEST.get(f"{'.'.join([kernel, *rest])} {of['arch']}", STACK), of
    assert of["num_warps"] in (1, 2, 4, 8) and of["parameters"]


@pytest.mark.parametrize("row", [row for row in ROWS if ".long." in row.name], ids=named)
def test_attention_takes_the_blocks_of_the_table_and_on_hopper_wgmma(row: Path) -> None:
    of = json.loads(row.read_text())
    kernel, _, dim, _, mask = of["name"].split(".")
    direction = {"attention_fwd": "forward"}.get(kernel, kernel.removeprefix("attention_bwd_"))
    major = int(of["arch"][3])
    blocks = (of["constants"]["BLOCK_M"], of["constants"]["BLOCK_N"])
    taken = Config(*blocks, of["num_warps"], of["num_stages"], of["constants"]["LOOP"])
    wanted = configuration(direction, int(dim), 2, major, 8192, False)
    if mask == "causal":
        assert taken == wanted
    else:  # it has more to keep in registers, and may take smaller blocks
        assert taken.block_m <= wanted.block_m and taken.block_n <= wanted.block_n
    assert ("wgmma" in Path(f"{cubin(row)}.ptx").read_text()) == (major == 9)


def test_the_wheel_has_at_most_400_objects() -> None:
    assert len(ROWS) <= 400
