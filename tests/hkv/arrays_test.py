"""Arrays of other libraries."""

from __future__ import annotations

from typing import Any

import hkv
import numpy as np
import pytest

KEYS = np.arange(10, dtype=np.int64)


def test_host_tensors_come_by_dlpack() -> None:
    torch = pytest.importorskip("torch")
    table = hkv.HashTable(100, 4, value_dtype="bfloat16", device="cpu")
    values = torch.arange(40).reshape(10, 4).to(torch.bfloat16)
    table.insert_or_assign(torch.from_numpy(KEYS), values)
    out = torch.zeros(10, 4, dtype=torch.bfloat16)
    table.find(torch.from_numpy(KEYS), values=out)
    assert torch.equal(out, values)
    with pytest.raises(ValueError, match="values is not contiguous"):
        table.insert_or_assign(torch.from_numpy(KEYS), torch.ones(4, 10, dtype=torch.bfloat16).T)


@pytest.mark.gpu
def test_results_go_to_other_libraries_by_both_interfaces() -> None:
    torch = pytest.importorskip("torch")
    array = hkv.DeviceArray.of(np.arange(12, dtype=np.float32).reshape(3, 4))
    want = torch.arange(12, dtype=torch.float32, device="cuda").reshape(3, 4)
    assert torch.equal(torch.from_dlpack(array), want)
    assert torch.equal(torch.as_tensor(array, device="cuda"), want)
    kept = torch.from_dlpack(array)
    del array
    assert torch.equal(kept, want)


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy", "jax"])
def test_gpu_arrays_of_a_library_go_in_and_out(library: str) -> None:
    module = pytest.importorskip(library)
    values = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    keys = KEYS.astype(np.int64)

    def put(array: np.ndarray) -> Any:
        if library == "torch":
            return module.from_numpy(array).cuda()
        if library == "cupy":
            return module.asarray(array)
        module.config.update("jax_enable_x64", True)
        return module.device_put(array, module.devices("gpu")[0])

    table = hkv.HashTable(100, 4)
    table.insert_or_assign(put(keys), put(values))
    out, founds = table.find(put(keys[::-1].copy()))
    assert founds.numpy().all()
    np.testing.assert_array_equal(out.numpy(), values[::-1])


@pytest.mark.gpu
def test_streams_are_taken_by_address_or_as_objects() -> None:
    torch = pytest.importorskip("torch")
    stream = torch.cuda.Stream()
    table = hkv.HashTable(100, 4)
    values = torch.ones(10, 4, device="cuda")
    keys = torch.from_numpy(KEYS).cuda()
    torch.cuda.synchronize()
    table.insert_or_assign(keys, values, stream=stream)
    assert table.size(stream=stream.cuda_stream) == 10
    with pytest.raises(TypeError, match="stream is a str"):
        table.size(stream="mine")


def test_the_stub_names_what_the_module_has() -> None:
    import ast
    from pathlib import Path

    stub = Path(hkv.__file__).with_name("_hkv.pyi").read_text()
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ClassDef):
            real = getattr(hkv._hkv, node.name)
            for member in node.body:
                name = getattr(member, "name", None) or getattr(
                    getattr(member, "target", None), "id", None
                )
                if name:
                    assert hasattr(real, name), f"{node.name}.{name}"
        elif isinstance(node, ast.FunctionDef):
            assert hasattr(hkv._hkv, node.name), node.name
    declared = {
        n.name for n in ast.parse(stub).body if isinstance(n, ast.ClassDef | ast.FunctionDef)
    }
    assert {n for n in dir(hkv._hkv) if not n.startswith("_")} == declared
