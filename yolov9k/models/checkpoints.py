"""This project's own checkpoints: tensors and plain values alone, so that reading one runs no code from it.

`compat` reads those of others, as the same content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from yolov9k.common.errors import MODEL, UserError, failing_as, shown
from yolov9k.common.files import user_path, write_atomically
from yolov9k.config.flags import MAX_CLASSES, PLACEMENTS
from yolov9k.models.build import said
from yolov9k.models.checkpoint_file import checksum, read
from yolov9k.models.fitting import refuse_unfitting, refuse_unusable
from yolov9k.models.heads.detect import HEAD_NAMES
from yolov9k.models.registry import is_head, is_known
from yolov9k.models.spec import ModelSpec, load_spec
from yolov9k.models.stand_ins import StandIn, state_dict_of
from yolov9k.models.tables import MAX_LAYERS, NAMES, checked_layer
from yolov9k.models.yolov9 import DetectionModel, try_out

__all__ = [
    "FORMAT",
    "describe",
    "model_of",
    "plain_spec",
    "read",
    "rebuild",
    "save",
    "spec_of",
    "weights_of",
]

FORMAT = "yolov9k-1"
_FORM = torch.contiguous_format
_FEWEST = 1_000_000  # weights of a published model; the smallest has twice as many
_NO_PLAN = (UserError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)
_SLACK, _SLACK_CLASS = 10_000_000, 2_000  # weights of a new head, and of each of its classes


def save(path: str | Path, model: DetectionModel, **extra: Any) -> None:
    """Save a model with its plan, class names and anything of tensors and plain values.

    A .safetensors file takes plain values alone beside the model's tensors. Raises UserError naming the file.
    """
    path, head, state = user_path(path), {"format": FORMAT, **describe(model)}, model.state_dict()
    if path.suffix.lower() == ".safetensors":
        plain = json.dumps({**head, **extra})
        # contiguous: safetensors knows no channels-last
        tensors = {key: value.contiguous() for key, value in state.items()}
        data = to_safetensors(tensors, {"yolov9k": plain, "crc32": checksum(tensors, plain)})
        write_atomically(path, lambda temporary: _write(temporary, data))
    else:
        write_atomically(path, lambda temporary: _torch_save({**head, "model": state, **extra}, temporary))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _torch_save(content: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:  # Python's file: its errors say what is wrong, those of torch's own do not
        torch.save(content, file)


def describe(model: DetectionModel) -> dict[str, Any]:
    """What `rebuild` needs to make the model anew, as plain values."""
    return {
        "spec": plain_spec(model.spec),
        "names": list(model.names),
        "num_classes": model.num_classes,
        "class_widths": model.class_widths,
        "fused": not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()),
        "letterbox": model.letterbox,
    }


def plain_spec(spec: ModelSpec) -> dict[str, Any]:
    """A plan as plain values."""
    layers = [[list(layer.sources), layer.module, list(layer.args), layer.repeats] for layer in spec.layers]
    return {"name": spec.name, "layers": layers, "activation": spec.activation}


def spec_of(content: Mapping[str, Any], path: str | Path) -> ModelSpec:
    """The plan in a checkpoint's content. Raises UserError naming the file where it can't be one."""
    return _checked_plan(content, path).spec


@failing_as(MODEL)
def rebuild(content: Mapping[str, Any], path: str | Path) -> DetectionModel:
    """The model that `describe` described, with fresh weights. Raises UserError naming the file where it can't be one."""
    held = _stored(weights_of(content, path))
    outline = _outline(content, path, held)
    if sum(tensor.numel() for tensor in outline.state_dict().values()) > 2 * held + _SLACK + _SLACK_CLASS * outline.num_classes:
        raise UserError(f"{path}: its layer table is damaged (it describes far more weights than the file holds)")
    if not next(outline.parameters()).is_meta:
        return outline
    model = DetectionModel(outline.spec, outline.num_classes, outline.names, outline.class_widths)
    model.letterbox = outline.letterbox
    return model.fuse() if content["fused"] else model


def _stored(weights: Mapping[str, Tensor]) -> int:
    """How many numbers a file holds for its weights: tensors may share them."""
    plain = [tensor for tensor in weights.values() if tensor.layout == torch.strided and not tensor.is_meta]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() // t.element_size() for t in plain}.values())


def _outline(content: Mapping[str, Any], path: str | Path, held: int) -> DetectionModel:
    """The model that `describe` described, without memory for weights where its plan is a user's, or the file has too few.

    Raises as `rebuild` does.
    """
    plan, fused = _checked_plan(content, path), content["fused"]
    own = not _is_published(plan.spec)
    try:
        if own:
            try_out(*plan)
        with torch.device("meta" if own or held < _FEWEST else "cpu"):  # the first use of meta takes a second of imports
            model = DetectionModel(*plan)
            model.letterbox = str(content.get("letterbox", PLACEMENTS[0]))
            return model.fuse() if fused else model
    except _NO_PLAN as error:
        raise _damaged(path, error) from None


