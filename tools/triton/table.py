"""Writes the objects of a triton_library as one assembly file: their images, and a table of them.

    table.py OUT NAME OBJECT...

Beside each OBJECT lies OBJECT.json; an OBJECT that ends in .ptx is PTX, and has the same. The table
is NAME_objects, as csrc/hstu_triton/objects.h describes it, and NAME_object_count.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

KINDS = {"i32": "i", "fp32": "f"}
IMAGE = """.section .rodata, "a", @progbits
.p2align 6
.Limage{i}: .incbin "{path}"
.Lend{i}: .byte 0
.Lname{i}: .asciz "{name}"
.Lfunction{i}: .asciz "{function}"
.Lparameters{i}: .asciz "{parameters}"
.Lconstants{i}: .asciz "{constants}"
.section .data.rel.ro, "aw", @progbits
.quad .Lname{i}, .Lfunction{i}, .Lparameters{i}, .Lconstants{i}, .Limage{i}
.quad .Lend{i} - .Limage{i}
.long {arch}, {shared}, {threads}, 0
"""


def kind(name: str, type_: str, of: dict[str, Any]) -> str:
    """p: a pointer; f: float32; i: int32, and I: one that must be a multiple of 16."""
    letter = "p" if type_[0] == "*" else KINDS[type_]
    return letter.upper() if letter == "i" and name in of["aligned"] else letter


def entry(i: int, path: str) -> str:
    of = json.loads(Path(path.removesuffix(".ptx") + ".json").read_text())
    if of["scratch"]:
        raise SystemExit(f"{of['name']}: the launcher has no scratch memory for kernels")
    parameters = "".join(f"{n}:{kind(n, t, of)} " for n, t in of["parameters"])
    constants = "".join(f"{n}={v} " for n, v in of["constants"].items())
    return IMAGE.format(
        i=i,
        path=path,
        name=of["name"],
        function=of["function"],
        parameters=parameters,
        constants=constants,
        arch=0 if path.endswith(".ptx") else int(of["arch"][3:]),
        shared=of["shared"],
        threads=32 * of["num_warps"],
    )


def main(out: str, name: str, *objects: str) -> None:
    text = f""".section .data.rel.ro, "aw", @progbits
.p2align 3
.globl {name}_objects
.hidden {name}_objects
{name}_objects:
"""
    text += "".join(entry(i, path) for i, path in enumerate(objects))
    text += f""".section .rodata, "a", @progbits
.p2align 3
.globl {name}_object_count
.hidden {name}_object_count
{name}_object_count: .quad {len(objects)}
.section .note.GNU-stack, "", @progbits
"""
    Path(out).write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
