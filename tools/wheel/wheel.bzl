"""wheel: a deterministic wheel; wheel_site: the same wheel unpacked, for tests to import."""

load("@rules_python//python:defs.bzl", "PyInfo")
load("//:version.bzl", "VERSION")
load("//third_party:components.bzl", "COMPONENTS")
load("//tools/wheel:sbom.bzl", "sbom")

# What the metadata of every wheel of ours says.
CLASSIFIERS = [
    "Development Status :: 4 - Beta",
    "Environment :: GPU :: NVIDIA CUDA",
    "Intended Audience :: Developers",
    "Intended Audience :: Science/Research",
    "Operating System :: POSIX :: Linux",
    "Programming Language :: Python :: 3",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Typing :: Typed",
]

# Set it to, e.g., ["Homepage, https://..."] when the project has a public address.
PROJECT_URLS = []

WheelInfo = provider(
    doc = "A built wheel.",
    fields = {"file": "the .whl", "distribution": "its name as pip knows it"},
)

def _place(file, roots):
    """Where a file goes inside the wheel: its path below one of the given source roots."""
    path = file.short_path
    if path.startswith("../"):  # the project is a dependency of another workspace
        path = path.split("/", 2)[2]
    for root in roots:
        if path.startswith(root + "/"):
            return path.removeprefix(root + "/")
    fail("%s lies under none of the roots %s" % (path, roots))

def _wheel_impl(ctx):
    version = ctx.attr.version
    escaped = ctx.attr.distribution.replace("-", "_")
    out = ctx.actions.declare_file("%s-%s-%s.whl" % (escaped, version, ctx.attr.tag))
    files = {_place(f, ctx.attr.roots): f.path for f in ctx.files.srcs}
    package = ctx.attr.import_name or escaped
    files |= {"%s/_core/%s" % (package, f.basename): f.path for f in ctx.files.core}
    for target, folder in ctx.attr.libs.items():
        for f in target.files.to_list():
            files[folder + "/" + f.basename] = f.path

    python, abi, platform = ctx.attr.tag.split("-")
    fields = {
        "Author": "The Accelerated Modules authors",
        "Name": ctx.attr.distribution,
        "Version": version,
        "Summary": ctx.attr.summary,
        "Requires-Python": ctx.attr.requires_python,
        "License-Expression": ctx.attr.license_expression,
        "License-File": [f.basename for f in ctx.files.licenses],
        "Keywords": ",".join(ctx.attr.keywords),
        "Classifier": ctx.attr.classifiers,
        "Project-URL": ctx.attr.project_urls,
        "Requires-Dist": [r.replace("{VERSION}", version) for r in ctx.attr.requires],
        "Provides-Extra": ctx.attr.extras,
    }
    spec = ctx.actions.declare_file(ctx.label.name + ".json")
    ctx.actions.write(spec, json.encode_indent({
        "description": ctx.file.description.path,
        "dist_info": "%s-%s.dist-info" % (escaped, version),
        "files": files,
        "licenses": [f.path for f in ctx.files.licenses],
        "metadata": {k: v for k, v in fields.items() if v},
        "pure": platform == "any",
        "sbom": ctx.file.sbom.path if ctx.file.sbom else "",
        "tags": ["%s-%s-%s" % (python, abi, p) for p in platform.split(".")],
    }))
    extra = [ctx.file.description] + ([ctx.file.sbom] if ctx.file.sbom else [])
    ctx.actions.run(
        executable = ctx.executable._make_wheel,
        arguments = ["--spec", spec.path, "--out", out.path],
        inputs = ctx.files.srcs + ctx.files.core + ctx.files.libs + ctx.files.licenses + extra + [spec],
        outputs = [out],
        mnemonic = "Wheel",
        progress_message = "Writing " + out.basename,
    )
    return [
        DefaultInfo(files = depset([out])),
        WheelInfo(file = out, distribution = ctx.attr.distribution),
    ]

