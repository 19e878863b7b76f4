"""pytest_test: a py_test that hands its sources to pytest."""

load("@rules_python//python:defs.bzl", "py_test")

def pytest_test(name, srcs, args = [], **kwargs):
    """Runs pytest on srcs; --test_filter becomes pytest's -k.

    Args:
      name: target name.
      srcs: test files.
      args: further arguments of pytest.
      **kwargs: passed on to py_test.
    """
    py_test(
        name = name,
        srcs = srcs + ["//tools/py:pytest_main.py"],
        args = ["$(location %s)" % src for src in srcs] + args,
        main = "//tools/py:pytest_main.py",
        **kwargs
    )
