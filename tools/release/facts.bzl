"""facts: what the provenance of a release says about its build, as JSON."""

load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo")
load("//:version.bzl", "RELEASE_DATE", "VERSION")
load("//third_party:components.bzl", "PINS")

def _flags(ctx):
    """The options that differ from a bare command line, as they are written on it."""
    flags = ["--compilation_mode=" + ctx.var["COMPILATION_MODE"]]
    for option, values in [
        ("copt", ctx.fragments.cpp.copts),
        ("cxxopt", ctx.fragments.cpp.cxxopts),
        ("linkopt", ctx.fragments.cpp.linkopts),
    ]:
        flags += ["--%s=%s" % (option, value) for value in values]
    for setting in ctx.attr.settings:
        value = setting[BuildSettingInfo].value
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
        "settings": attr.label_list(doc = "build settings that change the wheels; recorded where set"),
        "_cc": attr.label(default = "@cc//:files"),
    },
    fragments = ["cpp"],
)
