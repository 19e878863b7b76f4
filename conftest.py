"""For pytest called by hand; under Bazel tools/py/pytest_main.py loads the same plugin."""

pytest_plugins = ["tests.common.plugin"]
