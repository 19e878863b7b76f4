"""cuda_library: nvcc compiles each source in one cached, bit-reproducible action."""

load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo")
load("@rules_cc//cc:find_cc_toolchain.bzl", "find_cc_toolchain", "use_cc_toolchain")
load("//tools/cuda:copts.bzl", "NVCC_FLAGS", "NVCC_HOST_FLAGS", "NVCC_STABLE_NAMES")

_HEADERS = ["h", "hpp", "cuh", "inl"]

def _gencode(archs):
    flags = []
    for arch in archs:
        frontend, _, targets = arch.partition(":")
        if not frontend.startswith("compute_") or not targets:
            fail("archs: %r is not FRONTEND:TARGET+TARGET, e.g. compute_80:sm_80+sm_90+compute_80" % arch)
        flags.append("-gencode=arch=%s,code=[%s]" % (frontend, ",".join(targets.split("+"))))
    return flags

def _memory(_os, _inputs):
    return {"cpu": 1, "memory": 4000}

def _cuda_library_impl(ctx):
    cc = find_cc_toolchain(ctx)
    features = cc_common.configure_features(ctx = ctx, cc_toolchain = cc, requested_features = ctx.features, unsupported_features = ctx.disabled_features)
    own = cc_common.create_compilation_context(
        headers = depset(ctx.files.hdrs),
        quote_includes = depset([".", ctx.bin_dir.path]),
    )
    deps = [dep[CcInfo] for dep in ctx.attr.deps]
    compilation = cc_common.merge_compilation_contexts(compilation_contexts = [own] + [dep.compilation_context for dep in deps])

    # What a compile may read; nvcc.sh sorts out what it did not.
    header_list = ctx.actions.declare_file("_cuda/%s/headers" % ctx.label.name)
    names = ctx.actions.args()
    names.set_param_file_format("multiline")
    names.add_all(compilation.headers)
    ctx.actions.write(header_list, names)

    costs, objects, reports = [], [], []
    for src in ctx.files.srcs:
        stem = "_cuda/%s/%s" % (ctx.label.name, src.basename.removesuffix(".cu"))
        obj = ctx.actions.declare_file(stem + ".pic.o")
        depfile = ctx.actions.declare_file(stem + ".d")
        unused = ctx.actions.declare_file(stem + ".unused")
        report = ctx.actions.declare_file(stem + ".ptxas")
        cost = ctx.actions.declare_file(stem + ".cost")

        wrapped = ctx.actions.args()
        wrapped.add_all([ctx.executable._measure, cost, ctx.executable._nvcc, header_list, depfile, unused, report])
        args = ctx.actions.args()
        args.add_all(NVCC_FLAGS)
        args.add("-ccbin", cc.compiler_executable)
        args.add_joined("-Xcompiler", NVCC_HOST_FLAGS, join_with = ",")
        args.add_all(_gencode(ctx.attr.archs or ctx.attr._archs[BuildSettingInfo].value))

        # No absolute path in module ids: the name is cut to what no output base or configuration
        # changes.
        stable = src.short_path
        args.add_all(NVCC_STABLE_NAMES)
        args.add_all(["-Xcudafe", "--orig_src_path_name," + stable, "-Xcicc", "--orig_src_path_name," + stable])
        args.add_all(depset(transitive = [compilation.defines, compilation.local_defines]), before_each = "-D")
        args.add_all(ctx.attr.local_defines, before_each = "-D")
        args.add_all(compilation.quote_includes, before_each = "-I")
        args.add_all(compilation.includes, before_each = "-I")
        args.add_all(compilation.system_includes, before_each = "-isystem")
        args.add_all(ctx.attr.copts)
        args.add(src)
        args.add("-o", obj)
        ctx.actions.run(
            executable = ctx.executable._wrapper,
            arguments = [wrapped, args],
            inputs = depset([src, header_list], transitive = [compilation.headers, cc.all_files, depset(ctx.files._toolkit)]),
            tools = [ctx.executable._measure, ctx.executable._nvcc],
            outputs = [cost, depfile, obj, report, unused],
            unused_inputs_list = unused,
            env = {"PATH": "/usr/local/bin:/usr/bin:/bin"},
            mnemonic = "CudaCompile",
            progress_message = "Compiling CUDA %{label} " + src.basename,
            resource_set = _memory,
        )
        costs.append(cost)
        objects.append(obj)
        reports.append(report)

    linking, _ = cc_common.create_linking_context_from_compilation_outputs(
        actions = ctx.actions,
        name = ctx.label.name,
        feature_configuration = features,
        cc_toolchain = cc,
        compilation_outputs = cc_common.create_compilation_outputs(pic_objects = depset(objects)),
        linking_contexts = [dep.linking_context for dep in deps],
        disallow_dynamic_library = True,
        alwayslink = ctx.attr.alwayslink,
    )
    return [
        DefaultInfo(files = depset(objects)),
        CcInfo(compilation_context = compilation, linking_context = linking),
        OutputGroupInfo(cost = depset(costs), ptxas = depset(reports)),
    ]

cuda_library = rule(
    doc = "Compiles CUDA sources. PIC only; machine code as //tools/cuda:archs says.",
    implementation = _cuda_library_impl,
    attrs = {
        "alwayslink": attr.bool(doc = "keep objects that nothing refers to"),
        "archs": attr.string_list(doc = "overrides //tools/cuda:archs for this target"),
        "copts": attr.string_list(doc = "further flags of nvcc"),
        "deps": attr.label_list(providers = [CcInfo], doc = "C++ and CUDA libraries: headers, defines, what to link"),
        "hdrs": attr.label_list(allow_files = ["." + e for e in _HEADERS], doc = "headers for these sources and for what depends on them"),
        "local_defines": attr.string_list(doc = "-D for these sources alone"),
        "srcs": attr.label_list(allow_files = [".cu"], doc = "each is compiled by an action of its own"),
        "_archs": attr.label(default = "//tools/cuda:archs"),
        "_measure": attr.label(default = "//tools/cuda:measure", executable = True, cfg = "exec"),
        "_nvcc": attr.label(default = "@cuda//:nvidia/cu13/bin/nvcc", executable = True, allow_single_file = True, cfg = "exec"),
        "_toolkit": attr.label(default = "@cuda//:toolkit"),
        "_wrapper": attr.label(default = "//tools/cuda:nvcc.sh", executable = True, allow_single_file = True, cfg = "exec"),
    },
    fragments = ["cpp"],
    provides = [CcInfo],
    toolchains = use_cc_toolchain(),
)
