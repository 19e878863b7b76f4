"""packages: the rows of wheels.bzl for programs, as JSON."""

def _packages_impl(ctx):
    wheels = {name: [] for name in ctx.attr.rows}
    for target, name in ctx.attr.wheels.items():
        wheels[name] += [file.short_path for file in target.files.to_list()]
    rows = {
        name: json.decode(row) | {"wheels": wheels[name]}
        for name, row in ctx.attr.rows.items()
    }
    out = ctx.actions.declare_file(ctx.label.name + ".json")
    ctx.actions.write(out, json.encode_indent(rows, indent = "  ") + "\n")
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out] + ctx.files.wheels))]

packages = rule(
    doc = "Writes NAME.json: distribution -> its row, with `wheels` as paths. They are its runfiles.",
    implementation = _packages_impl,
    attrs = {
        "rows": attr.string_dict(doc = "distribution -> its row, as JSON"),
        "wheels": attr.label_keyed_string_dict(doc = "wheels -> distribution"),
    },
)
