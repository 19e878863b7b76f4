"""python docs/draw_conv1d.py: writes docs/causal_conv1d.svg, who calls whom on a GPU and a CPU."""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDE, TALL, GAP = 330, 46, 22
# A row has one box for both vendors, or one for NVIDIA and one for AMD: (name, where it is).
ROWS: list[list[tuple[str, str]]] = [
    [("causal_conv1d_fn, causal_conv1d_update, causal_conv1d_packed", "python/causal_conv1d")],
    [
        (
            "torch.ops.causal_conv1d.{fwd, bwd, update, packed}",
            "on a GPU ops.cc: checks, strides; on a CPU ref.py",
        )
    ],
    [("plan.h cuts the work, conv.h holds the arguments", "entries.cc: the table of launches")],
    [
        ("cudaLaunchKernel", "launch_cuda.cc, cudart inside the library"),
        ("hipModuleLaunchKernel", "hip_launcher.cc, libamdhip64.so by dlopen"),
    ],
    [
        ("machine code for sm_80 and sm_90, PTX", "by nvcc: cuda_library"),
        ("code objects, picked by gcnArchName", "by zig's clang: hip_library"),
    ],
    [
        (
            "forward.cuh, backward.cuh, packed.cuh, update.cuh",
            "one source; kernel_portable.h has the branches",
        )
    ],
]
COLORS = {"both": "#e8eef7", "NVIDIA": "#e6f2dc", "AMD": "#fae3e0"}


def box(left: int, top: int, wide: int, color: str, text: tuple[str, str]) -> str:
    middle = left + wide // 2
    return (
        f'<rect x="{left}" y="{top}" width="{wide}" height="{TALL}" rx="6" fill="{color}" '
        'stroke="#555"/>\n'
        f'<text x="{middle}" y="{top + 19}" text-anchor="middle">{escape(text[0])}</text>\n'
        f'<text x="{middle}" y="{top + 36}" text-anchor="middle" font-size="11" fill="#555">'
        f"{escape(text[1])}</text>"
    )


def drawing() -> str:
    whole = 2 * WIDE + GAP
    parts = []
    for i, row in enumerate(ROWS):
        top = 16 + i * (TALL + GAP)
        places = (
            [(16, whole, "both")]
            if len(row) == 1
            else [(16, WIDE, "NVIDIA"), (16 + WIDE + GAP, WIDE, "AMD")]
        )
        if i:
            for left in (16 + WIDE // 2, 16 + WIDE + GAP + WIDE // 2):
                parts.append(
                    f'<path d="M{left} {top - GAP} v{GAP - 6}" stroke="#555" '
                    'marker-end="url(#tip)"/>'
                )
        parts += [
            box(left, top, wide, COLORS[who], text)
            for (left, wide, who), text in zip(places, row, strict=True)
        ]
    height = 16 + len(ROWS) * (TALL + GAP)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole + 32}" height="{height}" '
            'font-family="sans-serif" font-size="13">',
            '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="4" refY="4" '
            'orient="auto">'
            '<path d="M0 0 L8 4 L0 8 z" fill="#555"/></marker></defs>',
            '<rect width="100%" height="100%" fill="white"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    Path(__file__).with_name("causal_conv1d.svg").write_text(drawing())
