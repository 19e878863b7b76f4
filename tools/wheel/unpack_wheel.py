"""unpack_wheel.py WHEEL FOLDER: unpacks a wheel as an installer lays it into site-packages."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path


def main() -> None:
    wheel, folder = sys.argv[1], Path(sys.argv[2])
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            path = Path(archive.extract(info, folder))
            path.chmod((info.external_attr >> 16) & 0o777 or 0o644)


if __name__ == "__main__":
    main()
