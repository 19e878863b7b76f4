"""sbom: the bill of materials of one wheel, SPDX 2.3 JSON, from third_party/pins.bzl."""

load("//:version.bzl", "RELEASE_DATE")
load("//third_party:components.bzl", "BUILD_TOOLS", "COMPONENTS", "PINS")

_LICENSE_TEXTS = {
    "LicenseRef-NVIDIA-CUDA-EULA": "NVIDIA CUDA Toolkit End User License Agreement: licenses/LICENSE.cuda.txt beside this file's folder",
}

def _id(name):
    return "SPDXRef-" + name.replace("_", "-").replace("+", "-")

def _package(name, license):
    pin = PINS[name]
    package = {
        "SPDXID": _id(name),
        "copyrightText": "NOASSERTION",
        "downloadLocation": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceLocator": pin.purl,
            "referenceType": "purl",
        }],
        "filesAnalyzed": False,
        "licenseConcluded": license,
        "licenseDeclared": license,
        "name": name,
        "versionInfo": pin.version,
    }
    if len(pin.sha256) == 1:
        package["checksums"] = [{"algorithm": "SHA256", "checksumValue": pin.sha256[0]}]
    else:
        package["comment"] = "one of: " + ", ".join(["sha256:" + h for h in pin.sha256])
    return package

def _sbom_impl(ctx):
    name, version = ctx.attr.distribution, ctx.attr.version
    tools = (BUILD_TOOLS if ctx.attr.native else []) + ctx.attr.tools
    wheel = {
        "SPDXID": _id(name),
        "copyrightText": "NOASSERTION",
        "downloadLocation": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceLocator": "pkg:pypi/%s@%s" % (name, version),
            "referenceType": "purl",
        }],
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": ctx.attr.license,
        "name": name,
        "primaryPackagePurpose": "LIBRARY",
        "versionInfo": version,
    }
    packages = [wheel]
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", _id(name))]
    licenses = {}
    for part in ctx.attr.contains:
        packages.append(_package(part, COMPONENTS[part].license))
        relations.append((_id(name), "CONTAINS", _id(part)))
        licenses |= {term: None for term in COMPONENTS[part].license.split(" AND ")}
    for tool in tools:
        packages.append(_package(tool, "NOASSERTION"))
        relations.append((_id(tool), "BUILD_TOOL_OF", _id(name)))
    document = {
        "SPDXID": "SPDXRef-DOCUMENT",
        "creationInfo": {
            # The release's date and not the clock: equal inputs, equal bytes.
            "created": RELEASE_DATE + "T00:00:00Z",
            "creators": ["Organization: The Accelerated Modules authors", "Tool: tools/wheel/sbom.bzl"],
        },
        "dataLicense": "CC0-1.0",
        "documentNamespace": "urn:accelerated-modules:spdx:%s:%s" % (name, version),
        "hasExtractedLicensingInfos": [
            {"extractedText": text, "licenseId": license}
            for license, text in _LICENSE_TEXTS.items()
            if license in licenses
        ],
        "name": "%s-%s" % (name, version),
        "packages": packages,
        "relationships": [
            {"relatedSpdxElement": b, "relationshipType": kind, "spdxElementId": a}
            for a, kind, b in relations
        ],
        "spdxVersion": "SPDX-2.3",
    }
    out = ctx.actions.declare_file("%s/%s.spdx.json" % (ctx.label.name, name))
    ctx.actions.write(out, json.encode_indent(document, indent = "  ") + "\n")
    return [DefaultInfo(files = depset([out]))]

sbom = rule(
    doc = "Writes NAME/DISTRIBUTION.spdx.json.",
    implementation = _sbom_impl,
    attrs = {
        "contains": attr.string_list(doc = "names in third_party/components.bzl"),
        "distribution": attr.string(mandatory = True, doc = "the wheel's name as pip knows it"),
        "license": attr.string(mandatory = True, doc = "of the project's own part, in SPDX"),
        "native": attr.bool(doc = "the wheel has machine code: the compilers are listed"),
        "tools": attr.string_list(doc = "what compiles it besides"),
        "version": attr.string(mandatory = True, doc = "of the wheel"),
    },
)
