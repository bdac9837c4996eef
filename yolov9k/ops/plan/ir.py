"""A block of the network as a sequence of steps over preallocated maps, so that concatenation costs no copy.

A map is a tensor [B, C, H, W] in channels-last memory; a step reads and writes slices of channels. Map 0 is the block's
input. A convolution writes its raw output; `norm` turns it into an activation, or the value stays raw ("pending") where
everything that reads it is a 1x1 convolution, which normalizes and activates on the way in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

_Found = TypeVar("_Found")


class Slice(NamedTuple):
    """Channels start..stop of a map."""

    map: int
    start: int
    stop: int

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.stop - self.start

    def part(self, start: int, stop: int) -> Slice:
        """Channels counted from this slice's own first one."""
        return Slice(self.map, self.start + start, self.start + stop)

    def covers(self, other: Slice) -> bool:
        """Whether `other` lies within this slice."""
        return self.map == other.map and self.start <= other.start and other.stop <= self.stop

    def meets(self, other: Slice) -> bool:
        """Whether they share a channel."""
        return self.map == other.map and self.start < other.stop and other.start < self.stop

    def __str__(self) -> str:
        return f"{'x' if self.map == 0 else f'm{self.map}'}[{self.start}:{self.stop}]"


class ConvLayer(NamedTuple):
    """A convolution's width and the constants of its BatchNorm."""

    name: str
    width: int
    eps: float = 0.0
    momentum: float = 0.0


class Step(NamedTuple):
    """One step; what does not concern its kind stays at its default."""

    kind: str  # conv, norm, dual, avg_pool, max_pool
    source: Slice
    target: Slice
    layers: tuple[int, ...] = ()  # conv: side by side in the target; norm: one; dual: of the source and of `second`
    second: Slice | None = None
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1
    activation: bool = False  # of norm, dual and a fused conv; for a pending slice, of whoever reads it
    residual: Slice | None = None  # added after the activation

    @property
    def is_matrix(self) -> bool:
        """Whether this is a product of matrices, which reads and writes slices as they lie."""
        return self.kind == "conv" and self.kernel == 1 and self.stride == 1 and self.groups == 1 and self.padding == 0

    def reads(self) -> list[Slice]:
        """Slices that this step reads."""
        return [part for part in (self.source, self.second, self.residual) if part is not None]


class _Plan(NamedTuple):
    layers: tuple[ConvLayer, ...]
    widths: tuple[int, ...]  # of each map
    steps: tuple[Step, ...]
    result: int
    fused: bool


def _kept(find: Callable[..., _Found]) -> Callable[..., _Found]:
    """A method of a plan that looks something up once: a plan does not change, and is run thousands of times."""

    @functools.wraps(find)
    def look(self: Plan, *arguments: Any) -> _Found:
        known: dict[Any, Any] = self.__dict__
        key = (find.__name__, arguments)
        if key not in known:
            known[key] = find(self, *arguments)
        return known[key]  # type: ignore[no-any-return]

    return look


