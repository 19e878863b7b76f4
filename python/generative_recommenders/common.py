"""Which kernels run, modules that know it, and small helpers for jagged tensors.

Names and meanings are those of ``generative_recommenders.common`` of Meta's package.
"""

from __future__ import annotations

import abc
import importlib.util
from collections.abc import Callable, Sequence
from enum import Enum, unique
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from generative_recommenders._checks import CHECKS

_T = TypeVar("_T")
_HAS_TRITON = importlib.util.find_spec("triton") is not None  # torch.compile cannot look for it


@unique
class HammerKernel(Enum):
    """What computes an op.

    TRITON is compiled at first use, TRITON_CC was when the wheel was built, PYTORCH is plain
    PyTorch and the reference, CUDA is ``hstu_attn``. TLX needs Meta's own Triton, and CUTEDSL is
    not offered: both raise. AUTO is ours: on a GPU TRITON_CC where the wheel has the
    kernel and else TRITON, or what the table says is faster; PYTORCH on the CPU.
    """

    TRITON = "TRITON"
    TLX = "TLX"
    PYTORCH = "PYTORCH"
    CUDA = "CUDA"
    TRITON_CC = "TRITON_CC"
    CUTEDSL = "CUTEDSL"
    AUTO = "AUTO"


_MISSING = {
    HammerKernel.TLX: "TLX needs the Triton of Meta with triton.language.extra.tlx",
    HammerKernel.CUTEDSL: "CUTEDSL has no kernels here",
}
_LIBRARY = Path(__file__).with_name("libhstu_triton.so")
_HAS_LIBRARY = _LIBRARY.is_file()
_allow_jit = False


def set_allow_jit(allow: bool) -> None:
    """Whether TRITON stands in for TRITON_CC where no kernel was compiled for a shape; False at
    first: then it is an error that names the nearest."""
    global _allow_jit
    _allow_jit = allow


def get_allow_jit() -> bool:
    return _allow_jit


def has_compiled_kernels() -> bool:
    """Whether this installation has the library of TRITON_CC."""
    return _HAS_LIBRARY


def _is_compiled(compiled: tuple[str, int | None], like: Tensor) -> bool:
    from generative_recommenders.ops.compiled import serves

    return serves(*compiled, like)


def _compiled_or_jit(
    op: str, compiled: tuple[str, int | None] | None, like: Tensor
) -> HammerKernel:
    """TRITON_CC, or TRITON where it has no kernel and may be replaced."""
    if not _HAS_LIBRARY:
        raise ImportError(
            f"generative_recommenders: {op}: TRITON_CC needs {_LIBRARY.name}, which the wheel "
            "hstu-triton has and this installation lacks; use TRITON or PYTORCH"
        )
    if compiled is not None and not _allow_jit:
        return HammerKernel.TRITON_CC
    if compiled is not None:
        if _is_compiled(compiled, like):
            return HammerKernel.TRITON_CC
    elif not _allow_jit:
        raise ImportError(
            f"generative_recommenders: {op}: TRITON_CC has no kernel of it; use TRITON or PYTORCH, "
            "or set_allow_jit(True)"
        )
    return HammerKernel.TRITON


def _fastest(compiled: tuple[str, int | None] | None, like: Tensor) -> HammerKernel:
    """What AUTO is: on a GPU what was compiled with the wheel, or else is compiled now."""
    if not like.is_cuda:
        return HammerKernel.PYTORCH
    if _HAS_LIBRARY and compiled is not None and _is_compiled(compiled, like):
        return HammerKernel.TRITON_CC
    return HammerKernel.TRITON


