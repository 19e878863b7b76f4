"""instantiate: one named, cached cuda_library for each row of a list, from one template."""

load("@bazel_skylib//lib:selects.bzl", "selects")
load("@rules_cc//cc:defs.bzl", "cc_library")
load("//tools/cuda:cuda_library.bzl", "cuda_library")

# After a plain external definition nvcc names the unit; where there is none the name holds path and
# process id, and no two builds give the same bytes.
_UNIT = "\nnamespace accel {\nint unit_%s() { return 0; }\n}  // namespace accel\n"

def _instance_source_impl(ctx):
    filled = ctx.actions.declare_file(ctx.label.name + ".filled")
    ctx.actions.expand_template(
        template = ctx.file.template,
        output = filled,
        substitutions = ctx.attr.substitutions,
    )
    args = ctx.actions.args()
    args.add_all([_UNIT % ctx.attr.unit, filled, ctx.outputs.out])
    ctx.actions.run_shell(
        command = '{ cat "$2" && printf %s "$1"; } > "$3"',
        arguments = [args],
        inputs = [filled],
        outputs = [ctx.outputs.out],
    )

_instance_source = rule(
    doc = "A template with its marks replaced and the definition that names the unit.",
    implementation = _instance_source_impl,
    attrs = {
        "out": attr.output(mandatory = True, doc = "the source"),
        "substitutions": attr.string_dict(mandatory = True, doc = "mark -> text"),
        "template": attr.label(mandatory = True, allow_single_file = True, doc = "a source with marks"),
        "unit": attr.string(mandatory = True, doc = "what the unit is named after"),
    },
)

def instantiate(name, template, rows, deps, **kwargs):
    """Compiles `template` once per row and bundles the objects as :name.

    Args:
      name: the bundle, a cc_library with every instance.
      template: a .cu file with {KEY} marks. A function unit_<name> is put behind it.
      rows: list of dicts; "name" names the target, "unless" lists config settings any of which
        leaves the row out, the other keys replace their marks.
      deps: CUDA and C++ libraries of every instance.
      **kwargs: passed on to each cuda_library.
    """
    present = []
    for row in rows:
        source = row["name"] + ".cu"
        _instance_source(
            name = row["name"] + "_source",
            out = source,
            substitutions = {"{%s}" % key: value for key, value in row.items() if type(value) == "string"},
            tags = ["manual"],
            template = template,
            unit = row["name"],
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
