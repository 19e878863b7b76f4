"""nested_pytest_test: a test that runs Bazel on copies of the checkout."""

load("//tools:defs.bzl", "pytest_test")

def nested_pytest_test(name, more_data = [], tags = [], **kwargs):
    """A pytest_test with tests.build.nested.

    Args:
      name: target name.
      more_data: files that the test reads beside the checkout.
      tags: of the test.
      **kwargs: passed on to pytest_test.
    """
    pytest_test(
        name = name,
        # Named for their repositories, which must be there.
        data = more_data + [
            "//tests/build:small_tree",
            "//tests/build:small_tree/files.sha256",
            "@cc//:cxx.sh",
            "@cuda//:nvidia/cu13/bin/nvcc",
        ],
        variables = {"TREE": "$(rootpath //tests/build:small_tree/files.sha256)"},
        env_inherit = ["BAZEL_REAL", "HOME", "PATH", "XDG_CACHE_HOME"],
        tags = tags + ["cpu:2", "local", "requires-network"],
        deps = [
            ":fatbin",
            ":nested",
        ],
        **kwargs
    )
