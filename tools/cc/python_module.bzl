"""python_modules: a pybind11 module for each CPython minor that the machine has headers for."""

load("@cpythons//:defs.bzl", "CPYTHONS")
load("@rules_cc//cc:defs.bzl", "cc_binary")

def python_modules(name, srcs, deps = [], copts = [], **kwargs):
    """Links <name>_<minor>/<name>.cpython-<minor>-x86_64-linux-gnu.so; only PyInit_<name> is exported.

    Args:
      name: the module's name as Python imports it.
      srcs: C++ sources with one PYBIND11_MODULE.
      deps: C++ libraries and kernels.
      copts: compile options.
      **kwargs: passed on to each cc_binary.

    Returns:
      {minor: label of the shared object}, e.g. {"311": ":_core_311/_core.cpython-311-...so"}.
    """
    exports = name + "_exports"
    native.genrule(
        name = exports,
        outs = [name + ".map"],
        cmd = "echo '{ global: PyInit_%s; local: *; };' > $@" % name,
    )
    modules = {}
    for minor, suffix in CPYTHONS.items():
        module = "%s_%s/%s%s" % (name, minor, name, suffix)
        cc_binary(
            name = module,
            srcs = srcs,
            additional_linker_inputs = [exports],
            copts = copts,
            # CPython's own symbols come from the interpreter that loads the module.
            linkopts = [
                "-Wl,-z,undefs",
                "-Wl,--version-script=$(location %s)" % exports,
            ],
            linkshared = True,
            deps = deps + [
                "//csrc/common:glibcxx_compat",
                "@cpythons//:headers_" + minor,
                "@cuda//:cudart_static",
                "@pybind11",
            ],
            **kwargs
        )
        modules[minor] = ":" + module
    return modules
