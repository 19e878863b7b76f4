"""The commands that ``python -m dynamicemb torchrec`` prints install what trains."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dynamicemb import torchrec_compat

from tests.common.processes import python

HERE = Path(__file__).parent
FLAG = "DYNAMICEMB_INSTALL_TESTS"


@pytest.mark.skipif(not os.environ.get(FLAG), reason=f"fetches packages: {FLAG}=1 runs it")
def test_what_the_two_lines_install_trains(tmp_path: Path) -> None:
    """Into a folder that this Python, which must have torch and no TorchRec, sees alone."""
    assert python("-c", "import torchrec").returncode != 0
    begin = time.monotonic()
    for line in torchrec_compat.install_lines():
        pip, *arguments = shlex.split(line)
        assert pip == "pip"
        place = ["--disable-pip-version-check", "--target", str(tmp_path)]
        subprocess.run([sys.executable, "-m", "pip", *arguments, *place], check=True)
    took = time.monotonic() - begin
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    print(f"installed in {took:.1f} s: {size / 1e6:.1f} MB")
    ran = python(HERE / "torchrec_alone.py", "--fbgemm", first=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "trained; fbgemm: [" in ran.stdout and str(tmp_path / "fbgemm_gpu") in ran.stdout
