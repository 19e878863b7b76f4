"""``python -m dynamicemb``: what is installed; ``plan``: what tables of a size take; ``torchrec``:
how to install what sharding by TorchRec needs."""

from __future__ import annotations

import argparse

from dynamicemb import __version__, plan
from dynamicemb._core.report import line, served_by, torch_lines
from dynamicemb.ops import LIBRARY, build_info
from dynamicemb.torchrec_compat import install_lines


def report() -> None:
    info = build_info()
    archs = str(info["archs"]).split(",")

    def gpu(name: str, capability: tuple[int, int]) -> str:
        arch = served_by(capability, archs)
        text = f"{name}, compute capability {capability[0]}.{capability[1]}: "
        return text + (f"served ({arch})" if arch else f"NOT SERVED: the build has {info['archs']}")

    print(line("dynamicemb", __version__))
    print(line("library", str(LIBRARY)))
    print(line("", f"version {info['version']}, CUDA {info['cuda']}, {info['archs']}"))
    for text in torch_lines(gpu):
        print(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dynamicemb", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    plan.add_arguments(commands.add_parser("plan", help="bytes, GPUs, nodes of tables of a size"))
    commands.add_parser("torchrec", help="how to install TorchRec and FBGEMM that fit this torch")
    arguments = parser.parse_args()
    if arguments.command == "plan":
        for name, figure in plan.lines(arguments):
            print(f"{name:<16} {figure}")
    elif arguments.command == "torchrec":
        print("\n".join(install_lines()))
    else:
        report()


if __name__ == "__main__":
    main()
