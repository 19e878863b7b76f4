"""The machine code of the decode kernel (head dim 128, fp16) for each target of the build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import nvidia
import pytest

TOKENS = 16  # of a pass through a block of code
MOST = 33  # warp instructions for a token of a kv head, keys and values together


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """sm_XY -> the kernel's instructions, in order; labels of branches are addresses."""
    tools = tmp_path_factory.mktemp("bin")
    found = next(p for p in map(Path, nvidia.__path__) if (p / "cu13/bin/cuobjdump").exists())
    for name in ("cuobjdump", "nvdisasm"):
        shutil.copyfile(found / "cu13/bin" / name, tools / name)
        (tools / name).chmod(0o755)
    done = subprocess.run(
        [tools / "cuobjdump", "-sass", os.environ["MUSTAFAR_OBJECT"]],
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    parts = re.split(r"arch = (sm_\d+)", done.stdout)
    return {
        arch: re.findall(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(.+?) ;", text, re.MULTILINE)
        for arch, text in zip(parts[1::2], parts[2::2], strict=True)
        if "decode_kernel" in text
    }


def operation(instruction: str) -> str:
    return re.sub(r"^@!?U?P\d+ ", "", instruction).split(" ")[0]


def blocks(code: list[str]) -> list[list[str]]:
    """Runs of instructions that no branch ends."""
    found: list[list[str]] = [[]]
    for instruction in code:
        found[-1].append(operation(instruction))
        if operation(instruction).startswith(("BRA", "BRX", "EXIT", "RET")):
            found.append([])
    return found


def test_every_target_is_there(targets: dict[str, list[str]]) -> None:
    assert "sm_80" in targets or "sm_90" in targets


def test_nothing_is_stored_to_shared_memory_between_the_products(
    targets: dict[str, list[str]],
) -> None:
    for code in targets.values():
        names = [operation(i) for i in code]
        products = [i for i, name in enumerate(names) if name.startswith("HMMA")]
        between = names[products[0] : products[-1]]
        assert not [name for name in between if name.startswith("STS")]


def test_a_token_takes_no_more_instructions_than_its_budget(targets: dict[str, list[str]]) -> None:
    for arch, code in targets.items():
        # The runs that expand bits: they count them by products of bits, and multiply.
        runs = [
            names
            for names in blocks(code)
            if all(any(n.startswith(w) for n in names) for w in ("HMMA", "BMMA"))
        ]
        products = sum(name.startswith("HMMA") for names in runs for name in names)
        assert products == 32  # 16 steps of 8 channels for the keys, 16 for the values
        count = sum(map(len, runs)) / TOKENS
        print(f"{arch}: {count:.1f} instructions a token")
        assert count <= MOST
