"""The compiled pairwise IoU against the same definition in plain torch, at the sizes of a confusion matrix.

The compiled one runs on one thread. Torch is timed on one thread and on all: past some ten thousand elements it splits
the work, and on a busy machine the threads then wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from yolov9k import native


def torch_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU [N, M] of boxes [N, 4] and [M, 4] in torch operations."""
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = (bottom_right - top_left).clamp(min=0).prod(-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).clamp(min=0).prod(-1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - overlap
    return torch.where(union == 0, 0.0, overlap / union)


def random_boxes(count: int, seed: int) -> Tensor:
    """Boxes [count, 4] of 8 to 128 pixels in a picture of 640."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 512
    return torch.cat((corner, corner + 8 + torch.rand(count, 2, generator=generator) * 120), 1)


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Torch on as many threads as the parameter says, 0: as many as it chose itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param or before)
    yield
    torch.set_num_threads(before)


SIDES = [
    pytest.param(native.pairwise_iou, 1, id="native"),
    pytest.param(torch_iou, 1, id="torch-one-thread"),
    pytest.param(torch_iou, 0, id="torch-all-threads"),
]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("truths", [8, 100])
@pytest.mark.parametrize(("implementation", "threads"), SIDES, indirect=["threads"])
def bench_pairwise_iou(
    benchmark: Callable[..., Tensor], implementation: Callable[[Tensor, Tensor], Tensor], truths: int, device: str
) -> None:
    """300 detections against the truths of one picture."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    if implementation is native.pairwise_iou and not native.available(device):
        pytest.skip(native.why_missing(device))
    a, b = random_boxes(300, 0).to(device), random_boxes(truths, 1).to(device)

    def run() -> Tensor:
        out = implementation(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        return out

    torch.testing.assert_close(benchmark(run), torch_iou(a, b))
