"""tree_pytest_test: a test that reads the checkout itself, unsandboxed, through @tree."""

load("//tools/py:pytest_test.bzl", "pytest_test")

TREE_ENV = {
    "BUILDIFIER": "$(rootpaths @buildifier//:buildifier)",
    "TREE": "$(rootpath @tree//:files.sha256)",
}

TREE_DATA = [
    "@buildifier",
    "@tree//:files.sha256",
    "@tree//:root.txt",
]

def tree_pytest_test(name, data = [], deps = [], variables = {}, tags = [], **kwargs):
    """A pytest_test that may read every file named by tools.lint.tree.

    Args:
      name: target name.
      data: of the test.
      deps: of the test.
      variables: environment variables of the test.
      tags: of the test.
      **kwargs: passed on to pytest_test.
    """
    pytest_test(
        name = name,
        data = data + TREE_DATA,
        variables = TREE_ENV | variables,
        tags = tags + ["local"],
        deps = deps + ["//tools/lint:linters"],
        **kwargs
    )
