"""The one list of external repositories, made from pins.bzl for both module and WORKSPACE mode."""

load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_archive")
load("//third_party:fetch.bzl", "apt_repository", "cc_repository", "cpythons_repository", "npm_repository", "python_env_repository", "python_layer_repository", "wheels_repository")
load("//third_party:pins.bzl", "BUILDIFIER_INTEGRITY", "BUILDIFIER_NPM", "CUDA_WHEELS", "CUTLASS_WHEELS", "HIERARCHICAL_KV_COMMIT", "HIERARCHICAL_KV_SHA256", "LIBSTDCXX_DEBS", "LIBSTDCXX_SUITE", "PYBIND11_WHEELS", "PYTHON_ENVS", "PYTHON_VERSION", "PYTHON_WHEELS", "RECBOLE_WHEELS", "SANITIZER_DEBS", "SANITIZER_SUITE", "TORCH_CUDA_WHEELS", "ZIG_WHEELS")
load("//tools/lint:tree.bzl", "tree_repository")

def _wheels(name, wheels):
    wheels_repository(
        name = name,
        build_file = "//third_party/%s:%s.BUILD" % (name, name),
        python_version = PYTHON_VERSION,
        wheels = wheels,
    )

def repositories():
    """Declares every external repository; each is fetched when a target first needs it."""
    _wheels("cuda", CUDA_WHEELS)
    _wheels("cutlass", CUTLASS_WHEELS)
    _wheels("pybind11", PYBIND11_WHEELS)
    _wheels("recbole", RECBOLE_WHEELS)
    cc_repository(
        name = "cc",
        build_file = "//tools/cc:cc.BUILD",
        debs = LIBSTDCXX_DEBS,
        python_version = PYTHON_VERSION,
        suite = LIBSTDCXX_SUITE,
        tools = ["//tools/cc:ar.sh", "//tools/cc:cxx.sh"],
        wheels = ZIG_WHEELS,
    )
    apt_repository(
        name = "sanitizers",
        build_file = "//third_party/sanitizers:sanitizers.BUILD",
        debs = SANITIZER_DEBS,
        suite = SANITIZER_SUITE,
    )
    python_env_repository(
        name = "python_env",
        build_file = "//third_party/python:python.BUILD",
        python_version = PYTHON_VERSION,
        torch_cuda_wheels = TORCH_CUDA_WHEELS | {
            requirement: hashes
            for requirement, hashes in CUDA_WHEELS.items()
            if "cuda-runtime" in requirement
        },
        wheels = PYTHON_WHEELS,
    )
    for name, wheels in PYTHON_ENVS.items():
        python_layer_repository(
            name = "python_env_" + name,
            python_version = PYTHON_VERSION,
            wheels = wheels,
        )
    cpythons_repository(
        name = "cpythons",
        python_version = PYTHON_VERSION,
    )
    npm_repository(
        name = "buildifier",
        build_file = "//third_party/npm:buildifier.BUILD",
        integrity = BUILDIFIER_INTEGRITY,
        missing = 'filegroup(name = "buildifier", visibility = ["//visibility:public"])',
        package = BUILDIFIER_NPM,
    )
    http_archive(
        name = "hierarchical_kv",
        build_file = "//third_party/hierarchical_kv:hierarchical_kv.BUILD",
        patch_cmds = ["find include -name 'BUILD*' -delete"],  # packages, which no glob enters
        sha256 = HIERARCHICAL_KV_SHA256,
        strip_prefix = "HierarchicalKV-" + HIERARCHICAL_KV_COMMIT,
        url = "https://github.com/NVIDIA-Merlin/HierarchicalKV/archive/%s.tar.gz" % HIERARCHICAL_KV_COMMIT,
    )
    tree_repository(name = "tree")
