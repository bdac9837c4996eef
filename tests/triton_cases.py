"""Where interpreted kernels run, and random inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="torch sees no CUDA device")


def moved(case: Any) -> Any:
    """A case on the device that runs Triton."""
    return type(case)(*(part.to(DEVICE) if isinstance(part, Tensor) else part for part in case))


def assert_never_waits(run: Callable[[], object]) -> None:
    """`run`, done once before, makes the host wait for nothing."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def assert_captured_alike(run: Callable[[], tuple[Tensor, ...]]) -> None:
    """`run` waits for nothing, and a CUDA graph of it gives the same bits at each replay."""
    wanted = [part.clone() for part in run()]
    assert_never_waits(run)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for _ in range(3):
        for part in captured:
            part.zero_()
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, wanted, strict=True))


def random_maps(seed: int, batch: int, sizes: list[tuple[int, int]], channels: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(batch, channels, h, w, generator=generator).to(DEVICE, dtype) for h, w in sizes]


def draw(size: tuple[int, ...], dtype: torch.dtype, wide: bool, seed: int) -> Tensor:
    """A channels-last map, or a slice of a wider one, with many equal values."""
    batch, channels, height, width = size
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(batch, channels + 5 * wide, height, width, generator=generator).mul(2).round()
    return whole.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)[:, 3 * wide : 3 * wide + channels]
