"""Inputs of the augmentation benchmarks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.augment_cases import AugmentCase, BoxesCase
from yolov9k.ops import available


def views(images: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """From an image's pixels to the middle of a canvas of twice its size, scaled by half to one and a half; some flipped."""
    matrices = np.zeros((images, 2, 3, 3))
    matrices[..., 2, 2] = 1
    matrices[..., 1, 1] = 1 / rng.uniform(0.5, 1.5, (images, 2))
    matrices[..., 0, 0] = matrices[..., 1, 1] * rng.choice([-1, 1], (images, 1))
    for axis in (0, 1):
        matrices[..., axis, 2] = size - matrices[..., axis, axis] * size / 2
    return matrices


def mosaics(images: int, size: int, mixed: bool) -> AugmentCase:
    """Four images of three quarters of the size's height around the middle of each canvas; recolored."""
    rng = np.random.default_rng(0)
    height, width = 3 * size // 4, size
    area, count = 3 * height * width, 4 * images * (2 if mixed else 1)
    corners = [(size - width, size - height), (size, size - height), (size - width, size), (size, size)]
    layers = [[area * i, height, width, *corners[i % 4], -1, 3 * width, 0] for i in range(count)]
    ends = 4 * np.arange(1, count // 4 + 1).reshape(images, -1)
    ranges = np.zeros((images, 2, 2), np.int64)
    ranges[:, : ends.shape[1]] = np.stack([ends - 4, ends], -1)
    return AugmentCase(
        torch.from_numpy(rng.integers(0, 256, area * count, np.uint8)), torch.tensor(layers), torch.from_numpy(ranges),
        torch.from_numpy(views(images, size, rng)).float(), torch.full((images,), 0.5 if mixed else 1.0),
        torch.from_numpy(rng.uniform(0.6, 1.4, (images, 3))).float(), (size, size),
    )  # fmt: skip


def skip_absent(operator: str, device: str) -> None:
    if device == "cpu" or "triton" not in available(operator):
        pytest.skip("Triton's kernels run on a GPU; its interpreter is not worth timing, the host's pass is in bench_input.py")


def tensors_on(case: AugmentCase | BoxesCase, device: str) -> list[Tensor]:
    return [part.to(device) for part in case[:-1] if isinstance(part, Tensor)]
