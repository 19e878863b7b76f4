"""facts: what the provenance of a release says about its build, as JSON."""

load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo")
load("//:version.bzl", "RELEASE_DATE", "VERSION")
load("//third_party:components.bzl", "PINS")

_SettingsInfo = provider(
    doc = "The build settings that the code below a target reads as attributes.",
    fields = {"settings": "depset of structs: label, value"},
)

_EDGES = ["_archs", "actual", "deps", "hdrs", "libs", "srcs", "switches"]

def _setting(target):
    return struct(label = target.label, value = target[BuildSettingInfo].value)

def _settings_aspect_impl(target, ctx):
    below = []
    for edge in _EDGES:
        value = getattr(ctx.rule.attr, edge, None)
        for dep in value.keys() if type(value) == "dict" else value if type(value) == "list" else [value]:
            if type(dep) == "Target" and _SettingsInfo in dep:
                below.append(dep[_SettingsInfo].settings)
    own = [_setting(target)] if BuildSettingInfo in target else []
    return [_SettingsInfo(settings = depset(own, transitive = below))]

_settings_aspect = aspect(
    doc = "Finds the switches of the packages (//tools/cuda:switches.bzl) and the GPU targets.",
    implementation = _settings_aspect_impl,
    attr_aspects = _EDGES,
)

def _flags(ctx):
    """The options that differ from a bare command line, as they are written on it."""
    flags = ["--compilation_mode=" + ctx.var["COMPILATION_MODE"]]
    for option, values in [
        ("copt", ctx.fragments.cpp.copts),
        ("cxxopt", ctx.fragments.cpp.cxxopts),
        ("linkopt", ctx.fragments.cpp.linkopts),
    ]:
        flags += ["--%s=%s" % (option, value) for value in values]
    found = depset([_setting(s) for s in ctx.attr.settings], transitive = [w[_SettingsInfo].settings for w in ctx.attr.wheels])
    for setting in sorted(found.to_list(), key = lambda s: str(s.label)):
        value = setting.value
        if value:
            value = ",".join(value) if type(value) == "list" else str(value).lower()
            flags.append("--//%s:%s=%s" % (setting.label.package, setting.label.name, value))
    return flags

def _facts_impl(ctx):
    bare = ctx.actions.declare_file(ctx.label.name + ".bare.json")
    ctx.actions.write(bare, json.encode_indent({
        "flags": _flags(ctx),
        "pins": {
            name: {"purl": pin.purl, "sha256": pin.sha256}
            for name, pin in PINS.items()
        },
        "release_date": RELEASE_DATE,
        "tools": {
            tool: PINS[tool].version
            for tool in ["nvidia-cuda-nvcc", "nvidia-nvvm", "ziglang"]
        },
        "version": VERSION,
    }, indent = "  "))

    # Which compiler the toolchain has is known to its repository alone.
    (compiler,) = [f for f in ctx.files._cc if f.basename == "compiler.sh"]
    out = ctx.actions.declare_file(ctx.label.name + ".json")
    ctx.actions.run_shell(
        command = """
            if grep -q '^COMPILER=.' "$1"; then sed 's/"flags": \\[/&"--config=hostcc",/' "$2"
            else cat "$2"; fi > "$3"
        """,
        arguments = [compiler.path, bare.path, out.path],
        inputs = [bare, compiler],
        outputs = [out],
    )
    return [DefaultInfo(files = depset([out]))]

facts = rule(
    doc = "Writes NAME.json.",
    implementation = _facts_impl,
    attrs = {
        "settings": attr.label_list(doc = "build settings that change the wheels by select(); recorded where set"),
        "wheels": attr.label_list(aspects = [_settings_aspect], doc = "whose other settings are recorded where set"),
        "_cc": attr.label(default = "@cc//:files"),
    },
    fragments = ["cpp"],
)
