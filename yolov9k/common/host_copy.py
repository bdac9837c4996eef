"""From the device to the host, one batch behind: what consumes results works while the next ones are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from yolov9k.common.device import Event, is_cuda, to_host


class AsyncHostCopy:
    """Calls consume(item, *tensors on the host) for what it is given, in order.

    slots: so many may be on their way before the oldest is waited for; what has arrived is consumed whenever something is
    given. By default one on a GPU: batch n is copied to page-locked memory behind its computation, and consumed when n + 1 is
    already asked of the device. On a CPU none: consume is called at once.
    """

    def __init__(self, consume: Callable[..., None], device: torch.device, slots: int | None = None) -> None:
        self._consume = consume
        self._slots = (1 if is_cuda(device) else 0) if slots is None else slots
        self._sent: deque[tuple[Any, Sequence[Tensor], Event | None]] = deque()

    def give(self, item: Any, *tensors: Tensor) -> None:
        """Send tensors of one device, which nothing may write to after, with what they belong to."""
        self._sent.append((item, *to_host(tensors)))
        self._take(self._slots)

    def finish(self) -> None:
        """Consume all that is still on its way."""
        self._take(0)

    def _take(self, left: int) -> None:
        while self._sent:
            item, tensors, event = self._sent[0]
            arrived = event is not None and event.query()  # type: ignore[no-untyped-call]
            if not arrived and len(self._sent) <= left:
                return
            if event is not None:
                event.synchronize()
            self._sent.popleft()
            self._consume(item, *tensors)
