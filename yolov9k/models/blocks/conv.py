"""Convolution with BatchNorm, alone and as two branches that merge. Attribute names are those of published state dicts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from yolov9k.models.block import Block, PlanBuilder
from yolov9k.models.registry import Args, register_block
from yolov9k.ops import conv_bn_silu
from yolov9k.ops.plan.ir import Slice


def _stride(args: Args) -> float:
    """Stride of a convolution whose arguments are width, kernel, stride."""
    return float(args[2]) if len(args) > 2 and isinstance(args[2], int) else 1.0


@register_block(pace=_stride)
class Conv(Block):
    """Convolution without bias, BatchNorm (eps 1e-3, momentum 0.03), activation; after `fuse`, convolution with bias."""

    def __init__(
        self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None, g: int = 1, act: bool | nn.Module = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2 if p is None else p, groups=g, bias=False)
        self.bn: nn.BatchNorm2d | nn.SyncBatchNorm | None = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
        self.act: nn.Module = act if isinstance(act, nn.Module) else (nn.SiLU() if act else nn.Identity())

    def forward_reference(self, x: Tensor) -> Tensor:
        """[B, c1, H, W] to [B, c2, H', W']."""
        silu = type(self.act) is nn.SiLU
        if self.bn is None:
            y = self.conv(x)
            return F.silu(y, inplace=not torch.is_grad_enabled()) if silu else self.act(y)
        if isinstance(self.bn, nn.SyncBatchNorm):  # torch's own: the operator knows one process
            return self.act(self.bn(self.conv(x)))  # type: ignore[no-any-return]
        y = conv_bn_silu(x, self.conv, self.bn, silu, self.backend)
        return y if silu else self.act(y)

    def is_plain(self) -> bool:
        return type(self.act) in (nn.SiLU, nn.Identity)

    def is_fused(self) -> bool:
        return self.bn is None

    def build_plan(self, p: PlanBuilder, x: Slice, into: Slice | None = None, residual: Slice | None = None) -> Slice:
        return p.conv(x, p.spec(self), into, residual)

    def fuse(self) -> None:
        """Fold BatchNorm into the convolution, in place."""
        if self.bn is not None:
            self.conv = _folded(self)
            self.bn = None


def _folded(conv: Conv) -> nn.Conv2d:
    """The biased convolution that equals conv and its BatchNorm in inference."""
    assert conv.bn is not None
    training = conv.training
    folded = fuse_conv_bn_eval(conv.conv.eval(), conv.bn.eval())
    return folded.train(training).requires_grad_(False)


@register_block(pace=_stride)
class RepConvN(Block):
    """SiLU(conv3x3-BN(x) + conv1x1-BN(x)); after `fuse`, one 3x3 convolution with bias."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, act: bool | nn.Module = True) -> None:
        super().__init__()
        if k != 3:
            raise ValueError(f"RepConvN: kernel must be 3, got {k}")
        self.conv1: Conv | None = Conv(c1, c2, 3, s, act=False)
        self.conv2: Conv | None = Conv(c1, c2, 1, s, act=False)
        self.act: nn.Module = act if isinstance(act, nn.Module) else (nn.SiLU() if act else nn.Identity())

    def forward_reference(self, x: Tensor) -> Tensor:
        """[B, c1, H, W] to [B, c2, H', W']."""
        if self.conv1 is None or self.conv2 is None:
            return self.act(self.conv(x))  # type: ignore[no-any-return]
        return self.act(self.conv1(x) + self.conv2(x))  # type: ignore[no-any-return]

    def is_plain(self) -> bool:
        return type(self.act) in (nn.SiLU, nn.Identity)

    def is_fused(self) -> bool:
        return self.conv1 is None

    def build_plan(self, p: PlanBuilder, x: Slice, into: Slice | None = None) -> Slice:
        if self.conv1 is None:
            return p.conv(x, p.spec(self), into)
        return p.dual(x, p.spec(self.conv2), p.spec(self.conv1), type(self.act) is nn.SiLU)

    def fuse(self) -> None:
        """Merge both branches into one 3x3 convolution, in place: the 1x1 kernel is a 3x3 with a lone center."""
        if self.conv1 is None or self.conv2 is None:
            return
        big, small = _folded(self.conv1), _folded(self.conv2)
        assert big.bias is not None
        assert small.bias is not None
        big.weight.add_(F.pad(small.weight, [1, 1, 1, 1]))
        big.bias.add_(small.bias)
        self.conv, self.conv1, self.conv2 = big, None, None
