"""instantiate: one named, cached cuda_library for each row of a list, from one template."""

load("@bazel_skylib//lib:selects.bzl", "selects")
load("@bazel_skylib//rules:expand_template.bzl", "expand_template")
load("@rules_cc//cc:defs.bzl", "cc_library")
load("//tools/cuda:cuda_library.bzl", "cuda_library")

def instantiate(name, template, rows, deps, **kwargs):
    """Compiles `template` once per row and bundles the objects as :name.

    Args:
      name: the bundle, a cc_library with every instance.
      template: a .cu file with {KEY} marks.
      rows: list of dicts; "name" names the target, "unless" lists config settings any of which
        leaves the row out, the other keys replace their marks.
      deps: CUDA and C++ libraries of every instance.
      **kwargs: passed on to each cuda_library.
    """
    present = []
    for row in rows:
        source = row["name"] + ".cu"
        expand_template(
            name = row["name"] + "_source",
            out = source,
            substitutions = {"{%s}" % key: value for key, value in row.items() if type(value) == "string"},
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
        if row.get("unless"):
            selects.config_setting_group(
                name = row["name"] + "_off",
                match_any = row["unless"],
            )
            present += select({
                row["name"] + "_off": [],
                "//conditions:default": [row["name"]],
            })
        else:
            present.append(row["name"])
    cc_library(
        name = name,
        deps = present,
    )
