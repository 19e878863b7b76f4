"""Packages that join by a row and a folder each go through every check of a release, and into it.

In a copy of the checkout two new packages take the place of all others: a check that knows one of
those by name would fail. One has a kernel and is required, one is offered as an extra.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.build.nested import Nested, nested, scratch

ROWS = """PACKAGES = {
    "accel-kernels": _package(
        all_seconds = 60,
        conda = [_GLIBC],
        import_name = "accel_kernels",
        max_kib = 1024,
        unit_seconds = 40,
        wheels = ["//python/accel_kernels:wheel"],
    ),
    "accel-scratch": _package(
        import_name = "accel_scratch",
        max_kib = 24,
        shared_name = True,
        umbrella = "offers",
        wheels = ["//python/accel_scratch:wheel"],
    ),
}
"""
SCRATCH = {
    "BUILD.bazel": """load("//tools:defs.bzl", "wheel")

wheel(
    name = "wheel",
    srcs = ["__init__.py", "__main__.py"],
    description = "README.md",
    distribution = "accel-scratch",
    summary = "A package of a test, which is offered",
    tag = "py3-none-any",
    visibility = ["//visibility:public"],
)
""",
    "README.md": "# accel-scratch\n",
    "__init__.py": """from accel_scratch._core.alone import refuse_others

refuse_others(__file__, "accel-scratch")
""",
    "__main__.py": "print('accel_scratch')\n",
}
KERNELS = {
    "BUILD.bazel": """load("//tools:defs.bzl", "c_library", "cuda_library", "wheel")

cuda_library(
    name = "twice",
    srcs = ["twice.cu"],
    deps = ["@cuda//:headers"],
)

c_library(
    name = "libaccel_kernels.so",
    srcs = ["c_api.cc"],
    exports = ["accel_kernels_twice"],
    deps = [":twice"],
)

wheel(
    name = "wheel",
    srcs = ["__init__.py", "__main__.py"],
    contains = ["nvidia-cuda-runtime"],
    description = "README.md",
    distribution = "accel-kernels",
    libs = {":libaccel_kernels.so": "accel_kernels"},
    summary = "A package of a test, which has a kernel",
    tag = "py3-none-manylinux_2_28_x86_64",
    visibility = ["//visibility:public"],
)
""",
    "README.md": "# accel-kernels\n",
    "__init__.py": """import ctypes
from pathlib import Path

library = ctypes.CDLL(str(Path(__file__).with_name("libaccel_kernels.so")))
""",
    "__main__.py": "print('accel_kernels')\n",
    "c_api.cc": """namespace accel_kernels {
int Twice(float* x, int n);
}

extern "C" __attribute__((visibility("default"))) int accel_kernels_twice(float* x, int n) {
  return accel_kernels::Twice(x, n);
}
""",
    "twice.cu": """#include <cuda_runtime.h>

namespace accel_kernels {
__global__ void twice_kernel(float* x, int n) {
  if (threadIdx.x < n) x[threadIdx.x] *= 2;
}

int Twice(float* x, int n) {
  twice_kernel<<<1, 256>>>(x, n);
  return cudaGetLastError();
}
}  // namespace accel_kernels
""",
}
OUTPUTS = """outputs:
  - package:
      name: accel-scratch
    source:
      path: ${{ dist }}/accel_scratch-${{ version }}-py3-none-any.whl
    build:
      noarch: python
    requirements:
      host:
        - python
      run:
        - python >=${{ python_min }}
    tests:
      - python:
          imports:
            - accel_scratch
      - script:
          - python -m accel_scratch
    about:
      summary: A package of a test, which is offered
      license: Apache-2.0

  - package:
      name: accel-kernels
    source:
      path: ${{ dist }}/accel_kernels-${{ version }}-py3-none-manylinux_2_28_x86_64.whl
    build:
      string: cuda13_h${{ hash }}_${{ build_number }}
      python:
        version_independent: true
    requirements:
      host:
        - python
      run:
        - python >=${{ python_min }}
        - __glibc >=2.28,<3.0.a0
      run_constraints:
        - __cuda >=13.0
    tests:
      - python:
          imports:
            - accel_kernels
          python_version:
            - ${{ python_min }}.*
            - "*"
      - script:
          - python -m accel_kernels
    about:
      summary: A package of a test, which has a kernel
      license: Apache-2.0 AND LicenseRef-NVIDIA-CUDA-EULA

