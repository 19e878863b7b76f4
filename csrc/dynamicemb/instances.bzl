"""The kernel instances of dynamic embeddings, as data."""

REDUCE_INSTANCES = [
    {
        "TYPE": type,
        "name": "reduce_" + type.lower(),
    }
    for type in ["Float", "Half", "BFloat16", "Double"]
]

# The tables of csrc/hkv that rows live in: float words, and a strategy for each kind of scores.
TABLES = [
    "//csrc/hkv:HKVVariable__int64_t_float_EvictStrategy__" + strategy
    for strategy in ["kLru", "kLfu", "kCustomized"]
] + ["//csrc/hkv:native_kernels"]
