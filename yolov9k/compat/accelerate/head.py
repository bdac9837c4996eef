"""Detection heads of other implementations, decoded by our operator: the towers stay theirs, boxes and scores are ours."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolov9k.common.device import is_cpu
from yolov9k.compat.accelerate.probe import bare_copy, close, drawn, redraw
from yolov9k.compat.accelerate.swap import STATE, Swapped
from yolov9k.ops import dfl_decode

_SIZES = ((4, 5), (2, 3), (1, 2), (1, 1), (1, 1))  # of the levels that a head is tried on
_REFUSALS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, AssertionError)


class Decoding(NamedTuple):
    """What our operator needs to know of a head, and the tensors that it was read from, with their versions then."""

    strides: tuple[int, ...]
    bins: int
    read: tuple[tuple[Tensor, int], ...]

    def holds(self, head: nn.Module) -> bool:
        """Whether these tensors are still there, and nobody has written to them, past `.data` aside."""
        now = tuple(_sources(head))
        return len(now) == len(self.read) and all(a is b and _version(a) == v for a, (b, v) in zip(now, self.read, strict=True))


class AcceleratedHead(Swapped):
    """A head that gives its raw maps in training, (decoded, raw maps) in evaluation.

    corners: whether a box is x1, y1, x2, y2 instead of center and size. switches: the truth values among its attributes under
    which it was tried; under others it decodes by itself.
    """

    backend = "auto"
    corners = False
    switches: dict[str, bool]
    training: bool

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """As the original; in evaluation a list of feature maps is decoded by our operator."""
        original = super().forward  # type: ignore[misc]
        decoding = _decoding(self, arguments) if not (self.training or named) else None
        if decoding is None:
            return original(*arguments, **named)
        found = _evaluated(self, original, arguments[0], decoding, self.corners, self.backend)
        return original(*arguments) if found is None else found


def _decoding(head: Any, arguments: Any) -> Decoding | None:
    """What our operator runs with, None where the head's own code has to run."""
    if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting() or torch.compiler.is_compiling():
        return None
    maps = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], (list, tuple)) else []
    if not maps or not all(isinstance(level, Tensor) and level.dtype != torch.float64 for level in maps):
        return None
    if head.backend == "auto" and is_cpu(maps[0].device):
        return None  # torch's operators are what we have there
    if any(getattr(head, name, None) is not value for name, value in head.switches.items()):
        return None
    held = head.__dict__.get(STATE)
    if held is None or not held.holds(head):
        held = head.__dict__[STATE] = _read(head)
    return held  # type: ignore[no-any-return]


def _evaluated(
    head: Any, forward: Callable[..., Any], maps: Any, decoding: Decoding, corners: bool, backend: str = "reference"
) -> Any:
    """(decoded, raw maps) as the head gives them, None for raw maps in a form that we do not know."""
    head.training = True  # of the head alone: its towers stay in evaluation
    try:
        raw = forward(list(maps))
    finally:
        head.training = False
    branches = _branches(raw)
    if branches is None:
        return None
    backend = backend if backend in ("reference", "triton") else "auto"
    decoded = [dfl_decode(branch, decoding.strides, decoding.bins, backend) for branch in branches]
    decoded = [_as_corners(part) for part in decoded] if corners else decoded
    return (decoded if isinstance(raw, list) and isinstance(raw[0], list) else decoded[0]), raw


def _branches(raw: Any) -> list[list[Tensor]] | None:
    """Levels of each branch: of raw maps by name, in a list, or in a list of lists."""
    if (maps := maps_of(raw)) is not None:
        return [maps]
    lists = raw if isinstance(raw, list) and raw and isinstance(raw[0], list) else [raw]
    good = all(isinstance(part, list) and part and all(isinstance(level, Tensor) for level in part) for part in lists)
    return lists if good else None


