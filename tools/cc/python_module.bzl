"""python_module: a pybind11 module for the CPython of the build."""

load("@cpythons//:defs.bzl", "CPYTHONS")
load("//tools/cc:c_library.bzl", "c_library")

def python_module(name, srcs, deps = [], **kwargs):
    """Links <name>.cpython-<minor>-x86_64-linux-gnu.so; only PyInit_<name> is exported.

    Args:
      name: the module's name as Python imports it.
      srcs: C++ sources with one PYBIND11_MODULE.
      deps: C++ libraries and kernels.
      **kwargs: passed on to cc_binary.

    Returns:
      its label in a list, which is empty where that CPython has no headers.
    """
    for minor, suffix in CPYTHONS.items():
        c_library(
            name = name + suffix,
            srcs = srcs,
            exports = ["PyInit_" + name],
            # CPython's own symbols come from the interpreter that loads the module.
            linkopts = ["-Wl,-z,undefs"],
            deps = deps + [
                "@cpythons//:headers_" + minor,
                "@pybind11",
            ],
            **kwargs
        )
    return [":" + name + suffix for suffix in CPYTHONS.values()]
