"""Our blocks over the modules of another implementation: the very same convolutions and BatchNorms, arranged as ours are.

What a module may be is told by its parts: their kinds, in the order in which they were registered; names count for nothing.
Whether it computes that is for `probe` to say, so a view may be a guess, and there may be several.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolov9k.compat.accelerate.swap import Swapped
from yolov9k.models.block import Block
from yolov9k.models.blocks import ELAN1, SPPELAN, AConv, ADown, Conv, RepConvN, RepNBottleneck, RepNCSP

Make = Callable[[nn.Module], Block]
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)


class Guess(NamedTuple):
    """What a module may be: `make` builds the view of it, or of a copy; width: channels of its input."""

    kind: str
    make: Make
    width: int


class NoView(ValueError):
    """The module has other parts than the view is made of."""


class Bins(Block):
    """The expectation of each side's distribution: [B, 4 * bins, A] logits to [B, 4, A] (arXiv 2006.04388, eq. 6)."""

    conv: nn.Conv2d | nn.Conv3d

    def forward_reference(self, x: Tensor) -> Tensor:
        """Softmax over the bins, which lie side by side, and a weighted sum."""
        bins = self.conv.in_channels
        probabilities = torch.unflatten(x, 1, (4, bins)).softmax(2)
        return torch.einsum("bska,k->bsa", probabilities, self.conv.weight.view(-1).to(probabilities.dtype))


