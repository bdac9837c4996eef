"""Saving and loading: files hold tensors and plain values alone, so that reading one runs no code from it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from yolov9k.common.errors import MODEL, UserError, failing_as, note, one_line, shown, warn
from yolov9k.common.files import user_path, write_atomically
from yolov9k.config.flags import MAX_CLASSES
from yolov9k.models.build import said
from yolov9k.models.checkpoint_file import checksum, read
from yolov9k.models.spec import ModelSpec, load_spec
from yolov9k.models.stand_ins import StandIn, state_dict_of
from yolov9k.models.tables import MAX_LAYERS, NAMES, checked_layer
from yolov9k.models.yolov9 import DetectionModel, try_out

__all__ = ["FORMAT", "describe", "load", "load_weights", "read", "rebuild", "save", "weights_of"]

FORMAT = "yolov9k-1"
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_FORM = torch.contiguous_format
_FEWEST = 1_000_000  # weights of a published model; the smallest has twice as many
_SLACK, _SLACK_CLASS = 10_000_000, 2_000  # weights of a new head, and of each of its classes


def save(path: str | Path, model: DetectionModel, **extra: Any) -> None:
    """Save a model with its plan, class names and anything of tensors and plain values.

    A .safetensors file takes plain values alone beside the model's tensors. Raises UserError naming the file.
    """
    path, head, state = user_path(path), {"format": FORMAT, **describe(model)}, model.state_dict()
    if path.suffix == ".safetensors":
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
    spec = model.spec
    layers = [[list(layer.sources), layer.module, list(layer.args), layer.repeats] for layer in spec.layers]
    return {
        "spec": {"name": spec.name, "layers": layers, "activation": spec.activation},
        "names": list(model.names),
        "num_classes": model.num_classes,
        "class_widths": model.class_widths,
        "fused": not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()),
    }


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
    return model.fuse() if content["fused"] else model


def _stored(weights: Mapping[str, Tensor]) -> int:
    """How many numbers a file holds for its weights: tensors may share them."""
    plain = [tensor for tensor in weights.values() if tensor.layout == torch.strided and not tensor.is_meta]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() // t.element_size() for t in plain}.values())


def _outline(content: Mapping[str, Any], path: str | Path, held: int) -> DetectionModel:
    """The model that `describe` described, without memory for weights where its plan is a user's, or the file has too few.

    Raises as `rebuild` does.
    """
    try:
        plan = _plan_of(content)
        own = plan.spec != _published(plan.spec.name)
        if own:
            try_out(*plan)
        with torch.device("meta" if own or held < _FEWEST else "cpu"):  # the first use of meta takes a second of imports
            model = DetectionModel(*plan)
            return model.fuse() if content["fused"] is True else model
    except (UserError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"{path}: its layer table is damaged ({type(error).__name__}: {said(error)})") from None


class _Plan(NamedTuple):
    spec: ModelSpec
    num_classes: int
    names: list[str]
    class_widths: list[int] | None


def _plan_of(content: Mapping[str, Any]) -> _Plan:
    """What `describe` gave, each value of its kind. Raises ValueError, TypeError or LookupError."""
    table, classes, names, widths = (content[key] for key in ("spec", "num_classes", "names", "class_widths"))
    layers = tuple(checked_layer(i, *row) for i, row in enumerate(table["layers"]))
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"{len(layers):,} layers, expected at most {MAX_LAYERS:,}")
    if type(classes) is not int or not 1 <= classes <= MAX_CLASSES:
        raise ValueError(f"num_classes is {shown(classes)}")
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names are {shown(names)}, expected {classes} texts")
    if widths is not None and not (isinstance(widths, list) and all(type(w) is int and w > 0 for w in widths)):
        raise ValueError(f"class_widths are {shown(widths)}")
    if not all(isinstance(table[key], str) for key in ("name", "activation")) or type(content["fused"]) is not bool:
        raise TypeError("name and activation are texts, fused is true or false")
    if len(table["name"]) > 200 or not table["name"].isprintable():
        raise ValueError(f"the model's name is {shown(table['name'])}")
    return _Plan(ModelSpec(table["name"], layers, table["activation"]), classes, names, widths)


def _published(name: str) -> ModelSpec | None:
    return load_spec(name) if name in NAMES else None


@failing_as(MODEL)
def load(path: str | Path) -> DetectionModel:
    """The model of a checkpoint that this package saved, in evaluation mode: its EMA weights where it has them.

    Raises UserError naming the file, and the keys and shapes of what does not fit.
    """
    content = read(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: has no layer table; build the model by name and give this file as --weights")
    given = weights_of(content, path)
    outline = _outline(content, path, _stored(given))
    model = _with_class_widths_of(given, outline)
    _refuse_unfitting(path, model, given, given.keys() - model.state_dict().keys())
    _refuse_unusable(path, model, given)
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
        key = f"{prefix}{2 * branch + 3}.0.0.conv.weight"
        width = state[key].shape[0] if key in state and state[key].dim() == 4 else own[key].shape[0]
        widths.append(int(width))
    return widths


def _with_class_widths_of(given: Mapping[str, Tensor], model: DetectionModel) -> DetectionModel:
    """The model itself, or one with fresh weights whose class branches are as wide as the tensors of `given`."""
    widths = _class_widths(given, model)
    if widths == _class_widths({}, model):
        return model
    with torch.device(next(model.parameters()).device):
        twin = DetectionModel(model.spec, model.num_classes, model.names, widths)
        return twin.fuse() if describe(model)["fused"] else twin


def _refuse_unfitting(
    path: str | Path, model: DetectionModel, given: Mapping[str, Tensor], unknown: Collection[str] = (), free: str = "\0"
) -> None:
    """Raise UserError for keys of another shape, save those that start with `free`, and for those that are missing."""
    own = model.state_dict()
    mismatched = [k for k in own if k in given and given[k].shape != own[k].shape and not k.startswith(free)]
    missing = [key for key in own if key not in given]
    lines = [f"{key}: file {list(given[key].shape)}, model {list(own[key].shape)}" for key in mismatched]
    lines += [f"{key}: missing in the file" for key in missing] + [
        f"{one_line(key, 100)}: unknown to the model" for key in sorted(unknown)
    ]
    if lines:
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise UserError(
            f"{path}: does not fit {model.spec.name}, {len(mismatched)} keys of another shape and {len(missing)} missing "
            f"of {len(own)}; {'; '.join(lines[:5])}{more}"
        )


def _refuse_unusable(path: str | Path, model: DetectionModel, given: Mapping[str, Tensor]) -> None:
    """Raise UserError for tensors that are no plain numbers, and for NaN and infinity: such a model finds nothing."""
    own = model.state_dict()
    for key in own.keys() & given.keys():
        if kind := _unusual(given[key], own[key]):
            raise UserError(f"{path}: {key} is {kind}, expected plain {str(own[key].dtype).removeprefix('torch.')}")
    wrong = [key for key in own if key in given and not given[key].to(own[key].dtype).isfinite().all()]
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} of {len(own)} tensors hold NaN or infinity, the first is {wrong[0]}; the training had "
            "failed by then, give an earlier checkpoint"
        )


def _unusual(tensor: Tensor, own: Tensor) -> str:
    """What keeps a tensor from being copied to one of a model, empty where nothing does."""
    kinds = {"sparse": tensor.layout != torch.strided, "quantized": tensor.is_quantized, "without values": tensor.is_meta}
    if kind := next((kind for kind, true in kinds.items() if true), ""):
        return kind
    plain = _FLOATS if own.is_floating_point() else (torch.int64, torch.int32)
    return "" if tensor.dtype in plain else f"of {str(tensor.dtype).removeprefix('torch.')}"


def weights_of(content: Mapping[str, Any], path: str | Path = "checkpoint") -> dict[str, Tensor]:
    """The state dict in a checkpoint's content, whichever of the usual keys holds it. Raises UserError naming the file."""
    kinds = ("ema", "model", "state_dict")
    held = next((content[key] for key in kinds if isinstance(content.get(key), Mapping | StandIn)), content)
    if isinstance(held, StandIn):  # a module that was saved as a whole
        return state_dict_of(held, path)
    return {key: value for key, value in held.items() if isinstance(key, str) and isinstance(value, Tensor)}


