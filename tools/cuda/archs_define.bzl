"""archs_define: the machine-code targets of the build as a macro, for a package's report."""

load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo")

def _archs_define_impl(ctx):
    targets = [t for entry in ctx.attr._archs[BuildSettingInfo].value for t in entry.split(":")[1].split("+")]
    define = '%s="%s"' % (ctx.attr.define, ",".join(targets))
    return CcInfo(compilation_context = cc_common.create_compilation_context(defines = depset([define])))

archs_define = rule(
    doc = "Defines a macro as the string of //tools/cuda:archs' targets, e.g. sm_80,sm_90,compute_80.",
    implementation = _archs_define_impl,
    attrs = {
        "define": attr.string(mandatory = True, doc = "the macro"),
        "_archs": attr.label(default = "//tools/cuda:archs"),
    },
    provides = [CcInfo],
)
