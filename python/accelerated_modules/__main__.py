"""``python -m accelerated_modules``: a report for a bug report; status 1 if all is not well."""

from __future__ import annotations

import sys

from accelerated_modules.report import show_versions

if __name__ == "__main__":
    sys.exit(0 if show_versions() else 1)
