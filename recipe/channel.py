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

from tools.release import channel, conda, distribution
from tools.release.refused import Refused


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise Refused(f"127.0.0.1:{port}: {error.strerror}: name another --port") from None


def main() -> None:
    parser = distribution.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the channel folder")
    parser.add_argument("--allow-dirty", action="store_true", help="mark the version +dirty")
    parser.add_argument("--serve", action="store_true", help="serve the channel on 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="of --serve; default: any that is free")
    args = parser.parse_args()

    workspace = distribution.workspace()
    out = distribution.user_path(args.out)
    distribution.check_outside(workspace, out)
    http = server(out, args.port) if args.serve else None
    facts = distribution.load_facts(args.facts, workspace)
    src = distribution.source(workspace, args.allow_dirty)
    local = "dirty" if src.dirty else None
    with tempfile.TemporaryDirectory() as temporary:
        wheels, built = Path(temporary, "wheels"), Path(temporary, "conda")
        wheels.mkdir()
        distribution.copy_wheels(args.wheels, wheels, facts["version"], local)
        version = facts["version"] + ("+dirty" if local else "")
        packages = conda.build(args.recipe, wheels, version, facts["release_date"], built)
        for place in channel.publish(packages, out):
            print(f"{distribution.sha256(place)}  {place}")
    if http:
        print(f"http://127.0.0.1:{http.server_port} serves {out}; Ctrl-C ends it", flush=True)
        try:
            http.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    try:
        main()
    except Refused as reason:
        sys.exit(f"channel: {reason}")
