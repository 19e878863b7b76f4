"""Draws docs/masks.png: what every mask of hstu_attn lets a row see, from the reference itself.

python docs/draw_masks.py [masks.png]         (needs hstu_attn and matplotlib)
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from hstu_attn.ref import visible
from matplotlib.colors import ListedColormap
from torch import Tensor

LENGTH = 16
CONTEXTS, TARGETS, GROUP = 3, 6, 3
# hidden; visible: history, context row, target group
COLOURS = ["#f3f4f6", "#2563a8", "#e08a1e", "#3b9a5b"]


def func_example() -> Tensor:
    """Intervals [0, f0) + [f1, f2) per row: the first items and a window that moves."""
    i = torch.arange(LENGTH)
    return torch.stack([(3 - i // 6).clamp(min=0), (i - 4).clamp(min=0), i + 1])


def masks() -> list[tuple[str, Tensor, int, int]]:
    """(title, visible columns, contexts, targets) of each picture."""

    def causal(q_len: int = LENGTH, **options: int) -> Tensor:
        return visible(q_len, LENGTH, window=(-1, 0), **options)

    return [
        ("none\nwindow_size=(-1, -1)", visible(LENGTH, LENGTH), 0, 0),
        ("causal\nwindow_size=(-1, 0)", causal(), 0, 0),
        ("local\nwindow_size=(4, 2)", visible(LENGTH, LENGTH, window=(4, 2)), 0, 0),
        ("func, n_func=3\n[0, f0) + [f1, f2)", visible(LENGTH, LENGTH, func=func_example()), 0, 0),
        (f"causal, num_contexts={CONTEXTS}", causal(contexts=CONTEXTS), CONTEXTS, 0),
        (f"causal, num_targets={TARGETS}", causal(targets=TARGETS), 0, TARGETS),
        (
            f"causal, num_targets={TARGETS}\ntarget_group_size={GROUP}",
            causal(targets=TARGETS, group_size=GROUP),
            0,
            TARGETS,
        ),
        (
            f"num_contexts={CONTEXTS}, num_targets={TARGETS}\nq shorter than k",
            causal(q_len=14, contexts=CONTEXTS, targets=TARGETS),
            CONTEXTS,
            TARGETS,
        ),
    ]


def draw(path: Path) -> None:
    figure, axes = plt.subplots(2, 4, figsize=(12, 6.6), dpi=100)
    for axis, (title, seen, contexts, targets) in zip(axes.flat, masks(), strict=True):
        rows, columns = seen.shape
        first = columns - rows
        colour = seen.int()
        history_end = columns - targets
        i = torch.arange(first, columns)[:, None]
        j = torch.arange(columns)[None, :]
        colour[seen & (i < contexts)] = 2
        colour[seen & (j >= history_end)] = 3
        axis.imshow(
            colour,
            cmap=ListedColormap(COLOURS),
            vmin=0,
            vmax=3,
            extent=(0, columns, columns, first),
            interpolation="nearest",
        )
        axis.set_xticks(range(columns + 1), minor=True)
        axis.set_yticks(range(first, columns + 1), minor=True)
        axis.grid(which="minor", color="white", linewidth=1.2)
        axis.tick_params(which="both", length=0, labelsize=8)
        axis.set_xticks([0, columns])
        axis.set_yticks([first, columns])
        axis.set_ylim(columns, 0)
        for spine in axis.spines.values():
            spine.set_visible(False)
        for edge in (contexts, history_end):
            if 0 < edge < columns:
                axis.plot([edge, edge], [first, columns], color="#444444", lw=0.9, ls=":")
        axis.set_title(title, fontsize=10)
    axes[0, 0].set_ylabel("row i (query)", fontsize=9)
    axes[1, 0].set_ylabel("row i (query)", fontsize=9)
    for axis in axes[1]:
        axis.set_xlabel("column j (key)", fontsize=9)
    dotted = plt.Line2D(
        [], [], color="#444444", lw=0.9, ls=":", label="contexts end, targets begin"
    )
    names = ["hidden", "visible", "visible to a context row", "visible in its own target group"]
    handles = [
        plt.Rectangle((0, 0), 1, 1, facecolor=c, edgecolor="#bbbbbb", label=n)
        for c, n in zip(COLOURS, names, strict=True)
    ]
    figure.legend(handles=[*handles, dotted], loc="lower center", ncol=5, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.05, 1, 1), h_pad=2.0)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, metadata={"Software": None})
    temporary.replace(path)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("masks.png")
    draw(target)
    print(f"wrote {target.name}, {target.stat().st_size} bytes")
