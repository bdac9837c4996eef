"""Batches on the device, the next one copied while a step runs."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from yolov9k.common.device import Event, current_stream, is_cpu, is_cuda, new_stream, on_stream
from yolov9k.data.batch import Batch
from yolov9k.data.loader import Loader


def prefetch(loader: Loader, device: torch.device, dtype: torch.dtype | None = None) -> Iterator[Batch]:
    """The loader's batches on `device`.

    A GPU fetches them from page-locked memory on a stream of its own, a batch ahead, and augments them there where the
    loader's workers leave that to it: images come channels-last, in `dtype` (0..1) or, without one, as uint8.
    """
    if not is_cuda(device):
        yield from loader if is_cpu(device) else (batch.to(device) for batch in loader)
        return
    stream = new_stream(device)
    given = loader if loader.device is None else loader.raw()
    waiting = None
    for batch in given:
        with on_stream(stream):
            moved = batch.to(device)
            ready = moved if isinstance(moved, Batch) else moved.augment(dtype or torch.uint8, channels_last=True)
            event = stream.record_event()
        if waiting is not None:
            yield _arrived(*waiting, device)
        waiting = (ready, event)
    if waiting is not None:
        yield _arrived(*waiting, device)


def _arrived(batch: Batch, event: Event, device: torch.device) -> Batch:
    """Make the device's own stream, not the host, wait for a batch."""
    current = current_stream(device)
    current.wait_event(event)
    batch.record_stream(current)
    return batch
