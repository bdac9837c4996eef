"""Batched suppression: compiled against reference and, where installed, torchvision's operator an image; 80 classes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from yolov9k.ops import available, batched_nms
from yolov9k.ops.reference.batched_nms import candidates

ANCHORS, CLASSES = 8400, 80
# Powers of uniform scores: of 672,000 an image some 300, 30,000 and 100,000 lie above the threshold.
KINDS = {"predict": (0.25, 0.45, 3000.0), "validation": (0.001, 0.7, 150.0), "untrained": (0.001, 0.7, 40.0)}


def prediction(images: int, power: float, device: str) -> Tensor:
    """A head's decoded output [images, 84, 8400]: boxes that overlap in clusters, scores of `power`."""
    generator = torch.Generator().manual_seed(0)
    cluster = torch.rand(images, 2, 1 + ANCHORS // 20, generator=generator) * 640
    centers = cluster.repeat_interleave(20, 2)[..., :ANCHORS] + torch.randn(images, 2, ANCHORS, generator=generator) * 6
    sides = 20 + torch.rand(images, 2, ANCHORS, generator=generator) * 100
    scores = torch.rand(images, CLASSES, ANCHORS, generator=generator) ** power
    return torch.cat((centers, sides, scores), 1).to(device)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("images", [1, 16, 128])
@pytest.mark.parametrize("kind", KINDS)
def bench_nms(measure: Callable[..., None], device: str, backend: str, kind: str, images: int) -> None:
    """From decoded output to padded detections."""
    if backend == "native" and device not in available("batched_nms"):
        pytest.skip(f"no compiled kernels for {device}")
    if images == 128 and (device == "cpu" or backend == "reference"):
        pytest.skip("many seconds")
    conf, iou, power = KINDS[kind]
    scores = prediction(images, power, device)
    chosen = device if backend == "native" else backend
    rounds = 20 if backend == "native" or images == 1 else 5

    def run() -> object:
        return batched_nms(scores, conf, iou, multi_label=kind != "predict", backend=chosen)

    measure(run, device, scores.numel() * scores.element_size(), rounds)


@pytest.mark.parametrize("kind", KINDS)
def bench_nms_torchvision(measure: Callable[..., None], device: str, kind: str) -> None:
    """16 images, one call of torchvision.ops.batched_nms each, after the same selection of candidates."""
    vision = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    conf, iou, power = KINDS[kind]
    scores = prediction(16, power, device)

    def run() -> None:
        for image in scores:
            boxes, best, labels = candidates(image, conf, None, kind != "predict")
            vision.batched_nms(boxes, best, labels, iou)[:300]

    measure(run, device, scores.numel() * scores.element_size(), 5)


@pytest.mark.parametrize("kind", ["validation"])
def bench_nms_graph(measure: Callable[..., None], device: str, kind: str) -> None:
    """16 images, replayed from a CUDA graph."""
    if device != "cuda" or "cuda" not in available("batched_nms"):
        pytest.skip("a CUDA graph needs the CUDA kernels and a device")
    conf, iou, power = KINDS[kind]
    scores = prediction(16, power, device)
    batched_nms(scores, conf, iou, multi_label=True)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batched_nms(scores, conf, iou, multi_label=True)
    measure(graph.replay, device, scores.numel() * scores.element_size())
