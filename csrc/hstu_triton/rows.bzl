"""What is compiled into libhstu_triton.so: kernels of python/generative_recommenders/ops/triton, a row for each object.

A row's name is what the launcher looks for: KERNEL.DTYPE.SHAPE, and behind it what else the kernel was made for.
"""

# A file of kernels -> those of its files that it imports.
KERNELS = {
    "_addmm_kernels": "_tile",
    "_attention_kernels": "_mask _tile",
    "_jagged_kernels": "_tile",
    "_linear_kernels": "_norm_kernels _tile",
    "_norm_kernels": "_tile",
    "_position_kernels": "",
    "_uvqk_kernels": "",
}

_PACKAGE = "generative_recommenders.ops.triton."
_INDEX = "*i64"

def _row(name, file, function, dtype, tensors, constants, others = {}, warps = 4, stages = 1, unaligned = [], options = {}, aligned = []):
    """A kernel for one dtype: `tensors` are of that dtype, `others` name the types of what is not, the rest is int32.

    Pointers and strides are multiples of 16 but for those in `unaligned`, of the other numbers those in `aligned`."""
    return struct(
        aligned = aligned,
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

# What the general mask takes instead.
_GENERAL = {
    "sm_90": {
        "attention_fwd.{}.long": {64: (64, 64, 4, 2, 0), 128: (128, 32, 4, 3, 2)},
        "attention_bwd_rows.{}.long": {64: (64, 64, 4, 2, 0), 128: (64, 64, 4, 2, 0)},
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
        unaligned = _STRIDES if width % 16 else []
        ahead = {"AHEAD": 3 if block <= 512 else 1}
        forward, backward = ["MEAN", "RSTD", "eps"], ["MEAN", "RSTD", "SUMS"]
        for kernel, file, tensors, constants, others in [
            ("norm_fwd", "_norm_kernels", ["X", "W", "B", "Y"], {"GIVEN": False}, _only(_STATISTICS, forward)),
            ("norm_bwd", "_norm_kernels", ["DY", "X", "W", "B", "DX"], ahead | {"GATED": False}, _only(_STATISTICS, backward)),
            ("norm_bwd_gated", "_norm_kernels", ["DY", "X", "W", "B", "DX"], ahead | {"GATED": True}, _only(_STATISTICS, backward)),
            ("norm_mul_dropout_fwd", "_linear_kernels", ["X", "U", "W", "B", "Y"], {}, _only(_STATISTICS, forward) | _DROPOUT),
            ("norm_mul_dropout_bwd", "_linear_kernels", ["DY", "X", "U", "W", "B", "DX", "DU"], {}, _only(_STATISTICS, backward) | _DROPOUT),
        ]:
            numbers = 1024 if kernel.endswith("_fwd") else 512  # of a block
            of_warp = 1024 if kernel == "norm_fwd" else 512
            if unaligned and kernel == "norm_mul_dropout_bwd":
                of_warp = 256  # more would spill
            options = {"enable_fp_fusion": False} if kernel == "norm_fwd" else {}
            shape = {"BLOCK_D": block, "BLOCK_N": max(1, numbers // block), "D": width, "FAST": True}
            function = "_" + kernel.removesuffix("_gated")
            rows.append(_row("%s.%s.%d" % (kernel, dtype, width), file, function, dtype, tensors, shape | constants, others, unaligned = unaligned, options = options, warps = max(numbers, block) // of_warp))
    for heads, block in {"": 32, ".heads": 256}.items():
        rows.append(_row("add_up.%s%s" % (dtype, heads), "_norm_kernels", "_add_up", dtype, ["DW", "DB"], {"BLOCK_D": block, "BLOCK_P": 4096 // block}, {"SUMS": "*fp32"}, warps = 8))
    return rows

# What depends on no width: "whole" is for strides and sizes that are multiples of 16, "any" for others, which are read and
# written number by number.
_ADDMM = {"sm_80": (128, 128, 32, 4, 4), "sm_90": (128, 256, 64, 8, 3)}
_PRODUCT = {"PRECISION": "ieee", "UPCAST": False}
_BLOCKS = {"BLOCK_K": 32, "BLOCK_M": 64, "BLOCK_N": 64} | _PRODUCT
_OFFSETS = {"OFFSETS": _INDEX}
_PLACES = {name: _INDEX for name in ["OFFSETS", "LENGTHS", "TARGETS", "TIMES"]} | {"BUCKETS": "*i32", "PLACES": "*i32", "POS": "*fp32", "TS": "*fp32"}
_BMM_STRIDES = ["stride_j", "stride_wb", "stride_b", "stride_o"]
_SILU_STRIDES = ["stride_du", "stride_dv", "stride_dq", "stride_dk", "stride_x", "stride_dx"]

def _addmm(m, n, k, warps, stages):
    constants = {"BLOCK_K": k, "BLOCK_M": m, "BLOCK_N": n, "GROUP": 8} | _PRODUCT
    return ("addmm", "_addmm_kernels", "_addmm_fwd", ["X", "W", "Y", "Z"], constants, {}, ["stride_x", "stride_w", "stride_y", "stride_z"], ["N", "K"], warps, stages)

def _sized(rows, dtype):
    """Both rows of each kernel."""
    return [
        _row(
            "%s.%s.%s" % (name, dtype, kind),
            file,
            function,
            dtype,
            tensors,
            constants,
            others,
            warps,
            stages,
            [] if kind == "whole" else strides,
            aligned = sizes if kind == "whole" else [],
        )
        for name, file, function, tensors, constants, others, strides, sizes, warps, stages in rows
        for kind in ["whole", "any"]
    ]

def _product_rows(arch, dtype):
    whole, _ = _sized([_addmm(*_ADDMM[arch])], dtype)
    _, any_ = _sized([_addmm(64, 64, 32, 4, 3)], dtype)
    return [whole, any_] + _sized([
        ("bmm", "_jagged_kernels", "_jagged_bmm", ["J", "W", "BIAS", "Out"], _BLOCKS | {"BIAS_KIND": "sequence", "stride_wn": 1}, _OFFSETS, _BMM_STRIDES + ["stride_wk"], ["K", "N"], 4, 3),
        ("bmm_transposed", "_jagged_kernels", "_jagged_bmm", ["J", "W", "BIAS", "Out"], _BLOCKS | {"BIAS_KIND": "none", "stride_wk": 1}, _OFFSETS, _BMM_STRIDES + ["stride_wn"], ["K", "N"], 4, 3),
        ("bmm_outer", "_jagged_kernels", "_jagged_outer", ["J", "G", "Out"], _BLOCKS, _OFFSETS, ["stride_j", "stride_g", "stride_ob", "stride_o"], ["K", "N"], 4, 3),
        ("bmm_sum", "_jagged_kernels", "_jagged_sum", ["G", "Out"], {"BLOCK_M": 32, "BLOCK_N": 64}, _OFFSETS, ["stride_g", "stride_o"], ["N"], 4, 1),
    ], dtype)

def _place_rows(dtype):
    strides = ["stride_x", "stride_pos", "stride_ts", "stride_o"]
    blocks = {"BLOCK": 4, "BLOCK_D": 256}
    places = _PLACES | {"alpha": "fp32"}
    return _sized([
        ("position_" + name, "_position_kernels", "_add_embeddings", ["X", "Out"], blocks | {"HAS_TARGETS": True, "SQRT": name == "sqrt"}, places, strides, ["dim"], 4, 1)
        for name in ["sqrt", "log"]
    ] + [
        ("sum_of_rows", "_position_kernels", "_sum_of_rows", ["G"], {"BLOCK": 32, "BLOCK_D": 128}, {"ORDER": _INDEX, "Out": "*fp32", "STARTS": _INDEX}, ["stride_g", "stride_o"], ["dim"], 4, 1),
        ("bias_silu_fwd", "_uvqk_kernels", "_bias_silu_fwd", ["X", "B", "Y"], {"BLOCK_D": 128, "BLOCK_N": 16}, {}, ["stride_x", "stride_y"], ["columns", "silu"], 4, 1),
        ("bias_silu_bwd", "_uvqk_kernels", "_bias_silu_bwd", ["DU", "DV_", "DQ", "DK", "X", "B", "DX"], {"BLOCK_D": 64, "BLOCK_N": 16}, {"SUMS": "*fp32"}, _SILU_STRIDES, ["values", "keys", "silu"], 4, 1),
    ], dtype)

def _move_rows():
    """Rows of any type of 16 bits."""
    offsets = {"OFFSETS_A": _INDEX, "OFFSETS_B": _INDEX}
    return _sized([
        (name, "_jagged_kernels", "_move_rows", ["A", "B", "BOTH"], {"BLOCK": 64, "BLOCK_D": 128, "JOIN": name == "concat"}, offsets, ["stride_a", "stride_b", "stride_both"], ["dim"], 8, 1)
        for name in ["concat", "split"]
    ], "i16")

def rows_of(arch):
    """The rows for a GPU.

    Args:
      arch: sm_80 or sm_90.

    Returns:
      structs, as triton_library takes them.
    """
    rows = _move_rows()
    for dtype in ["bf16", "fp16"]:
        rows += _attention_rows(arch, dtype) + _norm_rows(dtype) + _product_rows(arch, dtype) + _place_rows(dtype)
    return rows
