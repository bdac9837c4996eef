"""Batches on the device, the next one on its way while a step runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from yolov9k.data.loader import Batch


def feed(batches: Iterable[Batch], device: torch.device) -> Iterator[tuple[Batch, Batch]]:
    """Each batch and its copy on `device`, which a GPU fetches from page-locked memory on a stream of its own."""
    if device.type != "cuda":
        yield from ((batch, batch.to(device)) for batch in batches)
        return
    stream, waiting = torch.cuda.Stream(device), None  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(stream):
            moved = batch.to(device)
            event = stream.record_event()
        if waiting is not None:
            yield _arrived(*waiting, device)
        waiting = (batch, moved, event)
    if waiting is not None:
        yield _arrived(*waiting, device)


def _arrived(batch: Batch, moved: Batch, event: torch.cuda.Event, device: torch.device) -> tuple[Batch, Batch]:
    """Make the device's own stream, not the host, wait for a copy."""
    current = torch.cuda.current_stream(device)
    current.wait_event(event)
    for tensor in (moved.images, moved.boxes, moved.counts, moved.scale, moved.pad):
        tensor.record_stream(current)
    return batch, moved
