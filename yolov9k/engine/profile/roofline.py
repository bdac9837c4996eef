"""The least time that a device could take for the parts of a training step: counted bytes and FLOPs at measured rates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from yolov9k.common.device import is_cuda, synchronize
from yolov9k.models import DetectionModel
from yolov9k.models.analysis.step_cost import step_cost
from yolov9k.models.analysis.summary import cost
from yolov9k.ops import available

# Side of the square matrices and bytes of the copy by which rates are measured: large enough to be bound by nothing else.
_SIDE, _CUDA_SIDE = 1024, 8192
_COPY, _CUDA_COPY = 2**26, 2**30


class RooflineBounds:
    """Roofline bounds of one model's step. `rates`: bytes a second copied (read and written), FLOPs a second multiplied."""

    def __init__(self, model: DetectionModel, batch: int, img: int, device: torch.device, dtype: torch.dtype | None) -> None:
        self.model, self.batch, self.img = model, batch, img
        self.size = (dtype or torch.float32).itemsize
        self.rates = {"copy": copy_rate(device), "matrix": matrix_rate(device, dtype or torch.float32)}
        planned = is_cuda(device) and "triton" in available("conv_bn_silu")
        costs = step_cost(model, batch, img, "triton" if planned else "reference")  # counted in 16 bits
        self._bytes = {part: sum(found.bytes.values()) * self.size // 2 for part, found in costs.items()}
        twin = DetectionModel(model.spec, model.num_classes, class_widths=model.class_widths).train()
        self._flops = 1e9 * cost(twin, img)[1] * batch
        branches = twin.to("meta")(torch.empty(batch, 3, img, img, device="meta"))
        self._maps: list[Tensor] = [level for maps in branches for level in maps]  # shapes alone

    @property
    def network_bytes(self) -> int:
        """Forward and backward, as the blocks run here."""
        return sum(self._bytes.values())

    def times(self) -> dict[str, float]:
        """Milliseconds of each part of a step: whichever of its bytes or FLOPs takes longer."""
        maps = sum(level.numel() for level in self._maps) * self.size
        anchors = sum(math.prod(level.shape[2:]) for level in self._maps) * self.batch
        learning = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        rest = sum(t.numel() for t in self.model.state_dict().values() if t.is_floating_point()) - learning
        moved = {
            "input": self.batch * 3 * self.img**2 * (1 + self.size),
            "assignment": anchors * (4 * 4 + self.model.num_classes * self.size),  # boxes and logits, read once
            "loss": 2 * maps,  # maps read, gradients written
            "optimizer": 32 * learning + 12 * rest,
        }
        flops = {"forward": self._flops, "backward": 2 * self._flops}
        every = {**moved, **self._bytes}
        order = ("input", "forward", "assignment", "loss", "backward", "optimizer")
        return {part: self._time(every[part], flops.get(part, 0.0)) for part in order}

    def _time(self, moved: float, flops: float) -> float:
        return 1000 * max(moved / self.rates["copy"], flops / self.rates["matrix"])


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes, the best of ten."""
    source = torch.empty(_CUDA_COPY if is_cuda(device) else _COPY, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best(lambda: target.copy_(source), device)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of a product of large square matrices, the best of ten; float32 in TF32 where cuDNN may use it."""
    side = _CUDA_SIDE if is_cuda(device) else _SIDE
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    matmul, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        return 2 * side**3 / _best(lambda: a @ b, device)
    finally:
        matmul.allow_tf32 = before


def _best(run: Callable[[], object], device: torch.device) -> float:
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        run()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
