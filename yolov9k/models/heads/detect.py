"""The detection head: one class for one, two or three branches (arXiv 2402.13616, section 4.1)."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolov9k.models.blocks import Conv
from yolov9k.models.registry import HeadKind, register
from yolov9k.ops import dfl_candidates, dfl_decode
from yolov9k.ops.backends import choose

STRIDES = (8, 16, 32)
CLASS_TOWERS = ("plain", "depthwise")
_PREFIXES = ("", "Dual", "Triple")  # by number of branches
_GROUPED = {1: "Detect", 4: "DDetect"}


def head_name(branches: int = 1, groups: int = 4, class_tower: str = "plain") -> str:
    """The name in layer tables of a head with so many branches, groups of box convolutions and this class tower.

    Raises LookupError where there is no such head.
    """
    return f"{_PREFIXES[branches - 1]}{class_tower.title() if class_tower != 'plain' else ''}{_GROUPED[groups]}"


class _Bins(nn.Module):
    """The constant bin values 0..reg_max-1; a parameter only because published state dicts carry it."""

    def __init__(self, reg_max: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(reg_max, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data = torch.arange(reg_max, dtype=torch.float32).view(1, reg_max, 1, 1)


class Detect(nn.Module):
    """Box and class maps of every branch and level.

    channels: widths of the inputs, auxiliary branches' levels first, the main branch's last. groups: of the box towers'
    second and third convolutions, 4 as published or 1 as Ultralytics has it. class_tower: "plain" has two 3x3 convolutions,
    "depthwise" a depthwise 3x3 and a 1x1 in place of each, as Ultralytics from 8.3.0 on for a while.
    """

    task = "detect"
    backend = "auto"  # of the decode

    def __init__(
        self,
        num_classes: int,
        channels: Sequence[int],
        branches: int = 1,
        groups: int = 4,
        strides: Sequence[int] = STRIDES,
        class_widths: Sequence[int] | None = None,
        class_tower: str = "plain",
    ) -> None:
        super().__init__()
        self.nc, self.reg_max, self.groups, self.class_tower = num_classes, 16, groups, class_tower
        self.strides = tuple(strides)
        if len(channels) != branches * len(self.strides):
            raise ValueError(f"Detect: {branches} branches of {len(self.strides)} levels, got {len(channels)} inputs")
        self.num_branches = branches
        for b in range(branches):
            widths = channels[b * len(self.strides) : (b + 1) * len(self.strides)]
            class_width = class_widths[b] if class_widths else max(widths[0], min(2 * num_classes, 128))
            setattr(self, f"cv{2 * b + 2}", nn.ModuleList(self._box_tower(c, widths[0]) for c in widths))
            setattr(self, f"cv{2 * b + 3}", nn.ModuleList(self._class_tower(c, class_width) for c in widths))
        for b in range(branches):  # last, as in published state dicts
            setattr(self, f"dfl{b + 1 if b else ''}", _Bins(self.reg_max))
        self.init_biases()

    def _box_tower(self, c: int, c0: int) -> nn.Sequential:
        width = math.ceil(max(c0 // 4, 4 * self.reg_max, 16) / 4) * 4
        final = nn.Conv2d(width, 4 * self.reg_max, 1, groups=self.groups)
        return nn.Sequential(Conv(c, width, 3), Conv(width, width, 3, g=self.groups), final)

    def _class_tower(self, c: int, width: int) -> nn.Sequential:
        plain = self.class_tower == "plain"
        stages = [Conv(c, width, 3) if plain else nn.Sequential(Conv(c, c, 3, g=c), Conv(c, width)) for c in (c, width)]
        return nn.Sequential(*stages, nn.Conv2d(width, self.nc, 1))

    def towers(self, branch: int) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Box and class towers of a branch, one of each a level."""
        return getattr(self, f"cv{2 * branch + 2}"), getattr(self, f"cv{2 * branch + 3}")

    def copy_main(self, source: Detect) -> None:
        """Become the main branch of `source`: its towers are copied into this head of one branch."""
        for part, tower in zip(("cv2", "cv3"), source.towers(source.num_branches - 1), strict=True):
            setattr(self, part, copy.deepcopy(tower))

    @torch.no_grad()
    def init_biases(self, box_bias: float = 1.0, class_bias: float | None = None) -> None:
        """Of the last convolutions; class_bias None: ln(5 / nc / (640 / stride)^2), about five objects in a 640-pixel image."""
        for branch in range(self.num_branches):
            for box, cls, stride in zip(*self.towers(branch), self.strides, strict=True):
                usual = math.log(5 / self.nc / (640 / stride) ** 2)
                box[-1].bias.fill_(box_bias)  # type: ignore[index]
                cls[-1].bias.fill_(usual if class_bias is None else class_bias)  # type: ignore[index]

    def forward(self, inputs: Sequence[Tensor], main_only: bool = False) -> list[list[Tensor]]:
        """Raw maps [B, 4*reg_max + nc, h, w] of each level, a list for each branch, the main one last."""
        levels = len(self.strides)
        first = self.num_branches - 1 if main_only else 0
        inputs = inputs[-levels:] if main_only else inputs
        return [
            [
                torch.cat((box(x), cls(x)), 1)
                for box, cls, x in zip(*self.towers(branch), inputs[i * levels : (i + 1) * levels], strict=True)
            ]
            for i, branch in enumerate(range(first, self.num_branches))
        ]

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """One branch's raw maps to [B, 4 + nc, A]: center x, center y, width, height in pixels, then probabilities."""
        return dfl_decode(maps, self.strides, self.reg_max, self.backend)

    def candidates(self, maps: Sequence[Tensor], threshold: float) -> tuple[Tensor, Tensor | None]:
        """What suppression at `threshold` reads of `decode`: columns [B, 4 + nc, A], and how many of them an image, int64 [B].

        None: all. Plain torch would decode every anchor to pick the candidates, so only the kernels pick.
        """
        if choose("dfl_candidates", self.backend, maps[0].device, maps[0].dtype == torch.float64) == "reference":
            return self.decode(maps), None
        found = dfl_candidates(maps, self.strides, self.reg_max, threshold, self.backend)
        return found.prediction, found.counts

    def nonfinite(self, maps: Sequence[Tensor]) -> Tensor:
        """Whether `decode` gives NaN or infinity, of each image: bool [B], read off the raw maps.

        A side is lost to a NaN, to +infinity, or where all its bins are -infinity: then its largest bin is not finite. A
        probability is lost to NaN alone.
        """
        bins, images = 4 * self.reg_max, list[Tensor]()
        for level in maps:
            largest = level[:, :bins].reshape(len(level), 4, self.reg_max, *level.shape[2:]).amax(2)
            images += [~largest.isfinite().flatten(1).all(1), level[:, bins:].isnan().flatten(1).any(1)]
        return torch.stack(images).any(0)


def dense_name(name: str) -> str:
    """The name of the head whose box convolutions are dense where those of `name` are grouped."""
    return name.replace("DDetect", "Detect")


_FORMS = [(b, g, tower) for tower, b, g in itertools.product(CLASS_TOWERS, (1, 2, 3), _GROUPED)]
HEAD_NAMES = frozenset(head_name(*form) for form in _FORMS)
for _branches, _groups, _tower in _FORMS:
    _module = functools.partial(Detect, branches=_branches, groups=_groups, class_tower=_tower)
    register(HeadKind(head_name(_branches, _groups, _tower), _module, _branches, head_name(1, _groups, _tower)))
