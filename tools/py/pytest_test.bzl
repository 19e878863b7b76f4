"""pytest_test: a py_test that hands its sources to pytest."""

load("@rules_python//python:defs.bzl", "py_test")
load("//third_party:pins.bzl", "PYTHON_ENVS")

def pytest_test(name, srcs, args = [], data = [], deps = [], env = None, variables = {}, **kwargs):
    """Runs pytest on srcs; --test_filter becomes pytest's -k.

    Args:
      name: target name.
      srcs: test files.
      args: further arguments of pytest.
      data: files that the test reads.
      deps: of the test, beside tests.common.
      env: an environment of third_party/pins.bzl's PYTHON_ENVS, whose packages come before those
        of the environment that every test has; it is fetched when such a test is first built. Or a
        list of them, of which the first comes first.
      variables: environment variables of the test.
      **kwargs: passed on to py_test.
    """
    envs = [env] if type(env) == "string" else env or []
    if type(envs) != "list":
        fail("%s: env names a Python environment, environment variables are `variables`" % name)
    unknown = [one for one in envs if one not in PYTHON_ENVS]
    if unknown:
        fail("%s: env is %r, third_party/pins.bzl has %s" % (name, unknown[0], ", ".join(PYTHON_ENVS)))
    layers = ["@python_env_%s//:layer.txt" % one for one in envs]
    if layers:
        data = data + layers
        paths = ["$(rootpath %s)" % layer for layer in layers]
        variables = variables | {"PYTHON_LAYER": " ".join(paths)}
    py_test(
        name = name,
        srcs = srcs + ["//tools/py:pytest_main.py"],
        args = ["$(location %s)" % src for src in srcs] + args,
        data = data,
        env = variables,
        main = "//tools/py:pytest_main.py",
        deps = deps + ["//tests/common"],
        **kwargs
    )
