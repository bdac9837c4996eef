"""Figures that come from the device when they are there, and not before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class Readings:
    """Small tensors on their way to the host, in order, each with what it belongs to. Sending one never waits."""

    def __init__(self) -> None:
        self._sent: deque[tuple[Tensor, torch.cuda.Event | None, Any]] = deque()

    def send(self, tensor: Tensor, belongs_to: Any = None) -> None:
        """Send a tensor's present values; it may change at once after."""
        if tensor.is_cuda:
            landing = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            landing.copy_(tensor, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(tensor.device))
            self._sent.append((landing, event, belongs_to))
        else:
            self._sent.append((tensor.clone(), None, belongs_to))

    def arrived(self, wait: bool = False) -> Iterator[tuple[Tensor, Any]]:
        """What has arrived since the last call, oldest first; with `wait` all that was sent."""
        while self._sent:
            landing, event, belongs_to = self._sent[0]
            if event is not None and not event.query():  # type: ignore[no-untyped-call]
                if not wait:
                    return
                event.synchronize()
            self._sent.popleft()
            yield landing, belongs_to
