"""Module mode's door to repositories.bzl."""

load("//third_party:repositories.bzl", "repositories")

third_party = module_extension(implementation = lambda _: repositories())
