"""pytest_suite: a test target for each pytest file of a folder."""

load("//tools/py:pytest_test.bzl", "pytest_test")

def pytest_suite(names, gpu = [], tags = [], timeout = "moderate", **kwargs):
    """Makes one pytest_test of each NAME.py.

    Args:
      names: the files without .py, which are the targets' names.
      gpu: those of `names` that have tests for a GPU: tagged "gpu", so that
        --test_tag_filters=gpu runs them alone. Without a GPU their tests skip and say so.
      tags: of every target.
      timeout: of every target.
      **kwargs: passed on to each pytest_test: data, deps, env, variables ...
    """
    unknown = [name for name in gpu if name not in names]
    if unknown:
        fail("pytest_suite: gpu has %s, names has it not" % unknown[0])
    for name in names:
        pytest_test(
            name = name,
            srcs = [name + ".py"],
            tags = tags + (["gpu"] if name in gpu else []),
            timeout = timeout,
            **kwargs
        )
