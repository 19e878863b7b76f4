"""The instantiations of the GPU hash table: key x value x strategy, as data.

Thirty; the eighteen of lru, lfu and customized come first.
"""

INSTANCES = [
    {
        "KEY": key,
        "STRATEGY": strategy,
        "VALUE": value,
        "name": "HKVVariable__%s_%s_EvictStrategy__%s" % (key, value, strategy),
    }
    for strategies in [
        ["kLru", "kLfu", "kCustomized"],
        ["kEpochLru", "kEpochLfu"],
    ]
    for key in ["int64_t", "uint64_t"]
    for value in ["float", "__half", "__nv_bfloat16"]
    for strategy in strategies
]
