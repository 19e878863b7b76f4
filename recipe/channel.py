"""tools/bazel run //recipe:channel -- --out CHANNEL [--serve]: conda packages in a channel folder.

Builds a package from each wheel of the release with recipe.yaml, tests it, adds it to the channel
and indexes that; --serve then serves the folder on the loopback interface.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tools.release import conda, distribution
from tools.release.refused import Refused


def serve(channel: Path, port: int) -> None:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(channel))
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        print(f"{address} serves {channel}; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def main() -> None:
    parser = distribution.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the channel folder")
    parser.add_argument("--allow-dirty", action="store_true", help="mark the version +dirty")
    parser.add_argument("--serve", action="store_true", help="serve the channel on 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="of --serve; default: any that is free")
    args = parser.parse_args()

    workspace = distribution.workspace()
    channel = distribution.user_path(args.out)
    facts = distribution.load_facts(args.facts, workspace)
    src = distribution.source(workspace, args.allow_dirty)
    local = "dirty" if src.dirty else None
    with tempfile.TemporaryDirectory() as temporary:
        wheels, built = Path(temporary, "wheels"), Path(temporary, "conda")
        wheels.mkdir()
        distribution.copy_wheels(args.wheels, wheels, facts["version"], local)
        version = facts["version"] + ("+dirty" if local else "")
        packages = conda.build(args.recipe, wheels, version, facts["release_date"], built)
        conda.publish(packages, channel)
        for package in packages:
            place = f"{package.parent.name}/{package.name}"
            print(f"{distribution.sha256(package)}  {channel / place}")
    if args.serve:
        serve(channel, args.port)


if __name__ == "__main__":
    try:
        main()
    except Refused as reason:
        sys.exit(f"channel: {reason}")
