"""compile_costs: what compiling each CUDA source below some targets took, for the compile report."""

_CostInfo = provider(
    doc = "The compiles below a target.",
    fields = {"compiles": "depset of structs: label, cost, ptxas, object"},
)

_EDGES = ["actual", "deps", "libs", "srcs"]

def _costs_aspect_impl(target, ctx):
    below = []
    for edge in _EDGES:
        value = getattr(ctx.rule.attr, edge, None)
        for dep in value.keys() if type(value) == "dict" else value if type(value) == "list" else [value]:
            if type(dep) == "Target" and _CostInfo in dep:
                below.append(dep[_CostInfo].compiles)
    own = []
    if ctx.rule.kind == "cuda_library":
        groups = target[OutputGroupInfo]
        reports = {f.path.removesuffix(".ptxas"): f for f in groups.ptxas.to_list()}
        objects = {f.path.removesuffix(".pic.o"): f for f in target[DefaultInfo].files.to_list()}
        for cost in groups.cost.to_list():
            stem = cost.path.removesuffix(".cost")
            own.append(struct(cost = cost, label = str(target.label), object = objects[stem], ptxas = reports[stem]))
    return [_CostInfo(compiles = depset(own, transitive = below))]

_costs_aspect = aspect(
    doc = "Finds the compiles below a target.",
    implementation = _costs_aspect_impl,
    attr_aspects = _EDGES,
)

def _compile_costs_impl(ctx):
    compiles = depset(transitive = [t[_CostInfo].compiles for t in ctx.attr.targets]).to_list()
    packages = {}  # a source that two packages hold is counted in both
    for target, package in ctx.attr.targets.items():
        for c in target[_CostInfo].compiles.to_list():
            packages.setdefault(c.cost.path, {})[package] = None
    manifest = ctx.actions.declare_file(ctx.label.name + ".manifest.json")
    ctx.actions.write(manifest, json.encode([{
        "cost": c.cost.path,
        "label": c.label.lstrip("@"),
        "object": c.object.path,
        "packages": packages[c.cost.path].keys(),
        "ptxas": c.ptxas.path,
    } for c in compiles]))

    outs = [ctx.actions.declare_file(ctx.label.name + suffix) for suffix in [".json", ".svg", ".txt"]]
    ctx.actions.run(
        executable = ctx.executable._report,
        arguments = [manifest.path] + [out.path for out in outs],
        inputs = [manifest] + [f for c in compiles for f in [c.cost, c.object, c.ptxas]],
        outputs = outs,
        mnemonic = "CompileReport",
    )
    return [DefaultInfo(files = depset(outs))]

compile_costs = rule(
    doc = "Writes NAME.json, NAME.svg (bar chart) and NAME.txt (table).",
    implementation = _compile_costs_impl,
    attrs = {
        "targets": attr.label_keyed_string_dict(aspects = [_costs_aspect], doc = "what the sources are compiled for -> its package"),
        "_report": attr.label(default = "//tools/compile_report:report", executable = True, cfg = "exec"),
    },
)
