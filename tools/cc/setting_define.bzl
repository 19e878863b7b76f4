"""setting_define: a build setting's value as a macro."""

load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo")

def _setting_define_impl(ctx):
    holds = str(ctx.attr.setting[BuildSettingInfo].value) == ctx.attr.value
    defines = depset([ctx.attr.define] if holds else [])
    return CcInfo(compilation_context = cc_common.create_compilation_context(defines = defines))

setting_define = rule(
    doc = "Defines a macro for its users where a setting has a value. Unlike a select(), it lets //tools/release:facts find the setting.",
    implementation = _setting_define_impl,
    attrs = {
        "define": attr.string(mandatory = True, doc = "the macro"),
        "setting": attr.label(mandatory = True, providers = [BuildSettingInfo], doc = "the build setting"),
        "value": attr.string(mandatory = True, doc = "the value with which it is defined"),
    },
    provides = [CcInfo],
)
