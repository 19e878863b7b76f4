"""The ops in Triton, compiled at first use; importing a module of these needs Triton."""
