"""hip_library: code objects for AMD GPUs from the sources of a cuda_library; no part of ROCm is needed."""

load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo")
load("@rules_cc//cc:find_cc_toolchain.bzl", "find_cc_toolchain", "use_cc_toolchain")
load("//tools/cuda:copts.bzl", "HIP_BITCODE_FLAGS", "HIP_LINK_FLAGS", "HIP_OBJECT_FLAGS")

# The section is where tools for AMD's binaries look; the table is for the launcher.
_BUNDLE = """.section .hip_fatbin, "a", @progbits
.p2align 12
.Lbundle{i}: .incbin "{path}"
.section .rodata, "a", @progbits
.Lname{i}: .asciz "{stem}"
.section .data.rel.ro, "aw", @progbits
.quad .Lname{i}, .Lbundle{i}
"""
_EMBED = """.section .data.rel.ro, "aw", @progbits
.p2align 3
.globl {name}_units
.hidden {name}_units
{name}_units:
{bundles}.quad 0, 0
.section .note.GNU-stack, "", @progbits
"""

def _archs(flag):
    archs = [arch for arch in flag.split("+") if arch]
    for arch in archs:
        if not arch.startswith("gfx") or not arch.isalnum() or len([a for a in archs if a == arch]) > 1:
            fail("archs: %r is not GPU+GPU, each once, e.g. gfx90a+gfx942" % flag)
    return archs

def _measured(ctx, mnemonic, program, out, args, inputs):
    """One cached action that makes `out`; returns the file with what it cost."""
    cost = ctx.actions.declare_file(out.basename + ".cost", sibling = out)
    head = ctx.actions.args()
    head.add_all([cost, program])
    last = ctx.actions.args()
    last.add("-o", out)
    ctx.actions.run(
        executable = ctx.executable._measure,
        arguments = [head, args, last],
        inputs = inputs,
        tools = [program, depset(ctx.files._cc)],
        outputs = [out, cost],
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin"},
        mnemonic = mnemonic,
        progress_message = "Compiling HIP %{label} " + out.basename,
    )
    return cost

def _compiled(ctx, zig, compilation, src, arch):
    """The code object of a source for a GPU, by three actions, and its assembly."""
    stem = "%s/%s.%s" % (ctx.label.name, src.basename.removesuffix(".cu"), arch)
    bitcode, text, obj, code = [ctx.actions.declare_file(stem + end) for end in [".bc", ".s", ".o", ".hsaco"]]

    args = ctx.actions.args()
    args.add(zig)
    args.add_all(HIP_BITCODE_FLAGS)
    args.add("--offload-arch=" + arch)
    args.add_all(depset(transitive = [compilation.defines, compilation.local_defines]), before_each = "-D")
    args.add_all(ctx.attr.local_defines, before_each = "-D")
    args.add_all(depset([".", ctx.bin_dir.path], transitive = [compilation.quote_includes]), before_each = "-iquote")
    args.add(src)
    costs = [_measured(ctx, "HipBitcode", ctx.executable._bitcode, bitcode, args, depset([src], transitive = [compilation.headers]))]
    for out, flag in [(obj, "-emit-obj"), (text, "-S")]:
        args = ctx.actions.args()
        args.add_all(HIP_OBJECT_FLAGS)
        args.add_all(["-target-cpu", arch, flag, bitcode])
        costs.append(_measured(ctx, "HipObject", zig, out, args, [bitcode]))
    args = ctx.actions.args()
    args.add_all(HIP_LINK_FLAGS)
    args.add(obj)
    costs.append(_measured(ctx, "HipLink", zig, code, args, [obj]))
    costs.pop(2)  # the assembly is for those who want to read it
    return struct(code = code, costs = costs, text = text)

def _hip_library_impl(ctx):
    (zig,) = [f for f in ctx.files._cc if f.path.endswith("/ziglang/zig")]
    compilation = cc_common.merge_compilation_contexts(compilation_contexts = [dep[CcInfo].compilation_context for dep in ctx.attr.deps])
    archs = _archs(ctx.attr._archs[BuildSettingInfo].value)
    made, bundles = [], {}
    for src in ctx.files.srcs:
        of = {arch: _compiled(ctx, zig, compilation, src, arch) for arch in archs}
        made += of.values()
        stem = src.basename.removesuffix(".cu")
        bundles[stem] = ctx.actions.declare_file("%s/%s.hipfb" % (ctx.label.name, stem))
        ctx.actions.run(
            executable = ctx.executable._bundle,
            arguments = [bundles[stem].path] + ["%s=%s" % (arch, one.code.path) for arch, one in of.items()],
            inputs = [one.code for one in of.values()],
            outputs = [bundles[stem]],
            mnemonic = "HipBundle",
        )
    return [
        DefaultInfo(files = depset([one.code for one in made] + bundles.values())),
        _embedded(ctx, zig, bundles),
        OutputGroupInfo(
            assembly = depset([one.text for one in made]),
            cost = depset([cost for one in made for cost in one.costs]),
        ),
    ]

def _embedded(ctx, zig, bundles):
    """The bundles as an object of the host, with a table of them."""
    source, obj = [ctx.actions.declare_file("%s/embed%s" % (ctx.label.name, end)) for end in [".s", ".pic.o"]]
    ctx.actions.write(source, _EMBED.format(
        bundles = "".join([
            _BUNDLE.format(i = i, path = file.path, stem = stem)
            for i, (stem, file) in enumerate(bundles.items())
        ]),
        name = ctx.label.name,
    ))
    ctx.actions.run(
        executable = zig,
        arguments = ["clang", "--target=x86_64-linux-gnu", "-c", source.path, "-o", obj.path],
        inputs = [source] + bundles.values(),
        tools = ctx.files._cc,
        outputs = [obj],
        mnemonic = "HipEmbed",
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

hip_library = rule(
    doc = """Compiles sources for the GPUs that //tools/hip:archs names.

    Files: NAME/SOURCE.GPU.hsaco, the code objects, and NAME/SOURCE.hipfb, those of a source as clang's offload
    bundle. What depends on the rule links the bundles; csrc/common/hip_units.h has the type of their table,
    NAME_units. Output groups: `assembly` (what the compiler writes with -S), `cost` (CPU time of each action).""",
    implementation = _hip_library_impl,
    attrs = {
        "deps": attr.label_list(providers = [CcInfo], doc = "C++ libraries: headers and defines"),
        "local_defines": attr.string_list(doc = "-D for these sources alone"),
        "srcs": attr.label_list(allow_files = [".cu"], doc = "each is compiled by actions of its own for each GPU"),
        "_archs": attr.label(default = "//tools/hip:archs"),
        "_bitcode": attr.label(default = "//tools/hip:bitcode.sh", executable = True, allow_single_file = True, cfg = "exec"),
        "_bundle": attr.label(default = "//tools/hip:bundle", executable = True, cfg = "exec"),
        "_cc": attr.label(default = "@cc//:files", cfg = "exec"),
        "_measure": attr.label(default = "//tools/cuda:measure", executable = True, cfg = "exec"),
    },
    fragments = ["cpp"],
    provides = [CcInfo],
    toolchains = use_cc_toolchain(),
)
