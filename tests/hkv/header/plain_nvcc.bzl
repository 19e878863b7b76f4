"""plain_nvcc: a program that only uses a header, compiled as its users would compile it."""

load("@rules_cc//cc:find_cc_toolchain.bzl", "find_cc_toolchain", "use_cc_toolchain")
load("//tools/cuda:copts.bzl", "PLAIN_NVCC_FLAGS")

def _plain_nvcc_impl(ctx):
    cc = find_cc_toolchain(ctx)
    headers = depset(transitive = [dep[CcInfo].compilation_context.headers for dep in ctx.attr.deps])
    program = ctx.actions.declare_file(ctx.label.name)
    args = ctx.actions.args()
    args.add_all(PLAIN_NVCC_FLAGS)
    args.add("-ccbin", cc.compiler_executable)  # the machine need not have a compiler
    args.add(ctx.file._cudart.dirname, format = "-L%s")  # pip's toolkit has it beside, and
    args.add_all(["-cudadevrt", "none"])  # has none of these: no kernel here starts kernels
    args.add(ctx.file.src)
    args.add("-o", program)
    ctx.actions.run(
        executable = ctx.executable._nvcc,
        arguments = [args],
        inputs = depset([ctx.file.src, ctx.file._cudart], transitive = [headers, cc.all_files, depset(ctx.files._toolkit)]),
        tools = [ctx.executable._nvcc],
        outputs = [program],
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": "/tmp"},
        mnemonic = "PlainNvcc",
        resource_set = _memory,
    )
    return [DefaultInfo(executable = program)]

def _memory(_os, _inputs):
    return {"cpu": 1, "memory": 4000}

plain_nvcc = rule(
    doc = "nvcc -std=c++17 -arch=sm_80 -I. SRC: no flag of this build, no library but CUDA's runtime.",
    implementation = _plain_nvcc_impl,
    attrs = {
        "deps": attr.label_list(providers = [CcInfo], doc = "whose headers there are"),
        "src": attr.label(mandatory = True, allow_single_file = [".cu"], doc = "the program"),
        "_cudart": attr.label(default = "@cuda//:nvidia/cu13/lib/libcudart_static.a", allow_single_file = True),
        "_nvcc": attr.label(default = "@cuda//:nvidia/cu13/bin/nvcc", executable = True, allow_single_file = True, cfg = "exec"),
        "_toolkit": attr.label(default = "@cuda//:toolkit"),
    },
    executable = True,
    toolchains = use_cc_toolchain(),
)
