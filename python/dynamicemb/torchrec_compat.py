"""Whether TorchRec and FBGEMM are there and fit, what differs between their versions, and the
FBGEMM ops that a build without CUDA lacks.

TorchRec's row-wise path calls small ops of FBGEMM once the tables are ours. The wheel
``fbgemm-gpu-cpu`` has them for CPU tensors; ``register_cuda_ops`` gives them CUDA kernels, so that
many GPUs need no FBGEMM built for CUDA.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicemb import fbgemm_stubs
from dynamicemb.dynamicemb_config import DIST_TYPES
from dynamicemb.ops import ops


class Pair(NamedTuple):
    """Versions that were run together."""

    torch: str
    torchrec: str
    fbgemm: str


PAIRS = (
    Pair("2.13", "1.9.2", "1.8.0"),
    Pair("2.13", "1.8.0", "1.8.0"),
    Pair("2.11", "1.6.1", "1.6.0"),
)
TORCHREC = ((1, 6), (1, 10))  # from, and below
SMALL = "tensordict torchmetrics lightning-utilities pyre-extensions typing-inspect iopath"
SMALLER = "portalocker pyvers importlib-metadata zipp cloudpickle mypy-extensions orjson tqdm"


def fitting_pair() -> Pair:
    """The newest pair for the installed torch; for an unknown torch the newest of all."""
    for pair in PAIRS:
        if torch.__version__.startswith(pair.torch + "."):
            return pair
    return PAIRS[0]


def install_lines() -> list[str]:
    """Two commands that install what fits the installed torch, without another torch."""
    pair = fitting_pair()
    return [
        f"pip install --no-deps torchrec=={pair.torchrec} fbgemm-gpu-cpu=={pair.fbgemm}",
        f"pip install --no-deps {SMALL} {SMALLER}",
    ]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+")[0].split(".")[:2] if part.isdigit())


def require() -> None:
    """Raises ImportError, with the pair that fits, where TorchRec or FBGEMM cannot be used."""
    pair = fitting_pair()
    fits = (
        f"torch {torch.__version__} goes with torchrec {pair.torchrec} and fbgemm-gpu-cpu "
        f"{pair.fbgemm}: `python -m dynamicemb torchrec` prints how to install them"
    )
    for module in ("fbgemm_gpu", "torchrec"):
        try:
            importlib.import_module(module)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise ImportError(
                f"dynamicemb: {module} cannot be imported ({error}); {fits}"
            ) from error
    try:
        there = metadata.version("torchrec")
    except metadata.PackageNotFoundError:
        return  # a source tree: what it lacks shows itself
    least, below = TORCHREC
    if not least <= _version(there) < below:
        raise ImportError(
            f"dynamicemb: torchrec {there} is not of the versions 1.6 to 1.9 that are supported; "
            f"{fits}"
        )


def made(kind: Callable[..., Any], **arguments: Any) -> Any:
    """``kind(**arguments)`` without the arguments that this version of it does not have."""
    known = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in arguments.items() if name in known})


# ---- The ops, in plain PyTorch for any device


def _ends(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0, dtype=lengths.dtype)])


def asynchronous_complete_cumsum(t_in: Tensor) -> Tensor:
    if t_in.dim() == 1:
        return _ends(t_in) if t_in.dtype is not torch.int64 else ops.ends_of(t_in.contiguous())
    zeros = t_in.new_zeros(t_in.shape[0], 1)
    return torch.cat([zeros, t_in.cumsum(1, dtype=t_in.dtype)], 1)


def asynchronous_inclusive_cumsum(t_in: Tensor) -> Tensor:
    return t_in.cumsum(0, dtype=t_in.dtype)


def asynchronous_exclusive_cumsum(t_in: Tensor) -> Tensor:
    return t_in.cumsum(0, dtype=t_in.dtype) - t_in


def invert_permute(permute: Tensor) -> Tensor:
    at = torch.arange(permute.numel(), dtype=permute.dtype, device=permute.device)
    return torch.empty_like(permute).scatter_(0, permute.long(), at)


def permute_1D_sparse_data(
    permute: Tensor,
    lengths: Tensor,
    values: Tensor,
    weights: Tensor | None = None,
    permuted_lengths_sum: int | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    order = permute.long()
    new = lengths[order]
    wide = new.long()
    n = int(wide.sum()) if permuted_lengths_sum is None else int(permuted_lengths_sum)
    starts = _ends(lengths.long())[:-1][order]
    shift = torch.repeat_interleave(starts - _ends(wide)[:-1], wide, output_size=n)
    source = shift + torch.arange(n, device=values.device)
    return new, values[source], None if weights is None else weights[source]


def permute_2D_sparse_data(
    permute: Tensor,
    lengths: Tensor,
    values: Tensor,
    weights: Tensor | None = None,
    permuted_lengths_sum: int | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    if permuted_lengths_sum is None:
        permuted_lengths_sum = int(lengths[permute.long()].sum())
    new, moved, moved_weights = ops.permute_rows(
        permute.int(), lengths.contiguous(), values, weights, int(permuted_lengths_sum)
    )
    return new, moved, None if weights is None else moved_weights


def expand_into_jagged_permute(
    permute: Tensor, input_offset: Tensor, output_offset: Tensor, output_size: int
) -> Tensor:
    """The permutation of elements of which that of their segments is given."""
    at = torch.arange(output_size, dtype=permute.dtype, device=permute.device)
    lengths = torch.diff(input_offset)
    return permute_1D_sparse_data(permute, lengths, at, None, output_size)[1]


def segment_sum_csr(batch_size: int, csr_seg: Tensor, values: Tensor) -> Tensor:
    sums = _ends(values.double() if values.is_floating_point() else values)
    at = csr_seg.long() * batch_size
    return (sums[at[1:]] - sums[at[:-1]]).to(values.dtype)


def block_bucketize_sparse_features(
    lengths: Tensor,
    indices: Tensor,
    bucketize_pos: bool,
    sequence: bool,
    block_sizes: Tensor,
    my_size: int,
    weights: Tensor | None = None,
    batch_size_per_feature: Tensor | None = None,
    max_B: int = -1,
    block_bucketize_pos: list[Tensor] | None = None,
    keep_orig_idx: bool = False,
    total_num_blocks: Tensor | None = None,
    keep_orig_idx_per_feature: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    uneven = (block_bucketize_pos, total_num_blocks, keep_orig_idx_per_feature)
    if keep_orig_idx or any(given is not None for given in uneven):
        raise NotImplementedError(
            "dynamicemb: block_bucketize_sparse_features on CUDA has even blocks alone; uneven "
            "ones need an FBGEMM that is built for CUDA"
        )
    blocks, starts = block_sizes.long(), _ends(lengths.long())
    if batch_size_per_feature is not None:  # as features of one sample
        bags = lengths.numel()
        blocks = torch.repeat_interleave(blocks, batch_size_per_feature.long(), output_size=bags)
    dist = torch.full_like(blocks, DIST_TYPES.index("continuous"), dtype=torch.int32)
    fused = weights is not None and weights.dtype is torch.float32
    new, local, moved, place = ops.block_bucketize(
        indices.long(), starts, dist, blocks, weights if fused else None, my_size
    )
    if weights is not None and not fused:
        moved = torch.empty_like(weights).scatter_(0, place, weights)
    position = None
    if bucketize_pos:
        at = torch.arange(indices.numel(), device=indices.device)
        inside = at - starts[ops.expand_ids(starts, indices.numel()).long()]
        position = torch.empty_like(indices).scatter_(0, place, inside.to(indices.dtype))
    return (
        new.to(lengths.dtype),
        local.to(indices.dtype),
        None if weights is None else moved,
        position,
        place.to(indices.dtype) if sequence else None,
    )


def permute_pooled_embs(
    pooled_embs: Tensor,
    offset_dim_list: Tensor,
    permute_list: Tensor,
    inv_offset_dim_list: Tensor,
    inv_permute_list: Tensor,
) -> Tensor:
    ends = offset_dim_list.tolist()
    return torch.cat([pooled_embs[:, ends[i] : ends[i + 1]] for i in permute_list.tolist()], 1)


def batch_index_select_dim0(
    inputs: Tensor,
    indices: Tensor,
    input_num_indices: list[int],
    input_rows: list[int],
    input_columns: list[int],
    permute_output_dim_0_1: bool = False,
    total_num_indices: int | None = None,
) -> Tensor:
    """Rows of matrices that lie behind one another, selected in each."""
    out, at, first = [], 0, 0
    for n, rows, columns in zip(input_num_indices, input_rows, input_columns, strict=True):
        matrix = inputs[at : at + rows * columns].view(rows, columns)
        out.append(matrix[indices[first : first + n].long()])
        at, first = at + rows * columns, first + n
    if permute_output_dim_0_1:
        return torch.cat(out, 1).reshape(-1)
    return torch.cat([part.reshape(-1) for part in out])


def keyed_jagged_index_select_dim1(
    values: Tensor,
    lengths: Tensor,
    offsets: Tensor,
    indices: Tensor,
    batch_size: int,
    weights: Tensor | None = None,
    selected_lengths_sum: int | None = None,
) -> list[Tensor]:
    """The bags at ``indices`` of each key, and their lengths."""
    keys = torch.arange(lengths.numel() // batch_size, device=indices.device)
    order = (keys[:, None] * batch_size + indices).reshape(-1)
    size = selected_lengths_sum
    found, chosen, moved = permute_1D_sparse_data(order, lengths, values, weights, size)
    return [chosen, found] if moved is None else [chosen, found, moved]


OPS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        asynchronous_complete_cumsum,
        asynchronous_inclusive_cumsum,
        asynchronous_exclusive_cumsum,
        invert_permute,
        permute_1D_sparse_data,
        permute_2D_sparse_data,
        expand_into_jagged_permute,
        segment_sum_csr,
        block_bucketize_sparse_features,
        permute_pooled_embs,
        batch_index_select_dim0,
        keyed_jagged_index_select_dim1,
    )
}
_WITH_GRADIENT = ("batch_index_select_dim0", "keyed_jagged_index_select_dim1")
_OF_CUDA = ("CUDA", "AutogradCUDA", "CompositeImplicitAutograd")
_libraries: list[Any] = []


def register_cuda_ops() -> list[str]:
    """Gives FBGEMM's ops without a CUDA kernel one; the names of those. Calling it again, or beside
    an FBGEMM that is built for CUDA, does nothing."""
    has: Any = torch._C._dispatch_has_kernel_for_dispatch_key
    lacking = [
        name
        for name in OPS
        if hasattr(torch.ops.fbgemm, name)
        and not any(has(f"fbgemm::{name}", key) for key in _OF_CUDA)
    ]
    if lacking:
        kind: Any = torch.library.Library
        library = kind("fbgemm", "IMPL")
        for name in lacking:
            library.impl(name, OPS[name], "CUDA")
            if name in _WITH_GRADIENT:
                library.impl(name, OPS[name], "AutogradCUDA")
        _libraries.append(library)  # kernels live as long as it does
    return lacking


def use_stubs() -> None:
    """TorchRec without any FBGEMM: stands in for its Python names and its ops. Dynamic tables then
    train; static ones and codecs for the link need FBGEMM. To be called before TorchRec is
    imported; calling it again does nothing.

    Raises:
        RuntimeError: FBGEMM or TorchRec has been imported.
    """
    if fbgemm_stubs.installed():
        return
    there = [name for name in (fbgemm_stubs.NAME, "torchrec") if name in sys.modules]
    if there:
        raise RuntimeError(f"dynamicemb: use_stubs() must come before `import {there[0]}`")
    _libraries.append(fbgemm_stubs.install(OPS))
