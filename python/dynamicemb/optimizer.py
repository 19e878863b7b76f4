"""The optimizers that update rows, and how a row is laid out for each.

State stands beside the weights of its row, in float32 (float64 beside float64 weights) whatever the
weights are, and a row counts its own updates: a key that comes late starts with Adam's first step.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicemb.arguments import checks
from dynamicemb.initializer import double_bits, init_words, table_seed
from dynamicemb.types import DynamicEmbInitializerArgs, enum_of

WEIGHT_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
MOST_DIM = 1024


class EmbOptimType(enum.Enum):
    """FBGEMM's names are accepted wherever one of these is, and so are its members."""

    SGD = "sgd"
    EXACT_SGD = "exact_sgd"
    ADAM = "adam"
    EXACT_ADAGRAD = "exact_adagrad"
    EXACT_ROWWISE_ADAGRAD = "exact_row_wise_adagrad"
    FTRL = "ftrl"


class _Kind(NamedTuple):
    code: int
    states: int  # arrays
    whole: bool  # each as long as the row
    counts: bool  # updates of a row


_KINDS = {
    EmbOptimType.SGD: _Kind(0, 0, True, False),
    EmbOptimType.EXACT_SGD: _Kind(0, 0, True, False),
    EmbOptimType.ADAM: _Kind(1, 2, True, True),
    EmbOptimType.EXACT_ADAGRAD: _Kind(2, 1, True, False),
    EmbOptimType.EXACT_ROWWISE_ADAGRAD: _Kind(3, 1, False, False),
    EmbOptimType.FTRL: _Kind(4, 2, True, False),
}
DECAYS = {"NONE": 0, "L2": 1, "DECOUPLE": 2}


@dataclass
class OptimizerArgs:
    """Numbers of the optimizers. Those that another optimizer has are refused unless default."""

    learning_rate: float = 0.01
    eps: float = 1e-8
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    weight_decay_mode: str = "NONE"
    initial_accumulator_value: float = 0.0
    max_norm: float = 0.0
    gradient_clipping: bool = False
    max_gradient: float = 1.0
    stochastic_rounding: bool = True
    learning_rate_power: float = -0.5
    ftrl_beta: float = 0.0
    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        _check(self)


def _check(args: OptimizerArgs) -> None:
    for name, least in (
        ("learning_rate", 0.0),
        ("eps", 0.0),
        ("weight_decay", 0.0),
        ("initial_accumulator_value", 0.0),
        ("max_norm", 0.0),
        ("max_gradient", 0.0),
        ("ftrl_beta", 0.0),
        ("l1", 0.0),
        ("l2", 0.0),
    ):
        checks.number(value := getattr(args, name), name)
        if not value >= least:
            raise ValueError(f"dynamicemb: {name} must be a number >= {least:g}, got {value!r}")
    for name in ("beta1", "beta2", "learning_rate_power"):
        checks.number(getattr(args, name), name)
    for name in ("gradient_clipping", "stochastic_rounding"):
        checks.boolean(getattr(args, name), name)
    mode = str(getattr(args.weight_decay_mode, "name", args.weight_decay_mode)).upper()
    if mode not in DECAYS:
        raise ValueError(
            f"dynamicemb: weight_decay_mode must be one of {', '.join(DECAYS)}, got "
            f"{args.weight_decay_mode!r}"
        )
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(args, name) < 1:
            raise ValueError(f"dynamicemb: {name} must be in [0, 1), got {getattr(args, name)!r}")
    if not args.learning_rate_power <= 0:
        raise ValueError(
            f"dynamicemb: learning_rate_power must be <= 0, got {args.learning_rate_power!r}"
        )


