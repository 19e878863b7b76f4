"""The kernel instances of dynamic embeddings, as data."""

def _each_type(kernel):
    return [
        {"TYPE": type, "name": kernel + "_" + type.lower()}
        for type in ["Float", "Half", "BFloat16", "Double"]
    ]

LOOKUP_INSTANCES = _each_type("lookup")
REDUCE_INSTANCES = _each_type("reduce")

# The tables of csrc/hkv that rows live in: float words, and a strategy for each kind of scores.
TABLES = [
    "//csrc/hkv:HKVVariable__int64_t_float_EvictStrategy__" + strategy
    for strategy in ["kLru", "kLfu", "kCustomized"]
] + ["//csrc/hkv:native_kernels"]
