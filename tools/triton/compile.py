"""Compiles one row of a triton_library: a kernel, its constants, a target -> an object.

    compile.py SITE SOURCES ROW OUT

SITE is a file whose first line is the folder of Triton's wheel, SOURCES the folder that holds the
kernels' package, ROW a file with the row as JSON, OUT the path of the object; beside it come
OUT.json, which says how to launch it, and for a GPU of NVIDIA OUT.ptx. Needs no GPU, no driver and
no torch.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any


def without_init(module: str, root: Path) -> None:
    """Makes the packages above ``module`` importable without what their __init__ files do."""
    parents = module.split(".")[:-1]
    for i in range(len(parents)):
        name = ".".join(parents[: i + 1])
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*parents[: i + 1]))]
        sys.modules[name] = package


def source_of(row: dict[str, Any], function: Any) -> Any:
    """The kernel with its constants and types, and what the compiler may assume of arguments."""
    from triton.compiler import ASTSource

    signature, attributes = {}, {}
    for i, name in enumerate(function.arg_names):
        if name in row["constants"]:
            signature[name] = "constexpr"
            continue
        signature[name] = row["types"].get(name, "i32")
        of_16 = name.startswith("stride") or name in row["aligned"]
        if signature[name].startswith("*") or (of_16 and name not in row["unaligned"]):
            attributes[(i,)] = [["tt.divisibility", 16]]
    unknown = (set(row["constants"]) | set(row["types"])) - set(function.arg_names)
    if unknown:
        raise SystemExit(f"{row['name']}: {function.__name__} has no {', '.join(sorted(unknown))}")
    return ASTSource(
        fn=function, signature=signature, constexprs=row["constants"], attrs=attributes
    )


def usage(cubin: Path) -> dict[str, int]:
    """Registers and bytes of stack of each thread."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    done = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"(REG|STACK):(\d+)", done.stdout + done.stderr))
    return {"registers": int(found["REG"]), "stack": int(found["STACK"])}


def main(site: str, sources: str, row_file: str, out: str) -> None:
    row = json.loads(Path(row_file).read_text())
    sys.path.insert(0, Path(site).read_text().splitlines()[0])
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"  # else objects carry the paths of their sources
    without_init(row["module"], Path(sources))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        import importlib

        import triton
        from triton.backends.compiler import GPUTarget
        from triton.runtime import cache as keys

        # Else each row reads all of Triton, to name an entry of a cache that ends with the row.
        keys.triton_key = lambda: ""
        function = getattr(importlib.import_module(row["module"]), row["function"])
        source = source_of(row, function)
        arch = row["arch"]
        nvidia = not arch.startswith("gfx")
        target = GPUTarget("cuda", int(arch[3:]), 32) if nvidia else GPUTarget("hip", arch, 64)
        options = {"num_warps": row["num_warps"], "num_stages": row["num_stages"]} | row["options"]
        kernel = triton.compile(source, target=target, options=options)
    path = Path(out)
    path.write_bytes(kernel.asm["cubin" if nvidia else "hsaco"])
    if nvidia:
        path.with_name(path.name + ".ptx").write_text(kernel.asm["ptx"])
    parameters = [[n, t] for n, t in source.signature.items() if t != "constexpr"]
    metadata = {
        "name": row["name"],
        "constants": {n: v for n, v in row["constants"].items() if isinstance(v, int)},
        "arch": arch,
        "function": kernel.metadata.name,
        "parameters": parameters,
        "aligned": [source.fn.arg_names[i] for (i,) in source.attrs],
        "shared": kernel.metadata.shared,
        "num_warps": kernel.metadata.num_warps,
        "scratch": getattr(kernel.metadata, "global_scratch_size", 0),
    } | (usage(path) if nvidia else {})
    path.with_name(path.name + ".json").write_text(json.dumps(metadata, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