def maps_of(predictions: Any) -> list[Tensor] | None:
    """Levels [B, 4 * bins + nc, h, w] of predictions by name, `feats` telling their sizes; None for anything else."""
    if not isinstance(predictions, dict) or not {"boxes", "scores", "feats"} <= predictions.keys():
        return None
    whole = torch.cat((predictions["boxes"], predictions["scores"]), 1)
    sizes = [tuple(level.shape[2:]) for level in predictions["feats"]]
    parts = torch.split(whole, [height * width for height, width in sizes], 2)
    return [torch.unflatten(part, 2, size) for part, size in zip(parts, sizes, strict=True)]


def _as_corners(decoded: Tensor) -> Tensor:
    center, size, scores = decoded[:, :2], decoded[:, 2:4], decoded[:, 4:]
    return torch.cat((center - size / 2, center + size / 2, scores), 1)


def _read(head: Any) -> Decoding | None:
    """Strides and bins of a head that is built; None where bins are not 0, 1, 2, ..., or strides are no whole pixels."""
    stride, *weights = _sources(head)
    strides, bins = stride.tolist(), int(head.reg_max)
    whole = all(value > 0 and value == int(value) for value in strides)
    if not whole or not weights or any(weight.flatten().tolist() != list(range(bins)) for weight in weights):
        return None
    read = tuple((tensor, _version(tensor)) for tensor in (stride, *weights))
    return Decoding(tuple(int(value) for value in strides), bins, read)


def _sources(head: Any) -> Iterator[Tensor]:
    """The strides, and the weights of every integral over bins."""
    yield head.stride
    yield from _integrals(head)


def _integrals(head: Any) -> Iterator[Tensor]:
    """The values of the bins, wherever a part of the head has them for its only tensor: a weight or a buffer."""
    for part in head.children():
        tensors = [*part.parameters(), *part.buffers()]
        if len(tensors) == 1 and tensors[0].numel() == head.reg_max:
            yield tensors[0]


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def facts_of(head: Any) -> dict[str, Any] | None:
    """What the class of a swapped head is to know, None for a module that gives other results than our operator.

    A copy in float64 with weights drawn anew is asked, in evaluation and in training.
    """
    with contextlib.suppress(*_REFUSALS):
        decoding = _read(head)
        if decoding is None:
            return None
        twin, sizes = redraw(bare_copy(head)), itertools.cycle(_SIZES[: len(decoding.strides)])
        for values in _integrals(twin):
            values.data.copy_(torch.arange(len(values.flatten())).view_as(values))
        for widths in _widths(head):
            corners = _agreement(twin, [drawn(2, width, *size) for width, size in zip(widths, sizes, strict=False)], decoding)
            if corners is not None:
                return {"corners": corners, "switches": _switches(head)}
    return None


@torch.no_grad()
def _agreement(twin: Any, maps: list[Tensor], decoding: Decoding) -> bool | None:
    """Whether boxes are corners; None where neither form is what the head gives."""
    with contextlib.suppress(*_REFUSALS):
        wanted = twin.eval()(list(maps))
        for corners in (False, True):
            if close(_evaluated(twin, twin.forward, maps, decoding, corners), wanted):
                return corners
    return None


def _widths(head: nn.Module) -> Iterator[list[int]]:
    """Channels of the maps that a head may take: of its first towers, or of the first towers of two branches."""
    lists = [list(part) for part in head.children() if isinstance(part, nn.ModuleList) and len(part)]
    firsts = [[next(p.in_channels for p in tower.modules() if isinstance(p, nn.Conv2d)) for tower in part] for part in lists]
    if firsts:
        yield firsts[0]
    if len(firsts) > 2:
        yield firsts[0] + firsts[2]


def _switches(head: Any) -> dict[str, bool]:
    names = {name for owner in (*type(head).__mro__, head) for name, value in vars(owner).items() if isinstance(value, bool)}
    return {name: getattr(head, name) for name in names - {"training"}}
