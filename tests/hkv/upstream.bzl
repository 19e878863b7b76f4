"""on_upstream: files of a build with --config=upstream_hkv."""

_ENGINE = "//third_party/hierarchical_kv:engine"

_upstream = transition(
    implementation = lambda _settings, _attr: {_ENGINE: "upstream"},
    inputs = [],
    outputs = [_ENGINE],
)

on_upstream = rule(
    doc = "What `target` is with HierarchicalKV as the engine of the hash tables.",
    implementation = lambda ctx: [DefaultInfo(files = ctx.attr.target[0][DefaultInfo].files)],
    attrs = {
        "target": attr.label(mandatory = True, cfg = _upstream, doc = "what is built"),
        "_allowlist_function_transition": attr.label(default = "@bazel_tools//tools/allowlists/function_transition_allowlist"),
    },
)
