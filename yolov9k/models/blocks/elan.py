"""Stages of the network (arXiv 2402.13616, section 4.2). Attribute names are those of published state dicts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolov9k.models.block import Block, PlanBuilder, chain
from yolov9k.models.blocks.conv import Conv, RepConvN
from yolov9k.models.registry import register_block
from yolov9k.ops.plan.ir import Slice


class RepNBottleneck(Block):
    """RepConvN then Conv 3x3, plus the input where widths agree."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1 = RepConvN(c1, c2)
        self.cv2 = Conv(c2, c2, 3)
        self.add = shortcut and c1 == c2

    def forward_reference(self, x: Tensor) -> Tensor:
        """[B, c1, H, W] to [B, c2, H, W]."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y  # type: ignore[no-any-return]

    def build_plan(self, p: PlanBuilder, x: Slice, into: Slice | None = None) -> Slice:
        return self.cv2.build_plan(p, self.cv1.build_plan(p, x), into, x if self.add else None)


@register_block()
class RepNCSP(Block):
    """Two 1x1 Convs to half the output's width, n bottlenecks on the first, concat, 1x1 Conv."""

    def __init__(self, c1: int, c2: int, n: int = 1) -> None:
        super().__init__()
        hidden = c2 // 2
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(c1, hidden)
        self.cv3 = Conv(2 * hidden, c2)
        self.m = nn.Sequential(*(RepNBottleneck(hidden, hidden) for _ in range(n)))

    def forward_reference(self, x: Tensor) -> Tensor:
        """[B, c1, H, W] to [B, c2, H, W]."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))  # type: ignore[no-any-return]

    def build_plan(self, p: PlanBuilder, x: Slice, into: Slice | None = None) -> Slice:
        width = self.cv1.conv.out_channels
        if not len(self.m):
            both = p.map(2 * width)
            p.raw(x, [p.spec(self.cv1), p.spec(self.cv2)], both)
            return self.cv3.build_plan(p, both, into)
        # One product for both 1x1 convolutions. What cv3 concatenates lies first; cv2's part of it stays raw.
        wide = p.map(3 * width)
        p.raw(x, [p.spec(self.cv2), p.spec(self.cv1)], wide.part(width, 3 * width))
        chain(list(self.m), p, p.norm(wide.part(2 * width, 3 * width)), wide.part(0, width))  # type: ignore[arg-type]
        return self.cv3.build_plan(p, wide.part(0, 2 * width), into)


@register_block()
class ELAN1(Block):
    """1x1 Conv, split in halves, two chained 3x3 Convs from the second half, concat of all four, 1x1 Conv."""

    def __init__(self, c1: int, c2: int, c3: int, c4: int) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c3)
        self.cv2: nn.Module = Conv(c3 // 2, c4, 3)
        self.cv3: nn.Module = Conv(c4, c4, 3)
        self.cv4 = Conv(c3 + 2 * c4, c2)

    def forward_reference(self, x: Tensor) -> Tensor:
        """[B, c1, H, W] to [B, c2, H, W]."""
        halves = self.cv1(x).chunk(2, 1)
        first = self.cv2(halves[1])
        return self.cv4(torch.cat((*halves, first, self.cv3(first)), 1))  # type: ignore[no-any-return]

    def build_plan(self, p: PlanBuilder, x: Slice, into: Slice | None = None) -> Slice:
        c3, c4 = self.cv1.conv.out_channels, (self.cv4.conv.in_channels - self.cv1.conv.out_channels) // 2
        wide = p.map(c3 + 2 * c4)
        if isinstance(self.cv2, nn.Sequential):  # everything that reads cv1's output is a 1x1 convolution
            p.raw(x, [p.spec(self.cv1)], wide.part(0, c3))
        else:
            self.cv1.build_plan(p, x, wide.part(0, c3))
        first = chain(_stages(self.cv2), p, wide.part(c3 // 2, c3), wide.part(c3, c3 + c4))
        chain(_stages(self.cv3), p, first, wide.part(c3 + c4, c3 + 2 * c4))
        return self.cv4.build_plan(p, wide, into)


def _stages(module: nn.Module) -> list[Block]:
    """The blocks of a stage, one after another."""
    return list(module) if isinstance(module, nn.Sequential) else [module]  # type: ignore[list-item, arg-type]


@register_block()
class RepNCSPELAN4(ELAN1):
    """ELAN1 with a RepNCSP and a Conv 3x3 a stage (arXiv 2402.13616, section 4.2, GELAN)."""

    def __init__(self, c1: int, c2: int, c3: int, c4: int, n: int = 1) -> None:
        super().__init__(c1, c2, c3, c4)
        self.cv2 = nn.Sequential(RepNCSP(c3 // 2, c4, n), Conv(c4, c4, 3))
        self.cv3 = nn.Sequential(RepNCSP(c4, c4, n), Conv(c4, c4, 3))


@register_block()
class SPPELAN(Block):
    """1x1 Conv, three chained max pools of 5, concat of the four, 1x1 Conv."""

    def __init__(self, c1: int, c2: int, c3: int) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c3)
        self.cv5 = Conv(4 * c3, c2)

    def forward_reference(self, x: Tensor) -> Tensor:
        """[B, c1, H, W] to [B, c2, H, W]."""
        levels = [self.cv1(x)]
        for _ in range(3):
            levels.append(F.max_pool2d(levels[-1], 5, 1, 2))
        return self.cv5(torch.cat(levels, 1))  # type: ignore[no-any-return]

    def build_plan(self, p: PlanBuilder, x: Slice, into: Slice | None = None) -> Slice:
        width = self.cv1.conv.out_channels
        wide = p.map(4 * width)
        level = self.cv1.build_plan(p, x, wide.part(0, width))
        for i in range(1, 4):
            level = p.pool("max_pool", level, 5, 1, 2, wide.part(i * width, (i + 1) * width))
        return self.cv5.build_plan(p, wide, into)
