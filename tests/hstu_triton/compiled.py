"""Compiles attention kernels for a GPU that is not there: prints name, target, shared memory and
spilled bytes of each. Run as a program, without Triton's interpreter."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from generative_recommenders.ops.triton import _attention_kernels as kernels
from generative_recommenders.ops.triton._attention_configs import configuration
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TENSORS = {"Q", "K", "V", "DO", "DQ", "DK", "DV_", "Out"}
INDICES = {"OFFSETS": "*i64", "TARGETS": "*i64", "ORDER": "*i64", "SCALE": "*fp32"}
SWITCHES = {
    "GENERAL": True,
    "IS_DELTA": False,
    "FAST": True,
    "UPCAST": False,
    "PRECISION": "ieee",
    "USE_TMA": False,
}


def compiled(direction: str, dim: int, arch: int, **switches: Any) -> dict[str, Any]:
    c = configuration(direction, dim, 2, arch // 10, 8192, False)
    function = kernels._hstu_attn_fwd if direction == "forward" else kernels._hstu_attn_bwd
    constants = SWITCHES | switches | {
        "D": dim, "DV": dim, "BLOCK_D": dim, "BLOCK_DV": dim, "BLOCK_M": c.block_m,
        "BLOCK_N": c.block_n, "OF_ROWS": direction == "rows", "LOOP": c.loop,
    }  # fmt: skip
    signature, attributes = {}, {}
    for i, name in enumerate(function.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in TENSORS:
            signature[name] = "*bf16"
        elif name in INDICES:
            signature[name] = INDICES[name]
        else:
            signature[name] = "fp32" if name in ("alpha", "scale") else "i32"
        if name in TENSORS or name.startswith("stride"):
            attributes[(i,)] = [["tt.divisibility", 16]]
    used = {name: constants[name] for name in function.arg_names if name in constants}
    source = ASTSource(fn=function, signature=signature, constexprs=used, attrs=attributes)
    options = {"num_warps": c.num_warps, "num_stages": c.num_stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return {
        "kernel": direction,
        "dim": dim,
        "arch": arch,
        "shared": kernel.metadata.shared,
        "spilled": spilled(kernel.asm["cubin"]),
        "wgmma": "wgmma" in kernel.asm["ptx"],
    }


def spilled(cubin: bytes) -> int:
    """Bytes of local memory a thread, from the object's EIATTR records via cuobjdump."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tools / "cuobjdump", "-res-usage", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"STACK:(\d+)", done.stdout + done.stderr)
    assert found, done.stdout
    return int(found[1])


if __name__ == "__main__":
    for row in json.loads(sys.argv[1]):
        print(json.dumps(compiled(**row)), flush=True)
