"""Every compiler flag of the project, each with its why: to change one, edit this file.

tools/cc/cc.BUILD gives the C++ flags to the toolchain, cuda_library.bzl the CUDA flags to nvcc.
What one target alone needs (`copts`) stands at that target. A changed flag recompiles everything.
"""

# Repositories lie in external/<canonical name>: _main~third_party~cuda in module mode, cuda in
# WORKSPACE mode, another one where this project is a dependency.
_CANONICAL = Label("@cuda//:nvidia/cu13/bin/nvcc").workspace_name.removesuffix("cuda")

# Error texts hold file names: the objects are the same whatever the repositories are called.
PREFIX_MAP = "-ffile-prefix-map=external/%s=external/" % _CANONICAL

CXX_COMPILE_FLAGS = [
    "-fvisibility=hidden",  # a wheel exports what a rule lists, nothing by accident
    "-fvisibility-inlines-hidden",  # nor the functions of the headers that it includes
    "-Wall",  # a warning is a bug that has not happened yet
]

CXX_FLAGS = [
    "-std=c++17",  # what nvcc 13.0, CUTLASS 4 and the stable ABI of torch 2.10 agree on
]

CXX_OPT_FLAGS = [
    "-O2",  # what distributions compile with; the time is spent in kernels
    "-DNDEBUG",  # assertions are for --compilation_mode=dbg
    "-ffunction-sections",  # so that the linker can leave out what nothing calls
    "-fdata-sections",  # and the data of it
]

# Bazel's own rules end the line with these, so that no target overrides them.
CXX_LAST_FLAGS = [
    "-no-canonical-prefixes",  # include paths as given: no absolute path in the dependency files
    "-Wno-builtin-macro-redefined",  # for the three that follow
    "-D__DATE__=\"redacted\"",  # equal inputs give equal bytes on every day
    "-D__TIMESTAMP__=\"redacted\"",  # and whenever the file was written
    "-D__TIME__=\"redacted\"",  # and at every hour
    PREFIX_MAP,  # above
]

# C++ under AddressSanitizer and UBSan, for tests: "@sanitizers//:runtime" is what they link. To the
# compiler itself, as zig's driver takes -fsanitize=address for a mistake.
SANITIZER_FLAGS = [
    "-Xclang",  # the next one
    "-fsanitize=address,alignment,array-bounds,bool,builtin,enum,float-cast-overflow,integer-divide-by-zero,null,pointer-overflow,shift-base,shift-exponent,signed-integer-overflow,unreachable,vla-bound",  # what the runtime has
    "-g1",  # reports name lines
]

LINK_FLAGS = [
    "-Wl,--gc-sections",  # leaves out what nothing calls
    "-Wl,-z,defs",  # a missing symbol is an error of the build, not of the user's import
]

OPT_LINK_FLAGS = [
    "-s",  # no symbol table: its names are for no user
]

NVCC_FLAGS = [
    "-c",  # one source, one object, one cached action
    "-x",  # a source may be a template's expansion:
    "cu",  # the language is said, not guessed from a name
    "-std=c++17",  # as CXX_FLAGS
    "-O3",  # the host half of a kernel's file; device code is -O3 anyway
    "-DNDEBUG",  # headers' assertions stay out of the kernels
    "-Xptxas",  # the assembler reports
    "-v",  # registers and spills of each kernel: the compile report reads them
    "--expt-relaxed-constexpr",  # CUTLASS and CCCL call constexpr host functions in kernels
]

# nvcc's host compiler is the toolchain's, without the toolchain's flags.
NVCC_HOST_FLAGS = [
    "-fPIC",  # all ends in shared objects
    "-fvisibility=hidden",  # as CXX_COMPILE_FLAGS
    "-g0",  # debug information would hold the names of nvcc's temporary files
    PREFIX_MAP,  # above
]

# Bit-identical objects; cuda_library.bzl adds the name of each source.
NVCC_STABLE_NAMES = [
    "-objtemp",  # temporary files are named after the object, not after the process
]

# What a user of a header gives nvcc: no flag of this build.
PLAIN_NVCC_FLAGS = [
    "-std=c++17",  # the language of the headers
    "-arch=sm_80",  # the oldest GPU
    "-I.",  # the checkout
]

# HIP: device code by zig's clang, in three steps, as its driver looks for programs that zig has not.
HIP_BITCODE_FLAGS = [
    "-x",  # as for nvcc
    "hip",  # a .cu file is CUDA's otherwise
    "--cuda-device-only",  # the host's half is hip_launcher.cc
    "--no-gpu-bundle-output",  # bundle.py packs
    "-nogpuinc",  # no header of HIP's,
    "-nogpulib",  # and no device library: builtins are enough
    "-std=c++17",  # as CXX_FLAGS
    "-fuse-cuid=none",  # otherwise the unit is named after the folder
    "-O1",  # -O2 gives kernels that need a quarter more registers
    "-DNDEBUG",  # as NVCC_FLAGS
    "-Wall",  # as CXX_COMPILE_FLAGS
    "-fno-exceptions",  # there are none in kernels
    "-emit-llvm",  # bitcode, of which object and assembly are made
    "-c",  # one source, one object, one cached action
]

HIP_OBJECT_FLAGS = [
    "clang",  # zig's name for it
    "-cc1",  # the compiler itself: its driver would link
    "-triple",  # of every AMD GPU
    "amdgcn-amd-amdhsa",  # with ROCm's calling convention
    "-O1",  # as above
    "-disable-llvm-passes",  # the bitcode is optimized already
    "-mrelocation-model",  # a code object is a shared object
    "pic",  # that the driver puts anywhere
    "-x",  # the input is
    "ir",  # bitcode
]

HIP_LINK_FLAGS = [
    "ld.lld",  # zig's linker
    "-shared",  # what the driver of the GPU loads
    "--no-undefined",  # a missing function is an error of the build
]