def padded(bytes_: int, to: int = 16) -> int:
    return -(-bytes_ // to) * to


class RowLayout(NamedTuple):
    """Where the parts of a row lie; bytes."""

    dim: int
    row_bytes: int
    state_offset: int
    states: int
    state_len: int
    step_offset: int
    stamp_offset: int
    state_dim: int  # values of each array without its padding


def row_layout(
    dim: int, dtype: torch.dtype, optimizer: EmbOptimType | None, stamped: bool = False
) -> RowLayout:
    """A row of a table; no optimizer: weights alone."""
    if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= MOST_DIM:
        raise ValueError(f"dynamicemb: dim must be an int from 1 to {MOST_DIM}, got {dim!r}")
    if dtype not in WEIGHT_DTYPES:
        allowed = ", ".join(map(str, WEIGHT_DTYPES))
        raise ValueError(f"dynamicemb: embedding_dtype must be one of {allowed}, got {dtype}")
    kind = _KINDS[optimizer] if optimizer is not None else _Kind(0, 0, True, False)
    size = torch.finfo(dtype).bits // 8
    state_offset = padded(dim * size, max(16, 4 * size))  # whole groups of four values
    state_len = padded(dim, 4) if kind.whole else 4
    end = state_offset + kind.states * state_len * (8 if dtype == torch.float64 else 4)
    step_offset = end if kind.counts else -1
    end += 8 if kind.counts else 0
    stamp_offset = end if stamped else -1
    end += 8 if stamped else 0
    # From 256 bytes on a row begins on a sector of the GPU's memory.
    row_bytes = padded(end, 32 if end >= 256 else 16)
    state_dim = dim if kind.whole else 1
    return RowLayout(
        dim, row_bytes, state_offset, kind.states, state_len, step_offset, stamp_offset, state_dim
    )


class RowOptimizer:
    """An optimizer's kind and numbers; the numbers also lie on the device, for the kernels."""

    def __init__(self, optimizer: object, args: OptimizerArgs, device: torch.device) -> None:
        self.type: EmbOptimType = enum_of(EmbOptimType, optimizer, "optimizer")
        mode = str(getattr(args.weight_decay_mode, "name", args.weight_decay_mode)).upper()
        self.args = args
        self.kind = _KINDS[self.type]
        # FBGEMM's Adam decays decoupled when it is told no mode.
        self.decay = 2 if mode == "NONE" and self.type is EmbOptimType.ADAM else DECAYS[mode]
        if args.weight_decay == 0 or (mode == "NONE" and self.type is not EmbOptimType.ADAM):
            self.decay = 0
        self.hyper = torch.empty(11, dtype=torch.float64, device=device)
        self.upload()

    def upload(self) -> None:
        a = self.args
        values = [a.learning_rate, a.eps, a.beta1, a.beta2, a.weight_decay]
        values += [a.l1, a.l2, a.ftrl_beta, a.learning_rate_power, a.max_norm]
        values += [a.max_gradient if a.gradient_clipping else 0.0]
        self.hyper.copy_(torch.tensor(values, dtype=torch.float64))

    def set_learning_rate(self, rate: float) -> None:
        if not isinstance(rate, (int, float)) or isinstance(rate, bool) or not rate >= 0:
            raise ValueError(f"dynamicemb: learning_rate must be a number >= 0, got {rate!r}")
        self.args.learning_rate = float(rate)
        self.upload()

    def schema(self) -> tuple[Tensor, int, int, bool]:
        """What the ops take of an optimizer, in their order."""
        return self.hyper, self.kind.code, self.decay, self.args.stochastic_rounding

    def initial_state(self) -> tuple[float, float]:
        start = float(self.args.initial_accumulator_value)
        if self.type is EmbOptimType.ADAM:
            return 0.0, 0.0
        if self.type is EmbOptimType.FTRL:
            return 0.0, start
        return start, 0.0

    def as_dict(self) -> dict[str, Any]:
        return {"opt_type": self.type.name} | {
            field.name: getattr(self.args, field.name) for field in fields(self.args)
        }


def info_words(
    layout: RowLayout,
    table: str,
    seed: int,
    initializer: DynamicEmbInitializerArgs,
    initial_state: tuple[float, float],
    eval_value: float,
) -> list[int]:
    """``RowInfo`` of csrc/dynamicemb/dynamicemb.h, word by word."""
    words = [layout.dim, layout.row_bytes, layout.state_offset, layout.states, layout.state_len]
    words += [layout.step_offset, layout.stamp_offset, table_seed(seed, table)]
    words += init_words(initializer)
    return words + [double_bits(value) for value in (*initial_state, eval_value)]
