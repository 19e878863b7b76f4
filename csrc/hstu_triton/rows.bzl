"""What is compiled into libhstu_triton.so: kernels of python/generative_recommenders/ops/triton, a row for each object.

A row's name is what the launcher looks for: KERNEL.DTYPE.SHAPE, and behind it what else the kernel was made for.
"""

# A file of kernels -> those of its files that it imports.
KERNELS = {
    "_attention_kernels": "_mask _tile",
    "_linear_kernels": "_norm_kernels _tile",
    "_norm_kernels": "_tile",
}

_PACKAGE = "generative_recommenders.ops.triton."
_INDEX = "*i64"

def _row(name, file, function, dtype, tensors, constants, others = {}, warps = 4, stages = 1, unaligned = [], options = {}):
    """A kernel for one dtype: `tensors` are of that dtype, `others` name the types of what is not, the rest is int32."""
    return struct(
        constants = constants,
        function = function,
        module = _PACKAGE + file,
        name = name,
        num_stages = stages,
        num_warps = warps,
        options = options,
        types = {tensor: "*" + dtype for tensor in tensors} | others,
        unaligned = unaligned,
    )

# Head dim -> rows and columns of a block, warps, stages, way of looping; as in _attention_configs.py. "short" is for
# sequences of at most 256 rows, "delta" for the last rows of each sequence.
_ATTENTION = {
    "sm_90": {
        "attention_fwd.{}.long": {64: (64, 64, 4, 2, 1), 128: (128, 64, 4, 2, 0), 256: (128, 32, 8, 3, 2)},
        "attention_fwd.{}.short": {128: (64, 64, 4, 2, 0)},
        "attention_fwd.{}.delta": {64: (32, 64, 4, 3, 2), 128: (32, 64, 4, 3, 2), 256: (32, 32, 4, 3, 2)},
        "attention_bwd_columns.{}.long": {64: (64, 64, 4, 2, 0), 128: (64, 64, 4, 2, 0), 256: (64, 64, 8, 1, 2)},
        "attention_bwd_rows.{}.long": {64: (128, 128, 8, 2, 2), 128: (128, 64, 8, 2, 2), 256: (128, 32, 8, 2, 2)},
        "attention_bwd_rows.{}.short": {64: (64, 64, 4, 2, 2)},
    },
    "sm_80": {
        "attention_fwd.{}.long": {64: (128, 64, 4, 3, 2), 128: (128, 64, 8, 2, 2), 256: (64, 32, 4, 2, 0)},
        "attention_fwd.{}.delta": {64: (32, 64, 4, 3, 2), 128: (32, 64, 4, 2, 2), 256: (32, 32, 4, 2, 2)},
        "attention_bwd_columns.{}.long": {64: (64, 64, 4, 2, 0), 128: (32, 64, 4, 2, 0), 256: (32, 32, 4, 1, 2)},
        "attention_bwd_rows.{}.long": {64: (64, 64, 4, 2, 2), 128: (64, 32, 4, 2, 2), 256: (32, 16, 8, 1, 2)},
    },
}

# What the general mask takes instead where with the above its kernels would spill hundreds of bytes.
_GENERAL = {
    "sm_90": {
        "attention_fwd.{}.long": {128: (128, 64, 8, 2, 2), 256: (64, 32, 8, 3, 2)},
        "attention_bwd_columns.{}.long": {128: (64, 64, 8, 2, 2), 256: (32, 64, 8, 1, 2)},
        "attention_bwd_rows.{}.long": {256: (64, 32, 8, 2, 2)},
    },
    "sm_80": {
        "attention_fwd.{}.long": {256: (64, 32, 8, 2, 2)},
    },
}
_HEAD_DIMS = {32: 64, 64: 64, 128: 128, 256: 256}
_FORWARD = ["Q", "K", "V", "Out"]
_BACKWARD = ["Q", "K", "V", "DO", "DQ", "DK", "DV_"]
_RULES = {"OFFSETS": _INDEX, "ORDER": _INDEX, "SCALE": "*fp32", "TARGETS": _INDEX, "alpha": "fp32", "scale": "fp32"}

