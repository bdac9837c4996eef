"""Maps, boxes and a loss of two classes, small enough to be followed by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.tolerances import CLASS_GRADIENT
from yolov9k.losses import DetectionLoss
from yolov9k.losses.detection import pad_targets
from yolov9k.ops import detection_loss

BINS = 4
CLASSES = 2
STRIDES = (8, 16)
Branch = list[Tensor]


def branch(seed: int, batch: int = 2, classes: int = CLASSES, side: int = 4, dtype: torch.dtype = torch.float64) -> Branch:
    """Raw maps of two levels of an image of 8 * side pixels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 4 * BINS + classes)
    return [torch.randn(*shape, n, n, generator=generator, dtype=torch.float64).to(dtype) for n in (side, side // 2)]


def loss(**changes: Any) -> DetectionLoss:
    return DetectionLoss(CLASSES, STRIDES, BINS, **changes)


ROWS = torch.tensor(
    [[0, 1, 0.4, 0.5, 0.6, 0.7], [1, 0, 0.6, 0.4, 0.5, 0.5], [0, 0, 0.7, 0.6, 0.5, 0.6]], dtype=torch.float64
)  # image, class, cx, cy, w, h


def operands(rows: Tensor = ROWS, batch: int = 2, side: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, boxes in pixels and counts, as the operator takes them."""
    padded, counts = pad_targets(rows, batch)
    labels, pixels = DetectionLoss._to_pixels(padded, 8 * side, 8 * side)
    return labels, pixels, counts


LEVELS = [8, 16, 32]


def sample(
    seed: int,
    batch: int,
    boxes: int,
    classes: int,
    bins: int,
    side: int,
    last: bool,
    dtype: torch.dtype,
    device: str = "cpu",
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Raw maps of three levels, labels, boxes in pixels, counts."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(batch, 4 * bins + classes, n, n + 1, generator=generator) for n in (side, max(side // 2, 1), 1)]
    form = torch.channels_last if last else torch.contiguous_format
    maps = [level.to(device, dtype).contiguous(memory_format=form) for level in maps]
    corner = torch.rand(batch, boxes, 2, generator=generator) * side * 5
    sizes = 6 + torch.rand(batch, boxes, 2, generator=generator) * side * 5
    labels = torch.randint(0, classes, (batch, boxes), generator=generator)
    counts = torch.randint(0, boxes + 1, (batch,), generator=generator)
    return maps, labels.to(device), torch.cat((corner, corner + sizes), -1).to(device), counts.to(device)


def results(backend: str, maps: list[Tensor], *operands: Tensor, bins: int, **options: float) -> tuple[Tensor, list[Tensor]]:
    """Parts and the gradients of a weighted sum of them."""
    leaves = [level.detach().requires_grad_() for level in maps]
    parts = detection_loss(leaves, *operands, LEVELS, bins, backend=backend, **options)
    (parts * torch.tensor([7.5, 0.5, 1.5], device=maps[0].device)).sum().backward()
    return parts.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]


def assert_class_gradient_is_exact(backend: str, device: str = "cpu") -> None:
    """Logits from -30 to 5 without a box: a new head starts near -10, where 1 - sigmoid(-x) has lost three digits."""
    level = torch.full((1, 17, 6, 6), -30.0, device=device)
    level[:, 16] = torch.linspace(-30, 5, 36, device=device).view(6, 6)
    operands = (torch.zeros(1, 1), torch.zeros(1, 1, 4), torch.zeros(1, dtype=torch.int64))
    found = []
    for name, maps in ((backend, level), ("reference", level.double())):
        leaf = maps.requires_grad_()
        part = detection_loss([leaf], *(operand.to(device) for operand in operands), [8], 4, backend=name)[1]
        part.backward()
        found.append((part.detach().double(), leaf.grad[:, 16].double()))  # type: ignore[index]
    torch.testing.assert_close(found[0], found[1], **CLASS_GRADIENT)
