"""The task-aligned assigner: compiled against reference and, where installed, Ultralytics' own; 640 pixels, 80 classes.

The last case is the published hard one, 128 images with 4,967 boxes between them, for which 0.376 s and 1.56 GB are the best
reported figures.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.support import assign_case
from yolov9k.ops import available, task_aligned_assign

CLASSES = 80
MOST_REFERENCE = {"cpu": 2**24, "cuda": 2**27}  # boxes x anchors x images past which it takes gigabytes and many seconds
CASES = [(images, boxes) for images in (1, 16, 128) for boxes in (0, 20, 100, 5000)]


def random_case(images: int, boxes: int, device: str) -> tuple[Tensor, ...]:
    """Random images of `boxes` real boxes each."""
    scores, predicted, anchors, labels, gt_boxes, mask = assign_case(0, images, boxes, 640, CLASSES)
    return tuple(part.to(device) for part in (scores, predicted, anchors, labels, gt_boxes, torch.ones_like(mask)))


def least_bytes(images: int, boxes: int, anchors: int = 8400) -> int:
    """What must be read and written once: predicted boxes, anchors, ground truth, and index and weight of every anchor."""
    return images * (anchors * (16 + 8 + 4) + boxes * 25) + anchors * 8


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(("images", "boxes"), CASES)
def bench_assigner(measure: Callable[..., None], device: str, backend: str, images: int, boxes: int) -> None:
    """One branch's assignment."""
    if backend == "native" and device not in available("task_aligned_assign"):
        pytest.skip(f"no compiled kernels for {device}")
    if backend == "reference" and images * boxes * 8400 > MOST_REFERENCE[device]:
        pytest.skip("the reference's tensors of boxes x anchors would take gigabytes")
    if device == "cpu" and images * boxes > 5000:
        pytest.skip("many seconds on a CPU")
    case = random_case(images, boxes, device)
    chosen = device if backend == "native" else backend
    rounds = 20 if backend == "native" or images * boxes <= 320 else 3
    measure(lambda: task_aligned_assign(*case, backend=chosen), device, least_bytes(images, boxes), rounds)


def hard_case(device: str) -> tuple[Tensor, ...]:
    """128 images, 4,967 boxes between them, unevenly: from 1 to 200 an image, padded to the most."""
    counts = torch.full((128,), 1)
    generator = torch.Generator().manual_seed(1)
    share = torch.rand(128, generator=generator) ** 3
    counts += (share / share.sum() * (4967 - 128)).long().clamp(max=199)
    counts[: 4967 - int(counts.sum())] += 1
    case = random_case(128, int(counts.max()), device)
    real = torch.arange(int(counts.max())) < counts[:, None]
    assert int(real.sum()) == 4967
    return (*case[:5], real.to(device))


@pytest.mark.parametrize("backend", ["native", "reference"])
def bench_assigner_hard_case(measure: Callable[..., None], device: str, backend: str) -> None:
    """The published hard case."""
    if backend == "native" and device not in available("task_aligned_assign"):
        pytest.skip(f"no compiled kernels for {device}")
    if backend == "reference" and device == "cpu":
        pytest.skip("tens of gigabytes")
    case = hard_case(device)
    chosen = device if backend == "native" else backend
    measure(lambda: task_aligned_assign(*case, backend=chosen), device, least_bytes(128, 39), 10)


@pytest.mark.parametrize(("images", "boxes"), [(16, 20), (16, 100)])
def bench_assigner_ultralytics(measure: Callable[..., None], device: str, images: int, boxes: int) -> None:
    """The baseline's assigner as its package ships it."""
    tal = pytest.importorskip("ultralytics.utils.tal", reason="ultralytics is not installed")
    scores, predicted, anchors, labels, gt_boxes, mask = random_case(images, boxes, device)
    baseline = tal.TaskAlignedAssigner(topk=10, num_classes=CLASSES, alpha=0.5, beta=6.0)
    arguments = (scores, predicted, anchors, labels[..., None], gt_boxes, mask[..., None])
    measure(lambda: baseline(*arguments), device, least_bytes(images, boxes))
