"""The network's blocks (arXiv 2402.13616, section 4). Attribute names are those of published state dicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from yolov9k.models.block import Block, PlanBuilder, chain
from yolov9k.models.registry import Args, BlockKind, PlainKind, Width, register, register_block
from yolov9k.ops import conv_bn_silu
from yolov9k.ops.plan.ir import Slice

ACTIVATIONS: dict[str, type[nn.Module]] = {
    name: getattr(nn, name) for name in ("SiLU", "ReLU", "LeakyReLU", "ReLU6", "Hardswish", "GELU", "Mish", "ELU", "Identity")
}


def _stride(args: Args) -> float:
    """Stride of a convolution whose arguments are width, kernel, stride."""
    return float(args[2]) if len(args) > 2 and isinstance(args[2], int) else 1.0


def _halves(args: Args) -> float:
    return 2.0


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
    """ELAN1 with a RepNCSP and a Conv 3x3 a stage (paper, section 4.2, GELAN)."""

    def __init__(self, c1: int, c2: int, c3: int, c4: int, n: int = 1) -> None:
        super().__init__(c1, c2, c3, c4)
        self.cv2 = nn.Sequential(RepNCSP(c3 // 2, c4, n), Conv(c4, c4, 3))
        self.cv3 = nn.Sequential(RepNCSP(c4, c4, n), Conv(c4, c4, 3))


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


class _LinearKind(BlockKind):
    """Several outputs, of the widths in args[0]."""

    repeats = False

    def build(self, sources: list[int], args: Args, repeats: int) -> tuple[nn.Module, Width]:
        self.signature(self.module).bind(sources[0], *args)
        return self.module(sources[0], *args), list(args[0])


@register_block(kind=_LinearKind)
class CBLinear(nn.Module):
    """1x1 convolution with bias, split into several outputs (paper, section 3.2: multi-level auxiliary information)."""

    def __init__(self, c1: int, widths: Sequence[int], k: int = 1) -> None:
        super().__init__()
        self.widths = list(widths)
        self.conv = nn.Conv2d(c1, sum(widths), k, padding=k // 2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[B, c1, H, W] to one [B, width, H, W] for each width."""
        return self.conv(x).split(self.widths, 1)  # type: ignore[no-any-return]


class _FuseKind(PlainKind):
    """Reads CBLinear layers, of which args[0] chooses an output each, and a last map of the same width."""

    several = True

    def sources(self, args: Args, widths: Sequence[Width]) -> list[int]:
        self.count_sources(widths)
        index = args[0] if args else None
        *routes, last = widths
        if not isinstance(index, (list, tuple)) or len(index) != len(routes) or not isinstance(last, int):
            raise ValueError(f"reads {len(routes)} CBLinear layers and a last one, expected an index for each of the former")
        chosen = [route[i] if isinstance(route, list) else route for i, route in zip(index, routes, strict=True)]
        if any(not isinstance(route, list) for route in routes) or any(width != last for width in chosen):
            raise ValueError(f"adds widths {chosen} to {last}, expected CBLinear layers' outputs of that width")
        return [last]


@register_block(kind=_FuseKind)
class CBFuse(nn.Module):
    """Sum of the last input and of the chosen outputs of CBLinear layers, nearest-resized to it."""

    def __init__(self, index: Sequence[int]) -> None:
        super().__init__()
        self.index = list(index)

    def forward(self, inputs: Sequence[tuple[Tensor, ...] | Tensor]) -> Tensor:
        """Inputs: one tuple of maps for each index, then [B, C, H, W]. Returns [B, C, H, W]."""
        last = inputs[-1]
        assert isinstance(last, Tensor)
        chosen = [F.interpolate(maps[i], last.shape[2:]) for i, maps in zip(self.index, inputs[:-1], strict=True)]
        return torch.stack([*chosen, last]).sum(0)


class _ConcatKind(PlainKind):
    """Reads several layers; args[0] is the dimension."""

    several = True
    scales = False


@register_block(kind=_ConcatKind)
class Concat(nn.Module):
    """Concatenation of several inputs."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps of one size to one map."""
        return torch.cat(list(inputs), self.dim)


class _PassKind(PlainKind):
    """Gives on what it reads."""

    passes = True


@register_block(kind=_PassKind)
class Silence(nn.Identity):
    """Pass-through that gives the image a layer number (index 0 of some published tables)."""


class _UpsampleKind(PlainKind):
    """torch's own: size, scale, mode."""

    scales = False

    def pace(self, args: Args) -> float:
        scale = args[1] if len(args) > 1 else 1
        return 1 / scale if isinstance(scale, (int, float)) and scale > 0 else 1.0


register(_UpsampleKind("nn.Upsample", nn.Upsample))
