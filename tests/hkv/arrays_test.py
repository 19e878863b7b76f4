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


def test_every_call_that_the_package_makes_is_one_of_the_compiled_tables() -> None:
    """The stub does not say it: its Table has any name."""
    import re
    from pathlib import Path

    text = "".join(f.read_text() for f in Path(hkv.__file__).parent.glob("*.py"))
    called = set(re.findall(r"\b_?native\.(\w+)", text))
    assert {"find", "insert_and_evict", "run_write"} <= called
    assert not {name for name in called if not hasattr(hkv._hkv.Table, name)}


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
                if name and name != "__getattr__":  # that of Table names nothing
                    assert hasattr(real, name), f"{node.name}.{name}"
        elif isinstance(node, ast.FunctionDef):
            assert hasattr(hkv._hkv, node.name), node.name
    declared = {
        n.name for n in ast.parse(stub).body if isinstance(n, ast.ClassDef | ast.FunctionDef)
    }
    assert {n for n in dir(hkv._hkv) if not n.startswith("_")} == declared


class Producer:
    """An array of a library that says by DLPack 1.0 whether it may be written."""

    def __init__(self, array: np.ndarray, versions: bool = True) -> None:
        self.array, self.versions = array, versions

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        if "max_version" in options and not self.versions:
            raise TypeError("max_version is not known")
        return self.array.__dlpack__(**options)


def numpy_has_dlpack_1() -> bool:
    try:
        KEYS.__dlpack__(max_version=(1, 0))
    except TypeError:
        return False
    return True


def test_arrays_that_dlpack_calls_read_only_are_read_but_not_written() -> None:
    if not numpy_has_dlpack_1():
        pytest.skip("this NumPy has no DLPack 1.0")
    table = hkv.HashTable(100, 4, device="cpu")
    values = np.ones((10, 4), np.float32)
    table.insert_or_assign(Producer(KEYS), Producer(values))
    values.flags.writeable = False
    table.insert_or_assign(Producer(KEYS), Producer(values))
    with pytest.raises(ValueError, match="values is read-only"):
        table.find(KEYS, values=Producer(values))
    assert (values == 1).all()
    out = np.zeros((10, 4), np.float32)
    table.find(Producer(KEYS), values=Producer(out))
    assert (out == 1).all()


def test_libraries_from_before_dlpack_1_are_taken() -> None:
    table = hkv.HashTable(100, 4, device="cpu")
    table.insert_or_assign(
        Producer(KEYS, versions=False), Producer(np.ones((10, 4), np.float32), versions=False)
    )
    assert table.size() == 10


class Copying(Producer):
    """Its capsule owns a copy that nobody else keeps."""

    alive = 0

    def __dlpack__(self, **options: Any) -> Any:
        class Owner(np.ndarray):
            def __del__(self) -> None:
                Copying.alive -= 1

        Copying.alive += 1
        return self.array.copy().view(Owner).__dlpack__()


def test_what_a_capsule_owns_lives_until_the_call_has_ended() -> None:
    table = hkv.HashTable(100, 4, device="cpu")
    native, seen = table.native, []

    class Watch:
        def __getattr__(self, name: str) -> Any:
            def call(*arguments: Any) -> Any:
                seen.append(Copying.alive)
                return getattr(native, name)(*arguments)

            return call

    table._native = Watch()
    values = np.arange(40, dtype=np.float32).reshape(10, 4)
    table.insert_or_assign(Copying(KEYS), Copying(values), status=np.zeros(10, np.uint8))
    assert seen == [2] and Copying.alive == 0
    np.testing.assert_array_equal(hkv.HashTable.find(table, KEYS)[0], values)


def test_other_byte_orders_and_masked_arrays_are_refused() -> None:
    table = hkv.HashTable(100, 4, device="cpu")
    values = np.ones((10, 4), np.float32)
    for keys, rows, words in [
        (KEYS.astype(">i8"), values, "keys has dtype >i8"),
        (KEYS, values.astype(">f4"), "values has dtype >f4"),
        (KEYS, np.ma.masked_equal(values, 1), "values is masked"),
        (np.ma.array(KEYS), values, "keys is masked"),
    ]:
        with pytest.raises(TypeError, match=words):
            table.insert_or_assign(keys, rows)
    with pytest.raises(TypeError, match=r"values has dtype"):
        table.find(KEYS, values=np.zeros((10, 4), ">f4"))
    assert table.size() == 0


def test_tensors_that_are_not_what_their_memory_holds_are_refused() -> None:
    torch = pytest.importorskip("torch")
    table = hkv.HashTable(100, 4, device="cpu")
    keys = torch.from_numpy(KEYS)
    negative = torch.ones(10, 4, dtype=torch.complex64).conj().imag
    assert negative.is_neg()
    for values, words in [
        (negative, "is_neg bit"),
        (torch.ones(10, 4, requires_grad=True), "values requires grad"),
        (torch.ones(10, 4).to_sparse(), "values is a Tensor that DLPack cannot"),
        (torch.nested.nested_tensor([torch.ones(4)] * 10), "values"),
    ]:
        with pytest.raises(TypeError, match=words):
            table.insert_or_assign(keys, values)
    assert table.size() == 0


def test_the_version_is_that_of_the_package() -> None:
    from importlib import metadata

    try:
        want = metadata.version("hkv")
    except metadata.PackageNotFoundError:
        want = "unknown"
    assert hkv.__version__ == want
