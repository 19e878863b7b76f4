"""instantiate: one named, cached cuda_library for each row of a list, from one template."""

load("@bazel_skylib//rules:expand_template.bzl", "expand_template")
load("@rules_cc//cc:defs.bzl", "cc_library")
load("//tools/cuda:cuda_library.bzl", "cuda_library")

def instantiate(name, template, rows, deps, **kwargs):
    """Compiles `template` once per row and bundles the objects as :name.

    Args:
      name: the bundle, a cc_library with every instance.
      template: a .cu file with {KEY} marks.
      rows: list of dicts; "name" names the target, the other keys replace their marks.
      deps: CUDA and C++ libraries of every instance.
      **kwargs: passed on to each cuda_library.
    """
    for row in rows:
        source = row["name"] + ".cu"
        expand_template(
            name = row["name"] + "_source",
            out = source,
            substitutions = {"{%s}" % key: value for key, value in row.items()},
            tags = ["manual"],
            template = template,
        )
        cuda_library(
            name = row["name"],
            srcs = [source],
            deps = deps,
            tags = ["manual"],
            **kwargs
        )
    cc_library(
        name = name,
        deps = [row["name"] for row in rows],
    )
