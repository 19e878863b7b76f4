"""The packages of a release. A new one joins by one line."""

# distribution -> its wheels (one, or one per CPython minor where the package is tied to it)
PACKAGES = {
    "hkv": ["//python/hkv:wheels"],
    "hstu-attn": ["//python/hstu_attn:wheel"],
}

WHEELS = [wheel for wheels in PACKAGES.values() for wheel in wheels] + ["//python/accelerated_modules:wheel"]
