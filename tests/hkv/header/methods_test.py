"""docs/hkv_methods.md against the list of HierarchicalKV's public names, our sources, our tests."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path

import hkv
import pytest

if "METHODS_PAGE" not in os.environ:
    pytest.skip("tools/bazel test brings the page and the sources", allow_module_level=True)

# nv::merlin::HashTable of the pinned commit (third_party/pins.bzl), overloads told apart.
METHODS = """
init insert_or_assign insert_and_evict:2 accum_or_assign find_or_insert:2 lock_keys unlock_keys
assign assign_scores assign_values find:3 find_and_update contains erase erase_if erase_if_v2 clear
export_batch:2 export_batch_if export_batch_if_v2 for_each empty size size_if capacity reserve
load_factor set_max_capacity dim max_bucket_size bucket_count save load set_global_epoch
"""
OPTIONS = """
K V S Strategy ArchTag init_capacity max_capacity max_hbm_for_vectors max_bucket_size dim
max_load_factor block_size io_block_size device_id io_by_cpu use_constant_memory
reserved_key_start_bit num_of_buckets_per_alloc api_lock table_mode device_memory_pool
host_memory_pool allocator
"""
PAGE = Path(os.environ["METHODS_PAGE"]).read_text(encoding="utf-8")
SOURCES = "\n".join(
    Path(path).read_text(encoding="utf-8") for path in os.environ["SOURCES"].split()
)
TESTS = "\n".join(
    path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("*_test.py")
)


def rows(title: str) -> list[list[str]]:
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def counts(names: str) -> dict[str, int]:
    return {name.partition(":")[0]: int(name.partition(":")[2] or 1) for name in names.split()}


@pytest.mark.parametrize(("title", "names"), [("Methods", METHODS), ("Options", OPTIONS)])
def test_every_name_of_hierarchical_kv_has_its_row(title: str, names: str) -> None:
    found: dict[str, int] = {}
    for first, _, _ in rows(title):
        name = re.fullmatch(r"`(\w+)`(?: \(.*\))?", first)
        assert name, first
        found[name[1]] = found.get(name[1], 0) + 1
    assert found == counts(names)


def test_every_name_of_ours_is_in_the_package_or_in_the_sources() -> None:
    python = {name for name, _ in inspect.getmembers(hkv.HashTable)} | set(hkv.__all__)
    python |= set(inspect.signature(hkv.HashTable).parameters)
    for row in (*rows("Methods"), *rows("Options")):
        ours = row[1]
        names = re.findall(r"`(\w+)`", ours)
        assert names or ours == "none", row
        for name in names:
            native = "C++" in ours and re.search(rf"\b{name}\b", SOURCES)
            assert name in python or native, (row, name)


def test_every_row_names_a_test_that_there_is_or_says_why_there_is_none() -> None:
    for row in (*rows("Methods"), *rows("Options"), *rows("What ours has beyond them")):
        shown = row[-1]
        if shown.startswith("none: "):
            assert len(shown) > len("none: ") + 5
            continue
        name = re.fullmatch(r"`(test_\w+)`", shown)
        assert name, row
        assert f"def {name[1]}(" in TESTS, row
