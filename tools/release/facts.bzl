"""facts: what the provenance of a release says about its build, as JSON."""

load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo")
load("//:version.bzl", "RELEASE_DATE", "VERSION")
load("//third_party:components.bzl", "PINS")

_SettingsInfo = provider(
    doc = "The build settings of this project that targets depend on.",
    fields = {"values": "depset of structs: flag (//package:name), value"},
)

def _settings_aspect_impl(target, ctx):
    own = []
    if BuildSettingInfo in target and not target.label.workspace_name:
        flag = "//%s:%s" % (target.label.package, target.label.name)
        value = target[BuildSettingInfo].value
        own = [struct(flag = flag, value = ",".join(value) if type(value) == "list" else str(value).lower())]
    below = []
    for name in dir(ctx.rule.attr):
        value = getattr(ctx.rule.attr, name)
        for dep in value.keys() if type(value) == "dict" else value if type(value) == "list" else [value]:
            if type(dep) == "Target" and _SettingsInfo in dep:
                below.append(dep[_SettingsInfo].values)
    return [_SettingsInfo(values = depset(own, transitive = below))]

_settings_aspect = aspect(
    doc = "Finds the build settings below a target: those that an attribute names.",
    implementation = _settings_aspect_impl,
    attr_aspects = ["*"],
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
    settings = depset(transitive = [wheel[_SettingsInfo].values for wheel in ctx.attr.wheels])
    return flags + sorted([
        "--%s=%s" % (setting.flag, setting.value)
        for setting in settings.to_list()
        if setting.value not in ["", "false"]
    ])

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
        "wheels": attr.label_list(aspects = [_settings_aspect], doc = "of the release: the settings that change them are recorded"),
        "_cc": attr.label(default = "@cc//:files"),
    },
    fragments = ["cpp"],
)
