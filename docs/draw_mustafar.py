"""python docs/draw_mustafar.py: writes docs/mustafar_layout.svg, both layouts of a small example.

What is drawn is computed: four tokens of eight channels, pruned, packed as each layout says.
"""

from __future__ import annotations

import random
from pathlib import Path

TOKENS, CHANNELS, KEPT, CELL = 4, 8, 3, 30
COLORS = ["#4477aa", "#ee6677", "#228833", "#ccbb44"]


def example() -> list[list[int]]:
    """Values of each token, 0 where pruned: the KEPT largest stay."""
    draw = random.Random(3)
    rows = [[draw.randint(10, 99) for _ in range(CHANNELS)] for _ in range(TOKENS)]
    least = [sorted(row)[-KEPT] for row in rows]
    return [[x if x >= limit else 0 for x in row] for row, limit in zip(rows, least, strict=True)]


def cell(x: float, y: float, text: str, fill: str, wide: float = CELL) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{wide}" height="{CELL}" fill="{fill}" stroke="#555"/>'
        f'<text x="{x + wide / 2}" y="{y + 20}" text-anchor="middle">{text}</text>'
    )


def title(x: float, y: float, text: str, size: int = 13) -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}">{text}</text>'


def bits(values: list[int], first_is_high: bool) -> str:
    marks = ["1" if v else "0" for v in values]
    return "".join(marks if first_is_high else marks[::-1])


def drawing() -> str:
    rows = example()
    parts = [title(20, 24, "dense, pruned: token by channel")]
    for t, row in enumerate(rows):
        for c, value in enumerate(row):
            fill = COLORS[t] + "55" if value else "#fff"
            parts.append(cell(20 + c * CELL, 36 + t * CELL, str(value or ""), fill))
    top = 36 + TOKENS * CELL + 40
    parts.append(title(20, top, "rows: a bitmap of D bits (channel 0 is the lowest) and n values"))
    for t, row in enumerate(rows):
        y = top + 12 + t * CELL
        parts.append(cell(20, y, bits(row, False), COLORS[t] + "22", 100))
        kept = [v for v in row if v]
        parts += [cell(130 + i * CELL, y, str(v), COLORS[t] + "55") for i, v in enumerate(kept)]
    parts.append(title(250, top + 30, "every token has one size: nothing has an offset", 11))
    top += 12 + TOKENS * CELL + 40
    parts.append(
        title(
            20, top, "tiles of K: a bitmap for a channel of the tokens (token 0 is the highest bit)"
        )
    )
    offset = 0
    for c in range(CHANNELS):
        y = top + 12 + c * CELL
        column = [row[c] for row in rows]
        parts.append(title(20, y + 20, f"offset {offset}", 11))
        parts.append(cell(90, y, bits(column, True), "#eee", 70))
        kept = [(t, v) for t, v in enumerate(column) if v]
        padded = -(-len(kept) // 4) * 4  # to a multiple of 4 here, of 8 in the format
        for i in range(padded):
            text, fill = (
                (str(kept[i][1]), COLORS[kept[i][0]] + "55") if i < len(kept) else ("0", "#fff")
            )
            parts.append(cell(170 + i * CELL, y, text, fill))
        offset += padded
    parts.append(
        title(300, top + 30, "of V likewise, for the channels of a token; values padded", 11)
    )
    height = top + 12 + CHANNELS * CELL + 20
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="620" height="{height}" '
            'font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    Path(__file__).with_name("mustafar_layout.svg").write_text(drawing())
