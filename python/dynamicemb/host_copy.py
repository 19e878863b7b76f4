"""Numbers of the device on their way to the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def leaving(given: Tensor) -> tuple[Tensor, Any]:
    """A copy on the host, and the event after which it is there."""
    there = torch.empty(given.shape, dtype=given.dtype, pin_memory=True)
    there.copy_(given, non_blocking=True)
    made: Any = torch.cuda.Event
    event = made()
    event.record()
    return there, event


class Numbers:
    """Those of a tensor, asked for now and read later, without waiting for what came between."""

    _event: Any

    def __init__(self, given: Tensor) -> None:
        self._there, self._event = given, None
        self._read: Any = None
        if given.device.type != "cpu":
            self._there, self._event = leaving(given)

    def read(self) -> Any:
        if self._read is None:
            if self._event is not None:
                self._event.synchronize()
            self._read = self._there.tolist()
        return self._read
