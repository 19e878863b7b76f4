"""The packages of a release, a row each: the checks of a release ask the rows, and know no name.

A package joins by its row, and by its own folders (csrc, python, tests, recipe).
"""

def _package(import_name, wheels, max_kib, umbrella = "requires", shared_name = False, conda = [], conda_constrains = [], unit_seconds = 0, all_seconds = 0):
    """A row of PACKAGES.

    Args:
      import_name: the folder in site-packages.
      wheels: targets of its wheels.
      max_kib: how big each wheel may be.
      umbrella: what the package is to accelerated-modules, which "requires" it or "offers" it as an
        extra of the distribution's name.
      shared_name: other people's distributions have this import name, too. Such a package is only
        offered, and refuses to be imported when a file of theirs lies in its folder.
      conda: what the conda package requires besides the wheel's own requirements.
      conda_constrains: what it constrains besides the driver: other people's packages with the same files.
      unit_seconds: CPU seconds that compiling one of its CUDA sources may take.
      all_seconds: and all of them together.

    Returns:
      a struct of these.
    """
    if umbrella not in ["requires", "offers"] or (shared_name and umbrella == "requires"):
        fail("%s: accelerated-modules cannot have it as %r" % (import_name, umbrella))
    return struct(
        all_seconds = all_seconds,
        conda = conda,
        conda_constrains = conda_constrains,
        import_name = import_name,
        max_kib = max_kib,
        shared_name = shared_name,
        umbrella = umbrella,
        unit_seconds = unit_seconds,
        wheels = wheels,
    )

_GLIBC = "__glibc >=2.28,<3.0.a0"  # manylinux_2_28

_CUDA = ["cuda-version >=13.0,<14", "pytorch * cuda*", _GLIBC]

# distribution -> row
PACKAGES = {
    "causal-conv1d-hip": _package(
        all_seconds = 150,
        conda = [_GLIBC],  # any PyTorch: CUDA, ROCm or CPU
        conda_constrains = ["causal-conv1d <0.a0"],
        import_name = "causal_conv1d",
        max_kib = 8192,
        shared_name = True,
        umbrella = "offers",
        unit_seconds = 25,
        wheels = ["//python/causal_conv1d:wheel"],
    ),
    "dynamicemb": _package(
        all_seconds = 240,
        conda = _CUDA,
        import_name = "dynamicemb",
        max_kib = 12288,
        shared_name = True,
        umbrella = "offers",
        unit_seconds = 25,  # at most 15 an architecture
        wheels = ["//python/dynamicemb:wheel"],
    ),
    "hkv": _package(
        all_seconds = 600,
        conda = [_GLIBC],
        import_name = "hkv",
        max_kib = 24576,
        unit_seconds = 25,
        wheels = ["//python/hkv:wheel"],
    ),
    "hstu-attn": _package(
        all_seconds = 600,
        conda = _CUDA,
        import_name = "hstu_attn",
        max_kib = 14336,
        unit_seconds = 40,
        wheels = ["//python/hstu_attn:wheel"],
    ),
    "hstu-training": _package(
        import_name = "hstu_training",
        max_kib = 128,
        umbrella = "offers",  # it requires packages that are offered
        wheels = ["//python/hstu_training:wheel"],
    ),
    "hstu-triton": _package(
        conda = [_GLIBC],  # any PyTorch, and no Triton
        import_name = "generative_recommenders",
        max_kib = 14336,
        shared_name = True,
        umbrella = "offers",
        wheels = ["//python/generative_recommenders:whole_wheel"],
    ),
    "mustafar": _package(
        all_seconds = 180,
        conda = _CUDA,
        import_name = "mustafar",
        max_kib = 6144,
        shared_name = True,
        umbrella = "offers",
        unit_seconds = 40,
        wheels = ["//python/mustafar:wheel"],
    ),
}

# The collection's own wheel: a report, and the packages at the same version.
UMBRELLA = _package(
    import_name = "accelerated_modules",
    max_kib = 32,
    wheels = ["//python/accelerated_modules:wheel"],
)

UMBRELLA_REQUIRES = [
    "%s=={VERSION}%s" % (name, "" if row.umbrella == "requires" else "; extra == '%s'" % name)
    for name, row in PACKAGES.items()
]

UMBRELLA_EXTRAS = [name for name, row in PACKAGES.items() if row.umbrella == "offers"]

ROWS = PACKAGES | {"accelerated-modules": UMBRELLA}

WHEELS = {wheel: name for name, row in ROWS.items() for wheel in row.wheels}
