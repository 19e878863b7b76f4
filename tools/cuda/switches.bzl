"""build_switches: the parts that a build of a package may leave out."""

load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo", "bool_flag")
load("@rules_cc//cc:defs.bzl", "cc_library")

_HEADER = """// Generated from the package's list of switches by //tools/cuda:switches.bzl: what this build holds.
#pragma once

#include "csrc/common/feature.h"

namespace {namespace} {{

namespace feature {{
{features}
}}  // namespace feature

constexpr Feature kFeatures[] = {{
{rows}
}};

{constants}

}}  // namespace {namespace}
"""

def _switches_header_impl(ctx):
    features, rows, constants = [], [], []
    for flag, switch in ctx.attr.switches.items():
        name = switch.capitalize()
        enabled = "false" if flag[BuildSettingInfo].value else "true"
        features.append('constexpr Feature k%s{"%s", "%s", %s};' % (name, flag.label.name, switch, enabled))
        rows.append("    feature::k%s," % name)
        constants.append("constexpr bool kWith%s = feature::k%s.enabled;" % (name, name))
    out = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.write(out, _HEADER.format(
        constants = "\n".join(constants),
        features = "\n".join(features),
        namespace = ctx.attr.namespace,
        rows = "\n".join(rows),
    ))
    return [DefaultInfo(files = depset([out]))]

_switches_header = rule(
    doc = "Writes the header that says which parts this build has.",
    implementation = _switches_header_impl,
    attrs = {
        "namespace": attr.string(mandatory = True, doc = "of the header"),
        "switches": attr.label_keyed_string_dict(providers = [BuildSettingInfo], doc = "flag -> the part it leaves out"),
    },
)

def build_switches(name, prefix, names, namespace):
    """Makes, of one list, all that leaves parts of a package out of its binary.

    The flags :<prefix>_DISABLE_<NAME>, false by default; the config settings :<NAME>_off for the
    "unless" of instances; and :<name>, a C++ library of the generated header <name>.h:

        constexpr Feature feature::kRab;  // of NAME "RAB", for accel::Require
        constexpr bool kWithRab;          // false where the flag is set
        constexpr Feature kFeatures[];    // all of them, for accel::BuildInfo

    Args:
      name: the C++ library.
      prefix: of the flags, e.g. "HSTU".
      names: the parts, in capitals.
      namespace: of the header, e.g. "accel::hstu".
    """
    flags = {"%s_DISABLE_%s" % (prefix, switch): switch for switch in names}
    for flag, switch in flags.items():
        bool_flag(
            name = flag,
            build_setting_default = False,
            visibility = ["//visibility:public"],
        )
        native.config_setting(
            name = switch + "_off",
            flag_values = {":" + flag: "true"},
        )
    _switches_header(
        name = name + ".h",
        namespace = namespace,
        switches = {":" + flag: switch for flag, switch in flags.items()},
    )
    cc_library(
        name = name,
        hdrs = [name + ".h"],
        deps = ["//csrc/common:feature"],
    )