_wheel = rule(
    doc = "Writes one wheel. Times, order and modes are fixed, so equal inputs give equal bytes.",
    implementation = _wheel_impl,
    attrs = {
        "classifiers": attr.string_list(default = CLASSIFIERS, doc = "trove classifiers"),
        "core": attr.label(
            default = "//python/accel_core:files",
            doc = "what the packages share: copied into the wheel as <package>/_core",
        ),
        "description": attr.label(mandatory = True, allow_single_file = [".md"], doc = "what an index shows on the wheel's page"),
        "distribution": attr.string(mandatory = True, doc = "the name as pip knows it"),
        "extras": attr.string_list(doc = "Provides-Extra"),
        "import_name": attr.string(doc = "the import package; by default the distribution's name with _ for -"),
        "keywords": attr.string_list(doc = "for an index's search"),
        "libs": attr.label_keyed_string_dict(doc = "shared objects and the folder in the wheel of each"),
        "license_expression": attr.string(mandatory = True, doc = "SPDX, of all that is inside"),
        "licenses": attr.label_list(allow_files = True, doc = "licence files"),
        "project_urls": attr.string_list(default = PROJECT_URLS, doc = "Project-URL"),
        "requires": attr.string_list(doc = "Requires-Dist; {VERSION} is this wheel's version"),
        "requires_python": attr.string(default = ">=3.10", doc = "Requires-Python"),
        "roots": attr.string_list(default = ["python"], doc = "folders that srcs are placed relative to"),
        "sbom": attr.label(allow_single_file = True, doc = "bill of materials (PEP 770)"),
        "srcs": attr.label_list(allow_files = True, doc = "files, placed by roots"),
        "summary": attr.string(mandatory = True, doc = "one line for the index page"),
        "tag": attr.string(mandatory = True, doc = "python-abi-platform"),
        "version": attr.string(mandatory = True, doc = "as PEP 440 writes it"),
        "_make_wheel": attr.label(default = "//tools/wheel:make_wheel", executable = True, cfg = "exec"),
    },
)

def wheel(name, distribution, tag, contains = [], contains_if = {}, tools = [], version = VERSION, visibility = None, **kwargs):
    """A deterministic wheel with its licences and its SBOM.

    Args:
      name: target name.
      distribution: the name as pip knows it.
      tag: python-abi-platform.
      contains: what of third_party/components.bzl is compiled or linked into it.
      contains_if: config_setting -> what a build in which it holds contains besides, under a licence
        that the wheel names anyway.
      tools: what compiles it beside what compiles every wheel.
      version: by default the project's.
      visibility: of the wheel.
      **kwargs: passed on to the rule above.
    """
    own = "Apache-2.0"
    licenses = {term: None for c in sorted(contains) for term in COMPONENTS[c].license.split(" AND ")}
    licenses = {own: None} | licenses
    notices = ["//:LICENSE"] + {n: None for c in sorted(contains) for n in COMPONENTS[c].notices}.keys()
    for condition, parts in contains_if.items():
        for part in parts:
            if [term for term in COMPONENTS[part].license.split(" AND ") if term not in licenses]:
                fail("%s: %s has a licence that the metadata does not name" % (name, part))
        contains = contains + select({condition: parts, "//conditions:default": []})
        notices = notices + select({
            condition: [notice for part in parts for notice in COMPONENTS[part].notices],
            "//conditions:default": [],
        })
    sbom(
        name = name + "_sbom",
        contains = contains,
        distribution = distribution,
        license = own,
        native = not tag.endswith("-any"),
        tools = tools,
        version = version,
        visibility = visibility,
    )
    _wheel(
        name = name,
        distribution = distribution,
        license_expression = " AND ".join(licenses.keys()),
        licenses = notices,
        sbom = name + "_sbom",
        tag = tag,
        version = version,
        visibility = visibility,
        **kwargs
    )

def _wheel_site_impl(ctx):
    folder = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run(
        executable = ctx.executable._unpack,
        arguments = [ctx.attr.wheel[WheelInfo].file.path, folder.path],
        inputs = [ctx.attr.wheel[WheelInfo].file],
        outputs = [folder],
        mnemonic = "UnpackWheel",
    )
    workspace = ctx.label.workspace_name or ctx.workspace_name
    imports = "/".join([p for p in [workspace, ctx.label.package, ctx.label.name] if p])
    return [
        DefaultInfo(files = depset([folder]), runfiles = ctx.runfiles([folder])),
        PyInfo(transitive_sources = depset([folder]), imports = depset([imports])),
    ]

wheel_site = rule(
    doc = "The wheel, unpacked: what depends on it imports what a user would install.",
    implementation = _wheel_site_impl,
    attrs = {
        "wheel": attr.label(mandatory = True, providers = [WheelInfo], doc = "the wheel to unpack"),
        "_unpack": attr.label(default = "//tools/wheel:unpack_wheel", executable = True, cfg = "exec"),
    },
)
