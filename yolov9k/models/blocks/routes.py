"""How maps of several layers meet: concatenation, up-sampling, CBLinear and CBFuse (arXiv 2402.13616, section 4.1.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolov9k.models.registry import Args, BlockKind, PlainKind, Width, register, register_block


class _LinearKind(BlockKind):
    """Several outputs, of the widths in args[0]."""

    repeats = False

    def build(self, sources: list[int], args: Args, repeats: int) -> tuple[nn.Module, Width]:
        self.signature(self.module).bind(sources[0], *args)
        return self.module(sources[0], *args), list(args[0])


@register_block(kind=_LinearKind)
class CBLinear(nn.Module):
    """1x1 convolution with bias, split into several outputs (arXiv 2402.13616, section 4.1.2)."""

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
