"""The one door of the build: what a package's BUILD file needs is loaded from here.

| macro or rule | makes |
|---|---|
| `cuda_library` | objects of CUDA sources, each source one cached action |
| `instantiate` | a cuda_library for each row of a list, from one template |
| `build_switches` | flags that leave parts out, and a header that says which |
| `archs_define` | the build's GPU targets as a macro |
| `hip_library` | code objects for AMD GPUs of the same sources |
| `setting_define` | a build setting's value as a macro |
| `triton_library` | kernels in Triton, compiled when the project is built |
| `op_library` | the shared object of a package's torch ops |
| `c_library` | a shared object that any language can load |
| `python_module` | a pybind11 module for the CPython of the build |
| `wheel`, `wheel_site` | a wheel; the same wheel unpacked, for tests |
| `pytest_suite`, `pytest_test` | tests of a folder; one test |
"""

load("//tools/cc:c_library.bzl", _c_library = "c_library")
load("//tools/cc:op_library.bzl", _op_library = "op_library")
load("//tools/cc:python_module.bzl", _python_module = "python_module")
load("//tools/cc:setting_define.bzl", _setting_define = "setting_define")
load("//tools/cuda:archs_define.bzl", _archs_define = "archs_define")
load("//tools/cuda:cuda_library.bzl", _cuda_library = "cuda_library")
load("//tools/cuda:instantiate.bzl", _instantiate = "instantiate")
load("//tools/cuda:switches.bzl", _build_switches = "build_switches")
load("//tools/hip:hip_library.bzl", _hip_library = "hip_library")
load("//tools/py:pytest_suite.bzl", _pytest_suite = "pytest_suite")
load("//tools/py:pytest_test.bzl", _pytest_test = "pytest_test")
load("//tools/triton:triton_library.bzl", _triton_library = "triton_library")
load("//tools/wheel:wheel.bzl", _wheel = "wheel", _wheel_site = "wheel_site")

archs_define = _archs_define
c_library = _c_library
build_switches = _build_switches
cuda_library = _cuda_library
hip_library = _hip_library
instantiate = _instantiate
op_library = _op_library
pytest_suite = _pytest_suite
pytest_test = _pytest_test
python_module = _python_module
setting_define = _setting_define
triton_library = _triton_library
wheel = _wheel
wheel_site = _wheel_site