"""
CHECKS = [
    "//tests/build:accel_kernels_wheel_policy_test",
    "//tests/build:accel_scratch_wheel_policy_test",
    "//tests/build:accelerated_modules_wheel_policy_test",
    "//tests/conda:conda_test",
    "//tests/release:compile_report_test",
    "//tests/release:install_test",
    "//tests/release:report_test",
    "//tests/release:sbom_test",
    "//tests/release:unit_names_test",
]
# What hstu_attn does in an environment, and what of it a solver refuses, is not of every package.
ITS_OWN = "not example and not without_a_gpu and not solver_refuses"


def replaced(text: str, pattern: str, by: str) -> str:
    changed, found = re.subn(pattern, lambda _: by, text, flags=re.MULTILINE | re.DOTALL)
    assert found == 1, pattern
    return changed


@pytest.fixture(scope="module")
def checkout() -> Iterator[Nested]:
    with scratch() as folder, nested(folder / "one") as one:
        for name, files in (("accel_scratch", SCRATCH), ("accel_kernels", KERNELS)):
            package = one.source / "python" / name
            package.mkdir()
            for file, text in files.items():
                (package / file).write_text(text)
        rows = one.source / "tools/release/wheels.bzl"
        rows.write_text(replaced(rows.read_text(), r"^PACKAGES = \{$.*?^\}$\n", ROWS))
        recipe = one.source / "recipe/recipe.yaml"
        others = r"^outputs:$.*?(?=^  - package:\n +name: accelerated-modules)"
        required = r"^        - hkv ==.*?^        - hstu-attn [^\n]*\n"
        text = replaced(recipe.read_text(), others, OUTPUTS)
        line = "        - accel-kernels ==${{ version }}\n"
        recipe.write_text(replaced(text, required, line))
        yield one


def checked(checkout: Nested, *checks: str) -> tuple[set[str], str]:
    """Runs checks; returns those that passed, and what was said."""
    said = checkout.bazel(
        "test",
        *checkout.overrides.values(),
        "--jobs=2",
        "--test_output=errors",
        "--keep_going",
        "--test_timeout=600",
        f"--test_filter={ITS_OWN}",
        *checks,
        check=False,
    )
    text = said.stdout + said.stderr
    return set(re.findall(r"^(//\S+) +(?:\(cached\) )?PASSED", text, re.MULTILINE)), text


def test_every_check_of_a_release_passes(checkout: Nested) -> None:
    passed, said = checked(checkout, *CHECKS)
    assert passed == set(CHECKS), said


def test_a_release_has_a_wheel_and_a_conda_package_of_each(checkout: Nested) -> None:
    git = ["git", "-c", "user.name=x", "-c", "user.email=x"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "two packages"]):
        subprocess.run([*git, *words], cwd=checkout.source, check=True)
    out = checkout.folder / "dist"
    flags = [*checkout.overrides.values(), "--jobs=2"]
    checkout.bazel("run", *flags, "//:release", "--", f"--out={out}", "--no-example")
    names = [path.name for path in out.rglob("*") if path.suffix in (".conda", ".whl")]
    for name in ("accel-kernels", "accel-scratch", "accelerated-modules"):
        starts = (f"{name}-", f"{name.replace('-', '_')}-")
        kinds = {n.rpartition(".")[2] for n in names if n.startswith(starts)}
        assert kinds == {"conda", "whl"}, names
    assert len(names) == 6


def test_the_umbrella_offers_it_as_an_extra(checkout: Nested) -> None:
    (wheel,) = checkout.source.glob("bazel-bin/python/accelerated_modules/*.whl")
    said = checkout.source / "bazel-bin/python/accelerated_modules/wheel.json"
    assert wheel.is_file() and "accel-scratch==" in said.read_text()
    assert """; extra == 'accel-scratch'""" in said.read_text()


def test_a_package_that_does_not_refuse_anothers_files_is_found(checkout: Nested) -> None:
    (checkout.source / "python/accel_scratch/__init__.py").write_text("")
    policy = "//tests/build:accel_scratch_wheel_policy_test"
    install = "//tests/release:install_test"
    passed, said = checked(checkout, policy, install)
    assert passed == {policy}, said
    assert "test_a_package_refuses_to_be_imported_among_the_files_of_anothers" in said
