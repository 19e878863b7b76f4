"""The kernel instances of Mustafar, as data."""

_DTYPES = {"bf16": "__nv_bfloat16", "fp16": "__half"}

DECODE_INSTANCES = [
    dict(
        name = "decode_d%s_%s" % (head_dim, dtype),
        DTYPE = _DTYPES[dtype],
        HEAD_DIM = head_dim,
    )
    for head_dim in ["64", "96", "128"]
    for dtype in _DTYPES
]
