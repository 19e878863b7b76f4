"""Formats every file of the checkout in place, with the pinned formatters."""

from __future__ import annotations

import sys

from tools.lint import linters


def main() -> int:
    left = ""
    for make in linters.ALL:
        try:
            linter = make()
        except linters.Missing as reason:
            print(f"skipped {make.__name__}: {reason}")
            continue
        for arguments in linter.mends:
            left += linter.run(arguments)
        print(f"{make.__name__}: {len(linter.files())} files")
    if left:
        print(f"Left to mend by hand:\n{left}")
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
