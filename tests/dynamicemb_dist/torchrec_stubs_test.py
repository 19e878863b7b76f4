"""TorchRec where there is no FBGEMM."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.common.processes import python

pytest.importorskip("tensordict", reason="an environment without TorchRec")

HERE = Path(__file__).parent


def test_dynamic_tables_train_under_torchrec_without_any_fbgemm(tmp_path: Path) -> None:
    (tmp_path / "fbgemm_gpu.py").write_text("raise ImportError('there is none')")
    ran = python(HERE / "torchrec_alone.py", first=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "trained; fbgemm: []" in ran.stdout
