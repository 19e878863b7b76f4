"""Tests of what Triton compiles when the project is built."""

load("//csrc/hstu_triton:rows.bzl", "KERNELS", "rows_of")
load("//tools:defs.bzl", "pytest_test", "triton_library")

_SIX = ["add_up.bf16", "attention_fwd.bf16.64.long.causal", "norm_mul_dropout_fwd.fp16.50"]

def _bytes_test(name, objects, tags = []):
    pytest_test(
        name = name,
        srcs = ["objects_test.py"],
        data = [
            "cases.py",
            objects,
            "//python/generative_recommenders:kernels",
            "//tools/triton:compile.py",
        ],
        env = "triton",
        tags = tags,
        timeout = "long",
        variables = {
            "COMPILE": "$(rootpath //tools/triton:compile.py)",
            "OBJECTS": "$(rootpaths %s)" % objects,
        },
        deps = ["//python/generative_recommenders:site"],
    )

def objects_tests(name):
    """Six rows compiled twice; by name, all of them, and the tests of the whole wheel, which take ten minutes.

    Args:
      name: of the six rows.
    """
    triton_library(
        name = name,
        testonly = True,
        srcs = ["//python/generative_recommenders:kernels"],
        needs = KERNELS,
        root = "python",
        rows = {arch: [row for row in rows_of(arch) if row.name in _SIX] for arch in ["sm_80", "sm_90"]},
        table = "six_rows",
    )
    _bytes_test("objects_test", ":" + name)
    _bytes_test("all_objects_test", "//csrc/hstu_triton:objects", ["manual"])
    pytest_test(
        name = "compiled_kernels_test",
        srcs = ["compiled_kernels_test.py"],
        data = [
            "cases.py",
            "hstu_attention_test.py",
            "oracle.py",
        ],
        env = "triton",
        tags = ["gpu", "manual"],
        timeout = "moderate",
        deps = ["//python/generative_recommenders:whole_site"],
    )