class Plan(_Plan):
    """Steps in order; `fused`: convolutions have a bias and BatchNorm is gone. result: where the block's output is."""

    @_kept
    def producer(self, part: Slice) -> Step:
        """The convolution that writes `part`."""
        return next(step for step in self.steps if step.kind == "conv" and step.target.covers(part))

    @_kept
    def first_reader(self, part: Slice) -> Step | None:
        """The first step that reads any channel of `part`: the last one to add to its gradient."""
        return next((step for step in self.steps if any(read.meets(part) for read in step.reads())), None)

    @_kept
    def edges(self, part: Slice) -> frozenset[int]:
        """Where a reader of any channel of `part` begins or ends within it, and both ends of it."""
        read = [read for step in self.steps for read in step.reads() if read.meets(part)]
        inside = {edge for whole in read for edge in (whole.start, whole.stop) if part.start < edge < part.stop}
        return frozenset({part.start, part.stop, *inside})

    def sizes(self, size: tuple[int, int]) -> dict[int, tuple[int, int]]:
        """Rows and columns of each map where the input has `size`."""
        sizes = {0: size}
        for step in self.steps:
            rows, columns = sizes[step.source.map]
            if step.kind not in ("norm", "dual"):
                rows, columns = ((n + 2 * step.padding - step.kernel) // step.stride + 1 for n in (rows, columns))
            sizes.setdefault(step.target.map, (rows, columns))
        return sizes

    @_kept
    def pending(self, step: Step) -> list[tuple[int, Slice]]:
        """Layers of a convolution that no step normalizes, and where each one's raw values lie."""
        parts, start = [], 0
        for layer in step.layers:
            part = step.target.part(start, start + self.layers[layer].width)
            normed = any(s.kind in ("norm", "dual") and part in (s.source, s.second) for s in self.steps)
            if not normed:
                parts.append((layer, part))
            start += self.layers[layer].width
        return parts

    def lines(self) -> list[str]:
        """The plan to be read."""
        return [self._line(step) for step in self.steps]

    def _line(self, step: Step) -> str:
        names = ", ".join(self.layers[layer].name for layer in step.layers)
        size = f" {step.kernel}x{step.kernel}" if step.kind in ("conv", "max_pool") else ""
        size += f" stride {step.stride}" if step.stride > 1 else ""
        size += f" groups {step.groups}" if step.groups > 1 else ""
        raw = "raw " if step.kind == "conv" and not self.fused else ""
        ends = " SiLU" if step.activation and not raw else ""
        reads = " and ".join(str(part) for part in (step.source, step.second) if part is not None)
        added = f" + {step.residual}" if step.residual else ""
        return f"{step.kind}{size}{ends} {reads}{added} -> {raw}{step.target}" + (f"  ({names})" if names else "")


class ConvSpec(NamedTuple):
    """What a plan needs to know of a convolution."""

    layer: ConvLayer
    kernel: int
    stride: int
    padding: int
    groups: int
    activation: bool


class Planner:
    """Writes a plan down step by step."""

    def __init__(self, width: int, fused: bool) -> None:
        self.fused = fused
        self.widths, self.layers, self.steps = [width], list[ConvLayer](), list[Step]()

    def map(self, width: int) -> Slice:
        """A new map."""
        self.widths.append(width)
        return Slice(len(self.widths) - 1, 0, width)

    def raw(self, source: Slice, convs: Sequence[ConvSpec], into: Slice) -> None:
        """Sibling convolutions of one source as one, their raw outputs side by side; `norm` them, or leave them pending."""
        first = convs[0]
        numbers = range(len(self.layers), len(self.layers) + len(convs))
        self.layers += [conv.layer for conv in convs]
        self.steps.append(
            Step(
                "conv", source, into, tuple(numbers), None, first.kernel, first.stride, first.padding, first.groups,
                first.activation,
            )
        )  # fmt: skip

    def norm(self, source: Slice, into: Slice | None = None, residual: Slice | None = None) -> Slice:
        """Turn raw values into activations; returns where they are. In a fused plan they are where they were."""
        if self.fused:
            return source
        step = next(step for step in self.steps if step.kind == "conv" and step.target.covers(source))
        start, layer = step.target.start, -1
        for layer in step.layers:
            if start == source.start:
                break
            start += self.layers[layer].width
        target = into or self.map(source.width)
        self.steps.append(Step("norm", source, target, (layer,), activation=step.activation, residual=residual))
        return target

    def conv(self, source: Slice, conv: ConvSpec, into: Slice | None = None, residual: Slice | None = None) -> Slice:
        """A convolution with its BatchNorm and activation."""
        target = into or self.map(conv.layer.width)
        if not self.fused:
            raw = self.map(conv.layer.width)
            self.raw(source, [conv], raw)
            return self.norm(raw, target, residual)
        self.raw(source, [conv], target)
        self.steps[-1] = self.steps[-1]._replace(residual=residual)
        return target

    def dual(self, source: Slice, small: ConvSpec, big: ConvSpec, activation: bool) -> Slice:
        """SiLU(BN(big(source)) + BN(small(source))). The small one is first: backward, it then adds what others gave."""
        raws = []
        for conv in (small, big):
            raws.append(self.map(conv.layer.width))
            self.raw(source, [conv], raws[-1])
        target, last = self.map(big.layer.width), len(self.layers)
        self.steps.append(Step("dual", raws[1], target, (last - 1, last - 2), raws[0], activation=activation))
        return target

    def pool(
        self, kind: str, source: Slice, kernel: int, stride: int = 1, padding: int = 0, into: Slice | None = None
    ) -> Slice:  # fmt: skip
        """avg_pool or max_pool."""
        target = into or self.map(source.width)
        self.steps.append(Step(kind, source, target, (), None, kernel, stride, padding))
        return target

    def finish(self, result: Slice) -> Plan:
        """The plan whose output is `result`, a whole map."""
        return Plan(tuple(self.layers), tuple(self.widths), tuple(self.steps), result.map, self.fused)