class _Plan(NamedTuple):
    spec: ModelSpec
    num_classes: int
    names: list[str]
    class_widths: list[int] | None


def _checked_plan(content: Mapping[str, Any], path: str | Path) -> _Plan:
    try:
        return _plan_of(content)
    except _NO_PLAN as error:
        raise _damaged(path, error) from None


def _damaged(path: str | Path, error: Exception) -> UserError:
    return UserError(f"{path}: its layer table is damaged ({type(error).__name__}: {said(error)})")


def _plan_of(content: Mapping[str, Any]) -> _Plan:
    """What `describe` gave, each value of its kind. Raises ValueError, TypeError or LookupError."""
    table, classes, names, widths = (content[key] for key in ("spec", "num_classes", "names", "class_widths"))
    layers = tuple(checked_layer(i, *row) for i, row in enumerate(table["layers"]))
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"{len(layers):,} layers, expected at most {MAX_LAYERS:,}")
    for i, layer in enumerate(layers):
        if not is_known(layer.module):
            raise ValueError(f"layer {i} is a {shown(layer.module)}, which is unknown")
    if not layers or not is_head(layers[-1].module):
        raise ValueError(f"the last layer is {shown(layers[-1].module) if layers else 'missing'}, expected a head")
    if type(classes) is not int or not 1 <= classes <= MAX_CLASSES:
        raise ValueError(f"num_classes is {shown(classes)}")
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names are {shown(names)}, expected {classes} texts")
    if widths is not None and not (isinstance(widths, list) and all(type(w) is int and w > 0 for w in widths)):
        raise ValueError(f"class_widths are {shown(widths)}")
    if not all(isinstance(table[key], str) for key in ("name", "activation")) or type(content["fused"]) is not bool:
        raise TypeError("name and activation are texts, fused is true or false")
    if content.get("letterbox", PLACEMENTS[0]) not in PLACEMENTS:
        raise ValueError(f"letterbox is {shown(content['letterbox'])}")
    if len(table["name"]) > 200 or not table["name"].isprintable():
        raise ValueError(f"the model's name is {shown(table['name'])}")
    return _Plan(ModelSpec(table["name"], layers, table["activation"]), classes, names, widths)


def _is_published(spec: ModelSpec) -> bool:
    """Whether a plan is one of the published ones, under whichever of our detection heads."""
    known = load_spec(spec.name) if spec.name in NAMES else None
    head = spec.layers[-1].module if spec.layers else ""
    return known is not None and head in HEAD_NAMES and spec == known.with_head(head)


@failing_as(MODEL)
def model_of(content: Mapping[str, Any], path: str | Path) -> DetectionModel:
    """The model of a checkpoint's content, in evaluation mode: its EMA weights where it has them.

    Raises UserError naming the file, and the keys and shapes of what does not fit.
    """
    given = weights_of(content, path)
    outline = _outline(content, path, _stored(given))
    model = _with_class_widths_of(given, outline)
    refuse_unfitting(path, model, given, given.keys() - model.state_dict().keys())
    refuse_unusable(path, model, given)
    model.load_state_dict(
        {k: given[k].to(own.dtype).clone(memory_format=_FORM) for k, own in model.state_dict().items()}, assign=True
    )
    return model.eval()


def _class_widths(state: Mapping[str, Tensor], model: DetectionModel) -> list[int]:
    """Widths of a state dict's class branches; the model's own where it has none that can be."""
    own, prefix, widths = model.state_dict(), f"model.{len(model.spec.layers) - 1}.cv", []
    if not hasattr(model.head, "towers"):  # a head of another task, whose widths are fixed
        return []
    for branch in range(model.head.num_branches):
        key = f"{prefix}{2 * branch + 3}.0.2.weight"
        width = state[key].shape[1] if key in state and state[key].dim() == 4 else own[key].shape[1]
        widths.append(int(width))
    return widths


def _with_class_widths_of(given: Mapping[str, Tensor], model: DetectionModel) -> DetectionModel:
    """The model itself, or one with fresh weights whose class branches are as wide as the tensors of `given`."""
    widths = _class_widths(given, model)
    if widths == _class_widths({}, model):
        return model
    with torch.device(next(model.parameters()).device):
        twin = DetectionModel(model.spec, model.num_classes, model.names, widths)
        twin.letterbox = model.letterbox
        return twin.fuse() if describe(model)["fused"] else twin


def weights_of(content: Mapping[str, Any], path: str | Path = "checkpoint") -> dict[str, Tensor]:
    """The state dict in a checkpoint's content, whichever of the usual keys holds it. Raises UserError naming the file."""
    kinds = ("ema", "model", "state_dict")
    held = next((content[key] for key in kinds if isinstance(content.get(key), Mapping | StandIn)), content)
    if isinstance(held, StandIn):  # a module that was saved as a whole
        return state_dict_of(held, path)
    return {key: value for key, value in held.items() if isinstance(key, str) and isinstance(value, Tensor)}