def chosen_kernel(
    kernel: HammerKernel,
    op: str,
    like: Tensor,
    *,
    cuda: bool = False,
    compiled: tuple[str, int | None] | None = None,
) -> HammerKernel:
    """The kernel that ``op`` takes for ``kernel``: PYTORCH, TRITON, or, where it has them, CUDA and
    TRITON_CC.

    Args:
        kernel: what the caller asked for.
        op: its name, for the error.
        like: one of its tensors.
        cuda: whether it has a CUDA kernel.
        compiled: name and width of its compiled kernel, if it has any; None: for every width.

    Raises:
        ValueError: no HammerKernel.
        ImportError: a kernel that is not there, and what is missing. No other one is taken for it.
    """
    if not isinstance(kernel, HammerKernel):
        CHECKS.fail(f"kernel must be a HammerKernel, got {type(kernel).__name__}: {kernel!r}")
    if kernel is HammerKernel.AUTO:
        kernel = _fastest(compiled, like)
    if kernel is HammerKernel.CUDA and not cuda:
        raise ImportError(
            f"generative_recommenders: {op} has no CUDA kernel; use TRITON or PYTORCH"
        )
    if kernel in _MISSING:
        raise ImportError(
            f"generative_recommenders: {op}: {_MISSING[kernel]}; use TRITON or PYTORCH"
        )
    if kernel is HammerKernel.TRITON_CC:
        kernel = _compiled_or_jit(op, compiled, like)
    if kernel is HammerKernel.TRITON and not _HAS_TRITON:
        raise ImportError(f"generative_recommenders: {op}: TRITON needs Triton: pip install triton")
    return kernel


class HammerModule(nn.Module, abc.ABC):
    """A module that knows which kernels it runs.

    Args:
        is_inference: no gradients are needed.
        training_dytpe: [sic, as in Meta's package] the dtype of a training step's activations.
        use_triton_cc: take TRITON_CC in inference.
        hammer_kernel: the kernel, whatever the others say.
    """

    def __init__(
        self,
        is_inference: bool,
        training_dytpe: torch.dtype = torch.float32,
        use_triton_cc: bool = True,
        hammer_kernel: HammerKernel | None = None,
    ) -> None:
        super().__init__()
        self._is_inference = is_inference
        self._training_dtype = training_dytpe
        self._use_triton_cc = use_triton_cc
        self._hammer_kernel = hammer_kernel

    def hammer_kernel(self) -> HammerKernel:
        """The kernel set, else TRITON_CC for inference with ``use_triton_cc``, else TRITON."""
        if self._hammer_kernel is not None:
            return self._hammer_kernel
        if self._is_inference and self._use_triton_cc:
            return HammerKernel.TRITON_CC
        return HammerKernel.TRITON

    @property
    def is_inference(self) -> bool:
        return self._is_inference

    @property
    def is_eval(self) -> bool:
        return not self._is_inference and not self.training

    @property
    def is_train(self) -> bool:
        return not self._is_inference and self.training

    def _set_all(self, name: str, value: Any) -> None:
        for module in self.modules():
            if isinstance(module, HammerModule):
                setattr(module, name, value)

    def set_hammer_kernel(self, hammer_kernel: HammerKernel) -> None:
        """For this module and all inside it, as the three below."""
        self._set_all("_hammer_kernel", hammer_kernel)

    def set_is_inference(self, is_inference: bool) -> None:
        self._set_all("_is_inference", is_inference)

    def set_training_dtype(self, training_dtype: torch.dtype) -> None:
        self._set_all("_training_dtype", training_dtype)

    def set_use_triton_cc(self, use_triton_cc: bool) -> None:
        self._set_all("_use_triton_cc", use_triton_cc)


def switch_to_contiguous_if_needed(x: Tensor) -> Tensor:
    """``x``, copied only where its last stride is not 1."""
    return x if x.stride(-1) == 1 else x.contiguous()


def next_power_of_2(n: int) -> int:
    """The least power of two that is not below ``n``; 1 for n <= 1."""
    return 1 << max(n - 1, 0).bit_length()


def prev_power_of_2(n: int) -> int:
    """``n`` if it is a power of two, else the greatest one below it; ``n`` >= 1."""
    CHECKS.integer(n, "n", 1)
    return 1 << (n.bit_length() - 1)


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def complete_cumsum(lengths: Tensor) -> Tensor:
    """Where sequences of these lengths (batch,) begin, and where the last one ends, int64."""
    sums = lengths.long().cumsum(0)
    return torch.cat([sums.new_zeros(1), sums])


