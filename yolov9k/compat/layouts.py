"""How other implementations name what is the same network, and what their files can hold: one layout a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from yolov9k.compat.weights import Held, Weights
from yolov9k.config.flags import PLACEMENTS
from yolov9k.models import DetectionModel
from yolov9k.models.tables import NAMES


class Row(NamedTuple):
    """A part of a model that is written: what it is, what it is in the file. fits: whether the file can hold it."""

    part: str
    given: str
    written: str
    fits: bool = True


class Layout(ABC):
    """An implementation's names and files.

    name: the family, as `convert --to` calls it. towers: class towers that its heads have. placement: of images, where its
    files do not state it, empty where they do.
    """

    name: ClassVar[str]
    suffix: ClassVar[str] = ".pt"
    towers: ClassVar[tuple[str, ...]] = ("plain",)
    placement: ClassVar[str] = PLACEMENTS[0]

    @abstractmethod
    def recognizes(self, held: Held) -> bool:
        """Whether the tensors are named as in this layout."""

    @abstractmethod
    def read(self, held: Held) -> Weights | None:
        """The weights under our keys; None for another network than a published one. Raises UserError."""

    def is_lean(self, model: DetectionModel) -> bool:
        """Whether its files hold a model without the auxiliary branch that it has."""
        return False

    def limits(self, model: DetectionModel) -> list[Row]:
        """What of a model, lean where `is_lean` says so, becomes something else in its files, and what they cannot hold."""
        rows = []
        if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
            rows.append(Row("BatchNorm", "folded into the convolutions", "kept there; convert unfused weights", False))
        if model.head.class_tower not in self.towers:
            known = " or ".join(self.towers)
            rows.append(Row("class tower", model.head.class_tower, f"its heads have {known} ones alone", False))
        if self.placement and model.letterbox != self.placement:
            rows.append(Row("letterbox", model.letterbox, f"not stated; theirs is {self.placement}, boxes may differ a little"))
        return rows

    @abstractmethod
    def write(self, model: DetectionModel, path: Path) -> None:
        """Write a model in this layout's form. Raises UserError naming the file."""


def grouped(model: DetectionModel) -> list[Row]:
    """The row of a head whose box convolutions are dense, for a layout that has them in groups alone."""
    if model.head.groups == 4:
        return []
    return [Row("box convolutions", "dense (1 group)", "its heads have them in 4 groups, which hold a quarter of that", False)]


def sized(model: DetectionModel, sizes: str) -> list[Row]:
    """The row of a network that is none of the published ones of these sizes, for a layout that knows no other."""
    if model.spec.name in NAMES and model.spec.name[-1] in sizes:
        return []
    return [Row("layers", model.spec.name, f"it has the sizes {', '.join(sizes)} alone", False)]


def classes(model: DetectionModel, widths: list[int]) -> list[Row]:
    """The row of class branches of other widths than a layout's own, one a branch."""
    own = [int(tower[-1].weight.shape[1]) for tower, *_ in (model.head.towers(b)[1] for b in range(model.head.num_branches))]  # type: ignore
    if own == widths:
        return []
    return [Row("class branch", f"{_listed(own)} wide", f"{_listed(widths)} wide there for {model.num_classes} classes", False)]


def _listed(numbers: list[int]) -> str:
    return " and ".join(map(str, numbers))


def has(tensors: Mapping[str, Tensor], start: str, end: str = "") -> bool:
    """Whether there is a key that begins and ends so."""
    return any(key.startswith(start) and key.endswith(end) for key in tensors)
