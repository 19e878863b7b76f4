"""How a model prunes its keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mustafar.checks import checks, sparsity

# Of keys and of values. Where only one name is usual it stands for the pair.
PRUNINGS = {
    "Kt_Mag_Vt_Mag": ("Kt_Mag", "Vt_Mag"),
    "Kt_Mag_Vt_Opa": ("Kt_Mag", "Vt_Opa"),
    "Kt_Mag_Vc_Mag": ("Kt_Mag", "Vc_Mag"),
    "Kt_Mag_Vc_Opa": ("Kt_Mag", "Vc_Opa"),
    "Kt_Opa_Vt_Mag": ("Kt_Opa", "Vt_Mag"),
    "ThinK": ("ThinK", ""),
    "ThinV": ("ThinK", "ThinV"),
}


@dataclass(frozen=True)
class MustafarConfig:
    """What the configuration of a model says about its cache.

    >>> MustafarConfig("ThinK", k_sparsity=0.5).pruners
    ('ThinK', '')

    Args:
        pruning: which pruners (``mustafar.prune``), of keys and of values: Kt_Mag_Vt_Mag,
            Kt_Mag_Vt_Opa, Kt_Mag_Vc_Mag, Kt_Mag_Vc_Opa, Kt_Opa_Vt_Mag, ThinK (of keys alone), ThinV
            (of both).
        k_sparsity, v_sparsity: from 0 to 0.95.
        group_size: tokens of a group of the pruners that compare tokens or watch queries.
        residual_length: the newest tokens, which stay dense; None: group_size.
        compressed: whether the cache is a packed one. Only Kt_Mag_Vt_Mag has such a layout, by
            default; the others are dense tensors with zeros, whose memory is that of dense ones.

    Raises:
        ValueError: an argument that is not allowed; its name, value and what is.
    """

    pruning: str = "Kt_Mag_Vt_Mag"
    k_sparsity: float = 0.7
    v_sparsity: float = 0.7
    group_size: int = 32
    residual_length: int | None = None
    compressed: bool | None = None

    def __post_init__(self) -> None:
        if self.pruning not in PRUNINGS:
            checks.fail(f"pruning must be one of {', '.join(PRUNINGS)}, got {self.pruning!r}")
        sparsity(self.k_sparsity, "k_sparsity")
        sparsity(self.v_sparsity, "v_sparsity")
        checks.integer(self.group_size, "group_size", 1)
        if self.residual_length is not None:
            checks.integer(self.residual_length, "residual_length", 0)
        possible = self.pruning == "Kt_Mag_Vt_Mag"
        if self.compressed is None:
            object.__setattr__(self, "compressed", possible)
        elif self.compressed and not possible:
            checks.fail(f"compressed must be False with pruning = {self.pruning!r}, got True")

    @property
    def pruners(self) -> tuple[str, str]:
        """Of keys and of values; "" for none."""
        return PRUNINGS[self.pruning]

    @property
    def window(self) -> int:
        """The newest tokens, which stay dense."""
        return self.group_size if self.residual_length is None else self.residual_length

    def on(self, config: Any) -> Any:
        """The configuration of a model with these attributes; it is changed, and returned."""
        for name in self.__dataclass_fields__:
            setattr(config, name, getattr(self, name))
        return config

    @classmethod
    def of(cls, config: Any) -> MustafarConfig:
        """What the attributes of a model's configuration say; others have their defaults."""
        names = (n for n in cls.__dataclass_fields__ if hasattr(config, n))
        return cls(**{name: getattr(config, name) for name in names})
