"""triton_library: kernels in Triton, compiled when the project is built, as data of a C++ library."""

load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo")
load("@rules_cc//cc:find_cc_toolchain.bzl", "find_cc_toolchain", "use_cc_toolchain")

def _compiled(ctx, row, arch):
    """One cached action: the object of a row for a GPU, its PTX, and how it is launched."""
    stem = "%s/%s/%s" % (ctx.label.name, arch, row["name"])
    obj = ctx.actions.declare_file(stem + (".hsaco" if arch.startswith("gfx") else ".cubin"))
    beside = [ctx.actions.declare_file(obj.basename + ".json", sibling = obj)]
    if not arch.startswith("gfx"):
        beside.append(ctx.actions.declare_file(obj.basename + ".ptx", sibling = obj))
    given = ctx.actions.declare_file(stem + ".row.json")
    ctx.actions.write(given, json.encode(row | {"arch": arch}))
    module = row["module"].rpartition(".")[2]
    names = [name + ".py" for name in [module] + ctx.attr.needs[module].split(" ") if name]
    srcs = [f for f in ctx.files.srcs if f.basename in names]
    if len(srcs) != len(names):
        fail("%s: srcs lack one of %s" % (row["name"], names))
    ctx.actions.run(
        executable = ctx.executable._compile,
        arguments = [ctx.file._triton.path, ctx.attr.root, given.path, obj.path],
        inputs = srcs + [ctx.file._triton, given],
        outputs = [obj] + beside,
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin"},
        mnemonic = "Triton",
        progress_message = "Compiling Triton %s for %s" % (row["name"], arch),
    )
    return struct(files = [given, obj] + beside, image = obj, metadata = beside[0], ptx = beside[1] if len(beside) > 1 else None)

def _embedded(ctx, objects, images):
    """The images and a table of them as an object of the host."""
    source, obj = [ctx.actions.declare_file(ctx.label.name + end) for end in [".s", ".pic.o"]]
    args = ctx.actions.args()
    args.add_all([source.path, ctx.attr.table])
    args.add_all(images)
    ctx.actions.run(
        executable = ctx.executable._table,
        arguments = [args],
        inputs = [one.metadata for one in objects],
        outputs = [source],
        mnemonic = "TritonTable",
    )
    (zig,) = [f for f in ctx.files._cc if f.path.endswith("/ziglang/zig")]
    ctx.actions.run(
        executable = zig,
        arguments = ["clang", "--target=x86_64-linux-gnu", "-c", source.path, "-o", obj.path],
        inputs = [source] + images,
        tools = ctx.files._cc,
        outputs = [obj],
        mnemonic = "TritonEmbed",
    )
    cc = find_cc_toolchain(ctx)
    linking, _ = cc_common.create_linking_context_from_compilation_outputs(
        actions = ctx.actions,
        name = ctx.label.name,
        feature_configuration = cc_common.configure_features(ctx = ctx, cc_toolchain = cc),
        cc_toolchain = cc,
        compilation_outputs = cc_common.create_compilation_outputs(objects = depset([obj]), pic_objects = depset([obj])),
        disallow_dynamic_library = True,
    )
    return CcInfo(linking_context = linking)

def _triton_library_impl(ctx):
    wanted = ctx.attr._rows[BuildSettingInfo].value
    objects, images = [], []
    for arch, rows in ctx.attr.rows.items():
        for row in [json.decode(row) for row in rows]:
            if wanted and wanted not in row["name"]:
                continue
            one = _compiled(ctx, row, arch)
            objects.append(one)
            images += [one.image] + ([one.ptx] if arch == "sm_80" else [])
    for arch in [arch for arch in ctx.attr._hip[BuildSettingInfo].value.split("+") if arch]:
        objects += [_compiled(ctx, json.decode(row), arch) for row in ctx.attr.rows.values()[0] if wanted in row]
    return [
        DefaultInfo(files = depset([f for one in objects for f in one.files])),
        _embedded(ctx, [one for one in objects if one.ptx], images),
        OutputGroupInfo(metadata = depset([one.metadata for one in objects])),
    ]

_triton_library = rule(
    doc = """Compiles kernels with the pinned Triton, an action a row: no GPU, no driver, no torch.

    Files: NAME/GPU/ROW.cubin, ROW.cubin.ptx, what says how to launch it, ROW.cubin.json, and ROW.row.json; with //tools/triton:hip code objects
    for AMD GPUs, too. What depends on the rule links the images, those for sm_80 also as PTX for newer GPUs, with a
    table of them, TABLE_objects (csrc/hstu_triton/objects.h).""",
    implementation = _triton_library_impl,
    attrs = {
        "needs": attr.string_dict(mandatory = True, doc = "file of kernels -> the files that it imports, spaces between"),
        "root": attr.string(mandatory = True, doc = "the folder that the kernels' package lies in"),
        "rows": attr.string_list_dict(mandatory = True, doc = "GPU -> rows as JSON"),
        "srcs": attr.label_list(mandatory = True, allow_files = [".py"], doc = "the kernels' files"),
        "table": attr.string(mandatory = True, doc = "prefix of the table's name"),
        "_cc": attr.label(default = "@cc//:files", cfg = "exec"),
        "_compile": attr.label(default = "//tools/triton:compile", executable = True, cfg = "exec"),
        "_hip": attr.label(default = "//tools/triton:hip"),
        "_rows": attr.label(default = "//tools/triton:rows"),
        "_table": attr.label(default = "//tools/triton:table", executable = True, cfg = "exec"),
        "_triton": attr.label(default = "@python_env_triton//:layer.txt", allow_single_file = True),
    },
    fragments = ["cpp"],
    provides = [CcInfo],
    toolchains = use_cc_toolchain(),
)

def triton_library(name, rows, **kwargs):
    """The rule above, with rows as structs.

    Args:
      name: target name.
      rows: GPU -> list of struct(name, module, function, constants, types, aligned, unaligned, num_warps, num_stages, options).
      **kwargs: passed on.
    """
    _triton_library(
        name = name,
        rows = {arch: [json.encode(row) for row in of] for arch, of in rows.items()},
        **kwargs
    )
