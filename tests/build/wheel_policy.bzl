"""wheel_policy_test: wheels against the rules that every wheel of ours keeps to."""

load("//tools:defs.bzl", "pytest_test")

def wheel_policy_test(name, wheels, max_kib):
    """Checks tag, symbols, libraries, GPU targets, metadata, RECORD and size of wheels.

    Args:
      name: target name.
      wheels: targets of one wheel or several each.
      max_kib: the size budget of each.
    """
    pytest_test(
        name = name,
        size = "small",
        srcs = ["wheel_policy_test.py"],
        data = wheels + ["@tree//:root.txt"],
        variables = {
            "CHECKOUT": "$(rootpath @tree//:root.txt)",
            "MAX_KIB": str(max_kib),
            "WHEELS": " ".join(["$(rootpaths %s)" % wheel for wheel in wheels]),
        },
        deps = [":fatbin"],
    )
