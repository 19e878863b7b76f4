"""count.py TESTLOGS STATUS: sums up the JUnit reports of Bazel's tests, package by package.

Exits with STATUS; with 1 if a test failed or a package's tests took more than SHARED times the
CPU-seconds of budget.json, which are those of a quiet machine: what is above these alone is said.
A test target that was not built or timed out leaves no report: Bazel's own
status says so, and one failure is counted for it.

CPU-seconds are those of pytest and its children (tests.common.plugin writes them down), of other
tests the seconds that they took. What Bazel compiles for a test, also inside one, is not counted.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from pathlib import Path

# Where a hyper-thread shares the core, tests were seen to take 1.5 to 2.3 times the CPU-seconds.
SHARED = 2


def kind(case: ElementTree.Element) -> str:
    found = {child.tag for child in case}
    if found & {"failure", "error"}:
        return "failed"
    return "skipped" if "skipped" in found else "passed"


def cpu_seconds(report: ElementTree.Element) -> float:
    written = report.findall(".//property[@name='cpu_seconds']")
    if written:
        return sum(float(entry.attrib["value"]) for entry in written)
    return seconds(report)


def seconds(report: ElementTree.Element) -> float:
    return sum(float(suite.get("time", 0)) for suite in report.iter("testsuite"))


def main() -> int:
    logs, status = Path(sys.argv[1]), int(sys.argv[2])
    budget = json.loads(Path(__file__).with_name("budget.json").read_text())
    packages: dict[str, Counter[str]] = defaultdict(Counter)
    for path in sorted((logs / "tests").rglob("test.xml")):
        report = ElementTree.parse(path).getroot()
        row = packages[path.relative_to(logs / "tests").parts[0]]
        row.update(kind(case) for case in report.iter("testcase"))
        row["cpu"] += cpu_seconds(report)
        row["wall"] += seconds(report)

    total: Counter[str] = Counter()
    over: list[str] = []
    shared: list[str] = []
    print(
        f"{'package':<12}{'passed':>8}{'failed':>8}{'skipped':>8}{'min':>7}{'CPU-min':>9} allowed"
    )
    for name, row in sorted(packages.items()):
        total.update(row)
        allowed = budget.get(name, 0)
        print(
            f"{name:<12}{row['passed']:8}{row['failed']:8}{row['skipped']:8}"
            f"{row['wall'] / 60:7.1f}{row['cpu'] / 60:9.2f}{allowed / 60:8.1f}"
        )
        if row["cpu"] > allowed:
            above = f"tests/{name} took {row['cpu']:.0f} CPU-s, .ci/budget.json says {allowed}"
            (over if row["cpu"] > SHARED * allowed else shared).append(above)
    if status and not total["failed"]:
        total["failed"] = 1
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    for line in shared:
        print(f"{line}; a shared machine is allowed {SHARED} times that")
    for line in over:
        print(line, file=sys.stderr)
    return status or int(bool(over or total["failed"]))


if __name__ == "__main__":
    sys.exit(main())
