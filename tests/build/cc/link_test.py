"""What the toolchain's repository has made, no link makes again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.common.bazel import variable

CXX = Path(variable("CXX"))
MADE = (CXX.parent / "ziglang/zig").resolve().parents[1] / "zig-cache"


def parts(cache: Path) -> set[str]:
    """The libraries that zig made of its own sources."""
    made = [path for path in cache.glob("o/*/*") if path.suffix in {".a", ".0", ".6"}]
    return {str(path.relative_to(cache)) for path in made}


@pytest.mark.parametrize("flags", [["-shared", "-s"], ["-s"], ["-static", "-s"], []], ids=" ".join)
def test_a_link_makes_no_part_of_zig_s_again(tmp_path: Path, flags: list[str]) -> None:
    source = tmp_path / "one.c"
    source.write_text("int main(void) { return 0; }\n")
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    subprocess.run([CXX, *flags, source, "-o", tmp_path / "one"], check=True, env=environment)
    assert any(part.endswith("libcompiler_rt.a") for part in parts(MADE))
    assert parts(tmp_path / "zig-links") == parts(MADE)