def sequence_of_row(starts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """For each of ``rows`` rows its sequence, and its place in that sequence, int64 (rows,).

    A row behind the last sequence belongs to sequence ``batch``.
    """
    row = torch.arange(rows, device=starts.device)
    sequence = torch.searchsorted(starts[1:].long().contiguous(), row, right=True)
    return sequence, row - starts.long()[sequence]


def take_rows(values: Tensor, index: Tensor, there: Tensor) -> Tensor:
    """``values[index]`` where ``there``, zeros elsewhere; ``values`` may have no rows at all."""
    padded = torch.cat([values, values.new_zeros((1, *values.shape[1:]))])
    flat = torch.where(there, index, values.shape[0]).reshape(-1)
    return padded.index_select(0, flat).reshape(*index.shape, *values.shape[1:])


def jagged_to_padded_dense(
    values: Tensor, offsets: list[Tensor], max_lengths: list[int], padding_value: float = 0.0
) -> Tensor:
    """Rows of sequences as a dense tensor.

    Args:
        values: (rows, ...).
        offsets: one tensor (batch + 1,).
        max_lengths: one number; rows of a sequence beyond it are left out.
        padding_value: what stands where there is no row.

    Returns:
        (batch, max_length, ...).
    """
    (starts,), (length,) = offsets, max_lengths
    place = torch.arange(length, device=values.device)[None]
    starts = starts.long()
    there = place < (starts[1:] - starts[:-1])[:, None]
    dense = take_rows(values, starts[:-1, None] + place, there)
    if padding_value:
        there = there.reshape(*there.shape, *[1] * (values.dim() - 1))
        dense = torch.where(there, dense, padding_value)
    return dense


def dense_to_jagged(
    dense: Tensor,
    x_offsets: list[Tensor],
    total_L: int | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The rows of ``dense`` (batch, length, ...) that the sequences have; zeros for rows beyond
    ``length``. ``total_L`` is the number of rows (None: ``offsets[-1]``, read on the host)."""
    (starts,) = x_offsets
    rows = int(starts[-1]) if total_L is None else total_L
    sequence, place = sequence_of_row(starts, rows)
    batch, length = dense.shape[:2]
    there = (sequence < batch) & (place < length)
    return take_rows(dense.flatten(0, 1), sequence * length + place, there), x_offsets


def fx_unwrap_optional_tensor(optional: Tensor | None) -> Tensor:
    CHECKS.tensor(optional, "optional")
    assert optional is not None
    return optional


def fx_arange(size: int, device: torch.device) -> Tensor:
    return torch.arange(size, device=device)


def fx_infer_max_len(lengths: Tensor) -> int:
    """The greatest length, read on the host; 0 for none."""
    return int(lengths.max()) if lengths.numel() else 0


def fx_mark_length_features(tensor: Tensor) -> Tensor:
    return tensor


def fx_torch_ones(shape: list[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.ones(shape, device=device, dtype=dtype)


def fx_torch_zeros(shape: list[int], device: torch.device) -> Tensor:
    return torch.zeros(shape, device=device)


def generate_sparse_seq_len(
    size: int, max_seq_len: int, sparsity: float, device: torch.device
) -> Tensor:
    """Random lengths (size,), int64, of mean ``sparsity * max_seq_len``.

    0 gives zeros and 1 gives ``max_seq_len``; else lengths are uniform, below ``max_seq_len`` from
    sparsity 0.5 on and from 0 below it.
    """
    if not 0.0 <= sparsity <= 1.0:
        CHECKS.fail(f"sparsity must lie in [0, 1], got {sparsity}")
    if sparsity in (0.0, 1.0):
        return torch.full((size,), int(sparsity) * max_seq_len, device=device)
    low, high = 0, int(2 * sparsity * max_seq_len)
    if sparsity >= 0.5:
        low, high = int((2 * sparsity - 1.0) * max_seq_len), max_seq_len
    return torch.randint(low, max(high, low + 1), (size,), device=device)


def apply_sampling(lengths: Tensor, alpha: float, max_seq_len: int) -> Tensor:
    """Lengths of which those above ``max_seq_len ** (alpha / 2)`` are cut to it, each with the
    probability that stochastic length of the HSTU paper keeps a whole sequence with."""
    limit = int(max_seq_len ** (alpha / 2))
    keep = (limit / lengths.clamp(min=1).double()) ** 2
    cut = (lengths > limit) & (torch.rand(lengths.shape, device=lengths.device) >= keep)
    return torch.where(cut, limit, lengths)


_static_max_seq_lens: list[int] = []
_use_runtime_max_seq_len = False
_dev_mode = False
_verbose_level = 0


def set_static_max_seq_lens(max_seq_lens: list[int]) -> None:
    """The lengths that ``autotune_max_seq_len`` rounds up to."""
    global _static_max_seq_lens
    _static_max_seq_lens = sorted(max_seq_lens)


def set_use_runtime_max_seq_len(use_runtime_max_seq_len: bool) -> None:
    global _use_runtime_max_seq_len
    _use_runtime_max_seq_len = use_runtime_max_seq_len


def autotune_max_seq_len(runtime_max_seq_len: int) -> int:
    """The length that stands for ``runtime_max_seq_len`` where configurations are chosen: the
    power of two below it, or the static length above it, or 1. The kernels here take theirs from
    a table and do not ask."""
    if _use_runtime_max_seq_len:
        return prev_power_of_2(runtime_max_seq_len)
    if not _static_max_seq_lens:
        return 1
    above = [n for n in _static_max_seq_lens if n >= runtime_max_seq_len]
    return above[0] if above else _static_max_seq_lens[-1]


fine_grained_autotune_max_seq_len = autotune_max_seq_len


def triton_autotune(
    configs: list[Any],
    key: list[str],
    prune_configs_by: dict[str, Any] | None = None,
    reset_to_zero: list[str] | None = None,
    restore_value: list[str] | None = None,
    warmup: int = 25,
    rep: int = 100,
) -> Callable[[Any], Any]:
    """``triton.autotune``, for kernels of one's own; those here take their blocks from a table."""
    import triton

    tuner: Callable[[Any], Any] = triton.autotune(
        configs,
        key,
        prune_configs_by=prune_configs_by,
        reset_to_zero=reset_to_zero,
        restore_value=restore_value,
        warmup=warmup,
        rep=rep,
    )
    return tuner


def set_dev_mode(val: bool) -> None:
    global _dev_mode
    _dev_mode = val


def is_dev_mode() -> bool:
    return _dev_mode


def set_verbose_level(level: int) -> None:
    global _verbose_level
    _verbose_level = level


def get_verbose_level() -> int:
    return _verbose_level


def maybe_register_custom_op(
    op_name: str, mutates_args: Sequence[str]
) -> Callable[[Callable[..., _T]], Any]:
    """``torch.library.custom_op(op_name, mutates_args=mutates_args)`` as a decorator."""

    def register(function: Callable[..., _T]) -> Any:
        return torch.library.custom_op(op_name, function, mutates_args=mutates_args)

    return register


gpu_available = torch.cuda.is_available()
nv_gpu_available = gpu_available and torch.version.hip is None
amd_gpu_available = gpu_available and torch.version.hip is not None
tma_available = nv_gpu_available and torch.cuda.get_device_capability()[0] >= 9
blackwell_tlx_available = False
gpu_unavailable = (not gpu_available, "needs a GPU")
nv_gpu_unavailable = (not nv_gpu_available, "needs an NVIDIA GPU")
amd_gpu_unavailable = (not amd_gpu_available, "needs an AMD GPU")
tma_unavailable = (not tma_available, "needs an NVIDIA GPU of compute capability 9.0 or newer")
blackwell_tlx_unavailable = (True, "needs the Triton of Meta with triton.language.extra.tlx")
