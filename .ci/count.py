"""count.py TESTLOGS STATUS: sums up the JUnit reports of Bazel's tests, then exits with STATUS.

A test target that was not built or timed out leaves no report: Bazel's own status says so, and one
failure is counted for it.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def main() -> int:
    logs, status = Path(sys.argv[1]), int(sys.argv[2])
    passed = failed = skipped = 0
    for report in sorted(logs.rglob("test.xml")):
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            kinds = {child.tag for child in case}
            if kinds & {"failure", "error"}:
                failed += 1
            elif "skipped" in kinds:
                skipped += 1
            else:
                passed += 1
    if status and not failed:
        failed = 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return status or (1 if failed else 0)


if __name__ == "__main__":
    sys.exit(main())
