"""The boxes that go with an augmented batch, on a device. Bytes are those that must move: outlines read, rows written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from bench.augment_cases import skip_absent, tensors_on, views
from tests.augment_cases import BoxesCase
from yolov9k.ops import augment_boxes

OBJECTS, POINTS = 28, 24  # of a mosaic of four images of COCO, and of an outline


def outlines(images: int, size: int) -> BoxesCase:
    """Objects all over a canvas of twice the size, each of as many points."""
    rng = np.random.default_rng(0)
    count = images * OBJECTS
    points = rng.uniform(0, 2 * size, (count, 1, 2)) + rng.uniform(0, size / 4, (count, POINTS, 2))
    firsts = torch.arange(images) * OBJECTS
    ranges = torch.stack((firsts, firsts + OBJECTS, firsts + OBJECTS, firsts + OBJECTS), 1).reshape(images, 2, 2)
    return BoxesCase(
        torch.from_numpy(points).reshape(-1, 2).float(), torch.arange(1, count + 1) * POINTS, torch.arange(count) % 80,
        torch.full((count,), 0.1), ranges, torch.from_numpy(np.linalg.inv(views(images, size, rng))).float(), (size, size),
    )  # fmt: skip


def bench_augment_boxes(measure: Callable[..., None], device: str) -> None:
    """Sixteen samples of outlines: a launch and its latency, no bandwidth."""
    skip_absent("augment_boxes", device)
    case = outlines(16, 640)
    tensors = tensors_on(case, device)
    moved = case.points.numel() * 4 + len(case.ends) * (8 + 8 + 4) + 16 * 64 * 5 * 4
    measure(lambda: augment_boxes(*tensors, case.size, 64, backend="triton"), device, moved)
