"""switched_off: a wheel_site built with most HSTU_DISABLE_ switches on."""

load("@rules_python//python:defs.bzl", "PyInfo")
load("//csrc/hstu_attn:instances.bzl", "SWITCHES")

# What is left: the forward of causal bf16 attention with head dim 64.
_KEPT = ["BF16", "CAUSAL", "HDIM64"]

_FLAGS = ["//csrc/hstu_attn:HSTU_DISABLE_" + switch for switch in SWITCHES if switch not in _KEPT]

_off = transition(
    implementation = lambda _settings, _attr: {flag: True for flag in _FLAGS},
    inputs = [],
    outputs = _FLAGS,
)

def _switched_off_impl(ctx):
    site = ctx.attr.site[0]
    return [site[DefaultInfo], site[PyInfo]]

switched_off = rule(
    doc = "The site that a build with only causal bf16 forward, head dim 64, gives.",
    implementation = _switched_off_impl,
    attrs = {
        "site": attr.label(mandatory = True, cfg = _off, providers = [PyInfo], doc = "a wheel_site"),
        "_allowlist_function_transition": attr.label(default = "@bazel_tools//tools/allowlists/function_transition_allowlist"),
    },
)
