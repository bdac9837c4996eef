"""What a checkpoint of any implementation comes to: tensors under this project's keys, and the facts beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from yolov9k.common.errors import UserError, shown
from yolov9k.config.flags import PLACEMENTS
from yolov9k.models.checkpoints import FORMAT, plain_spec
from yolov9k.models.fitting import HeadForm, head_form
from yolov9k.models.heads.detect import STRIDES, head_name
from yolov9k.models.spec import ModelSpec

State = dict[str, Tensor]
EPS = 1e-3  # of BatchNorm, here and in all of theirs
BINS = torch.arange(16, dtype=torch.float32).view(1, 16, 1, 1)


@dataclass(frozen=True)
class Weights:
    """A checkpoint's weights and what its file tells of the model.

    family: whose layout it had. spec: the layers, under the head that the tensors ask for. class_widths: of the head's class
    branches. fused: whether BatchNorm is folded into the convolutions. letterbox: `config.flags.PLACEMENTS`. left_out: parts of
    the file that have no counterpart here.
    """

    family: str
    spec: ModelSpec
    state: State
    num_classes: int
    names: list[str]
    class_widths: list[int] | None
    fused: bool = False
    letterbox: str = PLACEMENTS[0]
    left_out: tuple[str, ...] = ()

    def content(self) -> dict[str, Any]:
        """The same as the content of a checkpoint of this project's own (`models.checkpoints`)."""
        return {
            "format": FORMAT, "spec": plain_spec(self.spec), "names": self.names, "num_classes": self.num_classes,
            "class_widths": self.class_widths, "fused": self.fused, "letterbox": self.letterbox, "model": self.state,
        }  # fmt: skip


@dataclass(frozen=True)
class Held:
    """What a file holds, before anybody knows whose it is: tensors by their bare keys, without the wrappers' prefixes.

    facts: plain values beside them, a pickled module's attributes included. classes: names of the pickled modules' classes.
    """

    path: str
    tensors: State
    facts: Mapping[str, Any]
    classes: frozenset[str] = frozenset()


def assemble(held: Held, family: str, state: State, spec: ModelSpec, **more: Any) -> Weights:
    """Weights of `state` (our keys) for the layers of `spec`: head, classes and names as the tensors and the file tell.

    Raises UserError for a head that no class here can be.
    """
    form = head_form(state)
    if form is None:
        raise UserError(f"{held.path}: its last layer is no detection head of pairs of box and class towers, cv2 and cv3")
    _check_head(held, form, state)
    state = {**state, **{key: BINS.clone() for key in _bin_keys(form) if key not in state}}
    spec = spec.with_head(head_name(form.branches, form.groups, form.class_tower))
    names = names_of(held.facts.get("names"), form.num_classes)
    fused = not any(".bn." in key for key in state)
    return Weights(family, spec, state, form.num_classes, names, form.class_widths, fused, **more)


def _bin_keys(form: HeadForm) -> list[str]:
    return [f"model.{form.layer}.dfl{branch + 1 if branch else ''}.conv.weight" for branch in range(form.branches)]


def _check_head(held: Held, form: HeadForm, state: State) -> None:
    """Raise UserError for what is computed otherwise here: other strides, groups, bins or BatchNorm."""
    if (eps := held.facts.get("eps")) and eps != {EPS}:
        raise UserError(f"{held.path}: its BatchNorm has eps {shown(sorted(eps, key=str))}, expected {EPS}")
    strides = held.facts.get("stride")
    if isinstance(strides, Tensor) and strides.numel() == form.levels and strides.tolist() != list(STRIDES):
        raise UserError(f"{held.path}: its strides are {shown(strides.tolist())}, expected {list(STRIDES)}")
    if form.levels != len(STRIDES):
        raise UserError(f"{held.path}: its head has {form.levels} levels, expected {len(STRIDES)} of strides {list(STRIDES)}")
    if form.groups not in (1, 4) or form.branches > 3:
        raise UserError(
            f"{held.path}: its head has {form.branches} branches and box convolutions in {form.groups} groups; heads here have "
            "up to 3 branches and 1 or 4 groups"
        )
    for key in _bin_keys(form):
        bins = state.get(key)
        if bins is not None and (bins.numel() != BINS.numel() or not torch.equal(bins.float().reshape(-1), BINS.reshape(-1))):
            raise UserError(f"{held.path}: {key} is not 0 to 15, the distances that the decode counts with")


def names_of(given: Any, count: int) -> list[str]:
    """The class names in a file, a list or a table by number; numbers where it has none for all of `count` classes."""
    if isinstance(given, Mapping):
        table = {str(number): name for number, name in given.items()}
        given = [table.get(str(number)) for number in range(count)]
    fits = isinstance(given, Sequence) and not isinstance(given, str) and len(given) == count
    if not fits or not all(isinstance(name, str) for name in given):
        return [str(number) for number in range(count)]
    return list(given)