@failing_as(MODEL)
def load_weights(model: DetectionModel, path: str | Path) -> list[str]:
    """Start `model` from a checkpoint's weights; returns the keys that were left fresh.

    Its class branches take the width they have in the file, so that only the last layers of the head's
    towers may differ, as they do for another number of classes. The file's classes are matched with `model.names` by name where
    the names are the same ones; other names are warned of. Raises UserError with the keys and shapes of any other mismatch.
    """
    content = read(path)
    given = weights_of(content, path)
    _take_head(model, _with_class_widths_of(given, model))
    own, head = model.state_dict(), f"model.{len(model.spec.layers) - 1}.cv"
    differing = [key for key, value in own.items() if key in given and given[key].shape != value.shape]
    missing = [key for key in own if key not in given]
    if len(missing) > len(own) // 2 or any(not key.startswith(head) for key in differing):
        _refuse_unfitting(path, model, given, free=head)
    _refuse_unusable(path, model, {key: value for key, value in given.items() if key not in differing})
    fitting = {key: given[key] for key in own if key in given and key not in differing}
    model.load_state_dict(fitting | _by_class_name(model, fitting, content.get("names"), path), strict=False)
    return [key for key in own if key not in fitting]


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


def _take_head(model: DetectionModel, twin: DetectionModel) -> None:
    if twin is not model:
        reference = next(model.parameters())
        head = twin.head.to(reference.device, reference.dtype).train(model.training)
        model.model[-1], model.head, model.class_widths = head, head, twin.class_widths
