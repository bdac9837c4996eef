"""Starting a model from a checkpoint's weights: of other classes, with an auxiliary branch or without, of another head."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolov9k.common.errors import MODEL, UserError, failing_as, note, shown, warn
from yolov9k.compat.loading import read
from yolov9k.models import DetectionModel
from yolov9k.models.checkpoints import spec_of, weights_of
from yolov9k.models.fitting import head_form, refuse_unfitting, refuse_unusable
from yolov9k.models.heads.detect import head_name
from yolov9k.models.spec import ModelSpec

_MOST = 8  # names in a message


@failing_as(MODEL)
def load_weights(model: DetectionModel, path: str | Path, content: Mapping[str, Any] | None = None) -> list[str]:
    """Start `model` from a checkpoint's weights; returns the keys that were left fresh.

    content: what `read` gave of the file, where that was done already. Layers are found where they are in the model's form,
    with an auxiliary branch or without. The head takes the form and the widths that it has in the file, so that only the last
    layers of its towers may differ, as they do for another number of classes. The file's classes are matched with
    `model.names` by name where the names are the same ones; other names are warned of, and so is what is left out. Raises
    UserError with the keys and shapes of any other mismatch.
    """
    content = read(path, model.spec) if content is None else content
    given, left_out = in_form_of(model.spec, spec_of(content, path), weights_of(content, path))
    if content["fused"] and not any(".bn." in key for key in given) and any(".bn." in key for key in model.state_dict()):
        raise UserError(f"{path}: is fused for inference, without BatchNorm; train from the weights that it was made of")
    _take_head_of(given, model, path)
    own, head = model.state_dict(), f"model.{len(model.spec.layers) - 1}.cv"
    differing = [key for key, value in own.items() if key in given and given[key].shape != value.shape]
    missing = [key for key in own if key not in given]
    if len(missing) > len(own) // 2 or any(not key.startswith(head) for key in differing):
        refuse_unfitting(path, model, given, free=head)
    refuse_unusable(path, model, {key: value for key, value in given.items() if key not in differing})
    fitting = {key: given[key] for key in own if key in given and key not in differing}
    model.load_state_dict(fitting | _by_class_name(model, fitting, content.get("names"), path), strict=False)
    _tell(path, [*left_out, *sorted(given.keys() - own.keys())], differing, missing)
    return [key for key in own if key not in fitting]


def in_form_of(target: ModelSpec, source: ModelSpec, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict of `source` under the keys of `target`, and the keys that have none there.

    The one may be the lean form of the other: its layers then are numbered otherwise, and its head is the main one.
    """
    if source.branches > 1 and source.branches != target.branches and _is_lean_of(target, source):
        number, head = source.lean()[1], len(source.layers) - 1
        found = {_renumbered(key, number, head, source.branches, 1): value for key, value in state.items()}
        return {key: value for key, value in found.items() if key}, [
            key for key in state if not _renumbered(key, number, head, source.branches, 1)
        ]
    if target.branches > 1 and source.branches != target.branches and _is_lean_of(source, target):
        number = {new: old for old, new in target.lean()[1].items()}
        head = len(source.layers) - 1
        return {_renumbered(key, number, head, 1, target.branches): value for key, value in state.items()}, []
    return dict(state), []


def _is_lean_of(lean: ModelSpec, full: ModelSpec) -> bool:
    return lean.branches == 1 and full.lean()[0].layers[:-1] == lean.layers[:-1]


def _renumbered(key: str, number: Mapping[int, int], head: int, branches: int, wanted: int) -> str:
    """A key under another numbering; a head's tower as the main branch's of a head of `wanted` branches. Empty: it has none."""
    match = re.fullmatch(r"model\.(\d+)\.(.+)", key)
    if not match or int(match[1]) not in number:
        return ""
    layer, rest = int(match[1]), match[2]
    if layer == head:
        tower, _, tail = rest.partition(".")
        places = dict(zip(_main_towers(branches), _main_towers(wanted), strict=True))
        if tower not in places:
            return ""
        rest = f"{places[tower]}.{tail}"
    return f"model.{number[layer]}.{rest}"


def _main_towers(branches: int) -> tuple[str, str, str]:
    """Names of the main branch's towers and bins in a head of so many branches."""
    last = branches - 1
    return f"cv{2 * last + 2}", f"cv{2 * last + 3}", f"dfl{branches if last else ''}"


