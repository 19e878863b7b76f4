"""The code blocks of a Markdown page, run as a reader would run them."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "python/*/README.md")
    for page in ROOT.glob(pattern)
)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run(code: str, names: dict[str, Any]) -> None:
    """Runs the code in names; `print(...)  # text` must print exactly that text."""
    lines = code.splitlines()
    for statement in ast.parse(code).body:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.Module([statement], []), "<page>", "exec"), names)
        last = lines[(statement.end_lineno or 0) - 1]
        said = re.search(r"^print\(.*\)  # (.*)$", last)
        if said:
            assert printed.getvalue().strip() == said[1], last