class MapBins(Bins):
    """The same over maps: [B, 4 * bins, h, w] logits to themselves as [B, bins, 4, h, w], and [B, 4, h, w]."""

    def forward_reference(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The logits as a view, and the expectations."""
        y = super().forward_reference(x.flatten(2))
        return torch.unflatten(x, 1, (4, -1)).transpose(1, 2), torch.unflatten(y, 2, x.shape[2:])


def _assembled(block: type[Block], **parts: Any) -> Any:
    """A block of ours of parts that are there already."""
    made = block.__new__(block)
    nn.Module.__init__(made)
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def parts_of(module: nn.Module) -> list[nn.Module]:
    """Children in the order of their registration, pools left out: their sizes are the probe's to find out."""
    return [child for child in module.children() if not _is_pool(child)]


def _is_pool(module: nn.Module) -> bool:
    """Whether a module is a pool, or holds nothing else; an empty list is no part either."""
    children = list(module.children())
    empty = isinstance(module, nn.ModuleList) or bool(children)
    return isinstance(module, _POOLS) or (empty and all(_is_pool(child) for child in children))


def make_conv(module: nn.Module, act: bool | None = None) -> Conv:
    """Convolution, BatchNorm unless fused, activation. act: whether there is SiLU, where no part says so."""
    parts = parts_of(module)
    convs = [part for part in parts if type(part) is nn.Conv2d]
    norms = [part for part in parts if type(part) in NORMS]
    rest = [part for part in parts if part not in convs and part not in norms]
    if len(convs) != 1 or len(norms) > 1 or len(rest) > 1 or any(True for part in rest for _ in part.parameters()):
        raise NoView
    conv = convs[0]
    square = conv.stride[0] == conv.stride[1] and isinstance(conv.padding, tuple) and conv.padding[0] == conv.padding[1]
    plain = conv.dilation == (1, 1) and conv.padding_mode == "zeros" and conv.kernel_size[0] == conv.kernel_size[1]
    if not (square and plain and (conv.bias is None) == bool(norms)) or (norms and not _is_whole(norms[0])):
        raise NoView
    if (act is None) != bool(rest):
        raise NoView
    activation = rest[0] if rest else nn.SiLU() if act else nn.Identity()
    return _assembled(Conv, conv=conv, bn=norms[0] if norms else None, act=activation)  # type: ignore[no-any-return]


def _is_whole(norm: Any) -> bool:
    return norm.affine and norm.track_running_stats and norm.momentum is not None


def make_bins(module: nn.Module, kind: type[Bins] = Bins) -> Bins:
    """One 1x1 convolution to one channel, without bias; of 1x1x1 where it runs over maps."""
    (conv,) = _exactly(module, 1)
    if type(conv) is not (nn.Conv3d if kind is MapBins else nn.Conv2d):
        raise NoView
    if conv.out_channels != 1 or set(conv.kernel_size) != {1} or conv.bias is not None or conv.in_channels < 2:
        raise NoView
    return _assembled(kind, conv=conv)  # type: ignore[no-any-return]


def make_rep_conv(module: nn.Module) -> RepConvN:
    """Two convolutions of one input, 3x3 and 1x1, and an activation over their sum; merged into one by `fuse`."""
    parts = parts_of(module)
    if any(type(part) is nn.Conv2d for part in parts):
        merged = make_conv(module)
        return _assembled(RepConvN, conv1=None, conv2=None, conv=merged.conv, act=merged.act)  # type: ignore[no-any-return]
    branches = [part for part in parts if any(True for _ in part.parameters())]
    rest = [part for part in parts if part not in branches]
    if len(branches) != 2 or len(rest) > 1:
        raise NoView
    views = sorted((_conv(branch) for branch in branches), key=lambda view: -view.conv.kernel_size[0])
    if [view.conv.kernel_size[0] for view in views] != [3, 1]:
        raise NoView
    act = rest[0] if rest else nn.SiLU()
    return _assembled(RepConvN, conv1=views[0], conv2=views[1], act=act)  # type: ignore[no-any-return]


def make_bottleneck(module: nn.Module, add: bool) -> RepNBottleneck:
    """A RepConv or a convolution, then a convolution; `add`: plus the input."""
    first, second = _exactly(module, 2)
    return _assembled(RepNBottleneck, cv1=_view(first, RepConvN, Conv), cv2=_conv(second), add=add)  # type: ignore[no-any-return]


def make_csp(module: nn.Module) -> RepNCSP:
    """Three 1x1 convolutions and bottlenecks."""
    first, second, third, chain = _exactly(module, 4)
    if not isinstance(chain, nn.Sequential):
        raise NoView
    inner = nn.Sequential(*(_view(part, RepNBottleneck) for part in chain))
    return _assembled(RepNCSP, cv1=_conv(first), cv2=_conv(second), cv3=_conv(third), m=inner)  # type: ignore[no-any-return]


def make_elan(module: nn.Module) -> ELAN1:
    """1x1 convolution, two stages, 1x1 convolution; a stage is a convolution, or a CSP and a convolution."""
    first, *stages, last = _exactly(module, 4)
    cv2, cv3 = (_stage(stage) for stage in stages)
    return _assembled(ELAN1, cv1=_conv(first), cv2=cv2, cv3=cv3, cv4=_conv(last))  # type: ignore[no-any-return]


def make_sppelan(module: nn.Module) -> SPPELAN:
    """Two 1x1 convolutions, pools between them."""
    first, last = _exactly(module, 2)
    return _assembled(SPPELAN, cv1=_conv(first), cv5=_conv(last))  # type: ignore[no-any-return]


def make_aconv(module: nn.Module) -> AConv:
    """One convolution of stride 2, a pool before it."""
    (only,) = _exactly(module, 1)
    return _assembled(AConv, cv1=_conv(only))  # type: ignore[no-any-return]


def make_adown(module: nn.Module) -> ADown:
    """Two convolutions, 3x3 of stride 2 and 1x1, each over half the channels."""
    first, second = _exactly(module, 2)
    return _assembled(ADown, cv1=_conv(first), cv2=_conv(second))  # type: ignore[no-any-return]


def _exactly(module: nn.Module, count: int) -> list[nn.Module]:
    parts = parts_of(module)
    if len(parts) != count:
        raise NoView
    return parts


def _stage(module: nn.Module) -> nn.Module:
    if not isinstance(module, nn.Sequential):
        return _conv(module)
    if len(module) != 2:
        raise NoView
    return nn.Sequential(_view(module[0], RepNCSP), _conv(module[1]))


def _conv(module: nn.Module) -> Conv:
    return _view(module, Conv)  # type: ignore[no-any-return]


def _view(module: nn.Module, *kinds: type[Block]) -> Any:
    """The view of a part, which has been recognized before the whole is looked at."""
    kind: Any = type(module)
    view = kind.make_view(module) if isinstance(module, Swapped) and hasattr(kind, "make_view") else None
    if not isinstance(view, kinds):
        raise NoView
    return view


def guesses(module: nn.Module) -> Iterator[Guess]:
    """What a module may be, the simplest first. Its parts have been recognized already."""
    for kind, make, width in _TABLE:
        with contextlib.suppress(NoView):
            yield Guess(kind, make, width(make(module)))


def _first_width(view: Any) -> int:
    return int(view.cv1.conv.in_channels)


# What is tried, in this order. A view's `make` is kept by the module's class, and builds it anew when parts were exchanged.
_TABLE: tuple[tuple[str, Make, Callable[[Any], int]], ...] = (
    ("Conv", make_conv, lambda view: int(view.conv.in_channels)),
    ("Conv", functools.partial(make_conv, act=True), lambda view: int(view.conv.in_channels)),
    ("Conv", functools.partial(make_conv, act=False), lambda view: int(view.conv.in_channels)),
    ("DFL", make_bins, lambda view: 4 * int(view.conv.in_channels)),
    ("DFL of maps", functools.partial(make_bins, kind=MapBins), lambda view: 4 * int(view.conv.in_channels)),
    ("RepConv", make_rep_conv, lambda view: int(view.conv1.conv.in_channels)),
    ("Bottleneck", functools.partial(make_bottleneck, add=True), lambda view: int(_entry(view.cv1).conv.in_channels)),
    ("Bottleneck", functools.partial(make_bottleneck, add=False), lambda view: int(_entry(view.cv1).conv.in_channels)),
    ("CSP", make_csp, _first_width),
    ("ELAN", make_elan, _first_width),
    ("SPPELAN", make_sppelan, _first_width),
    ("ADown", make_adown, lambda view: 2 * _first_width(view)),
    ("AConv", make_aconv, _first_width),
)


def _entry(view: Any) -> Any:
    return view.conv1 if isinstance(view, RepConvN) and view.conv1 is not None else view
