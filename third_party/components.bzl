"""What of third parties is inside a wheel: for its licence files and its SBOM."""

load("//third_party:pins.bzl", "CUDA_WHEELS", "CUTLASS_WHEELS", "HIERARCHICAL_KV_COMMIT", "HIERARCHICAL_KV_SHA256", "LIBSTDCXX_DEBS", "LIBSTDCXX_SUITE", "PYBIND11_WHEELS", "PYTHON_ENVS", "PYTHON_WHEELS", "ZIG_WHEELS")

# A wheel names those of these that are compiled or linked into it: wheel(contains = [...]).
COMPONENTS = {
    "hierarchical-kv": struct(
        license = "Apache-2.0",
        notices = ["//third_party/hierarchical_kv:LICENSE.hierarchical_kv.txt"],
    ),
    "nvidia-cuda-cccl": struct(
        license = "Apache-2.0 WITH LLVM-exception AND BSD-3-Clause",
        notices = ["//third_party/cuda:LICENSE.cccl.txt", "//third_party/cuda:NOTICE.cuda.txt"],
    ),
    "nvidia-cuda-runtime": struct(
        license = "LicenseRef-NVIDIA-CUDA-EULA",
        notices = ["//third_party/cuda:LICENSE.cuda.txt", "//third_party/cuda:NOTICE.cuda.txt"],
    ),
    "nvidia-cutlass": struct(
        license = "BSD-3-Clause",
        notices = ["//third_party/cutlass:LICENSE.cutlass.txt"],
    ),
    "pybind11": struct(
        license = "BSD-3-Clause",
        notices = ["//third_party/pybind11:LICENSE.pybind11.txt"],
    ),
    "torch": struct(
        license = "BSD-3-Clause",
        notices = ["//third_party/torch:LICENSE.pytorch.txt"],
    ),
    # What kernels call of its library is compiled into them.
    "triton": struct(
        license = "MIT",
        notices = ["//third_party/triton:LICENSE.triton.txt"],
    ),
}

# What compiles every wheel that has machine code, and stays outside of it.
BUILD_TOOLS = ["nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt", "ziglang"] + [
    deb.split("=")[0]
    for deb in LIBSTDCXX_DEBS
]

# The assembler that lies in Triton's wheel.
_PTXAS = "12.8.93"

def _pins():
    pins = {}
    for wheels in [CUDA_WHEELS, CUTLASS_WHEELS, PYBIND11_WHEELS, PYTHON_ENVS["triton"], PYTHON_WHEELS, ZIG_WHEELS]:
        for requirement, hashes in wheels.items():
            name, version = requirement.split("==")
            pins[name] = struct(version = version, purl = "pkg:pypi/%s@%s" % (name, version), sha256 = hashes)
    pins["ptxas"] = struct(version = _PTXAS, purl = "pkg:generic/ptxas@" + _PTXAS, sha256 = pins["triton"].sha256)
    for requirement, sha256 in LIBSTDCXX_DEBS.items():
        name, version = requirement.split("=")
        purl = "pkg:deb/debian/%s@%s?arch=amd64&distro=%s" % (name.replace("+", "%2B"), version, LIBSTDCXX_SUITE)
        pins[name] = struct(version = version, purl = purl, sha256 = [sha256])
    pins["hierarchical-kv"] = struct(
        version = HIERARCHICAL_KV_COMMIT,
        purl = "pkg:github/nvidia-merlin/hierarchicalkv@" + HIERARCHICAL_KV_COMMIT,
        sha256 = [HIERARCHICAL_KV_SHA256],
    )
    return pins

# name -> version, package URL, the hashes that are allowed
PINS = _pins()
