"""c_library: a shared object that any language can load."""

load("@rules_cc//cc:defs.bzl", "cc_binary")

def c_library(name, srcs, exports, deps = [], linkopts = [], **kwargs):
    """Links a shared object that exports a few functions and nothing else.

    Args:
      name: file name, lib<package>.so.
      srcs: C++ sources of the functions.
      exports: their names.
      deps: C++ libraries and kernels.
      linkopts: of the linker.
      **kwargs: passed on to cc_binary.
    """
    script = name + ".map"
    native.genrule(
        name = name + "_exports",
        outs = [script],
        cmd = "echo '{ global: %s; local: *; };' > $@" % "; ".join(exports),
    )
    cc_binary(
        name = name,
        srcs = srcs,
        additional_linker_inputs = [script],
        linkopts = linkopts + [
            "-Wl,-soname," + name,
            "-Wl,--version-script=$(location %s)" % script,
        ],
        linkshared = True,
        deps = deps + [
            "//csrc/common:glibcxx_compat",
            "@cuda//:cudart_static",
        ],
        **kwargs
    )
