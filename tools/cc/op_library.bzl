"""op_library: a shared object of torch ops for every torch >= 2.10 and every CPython."""

load("@rules_cc//cc:defs.bzl", "cc_binary")

def op_library(name, srcs, deps = [], **kwargs):
    """Links op registrations and kernels to lib<...>.so through the LibTorch stable ABI.

    Nothing is exported: the ops register themselves when the object is loaded.

    Args:
      name: file name, lib<package>.so.
      srcs: op registrations (STABLE_TORCH_LIBRARY).
      deps: kernels and headers.
      **kwargs: passed on to cc_binary.
    """
    stubs = ["//third_party/torch:libtorch.so", "//third_party/torch:libtorch_cpu.so"]
    cc_binary(
        name = name,
        srcs = srcs,
        additional_linker_inputs = stubs + ["//tools/cc:no_exports.map"],
        linkopts = [
            "-Wl,-soname," + name,
            "-Wl,--version-script=$(location //tools/cc:no_exports.map)",
            # libtorch.so must stay NEEDED: through it the CUDA half of torch is found, if there is one.
            "-Wl,--no-as-needed",
        ] + ["$(location %s)" % stub for stub in stubs] + ["-Wl,--as-needed"],
        linkshared = True,
        deps = deps + [
            "//csrc/common:glibcxx_compat",
            "//third_party/torch:stable_abi",
            "@cuda//:cudart_static",
        ],
        **kwargs
    )
