"""nested_pytest_test: a test that runs Bazel on copies of the checkout."""

load("//tools:defs.bzl", "pytest_test")

def nested_pytest_test(name, more_data = [], tags = [], variables = {}, tree = "//tests/build:small_tree", **kwargs):
    """A pytest_test with tests.build.nested.

    Args:
      name: target name.
      more_data: files that the test reads beside the checkout.
      tags: of the test.
      variables: environment variables of the test.
      tree: what the copies are of: a genrule whose first output is <its name>/files.sha256.
      **kwargs: passed on to pytest_test.
    """
    pytest_test(
        name = name,
        # Named for their repositories, which must be there.
        data = more_data + [
            tree,
            tree + "/files.sha256",
            "@cc//:cxx.sh",
            "@cuda//:nvidia/cu13/bin/nvcc",
        ],
        variables = variables | {"TREE": "$(rootpath %s/files.sha256)" % tree},
        env_inherit = ["BAZEL_REAL", "HOME", "PATH", "XDG_CACHE_HOME"],
        tags = tags + ["cpu:2", "local", "requires-network"],
        deps = [
            "//tests/build:fatbin",
            "//tests/build:nested",
        ],
        **kwargs
    )

def tree_of(name, patterns):
    """The list of the files that a nested build reads, so that only their changes rerun its test.

    Args:
      name: target name, the `tree` of nested_pytest_test.
      patterns: of paths, as grep -E takes them; every BUILD and .bzl file comes anyway.
    """
    always = [
        "[^ ]*[.](bzl|bazel|BUILD)$$",
        "(tools/bazel|LICENSE|WORKSPACE|[.]bazel.*|[.]gitignore)$$",
    ]
    native.genrule(
        name = name,
        srcs = [
            "@tree//:files.sha256",
            "@tree//:root.txt",
        ],
        outs = [
            name + "/files.sha256",
            name + "/root.txt",
        ],
        cmd = """
            grep -E '^[0-9a-f]+  (%s)' $(location @tree//:files.sha256) > $(location %s/files.sha256)
            cp $(location @tree//:root.txt) $(location %s/root.txt)
        """ % ("|".join(always + patterns), name, name),
    )
