"""Tests of what Triton compiles when the project is built."""

load("//csrc/hstu_triton:rows.bzl", "KERNELS", "rows_of")
load("//tools:defs.bzl", "pytest_test", "triton_library")

# These are compiled twice; of attention, each kernel is looked at for two head dims.
_TWICE = ["add_up.bf16", "attention_fwd.bf16.64.long.causal", "norm_mul_dropout_fwd.fp16.50"]
_ONCE = [
    "attention_%s.bf16.%d.long.general" % (kernel, dim)
    for kernel in ["fwd", "bwd_rows", "bwd_columns"]
    for dim in [64, 128]
]

def _objects_test(name, objects, twice = [], tags = []):
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
            "TWICE": " ".join(twice),
        },
        deps = ["//python/generative_recommenders:site"],
    )

def objects_tests(name):
    """Some rows, six of them compiled twice; by name, all of them twice, and the tests of the whole wheel.

    Args:
      name: of some rows.
    """
    triton_library(
        name = name,
        testonly = True,
        srcs = ["//python/generative_recommenders:kernels"],
        needs = KERNELS,
        root = "python",
        rows = {arch: [row for row in rows_of(arch) if row.name in _TWICE + _ONCE] for arch in ["sm_80", "sm_90"]},
        table = name,
    )
    _objects_test("objects_test", ":" + name, _TWICE)
    _objects_test("all_objects_test", "//csrc/hstu_triton:objects", tags = ["manual"])
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
