"""Time of the parts of validation and prediction, measured without waiting for the device."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from yolov9k.common.device import Event, is_cuda, record_event


@dataclass(frozen=True)
class Speed:
    """Milliseconds an image.

    preprocess: transfer and scaling, in prediction letterboxing too; inference: the network; postprocess: decode, NMS, the
    way to the host, mapping to the original image. Reading and decoding files is nowhere in it. On a GPU what the host
    does while the device is busy costs nothing, and counts as nothing.
    """

    preprocess: float = 0.0
    inference: float = 0.0
    postprocess: float = 0.0

    @property
    def total(self) -> float:
        return self.preprocess + self.inference + self.postprocess

    def since(self, before: Speed, images: int) -> dict[str, float]:
        """What was added to `before` up to here, by field and for each of so many images."""
        return {name: (value - getattr(before, name)) / images for name, value in vars(self).items()}

    def __str__(self) -> str:
        parts = f"{self.preprocess:.1f} preprocess, {self.inference:.1f} inference, {self.postprocess:.1f} postprocess"
        return f"{parts} ms an image"


class Clock:
    """Adds up what each phase took, without waiting.

    On a CPU by its clock. On a GPU between two events in the stream: the time from when the device came to the phase until
    it was through with it, so work of the host counts as far as the device had to wait for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._open: deque[tuple[str, Event, Event]] = deque()  # phases the device is not through with

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what is done inside to `name`, a field of Speed."""
        if is_cuda(self._device):
            start = record_event(self._device, timing=True)
            yield
            self._open.append((name, start, record_event(self._device, timing=True)))
            while self._open and self._open[0][2].query():  # type: ignore[no-untyped-call]
                self._close()
        else:
            began = time.perf_counter()
            yield
            self._add(name, time.perf_counter() - began)

    def _close(self) -> None:
        name, start, end = self._open.popleft()
        self._add(name, start.elapsed_time(end) / 1000)

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def speed(self, images: int) -> Speed:
        """Means over the number of images; waits until the device is through with all phases."""
        while self._open:
            self._open[0][2].synchronize()
            self._close()
        return Speed(**{name: 1000 * seconds / max(images, 1) for name, seconds in self._seconds.items()})
