"""Every kernel of the causal convolution, as data: both compilers and the table of launches read it."""

TYPES = {
    "bf16": "BFloat16",
    "fp16": "Half",
    "fp32": "float",
}

# Kernels are made for so many taps; a smaller width leaves taps out (TapsFor in conv.h).
TAPS = ["4", "8"]

# name -> (header, argument struct, device function, parameters behind type and taps, blocks of 4
# taps that a multiprocessor has room for: registers are bounded so that they fit)
_KINDS = {
    "backward_first": ("backward", "BackwardArgs", "BackwardFirst", ", false", 8),
    "backward_first_seq": ("backward", "BackwardArgs", "BackwardFirst", ", true", 8),
    "backward_last": ("backward", "BackwardArgs", "BackwardLast", ", false", 4),
    "backward_last_seq": ("backward", "BackwardArgs", "BackwardLast", ", true", 4),
    "forward_first": ("forward", "ForwardArgs", "ForwardFirst", ", false", 9),
    "forward_first_seq": ("forward", "ForwardArgs", "ForwardFirst", ", true", 7),
    "forward_last": ("forward", "ForwardArgs", "ForwardLast", ", false", 5),
    "forward_last_seq": ("forward", "ForwardArgs", "ForwardLast", ", true", 4),
    "packed": ("packed", "PackedArgs", "Packed", "", 4),
    "update": ("update", "UpdateArgs", "Update", "", 8),
}

# Where a type needs other room: floats would spill.
_BLOCKS = {("update", "fp32"): 6}

def _kernel(kind, dtype, taps):
    header, args, function, more, blocks = _KINDS[kind]
    return struct(
        args = args,
        bounds = "kThreads, %d" % (_BLOCKS.get((kind, dtype), blocks) if taps == "4" else 3),
        call = "%s<%s, %s%s>" % (function, TYPES[dtype], taps, more),
        header = header,
        name = "conv1d_%s_%s_w%s" % (kind, dtype, taps),
        threads = "kThreads",
        unit = "conv1d_%s_%s" % (header, dtype),
    )

# The order is that of the table of launches.
KERNELS = [
    _kernel(kind, dtype, taps)
    for kind in _KINDS
    for dtype in TYPES
    for taps in TAPS
] + [struct(
    args = "SumArgs",
    bounds = "kSumThreads",
    call = "BackwardSum<float>",
    header = "backward",
    name = "conv1d_backward_sum",
    threads = "kSumThreads",
    unit = "conv1d_backward_fp32",
)]

def _define(kernel):
    return "ACCEL_KERNEL({bounds}) {name}(const {args} a) {{ {call}(a); }}".format(
        args = kernel.args,
        bounds = kernel.bounds,
        call = kernel.call,
        name = kernel.name,
    )

# One source each, for instance.cu.tpl.
INSTANCES = [
    {
        "HEADER": header,
        "KERNELS": "\n".join([_define(k) for k in KERNELS if k.unit == "conv1d_%s_%s" % (header, dtype)]),
        "name": "conv1d_%s_%s" % (header, dtype),
    }
    for header in ["forward", "backward", "packed", "update"]
    for dtype in TYPES
]

# The table of launches: X(name, argument struct, threads of a block, source), in the order of KERNELS.
TABLE = "\n".join(["X(%s, %s, %s, %s)" % (k.name, k.args, k.threads, k.unit) for k in KERNELS]) + "\n"
