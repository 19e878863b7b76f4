"""Every kernel instance and every switch of HSTU attention, as data."""

# --//csrc/hstu_attn:HSTU_DISABLE_<name> leaves a part out of the binary; the default has everything.
SWITCHES = [
    "86OR89",
    "ARBITRARY",
    "BACKWARD",
    "BF16",
    "CAUSAL",
    "CONTEXT",
    "DETERMINISTIC",
    "DRAB",
    "FP16",
    "HDIM128",
    "HDIM256",
    "HDIM32",
    "HDIM64",
    "LOCAL",
    "RAB",
    "TARGET",
]

_HEAD_DIMS = ["32", "64", "128", "256"]
_DTYPES = {"bf16": "__nv_bfloat16", "fp16": "__half"}

def _row(direction, head_dim, dtype, switches, **marks):
    suffix = "".join(["_" + key.removeprefix("HAS_").lower() for key, value in marks.items() if value == "true"])
    return dict(
        marks,
        name = "%s_d%s_%s%s" % (direction, head_dim, dtype, suffix),
        unless = [":%s_off" % s for s in ["HDIM" + head_dim, dtype.upper()] + switches],
        DTYPE = _DTYPES[dtype],
        HEAD_DIM = head_dim,
    )

FWD_INSTANCES = [
    _row("fwd", head_dim, dtype, ["RAB"] if rab else [], HAS_RAB = "true" if rab else "false")
    for head_dim in _HEAD_DIMS
    for dtype in _DTYPES
    for rab in [False, True]
]

BWD_INSTANCES = [
    _row(
        "bwd",
        head_dim,
        dtype,
        ["BACKWARD"] + (["RAB"] if rab else []) + (["DRAB"] if drab else []),
        HAS_RAB = "true" if rab else "false",
        HAS_DRAB = "true" if drab else "false",
    )
    for head_dim in _HEAD_DIMS
    for dtype in _DTYPES
    for rab, drab in [(False, False), (True, False), (True, True)]
]
