"""Where interpreted kernels run, and random inputs for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
import pytest

pytest.importorskip("triton")


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_maps(seed: int, batch: int, sizes: list[tuple[int, int]], channels: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(batch, channels, h, w, generator=generator).to(DEVICE, dtype) for h, w in sizes]


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def draw(size: tuple[int, ...], dtype: torch.dtype, wide: bool, seed: int) -> Tensor:
    """A channels-last map, or a slice of a wider one, with many equal values."""
    batch, channels, height, width = size
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(batch, channels + 5 * wide, height, width, generator=generator).mul(2).round()
    return whole.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)[:, 3 * wide : 3 * wide + channels]