def _attention_rows(arch, dtype):
    rows = []
    for template, by_dim in _ATTENTION[arch].items():
        kernel, _, kind = template.split(".")
        for dim, column in _HEAD_DIMS.items():
            if column not in by_dim:
                continue
            for mask in ["general"] if kind == "delta" else ["causal", "general"]:
                special = _GENERAL[arch].get(template, {}) if mask == "general" else {}
                block_m, block_n, warps, stages, loop = special.get(column, by_dim[column])
                constants = {
                    "BLOCK_D": dim,
                    "BLOCK_DV": dim,
                    "BLOCK_M": block_m,
                    "BLOCK_N": block_n,
                    "D": dim,
                    "DV": dim,
                    "FAST": True,
                    "GENERAL": mask == "general",
                    "LOOP": loop,
                    "PRECISION": "ieee",
                    "UPCAST": False,
                }
                forward = kernel == "attention_fwd"
                if forward:
                    constants |= {"IS_DELTA": kind == "delta", "USE_TMA": False}
                else:
                    constants |= {"OF_ROWS": kernel == "attention_bwd_rows"}
                rows.append(_row(
                    "%s.%s.%d.%s.%s" % (kernel, dtype, dim, kind, mask),
                    "_attention_kernels",
                    "_hstu_attn_fwd" if forward else "_hstu_attn_bwd",
                    dtype,
                    _FORWARD if forward else _BACKWARD,
                    constants,
                    _RULES,
                    stages = stages,
                    warps = warps,
                ))
    return rows

# Rows that are no multiple of 16 numbers are read number by number.
_WIDTHS = {50: 64, 64: 64, 128: 128, 256: 256, 512: 512, 1024: 1024}
_STATISTICS = {"MEAN": "*fp32", "RSTD": "*fp32", "SUMS": "*fp32", "eps": "fp32"}
_DROPOUT = {"SEED": _INDEX, "ratio": "fp32"}
_STRIDES = ["stride_dx", "stride_du", "stride_dy", "stride_u", "stride_x", "stride_y"]

def _only(types, names):
    return {name: types[name] for name in names}

def _norm_rows(dtype):
    rows = []
    for width, block in _WIDTHS.items():
        shape = {"BLOCK_D": block, "BLOCK_N": 1024 // block, "D": width}
        unaligned = _STRIDES if width % 16 else []
        forward, backward = ["MEAN", "RSTD", "eps"], ["MEAN", "RSTD", "SUMS"]
        for kernel, file, tensors, constants, others in [
            ("norm_fwd", "_norm_kernels", ["X", "W", "B", "Y"], {"GIVEN": False}, _only(_STATISTICS, forward)),
            ("norm_bwd", "_norm_kernels", ["DY", "X", "W", "B", "DX"], {}, _only(_STATISTICS, backward)),
            ("norm_mul_dropout_fwd", "_linear_kernels", ["X", "U", "W", "B", "Y"], {}, _only(_STATISTICS, forward) | _DROPOUT),
            ("norm_mul_dropout_bwd", "_linear_kernels", ["DY", "X", "U", "W", "B", "DX", "DU"], {}, _only(_STATISTICS, backward) | _DROPOUT),
        ]:
            options = {"enable_fp_fusion": False} if kernel == "norm_fwd" else {}
            rows.append(_row("%s.%s.%d" % (kernel, dtype, width), file, "_" + kernel, dtype, tensors, shape | constants, others, unaligned = unaligned, options = options))
    for heads, block in {"": 32, ".heads": 256}.items():
        rows.append(_row("add_up.%s%s" % (dtype, heads), "_norm_kernels", "_add_up", dtype, ["DW", "DB"], {"BLOCK_D": block, "BLOCK_P": 2048 // block}, {"SUMS": "*fp32"}))
    return rows

def rows_of(arch):
    """The rows for a GPU.

    Args:
      arch: sm_80 or sm_90.

    Returns:
      structs, as triton_library takes them.
    """
    rows = []
    for dtype in ["bf16", "fp16"]:
        rows += _attention_rows(arch, dtype) + _norm_rows(dtype)
    return rows
