"""The training step as CUDA graphs: all that it launches is recorded once and replayed, with no host in between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

WARM_UP = 2  # steps of a shape that are run before one is recorded: libraries choose their kernels, Triton compiles
MOST_GRAPHS = 64  # shapes and kinds beyond it are run as they come
FIRST_CAPACITY = 32  # boxes of an image
Run = Callable[[Tensor, Tensor, Tensor], Tensor]


class NotRecorded(Exception):
    """A step that asks the host for something cannot be recorded; nothing of it was done."""


class Recording(NamedTuple):
    """A step that can be repeated: `replay` does it again on whatever its inputs hold by then, and renews `result`."""

    replay: Callable[[], Any]
    result: Tensor


class Graphs:
    """Records steps and replays them.

    A step is known by its kind and the shape and dtype of its images; boxes are padded to a capacity that doubles when it
    is outgrown, which makes every recording void. Steps that are not recorded yet are run, so that none is done twice or
    left out. `log` is told of each recording. Raises NotRecorded.
    """

    def __init__(self, recorder: Any, log: Callable[[str], object]) -> None:
        self.recorder, self.log = recorder, log
        self.capacity = 0
        self._inputs: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}  # by shape and dtype of the images
        self._recordings: dict[Any, Recording] = {}
        self._seen: dict[Any, int] = {}

    def __call__(self, kind: str, run: Run, images: Tensor, boxes: Tensor, counts: Tensor) -> Tensor:
        """Do the step `run` on a batch: returns its result, a tensor of the caller's own."""
        self._make_room(boxes.shape[1])
        shape = (tuple(images.shape), images.dtype)
        key = (kind, *shape)
        if key not in self._recordings and len(self._recordings) >= MOST_GRAPHS:
            return self.recorder.run(lambda: run(images, boxes, counts))  # type: ignore[no-any-return]
        inputs = self._static(shape, images, boxes, counts)
        _fill(inputs, images, boxes, counts)
        if key not in self._recordings:
            if self._warming_up(key):  # on what will be recorded: another number of boxes may be another compiled kernel
                return self.recorder.run(lambda: run(*inputs))  # type: ignore[no-any-return]
            self.log(f"recording the training step: {kind}, images {list(images.shape)}, {self.capacity} boxes an image")
            self._recordings[key] = self.recorder.record(lambda: run(*inputs))
        recording = self._recordings[key]
        recording.replay()
        return recording.result.clone()

    def _warming_up(self, key: Any) -> bool:
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key] <= WARM_UP

    def _make_room(self, boxes: int) -> None:
        if boxes <= self.capacity:
            return
        before, self.capacity = self.capacity, capacity(boxes)
        if before:
            self.log(f"an image has {boxes} boxes: room for {self.capacity} in place of {before}; the step is recorded anew")
        self._recordings.clear()
        self._inputs.clear()

    def _static(self, shape: Any, images: Tensor, boxes: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if shape not in self._inputs:
            room = boxes.new_zeros(len(boxes), self.capacity, 5)
            self._inputs[shape] = (torch.empty_like(images), room, torch.zeros_like(counts))
        return self._inputs[shape]


def capacity(boxes: int) -> int:
    """Room for so many boxes, a power of two: few sizes, so that few shapes are recorded or compiled."""
    return max(FIRST_CAPACITY, 1 << max(boxes - 1, 0).bit_length())


def _fill(inputs: tuple[Tensor, Tensor, Tensor], images: Tensor, boxes: Tensor, counts: Tensor) -> None:
    """Bring a batch into the tensors that the recording reads; boxes past the batch's own stay, counts leaves them out."""
    inputs[0].copy_(images)
    inputs[1][:, : boxes.shape[1]].copy_(boxes)
    inputs[2].copy_(counts)


class CudaRecorder:
    """Records CUDA graphs on a stream of its own, in one pool of memory: they are replayed one at a time."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool: Any = None

    def run(self, step: Callable[[], Tensor]) -> Tensor:
        """Run a step as it is, where it would be recorded: the memory and the workspaces of libraries belong to a stream."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = step()
        current.wait_stream(self.stream)
        result.record_stream(current)
        return result

    def record(self, step: Callable[[], Tensor]) -> Recording:
        """Record what a step launches, without doing it. Raises NotRecorded, and OutOfMemoryError as it comes."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.stream.device)
        pool = self.pool or torch.cuda.graph_pool_handle()
        try:  # other threads, which pin batches, may go on calling CUDA meanwhile
            with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"):
                result = step()
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of a broken capture raises too
            self._abandon(pool, current)
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            raise NotRecorded(" ".join(str(cause).split())) from error
        self.pool = pool
        return Recording(graph.replay, result)

    def _abandon(self, pool: Any, current: torch.cuda.Stream) -> None:
        """Undo what torch leaves behind where a capture does not end well: its stream, its pool of memory, its generator."""
        index = self.stream.device_index
        with contextlib.suppress(RuntimeError):  # which says that it had ended
            torch._C._cuda_endAllocateToPool(index, pool)
            torch._C._cuda_releasePool(index, pool)
        with contextlib.suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=self.stream):
            torch.zeros(1, device=self.stream.device)  # one that ends well tells the random generator so
        torch.cuda.set_stream(current)
