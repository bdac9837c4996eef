"""A tiny detector and a batch for it, for tests of the training step."""

from __future__ import annotations

import torch
from torch import Tensor

from yolov9k.losses.detection import pad_targets

TINY = """
nc: 2
depth_multiple: 1.0
width_multiple: 1.0
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
head:
  - [[2, 3, 4], 1, DDetect, [nc]]
"""
ROWS = torch.tensor([[0, 1, 0.4, 0.5, 0.6, 0.7], [1, 0, 0.6, 0.4, 0.5, 0.5]])
BOXES, COUNTS = pad_targets(ROWS, 2)


def random_images(seed: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed)).double()
