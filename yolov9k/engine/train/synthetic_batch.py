"""A batch of noise, for measuring what a step takes."""

from __future__ import annotations

import torch
from torch import Tensor

from yolov9k.data.batch import Batch
from yolov9k.models.analysis.live_bytes import BOXES
from yolov9k.tasks import Task


def synthetic_batch(
    batch: int, img_size: int, classes: int, device: torch.device, seed: int = 0, task: Task | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise uint8 [B, 3, S, S] and the targets of BOXES objects an image: a task's rows [B, G, K] and counts [B].

    Without a task the rows are boxes [B, G, 5] (class, cx, cy, w, h normalized), all within the image.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 3, img_size, img_size), generator=generator, dtype=torch.uint8)
    centers = 0.2 + 0.6 * torch.rand(batch, BOXES, 2, generator=generator)
    sides = 0.02 + 0.3 * torch.rand(batch, BOXES, 2, generator=generator)
    labels = torch.randint(0, classes, (batch, BOXES, 1), generator=generator).float()
    boxes, counts = torch.cat((labels, centers, sides), -1), torch.full((batch,), BOXES)
    drawn = Batch(images, boxes, counts, list(range(batch)), torch.ones(batch), torch.zeros(batch, 2)).to(device)
    return drawn.images, *(task.targets(drawn) if task else (drawn.boxes, drawn.counts))
