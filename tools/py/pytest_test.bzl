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
        of the environment that every test has; it is fetched when such a test is first built.
      variables: environment variables of the test.
      **kwargs: passed on to py_test.
    """
    if env:
        if type(env) != "string":
            fail("%s: env names a Python environment, environment variables are `variables`" % name)
        if env not in PYTHON_ENVS:
            fail("%s: env is %r, third_party/pins.bzl has %s" % (name, env, ", ".join(PYTHON_ENVS)))
        layer = "@python_env_%s//:layer.txt" % env
        data = data + [layer]
        variables = variables | {"PYTHON_LAYER": "$(rootpath %s)" % layer}
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
