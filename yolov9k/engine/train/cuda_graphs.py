"""The training step as CUDA graphs: all that it launches is recorded once and replayed, with no host in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from yolov9k.common.device import Recording

WARM_UP = 2  # steps of a shape that are run before one is recorded: libraries choose their kernels, Triton compiles
MOST_GRAPHS = 64  # further shapes and kinds of step run eagerly
FIRST_CAPACITY = 32  # targets of an image
Run = Callable[[Tensor, Tensor, Tensor], Tensor]


class Graphs:
    """Records steps and replays them.

    A step is known by its kind and the shape and dtype of its images; targets are padded to a capacity that doubles when it
    is outgrown, which makes every recording void. Steps that are not recorded yet are run, so that none is done twice or
    left out. `log` is told of each recording. Raises NotRecorded.
    """

    def __init__(self, recorder: Any, log: Callable[[str], object]) -> None:
        self.recorder, self.log = recorder, log
        self.capacity = 0
        self._inputs: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}  # by shape and dtype of the images
        self._recordings: dict[Any, Recording] = {}
        self._seen: dict[Any, int] = {}

    def __call__(self, kind: str, run: Run, images: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
        """Do the step `run` on a batch: returns its result, a tensor of the caller's own."""
        self._make_room(targets.shape[1])
        shape = (tuple(images.shape), images.dtype)
        key = (kind, *shape)
        if key not in self._recordings and len(self._recordings) >= MOST_GRAPHS:
            return self.recorder.run(lambda: run(images, targets, counts))  # type: ignore[no-any-return]
        inputs = self._static(shape, images, targets, counts)
        _fill(inputs, images, targets, counts)
        if key not in self._recordings:
            if self._warming_up(key):  # on what will be recorded: another number of targets may be another compiled kernel
                return self.recorder.run(lambda: run(*inputs))  # type: ignore[no-any-return]
            self.log(f"recording the training step: {kind}, images {list(images.shape)}, {self.capacity} targets an image")
            self._recordings[key] = self.recorder.record(lambda: run(*inputs))
        recording = self._recordings[key]
        recording.replay()
        return recording.result.clone()

    def _warming_up(self, key: Any) -> bool:
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key] <= WARM_UP

    def _make_room(self, targets: int) -> None:
        if targets <= self.capacity:
            return
        before, self.capacity = self.capacity, capacity(targets)
        if before:
            self.log(
                f"an image has {targets} targets: room for {self.capacity} in place of {before}; the step is recorded anew"
            )
        self._recordings.clear()
        self._inputs.clear()

    def _static(self, shape: Any, images: Tensor, targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if shape not in self._inputs:
            room = targets.new_zeros(len(targets), self.capacity, targets.shape[2])
            self._inputs[shape] = (torch.empty_like(images), room, torch.zeros_like(counts))
        return self._inputs[shape]


def capacity(targets: int) -> int:
    """Room for so many targets, a power of two: few sizes, so that few shapes are recorded or compiled."""
    return max(FIRST_CAPACITY, 1 << max(targets - 1, 0).bit_length())


def _fill(inputs: tuple[Tensor, Tensor, Tensor], images: Tensor, targets: Tensor, counts: Tensor) -> None:
    """Bring a batch into the tensors that the recording reads; targets past the batch's own stay, counts leaves them out."""
    inputs[0].copy_(images)
    inputs[1][:, : targets.shape[1]].copy_(targets)
    inputs[2].copy_(counts)
