"""What stands for the objects of a checkpoint whose classes are not at hand: names and plain state, nothing that runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from yolov9k.common.errors import UserError

MAX_KEYS, MAX_DEPTH = 100_000, 100  # tensors of a pickled module, and modules within each other


class Damaged(Exception):
    """What is wrong with a file, in a few words."""


class Refused(Exception):
    """The name of a function that a file wants to be called and that no checkpoint needs."""


@dataclass(frozen=True)
class Reference:
    """A class or function that a file names by `path`, such as "torch.nn.modules.conv.Conv2d"; it is not looked up."""

    path: str


class StandIn:
    """An object of a class that was not imported, as its pickle told it.

    class_path: the class, such as "ultralytics.nn.tasks.DetectionModel". args: what it was made from. state: its attributes, by
    name; what is no table of attributes stands under the empty name. items: what was appended to it or set in it, if anything.
    """

    __slots__ = ("args", "class_path", "items", "state")

    def __init__(self, class_path: str, args: tuple[Any, ...] = ()) -> None:
        self.class_path, self.args = class_path, args
        self.state: dict[Any, Any] = {}
        self.items: list[Any] | dict[Any, Any] | None = None

    def __repr__(self) -> str:
        return f"<stand-in for {self.class_path}>"


def state_dict_of(module: StandIn, path: str | Path = "checkpoint") -> dict[str, Tensor]:
    """The tensors of a pickled torch.nn.Module under the keys and in the order of its `state_dict()`.

    Raises UserError naming the file for modules that hold themselves, or more tensors than any model has.
    """
    state: dict[str, Tensor] = {}
    for steps, (prefix, part) in enumerate(_modules(module)):
        if steps > MAX_KEYS or len(state) > MAX_KEYS or prefix.count(".") > MAX_DEPTH:
            raise UserError(f"{path}: damaged or not a checkpoint (its modules hold each other without end); download it again")
        transient = part.state.get("_non_persistent_buffers_set")
        left_out = transient if isinstance(transient, set) else ()
        for kind in ("_parameters", "_buffers"):
            for name, value in _table(part, kind):
                if isinstance(value, Tensor) and not (kind == "_buffers" and name in left_out):
                    state[prefix + name] = value
    return state


def _modules(module: StandIn) -> Iterator[tuple[str, StandIn]]:
    """A module and all within it with the prefixes of their keys, as torch walks them; without end where they form a ring."""
    waiting = [("", module)]
    while waiting:
        prefix, part = waiting.pop()
        yield prefix, part
        inner = [(f"{prefix}{name}.", value) for name, value in _table(part, "_modules") if isinstance(value, StandIn)]
        waiting += reversed(inner)


def _table(module: StandIn, name: str) -> list[tuple[str, Any]]:
    """An attribute's entries that have a name, none where it is no table."""
    table = module.state.get(name)
    return [item for item in table.items() if isinstance(item[0], str)] if isinstance(table, Mapping) else []
