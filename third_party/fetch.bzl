"""Repository rules: pinned packages, fetched by name through the machine's own pip, apt and npm."""

def _host_python(rctx):
    python = rctx.getenv("ACCEL_PYTHON") or rctx.which("python3." + rctx.attr.python_version.split(".")[1]) or rctx.which("python3")
    if not python:
        fail("no python3 on the PATH: install Python %s, or name it with --repo_env=ACCEL_PYTHON=" % rctx.attr.python_version)
    probe = rctx.execute([python, "-c", "import sys; print('%d.%d %s' % (*sys.version_info[:2], sys.executable))"])
    version, _, executable = probe.stdout.strip().partition(" ")
    if probe.return_code != 0 or version != rctx.attr.python_version:
        fail("%s is Python %s, the pins are for %s: name one with --repo_env=ACCEL_PYTHON=" % (python, version or "?", rctx.attr.python_version))
    return executable

def _pip(rctx, python, verb, requirement, hashes, args):
    """Runs pip on one hashed requirement; a failure is one line that names what to do."""
    rctx.file("requirement.txt", " ".join([requirement] + ["--hash=sha256:" + h for h in hashes]) + "\n")
    rctx.report_progress("pip %s %s" % (verb, requirement))
    done = rctx.execute(
        [python, "-m", "pip", verb, "-q", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input", "--disable-pip-version-check", "-r", "requirement.txt"] + args,
        timeout = 1800,
        quiet = True,
    )
    rctx.delete("requirement.txt")
    if done.return_code == 0:
        return
    said = done.stderr + done.stdout
    if "No module named pip" in said:
        fail("%s has no pip: install it (Debian: apt-get install python3-pip)" % python)
    if "DO NOT MATCH THE HASHES" in said:
        words = said.replace("\n", " ").split(" ")
        got = [words[i + 1:] for i in range(len(words)) if words[i] == "Got"]
        found = [w for w in got[0] if w][0] if got else "?"
        fail("%s: wrong hash. third_party/pins.bzl allows %s, the registry served %s" % (requirement, " or ".join(hashes), found))
    if "No matching distribution" in said and "Could not find a version" in said and "from versions: none" not in said:
        fail("%s is not served for this machine by pip's registry: check PIP_INDEX_URL and pip config" % requirement)
    last = [line for line in said.split("\n") if line.strip()]
    fail("pip could not fetch %s: check the network and pip's settings (PIP_INDEX_URL, proxy). pip said: %s" % (requirement, last[-1] if last else "nothing"))

def _unpack_wheels(rctx, python, wheels, folder = ""):
    for requirement, hashes in wheels.items():
        _pip(rctx, python, "download", requirement, hashes, ["-d", "dl"])
        wheel = rctx.path("dl").readdir()[0]
        rctx.symlink(wheel, "wheel.zip")  # Bazel reads the format off the name
        rctx.report_progress("unpacking " + requirement)
        rctx.extract("wheel.zip", output = folder)
        rctx.delete("wheel.zip")
        rctx.delete("dl")

def _compile(rctx, python, folder):
    """Bytecode beside the sources, which no sandbox may write: otherwise each test compiles what it imports."""
    rctx.report_progress("compiling " + folder)
    rctx.execute([python, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", folder], timeout = 900)

def _wheels_impl(rctx):
    _unpack_wheels(rctx, _host_python(rctx), rctx.attr.wheels)
    rctx.symlink(rctx.attr.build_file, "BUILD.bazel")

_PYTHON = {"python_version": attr.string(mandatory = True, doc = "the minor that the pins are for")}

wheels_repository = repository_rule(
    doc = "Some wheels, unpacked over each other, under a BUILD file of ours.",
    implementation = _wheels_impl,
    attrs = _PYTHON | {
        "build_file": attr.label(mandatory = True, doc = "becomes BUILD.bazel"),
        "wheels": attr.string_list_dict(mandatory = True, doc = "requirement -> sha256s"),
    },
    environ = ["ACCEL_PYTHON"],
)

def _python_env_impl(rctx):
    # without-pip: Debian's Python cannot make the other kind until python3-venv is installed.
    python = _host_python(rctx)
    made = rctx.execute([python, "-m", "venv", "--without-pip", "env"])
    if made.return_code != 0:
        fail("%s -m venv failed: %s" % (python, (made.stderr + made.stdout).strip().split("\n")[-1]))
    site = "env/lib/python%s/site-packages" % rctx.attr.python_version
    for requirement, hashes in rctx.attr.wheels.items():
        _pip(rctx, python, "install", requirement, hashes, ["--no-compile", "--root-user-action=ignore", "--no-warn-script-location", "--target", site, "--upgrade"])
    if rctx.path(site + "/torch/lib/libtorch_cuda.so").exists:
        _unpack_wheels(rctx, python, rctx.attr.torch_cuda_wheels, site)
    imported = rctx.execute(["env/bin/python", "-c", "import torch"])
    if imported.return_code != 0:
        fail("the pinned torch does not import. Python said: %s" % imported.stderr.strip().split("\n")[-1])
    _compile(rctx, "env/bin/python", site)
    rctx.symlink(site + "/torch/include", "torch_include")
    rctx.template("BUILD.bazel", rctx.attr.build_file, {
        "{PYTHON}": str(rctx.path("env/bin/python")),
    })

python_env_repository = repository_rule(
    doc = "A Python environment with the pinned packages: runs the build's programs and the tests.",
    implementation = _python_env_impl,
    attrs = _PYTHON | {
        "build_file": attr.label(mandatory = True, doc = "becomes BUILD.bazel"),
        "torch_cuda_wheels": attr.string_list_dict(doc = "what torch needs besides, if it is the CUDA build: requirement -> sha256s"),
        "wheels": attr.string_list_dict(mandatory = True, doc = "requirement -> sha256s"),
    },
    environ = ["ACCEL_PYTHON"],
)

def _python_layer_impl(rctx):
    # Unpacked, not installed: several wheels may share a folder.
    python = _host_python(rctx)
    _unpack_wheels(rctx, python, rctx.attr.wheels, "site")
    _compile(rctx, python, "site")

    # The folder is no input of a test, as the environment below it is none: this file stands for
    # it, whose wheels change when the pins do.
    rctx.file("layer.txt", "\n".join([str(rctx.path("site"))] + rctx.attr.wheels.keys()) + "\n")
    rctx.file("BUILD.bazel", 'exports_files(["layer.txt"])\n')

python_layer_repository = repository_rule(
    doc = "Further packages for some tests, over the environment above: layer.txt names the folder.",
    implementation = _python_layer_impl,
    attrs = _PYTHON | {
        "wheels": attr.string_list_dict(mandatory = True, doc = "requirement -> sha256s"),
    },
    environ = ["ACCEL_PYTHON"],
)

def _apt(rctx, suite, debs):
    """Downloads and unpacks Debian packages of one suite from the machine's own mirror."""
    for tool in ["apt-get", "dpkg-deb"]:
        if not rctx.which(tool):
            fail("no %s on the PATH: on a machine without apt build with --config=hostcc" % tool)
    rctx.report_progress("apt: reading the index of " + suite)
    fetched = rctx.execute(["bash", rctx.path(rctx.attr._apt_script), suite] + debs.keys(), timeout = 900)
    if fetched.return_code != 0:
        fail("apt could not fetch from Debian %s: check the network and apt's sources, or build with --config=hostcc. It said: %s" % (suite, fetched.stderr.strip().split("\n")[-1]))
    for deb in rctx.path("debs").readdir():
        if not deb.basename.endswith(".deb"):
            continue
        name = [d for d in debs if deb.basename.startswith(d.split("=")[0] + "_")][0]
        got = rctx.execute(["sha256sum", deb]).stdout.split(" ")[0]
        if got != debs[name]:
            fail("%s: wrong hash. third_party/pins.bzl allows %s, the mirror served %s" % (name, debs[name], got))
        unpacked = rctx.execute(["dpkg-deb", "-x", deb, "sysroot"])
        if unpacked.return_code != 0:
            fail("%s could not be unpacked (is the disk full?). dpkg-deb said: %s" % (name, unpacked.stderr.strip().split("\n")[-1]))
    rctx.delete("debs")

def _first_links(rctx):
    """Leaves what zig makes for every link in zig-cache, of which cxx.sh gives each link a copy."""
    rctx.report_progress("zig: the first links")
    rctx.file("first.c", "int main(void) { return 0; }\n")
    for flags in [["-shared", "-s"], ["-pie", "-s"], ["-pie"]]:
        linked = rctx.execute(["./cxx.sh"] + flags + ["first.c", "-o", "first"], environment = {"TMPDIR": "."})
        if linked.return_code != 0:
            fail("zig cannot link on this machine. It said: %s" % linked.stderr.strip().split("\n")[-1])
    rctx.execute(["mv", "zig-links", "zig-cache"])
    for rest in ["first.c", "first", "zig-cache/tmp", "zig-cache/z"]:
        rctx.delete(rest)

def _cc_impl(rctx):
    _unpack_wheels(rctx, _host_python(rctx), rctx.attr.wheels)
    if rctx.getenv("ACCEL_CC") == "host":
        gxx = rctx.which("g++")
        if not gxx:
            fail("--config=hostcc wants g++ on the PATH: install it, or build without that flag")
        libs = [rctx.execute([gxx, "-print-file-name=" + f]).stdout.strip() for f in ["libstdc++.so.6", "libgcc_s.so.1"]]
        rctx.file("compiler.sh", 'COMPILER="%s"\nLIBS="%s"\n' % (gxx, " ".join(libs)))
        includes = rctx.execute([gxx, "-E", "-x", "c++", "-v", "/dev/null"]).stderr.split("search starts here:\n")[-1].split("End of search")[0]
        builtin = [line.strip() for line in includes.split("\n") if line.strip()]
    else:
        _apt(rctx, rctx.attr.suite, rctx.attr.debs)
        rctx.file("compiler.sh", "COMPILER=\n")
        builtin = []
    for tool in rctx.attr.tools:
        rctx.symlink(tool, tool.name)
    _first_links(rctx)
    rctx.template("BUILD.bazel", rctx.attr.build_file, {"{BUILTIN_INCLUDES}": repr(builtin + [str(rctx.path("."))])})

cc_repository = repository_rule(
    doc = "The C++ toolchain: zig and libstdc++ 10, or (ACCEL_CC=host) the machine's g++ and zig to link.",
    implementation = _cc_impl,
    attrs = _PYTHON | {
        "build_file": attr.label(mandatory = True, doc = "becomes BUILD.bazel, with {BUILTIN_INCLUDES}"),
        "debs": attr.string_dict(mandatory = True, doc = "name=version -> sha256"),
        "suite": attr.string(mandatory = True, doc = "the Debian suite of debs"),
        "tools": attr.label_list(mandatory = True, doc = "scripts of ours that call the compiler"),
        "wheels": attr.string_list_dict(mandatory = True, doc = "requirement -> sha256s"),
        "_apt_script": attr.label(default = "//third_party:apt_download.sh"),
    },
    environ = ["ACCEL_CC", "ACCEL_PYTHON", "PATH"],
)

def _apt_impl(rctx):
    _apt(rctx, rctx.attr.suite, rctx.attr.debs)
    rctx.symlink(rctx.attr.build_file, "BUILD.bazel")

apt_repository = repository_rule(
    doc = "Debian packages of one suite, unpacked below sysroot.",
    implementation = _apt_impl,
    attrs = {
        "build_file": attr.label(mandatory = True, doc = "becomes BUILD.bazel"),
        "debs": attr.string_dict(mandatory = True, doc = "name=version -> sha256"),
        "suite": attr.string(mandatory = True, doc = "the Debian suite of debs"),
        "_apt_script": attr.label(default = "//third_party:apt_download.sh"),
    },
)

def _npm_impl(rctx):
    npm = rctx.which("npm")
    if not npm:
        rctx.file("BUILD.bazel", rctx.attr.missing)
        return
    rctx.report_progress("npm pack " + rctx.attr.package)
    packed = rctx.execute([npm, "pack", "--json", rctx.attr.package], timeout = 600)
    if packed.return_code != 0:
        fail("npm could not fetch %s: check the network and npm's registry. npm said: %s" % (rctx.attr.package, packed.stderr.strip().split("\n")[-1]))
    report = json.decode(packed.stdout)[0]
    if report["integrity"] != rctx.attr.integrity:
        fail("%s: wrong hash. third_party/pins.bzl allows %s, the registry served %s" % (rctx.attr.package, rctx.attr.integrity, report["integrity"]))
    rctx.extract(report["filename"], stripPrefix = "package")
    rctx.delete(report["filename"])
    rctx.symlink(rctx.attr.build_file, "BUILD.bazel")

npm_repository = repository_rule(
    doc = "One npm package, unpacked.",
    implementation = _npm_impl,
    attrs = {
        "build_file": attr.label(mandatory = True, doc = "becomes BUILD.bazel"),
        "integrity": attr.string(mandatory = True, doc = "as npm writes it: sha512-..."),
        "missing": attr.string(doc = "BUILD text where the machine has no npm"),
        "package": attr.string(mandatory = True, doc = "name@version"),
    },
)

def _cpythons_impl(rctx):
    found = {}
    probe = rctx.execute([_host_python(rctx), "-c", "import sys, sysconfig; print(sys.version_info[1], sysconfig.get_paths()['include'], sysconfig.get_config_var('EXT_SUFFIX'))"])
    words = probe.stdout.strip().split(" ")
    if probe.return_code == 0 and len(words) == 3 and rctx.path(words[1] + "/Python.h").exists:
        found["3" + words[0]] = words[1:]
    for minor, (include, _) in found.items():
        rctx.symlink(include, "include_" + minor)
    rctx.file("defs.bzl", "CPYTHONS = %s\n" % json.encode_indent({minor: suffix for minor, (_, suffix) in found.items()}))
    rctx.file("BUILD.bazel", """load("@rules_cc//cc:defs.bzl", "cc_library")

[
    cc_library(
        name = "headers_" + minor,
        hdrs = glob(["include_%s/**/*.h" % minor]),
        includes = ["include_" + minor],
        visibility = ["//visibility:public"],
    )
    for minor in """ + repr(found.keys()) + """
]
""")

cpythons_repository = repository_rule(
    doc = "The headers of the CPython of the build, if it has them.",
    implementation = _cpythons_impl,
    attrs = _PYTHON,
    environ = ["ACCEL_PYTHON", "PATH"],
)
