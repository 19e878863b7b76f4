"""The occurrences of a batch in the order of their rows, which the backward goes through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynamicemb.ops import ops


class Sorted:
    """On a GPU they are sorted on a stream of their own, beside what finds and reads the rows.

    Args:
        inverse: the row of each occurrence.
        stream: where; None: on the current stream, when somebody asks.
    """

    def __init__(self, inverse: Tensor, stream: Any) -> None:
        self._inverse, self._event = inverse, None
        self._sorted: tuple[Tensor, Tensor] | None = None
        if stream is None:
            return
        stream.wait_stream(torch.cuda.current_stream(inverse.device))
        with torch.cuda.stream(stream):
            self._sorted = ops.sort_rows(inverse)
            self._event = stream.record_event()

    def join(self, reader: Any = None) -> None:
        """What comes on the current stream from now on comes after the sorting. ``reader``: the
        stream that alone reads the order, and waits for the current one by itself."""
        if self._sorted is None or self._event is None:
            return
        current = torch.cuda.current_stream(self._inverse.device)
        current.wait_event(self._event)
        for tensor in self._sorted:
            tensor.record_stream(current if reader is None else reader)
        if reader is not None:
            self._event = None

    def read(self) -> tuple[Tensor, Tensor]:
        """Rows, ascending, and the occurrences."""
        if self._sorted is None:
            self._sorted = ops.sort_rows(self._inverse)
        return self._sorted
