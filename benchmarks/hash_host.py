"""What a call on the GPU hash table costs the host: ``hash_table.py --host``."""

from __future__ import annotations

import hkv
import torch
from harness import Call, Ceilings, Table, call_us

ROWS, DIM, KEYS = 1 << 16, 16, 256  # batches whose kernels end before the host does
COLUMNS = {"call": "<46", "host us": ">8.2f", "us": ">8.2f"}
TITLE = (
    f"batches of {KEYS} keys, dim {DIM}; host us: until 100 calls return, us: until 500 calls in a "
    "row are done, both a call"
)


def calls() -> dict[str, Call]:
    """By name: first the floor, then calls with tensors for everything, then with new arrays."""
    table = hkv.HashTable(ROWS, DIM)
    keys = torch.arange(KEYS, device="cuda")
    values = torch.rand(KEYS, DIM, device="cuda")
    founds = torch.zeros(KEYS, dtype=torch.bool, device="cuda")
    status = torch.zeros(KEYS, dtype=torch.uint8, device="cuda")
    rows = torch.zeros(KEYS, dtype=torch.uint64, device="cuda")
    own = [hkv.DeviceArray.of(t.cpu().numpy()) for t in (keys, values, founds)]
    table.insert_or_assign(keys, values)
    k, v, f = (t.data_ptr() for t in (keys, values, founds))
    native = table.native
    return {
        "floor: a kernel of PyTorch, x.neg()": values.neg,
        "floor: find by addresses (table.native)": lambda: native.find(KEYS, k, v, f, 0, 0),
        "find": lambda: table.find(keys, values=values, founds=founds),
        "contains": lambda: table.contains(keys, founds=founds),
        "find_pointers": lambda: table.find_pointers(keys, rows=rows, founds=founds),
        "insert_or_assign": lambda: table.insert_or_assign(keys, values, status=status),
        "find_or_insert": lambda: table.find_or_insert(keys, values, founds=founds, status=status),
        "find, arrays of hkv.DeviceArray": lambda: table.find(own[0], values=own[1], founds=own[2]),
        "find, values and founds made by the call": lambda: table.find(keys),
        "insert_or_assign, status made by the call": lambda: table.insert_or_assign(keys, values),
    }


def measure(ceilings: Ceilings, files: dict[str, str]) -> None:
    table = Table(ceilings, TITLE, COLUMNS, files)
    for name, call in calls().items():
        table.row(name, call_us(call, 100, wait=False), call_us(call, 500, wait=True))
