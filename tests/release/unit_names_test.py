"""No name in the release's shared objects holds the path or the process id of its compile.

nvcc names a unit after the first thing that it defines with a plain external name. A unit that has
none, such as one with explicit template instantiations alone, is named after its absolute path and
the process id of the compile instead, and internal names carry that: the object is another one in
every checkout. Such a unit needs one plain definition (csrc/hstu_attn/fwd_inst.cu.tpl).
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import pytest

if "WHEELS" not in os.environ:
    pytest.skip("Bazel builds what it looks at", allow_module_level=True)

WHEELS = [Path(path) for path in os.environ["WHEELS"].split()]
# _INTERNAL_<hash>_<length>_<file>_cu_<hash>, and where there is no definition _<process id>.
UNIT = rb"_INTERNAL_[0-9a-f]{8}_\d+_\w{1,120}?_cu_[0-9a-f]{8}"


def unstable(data: bytes) -> set[bytes]:
    return set(re.findall(UNIT + rb"_\d+", data))


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda path: path.name)
def test_no_unit_is_named_after_a_process(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".so"):
                assert not unstable(archive.read(name)), name


def test_the_names_of_both_kinds_are_told_apart() -> None:
    assert not unstable(b"_ZN33_INTERNAL_99753eea_4_t_cu_1bafcaa14cuda3std3__45__cpo3endE")
    assert unstable(b"_ZN38_INTERNAL_99753eea_4_t_cu_3d6e513c_29204cuda3std3__45__cpo3endE")