def _take_head_of(given: Mapping[str, Tensor], model: DetectionModel, path: str | Path) -> None:
    """Give the model's head the groups, the class tower and the class widths that it has in a state dict."""
    head, layer = model.head, len(model.spec.layers) - 1
    if not hasattr(head, "towers"):  # of another task
        return
    own, last = model.state_dict(), [f"model.{layer}.cv{2 * branch + 3}.0.2.weight" for branch in range(head.num_branches)]
    mine = head.groups, head.class_tower, [_width(own, key, 1) for key in last]
    form = head_form(_as_lone_head(given, layer, head.num_branches))
    kind = (form.groups, form.class_tower) if form and form.groups in (1, 4) else mine[:2]
    theirs = *kind, [_width(given, key, width) for key, width in zip(last, mine[2], strict=True)]
    if theirs == mine:
        return
    if kind != mine[:2]:
        note(
            f"{path}: its head has box convolutions of {kind[0]} groups and {kind[1]} class towers, and so has the model's now"
        )
    reference, spec = next(model.parameters()), model.spec.with_head(head_name(head.num_branches, *kind))
    with torch.device(reference.device):
        twin = DetectionModel(spec, model.num_classes, model.names, theirs[2])
    head = twin.head.to(reference.device, reference.dtype).train(model.training)
    model.model[-1], model.head, model.class_widths, model.spec = head, head, twin.class_widths, spec


def _width(state: Mapping[str, Tensor], key: str, default: int) -> int:
    return int(state[key].shape[1]) if key in state and state[key].dim() == 4 else default


def _as_lone_head(given: Mapping[str, Tensor], layer: int, branches: int) -> dict[str, Tensor]:
    """The main branch's towers as those of a head of one branch."""
    places = dict(zip(_main_towers(branches), _main_towers(1), strict=True))
    start = f"model.{layer}."
    keys = {key: key[len(start) :].partition(".") for key in given if key.startswith(start)}
    return {f"{start}{places[tower]}.{tail}": given[key] for key, (tower, _, tail) in keys.items() if tower in places}


def _tell(path: str | Path, left_out: Iterable[str], differing: Iterable[str], fresh: Iterable[str]) -> None:
    """Warn of weights that the model does not take, and say what of it starts fresh."""
    if names := _parts(left_out):
        warn(f"{path}: left out, as the model has no place for it: {names}")
    if names := _parts(differing):
        warn(f"{path}: left out, as it is of another shape in the model, for its number of classes: {names}")
    if names := _parts(fresh):
        note(f"{path}: has nothing for {names}, which start with fresh weights")


def _parts(keys: Iterable[str]) -> str:
    """The layers that keys belong to, the last convolutions of a head's towers by themselves."""
    parts = [match[0] for key in keys if (match := re.match(r"model\.\d+\.cv\d+\.\d+\.2(?=\.)|model\.\d+|.*", key))]
    names = list(dict.fromkeys(parts))
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")


def _by_class_name(model: DetectionModel, fitting: Mapping[str, Tensor], names: object, path: str | Path) -> dict[str, Tensor]:
    """The tensors with a row for each class, in the order of the model's names where a file's `names` are the same ones."""
    keys = [key for key in _class_keys(model) if key in fitting]
    named = isinstance(names, list) and len(names) == model.num_classes and all(isinstance(name, str) for name in names)
    if not keys or not named or [str(i) for i in range(model.num_classes)] in (names, model.names) or names == model.names:
        return {}
    assert isinstance(names, list)
    if len(set(names)) == len(names) and set(names) == set(model.names):
        note(f"{path}: has the classes in another order than the model; their weights are matched by their names")
        order = torch.tensor([names.index(name) for name in model.names])
        return {key: fitting[key][order] for key in keys}
    number = next(i for i, (mine, theirs) in enumerate(zip(model.names, names, strict=True)) if mine != theirs)
    warn(
        f"{path}: class {number} is {shown(model.names[number])} in the model and {shown(names[number])} in the file; their "
        "weights are matched by their numbers, spell the names alike where the classes are the same"
    )
    return {}


def _class_keys(model: DetectionModel) -> list[str]:
    """Keys of the tensors with a row for each class, of all branches; none where the head is of another task."""
    if not hasattr(model.head, "towers"):
        return []
    prefix = f"model.{len(model.spec.layers) - 1}."
    towers = [model.head.towers(branch)[1] for branch in range(model.head.num_branches)]
    last = {id(parameter) for levels in towers for tower in levels for parameter in tower[-1].parameters()}  # type: ignore[index]
    return [prefix + key for key, parameter in model.head.named_parameters() if id(parameter) in last]
