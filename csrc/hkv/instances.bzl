"""The eighteen instantiations of the GPU hash table: key x value x strategy, as data."""

INSTANCES = [
    {
        "KEY": key,
        "STRATEGY": strategy,
        "VALUE": value,
        "name": "HKVVariable__%s_%s_EvictStrategy__%s" % (key, value, strategy),
    }
    for key in ["int64_t", "uint64_t"]
    for value in ["float", "__half", "__nv_bfloat16"]
    for strategy in ["kLru", "kLfu", "kCustomized"]
]
