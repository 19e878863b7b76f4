"""Writes one wheel, the same bytes from the same inputs: sorted entries, fixed times and modes.

The format is the binary distribution format of PEP 427 with core metadata 2.4 (PEP 639 licences)
and, for SBOMs, PEP 770. Bazel calls it; tools/wheel/wheel.bzl says with what.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import zipfile
from pathlib import Path

# 1980-01-01 is the oldest time that a zip file can hold.
FIXED_TIME = (1980, 1, 1, 0, 0, 0)


def metadata(spec: dict[str, object], description: str) -> str:
    """The text of METADATA. Values come from the wheel's `metadata` attribute, in its order."""
    lines = ["Metadata-Version: 2.4"]
    for key, value in spec.items():
        for item in value if isinstance(value, list) else [value]:
            lines.append(f"{key}: {item}")
    if description:
        lines.append("Description-Content-Type: text/markdown")
    return "\n".join(lines) + "\n\n" + description


def record(files: dict[str, bytes], name: str) -> str:
    rows = []
    for path in sorted(files):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).rstrip(b"=")
        rows.append(f"{path},sha256={digest.decode()},{len(files[path])}\n")
    return "".join(rows) + f"{name},,\n"


def write(out: Path, files: dict[str, bytes], dist_info: str) -> None:
    # dist-info last, as PEP 427 recommends: tools find it without reading the whole file.
    order = sorted(files, key=lambda path: (path.startswith(dist_info), path))
    with zipfile.ZipFile(out, "w") as archive:
        for path in order:
            info = zipfile.ZipInfo(path, FIXED_TIME)
            info.create_system = 3  # unix: the mode below counts
            mode = 0o755 if path.endswith(".so") else 0o644
            info.external_attr = (0o100000 | mode) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[path], compresslevel=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=Path, required=True, help="JSON written by wheel.bzl")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    spec = json.loads(args.spec.read_text())

    files = {place: Path(source).read_bytes() for place, source in spec["files"].items()}
    dist_info = spec["dist_info"]
    for source in spec["licenses"]:
        files[f"{dist_info}/licenses/{Path(source).name}"] = Path(source).read_bytes()
    if spec["sbom"]:
        files[f"{dist_info}/sboms/{Path(spec['sbom']).name}"] = Path(spec["sbom"]).read_bytes()
    description = Path(spec["description"]).read_text() if spec["description"] else ""
    files[f"{dist_info}/METADATA"] = metadata(spec["metadata"], description).encode()
    tag_lines = "".join(f"Tag: {tag}\n" for tag in spec["tags"])
    files[f"{dist_info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: accelerated-modules\n"
        f"Root-Is-Purelib: {'true' if spec['pure'] else 'false'}\n{tag_lines}"
    ).encode()
    name = f"{dist_info}/RECORD"
    files[name] = record(files, name).encode()
    write(args.out, files, dist_info)


if __name__ == "__main__":
    main()
