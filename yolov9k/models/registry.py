"""Blocks and heads by the names that layer tables use. Each declares what the builder needs to know of it.

A new block is a class with `@register_block(...)`, a new head one with `@register_head(...)`; nothing else names them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

Width = int | list[int]  # of a layer's output; CBLinear has several
Args = tuple[Any, ...]
Module = TypeVar("Module", bound=type[nn.Module])


class BlockKind:
    """How a table's row becomes a module. This one reads one layer, args[0] is its output's width, others go on as they are.

    repeats: whether a row may ask for several, one after another. scales: whether width_multiple scales args[0]. passes:
    whether the output is the input. Subclasses say what differs.
    """

    several = False  # whether it reads several layers
    repeats = True
    scales = True
    passes = False

    def __init__(self, name: str, module: Callable[..., nn.Module], pace: Callable[[Args], float] | None = None) -> None:
        self.name, self.module, self._pace = name, module, pace

    def pace(self, args: Args) -> float:
        """By how much its output is coarser than its input: 2 for a stride of 2, 0.5 for an upsampling."""
        return self._pace(args) if self._pace else 1.0

    def sources(self, args: Args, widths: Sequence[Width]) -> list[int]:
        """Widths of what it reads. Raises ValueError where it reads more, fewer or others than it can."""
        self.count_sources(widths)
        if any(isinstance(width, list) for width in widths):
            raise ValueError("reads a CBLinear layer, which CBFuse alone can")
        return [width for width in widths if isinstance(width, int)]

    def count_sources(self, widths: Sequence[Width]) -> None:
        """Raises ValueError where it reads one layer in place of several, or several in place of one."""
        if self.several != (len(widths) > 1):
            raise ValueError(f"reads {len(widths)} layers, expected {'several' if self.several else 'one'}")

    def build(self, sources: list[int], args: Args, repeats: int) -> tuple[nn.Module, Width]:
        """The layer's module and its output's width."""
        self.signature(self.module).bind(sources[0], *args)
        width = math.ceil(args[0] / 8) * 8  # as published: yolov9-m's 180 is built as 184
        if width < 1:
            raise ValueError(f"width is {args[0]}, expected at least 1")
        chain = [self.module(sources[0] if i == 0 else width, width, *args[1:]) for i in range(repeats)]
        return (chain[0] if len(chain) == 1 else nn.Sequential(*chain)), width

    @staticmethod
    def signature(module: Callable[..., nn.Module]) -> inspect.Signature:
        """What a module's constructor takes."""
        return inspect.signature(module)


class PlainKind(BlockKind):
    """A module that is made of args alone; its output is as wide as all that it reads together."""

    repeats = False

    def build(self, sources: list[int], args: Args, repeats: int) -> tuple[nn.Module, Width]:
        return self.module(*args), sum(sources)


class HeadKind(BlockKind):
    """The last layer: reads the levels of all branches. args are [nc]; made with the number of classes and the inputs' widths.

    branches: how many it has. lean: the head of its main branch alone, itself where it has one.
    """

    several = True
    scales = False
    repeats = False

    def __init__(self, name: str, module: Callable[..., nn.Module], branches: int, lean: str) -> None:
        super().__init__(name, module)
        self.branches, self.lean = branches, lean

    def build_head(self, num_classes: int, sources: list[int], class_widths: Sequence[int] | None) -> nn.Module:
        """The head's module. class_widths: of a checkpoint's class branches, None for the head's own."""
        options = {} if class_widths is None else {"class_widths": class_widths}
        return self.module(num_classes, sources, **options)


_KINDS: dict[str, BlockKind] = {}


def register(kind: BlockKind) -> BlockKind:
    """Make a kind known by its name. Raises ValueError where another block or head has it."""
    if kind.name in _KINDS:
        raise ValueError(f"a block named {kind.name!r} is registered already")
    _KINDS[kind.name] = kind
    return kind


def register_block(
    name: str | None = None, kind: type[BlockKind] = BlockKind, pace: Callable[[Args], float] | None = None
) -> Callable[[Module], Module]:
    """Register the decorated module under `name`, its own by default."""

    def decorate(module: Module) -> Module:
        register(kind(name or module.__name__, module, pace))
        return module

    return decorate


def register_head(name: str | None = None) -> Callable[[Module], Module]:
    """Register the decorated head of one branch: made by module(num_classes, widths of the inputs).

    It has `task`, `strides` (pixels a cell of each level), `num_branches` and forward(inputs, main_only), which returns raw
    maps of each branch, the main one last.
    """

    def decorate(module: Module) -> Module:
        own = name or module.__name__
        register(HeadKind(own, module, 1, own))
        return module

    return decorate


def unregister(name: str) -> None:
    """Forget a block or head, as a test of one does."""
    del _KINDS[name]


def find(name: str) -> BlockKind:
    """The kind of a name. Raises ValueError naming those that are known."""
    if name not in _KINDS:
        raise ValueError(f"unknown module; known: {', '.join(_KINDS)}")
    return _KINDS[name]


def is_known(name: str) -> bool:
    """Whether a name is a block's or a head's."""
    return name in _KINDS


def find_head(name: str) -> HeadKind:
    """The head of a name. Raises ValueError where it is none."""
    kind = find(name)
    if not isinstance(kind, HeadKind):
        raise ValueError(f"{name} is no head; heads are {', '.join(heads())}")
    return kind


def heads() -> list[str]:
    """Names of all heads."""
    return [name for name, kind in _KINDS.items() if isinstance(kind, HeadKind)]


def is_head(name: str) -> bool:
    """Whether a name is a head's."""
    return isinstance(_KINDS.get(name), HeadKind)
