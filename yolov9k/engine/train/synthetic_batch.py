"""A batch of noise, for measuring what a step takes."""

from __future__ import annotations

import torch
from torch import Tensor

from yolov9k.models.analysis.live_bytes import BOXES


def synthetic_batch(batch: int, img_size: int, classes: int, device: torch.device, seed: int = 0) -> tuple[Tensor, ...]:
    """Noise uint8 [B, 3, S, S], boxes [B, G, 5] (class, cx, cy, w, h normalized) and counts [B], all within the image."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 3, img_size, img_size), generator=generator, dtype=torch.uint8)
    centers = 0.2 + 0.6 * torch.rand(batch, BOXES, 2, generator=generator)
    sides = 0.02 + 0.3 * torch.rand(batch, BOXES, 2, generator=generator)
    labels = torch.randint(0, classes, (batch, BOXES, 1), generator=generator).float()
    boxes = torch.cat((labels, centers, sides), -1)
    return images.to(device), boxes.to(device), torch.full((batch,), BOXES).to(device)
