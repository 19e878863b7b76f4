"""TorchRec as it is found: versions that do not fit, the example, the benchmark."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamicemb import torchrec_compat

from tests.common.processes import python

pytest.importorskip("tensordict", reason="an environment without TorchRec")

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples/torchrec_dlrm.py"
BENCHMARK = HERE.parents[1] / "benchmarks/dynamicemb_dist.py"


def test_use_stubs_comes_before_torchrec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrec", type(sys)("torchrec"))
    monkeypatch.delitem(sys.modules, "fbgemm_gpu", raising=False)
    with pytest.raises(RuntimeError, match="use_stubs\\(\\) must come before `import torchrec`"):
        torchrec_compat.use_stubs()


@pytest.mark.parametrize("version", ["1.2.0", "1.5.1", "1.10.0", "2.0.0"])
def test_another_torchrec_is_refused_with_the_pair_that_fits(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    for name in ("torchrec", "fbgemm_gpu"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    monkeypatch.setattr(metadata, "version", lambda _: version)
    pair = torchrec_compat.fitting_pair()
    said = f"torchrec {version} is not of the versions 1.6 to 1.9 that are supported; torch"
    with pytest.raises(ImportError, match=said) as caught:
        torchrec_compat.require()
    assert f"goes with torchrec {pair.torchrec} and fbgemm-gpu-cpu {pair.fbgemm}" in str(
        caught.value
    )
    assert "`python -m dynamicemb torchrec`" in str(caught.value)


def test_an_fbgemm_that_cannot_be_imported_is_told_with_the_pair_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "fbgemm_gpu", None)
    with pytest.raises(ImportError, match=r"fbgemm_gpu cannot be imported .*goes with torchrec"):
        torchrec_compat.require()


def test_the_lines_to_install_fit_this_torch_and_bring_no_other() -> None:
    first, second = torchrec_compat.install_lines()
    pair = torchrec_compat.fitting_pair()
    assert torch.__version__.startswith(pair.torch + ".")
    wanted = f"torchrec=={pair.torchrec} fbgemm-gpu-cpu=={pair.fbgemm}"
    assert first == f"pip install --no-deps {wanted}"
    assert second.startswith("pip install --no-deps ")
    small = {name.replace("_", "-").lower() for name in second.split()[3:]}
    here: set[Any] = {"tensordict", "torchmetrics", "pyre-extensions", "typing-inspect"}
    assert here <= small and "torch" not in small


def test_the_example_learns_on_two_processes() -> None:
    ran = python(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", EXAMPLE,
        OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    losses = [float(line.split()[-1]) for line in ran.stdout.splitlines() if "loss" in line]
    assert losses[0] > 0.6 and losses[-1] < 0.3, ran.stdout


def test_the_benchmark_has_torchrec_beside_ours() -> None:
    options = ("--device=cpu", "--case=small", "--repeats=1")
    ran = python(BENCHMARK, *options, first=BENCHMARK.parent)
    assert ran.returncode == 0, ran.stderr
    kinds = [line[10:18].strip() for line in ran.stdout.splitlines() if line.startswith("small")]
    assert kinds[0] == "dedup" and kinds[-2:] == ["TorchRec", "TR dedup"]
