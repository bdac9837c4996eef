"""Down-sampling (arXiv 2402.13616, section 4.2). Attribute names are those of published state dicts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from yolov9k.models.block import Block, PlanBuilder
from yolov9k.models.blocks.conv import Conv
from yolov9k.models.registry import Args, register_block
from yolov9k.ops.plan.ir import Slice


def _halves(args: Args) -> float:
    return 2.0


@register_block(pace=_halves)
class AConv(Block):
    """Average pool 2 at stride 1, then Conv 3x3 at stride 2."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c2, 3, 2)

    def forward_reference(self, x: Tensor) -> Tensor:
        """[B, c1, H, W] to [B, c2, H/2, W/2]."""
        return self.cv1(F.avg_pool2d(x, 2, 1))  # type: ignore[no-any-return]

    def build_plan(self, p: PlanBuilder, x: Slice, into: Slice | None = None) -> Slice:
        return self.cv1.build_plan(p, p.pool("avg_pool", x, 2), into)


@register_block(pace=_halves)
class ADown(Block):
    """Average pool 2 at stride 1, then by halves of the channels: Conv 3x3 stride 2; max pool 3 stride 2 and Conv 1x1."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1 = Conv(c1 // 2, c2 // 2, 3, 2)
        self.cv2 = Conv(c1 // 2, c2 // 2)

    def forward_reference(self, x: Tensor) -> Tensor:
        """[B, c1, H, W] to [B, c2, H/2, W/2]."""
        first, second = F.avg_pool2d(x, 2, 1).chunk(2, 1)
        return torch.cat((self.cv1(first), self.cv2(F.max_pool2d(second, 3, 2, 1))), 1)

    def build_plan(self, p: PlanBuilder, x: Slice, into: Slice | None = None) -> Slice:
        half, width = self.cv1.conv.in_channels, self.cv1.conv.out_channels
        out = into or p.map(2 * width)
        pools = [p.pool("avg_pool", x.part(i * half, (i + 1) * half), 2) for i in range(2)]  # apart: neither is copied
        self.cv1.build_plan(p, pools[0], out.part(0, width))
        self.cv2.build_plan(p, p.pool("max_pool", pools[1], 3, 2, 1), out.part(width, 2 * width))
        return out
