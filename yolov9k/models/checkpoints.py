"""Saving and loading: files hold tensors and plain values alone, so that reading one runs no code from it."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from yolov9k.common.errors import UserError
from yolov9k.common.files import write_atomically
from yolov9k.models.spec import ModelSpec
from yolov9k.models.tables import LayerSpec
from yolov9k.models.yolov9 import YOLOv9

FORMAT = "yolov9k-1"


def save(path: str | Path, model: YOLOv9, **extra: Any) -> None:
    """Save a model with its plan, class names and anything of tensors and plain values.

    A .safetensors file takes plain values alone beside the model's tensors. Raises UserError naming the file.
    """
    path, head, state = Path(path), {"format": FORMAT, **describe(model)}, model.state_dict()
    if path.suffix == ".safetensors":
        plain = {"yolov9k": json.dumps({**head, **extra})}
        # contiguous: safetensors knows no channels-last
        data = to_safetensors({key: value.contiguous() for key, value in state.items()}, plain)
        write_atomically(path, lambda temporary: _write(temporary, data))
    else:
        write_atomically(path, lambda temporary: _torch_save({**head, "model": state, **extra}, temporary))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _torch_save(content: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:  # Python's file: its errors say what is wrong, those of torch's own do not
        torch.save(content, file)


def describe(model: YOLOv9) -> dict[str, Any]:
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


def rebuild(content: Mapping[str, Any], path: str | Path) -> YOLOv9:
    """The model that `describe` described, with fresh weights. Raises UserError naming the file where it can't be one."""
    try:
        table = content["spec"]
        layers = tuple(LayerSpec(tuple(s), module, tuple(args), repeats) for s, module, args, repeats in table["layers"])
        spec = ModelSpec(table["name"], layers, table["activation"])
        model = YOLOv9(spec, content["num_classes"], content["names"], content["class_widths"])
    except (UserError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its layer table is damaged ({type(error).__name__}: {error})") from None
    return model.fuse() if content["fused"] else model


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file. Raises UserError naming the file and the remedy."""
    if not str(path).strip():
        raise UserError("--weights: empty; give a checkpoint")
    path = Path(path)
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder, give a checkpoint in it")
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such checkpoint")
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _torch_load(path)
    except pickle.UnpicklingError as error:
        if "unsupported GLOBAL" not in str(error) and "Unsupported global" not in str(error):
            raise UserError(f"{path}: damaged or not a checkpoint (no pickle of tensors)") from None
        raise UserError(
            f"{path}: holds Python objects, not only tensors, and is not opened; convert it to a state dict first"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, SafetensorError) as error:
        said = " ".join(str(error).split()).split(". ")[0]  # the rest is torch's advice
        what = "no pickle of tensors" if isinstance(error, LookupError | AttributeError | EOFError) or not said else said
        raise UserError(f"{path}: damaged or not a checkpoint ({what})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, expected a checkpoint or a state dict")
    return content


def _torch_load(path: Path) -> Any:
    with warnings.catch_warnings():  # torch warns of pickles that are none of its own; they are refused anyway
        warnings.simplefilter("ignore", UserWarning)
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        plain = json.loads((file.metadata() or {}).get("yolov9k", "{}"))
        return {**plain, "model": {key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118  no dict


def load(path: str | Path) -> YOLOv9:
    """The model of a checkpoint that this package saved, in evaluation mode: its EMA weights where it has them.

    Raises UserError naming the file, and the keys and shapes of what does not fit.
    """
    content = read(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: has no layer table; build the model by name and give this file as --weights")
    model = rebuild(content, path)
    try:
        given = weights_of(content)
    except (UserError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its layer table is damaged ({type(error).__name__}: {error})") from None
    model = _with_class_widths_of(given, model)
    _refuse_unfitting(path, model, given, given.keys() - model.state_dict().keys())
    model.load_state_dict(given)
    return model.eval()


def _class_widths(state: Mapping[str, Tensor], model: YOLOv9) -> list[int]:
    """Widths of a state dict's class branches; the model's own where it has none that can be."""
    own, prefix, widths = model.state_dict(), f"model.{len(model.spec.layers) - 1}.cv", []
    if not hasattr(model.head, "towers"):  # a head of another task, whose widths are fixed
        return []
    for branch in range(model.head.num_branches):
        key = f"{prefix}{2 * branch + 3}.0.0.conv.weight"
        width = state[key].shape[0] if key in state and state[key].dim() == 4 else own[key].shape[0]
        widths.append(int(width))
    return widths


def _with_class_widths_of(given: Mapping[str, Tensor], model: YOLOv9) -> YOLOv9:
    """The model itself, or one with fresh weights whose class branches are as wide as the tensors of `given`."""
    widths = _class_widths(given, model)
    if widths == _class_widths({}, model):
        return model
    fused = describe(model)["fused"]
    twin = YOLOv9(model.spec, model.num_classes, model.names, widths)
    return twin.fuse() if fused else twin


def _refuse_unfitting(
    path: str | Path, model: YOLOv9, given: Mapping[str, Tensor], unknown: Collection[str] = (), free: str = "\0"
) -> None:
    """Raise UserError for keys of another shape, save those that start with `free`, and for those that are missing."""
    own = model.state_dict()
    mismatched = [k for k in own if k in given and given[k].shape != own[k].shape and not k.startswith(free)]
    missing = [key for key in own if key not in given]
    lines = [f"{key}: file {list(given[key].shape)}, model {list(own[key].shape)}" for key in mismatched]
    lines += [f"{key}: missing in the file" for key in missing] + [f"{key}: unknown to the model" for key in sorted(unknown)]
    if lines:
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise UserError(
            f"{path}: does not fit {model.spec.name}, {len(mismatched)} keys of another shape and {len(missing)} missing "
            f"of {len(own)}; {'; '.join(lines[:5])}{more}"
        )


def weights_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict in a checkpoint's content, whichever of the usual keys holds it."""
    held = next((content[key] for key in ("ema", "model", "state_dict") if isinstance(content.get(key), Mapping)), content)
    return {key: value for key, value in held.items() if isinstance(value, Tensor)}


def load_weights(model: YOLOv9, path: str | Path) -> list[str]:
    """Start `model` from a checkpoint's weights; returns the keys that were left fresh.

    Its class branches take the width they have in the file, so that only the last layers of the head's
    towers may differ, as they do for another number of classes. Raises UserError with the keys and shapes of any other
    mismatch.
    """
    given = weights_of(read(path))
    _take_head(model, _with_class_widths_of(given, model))
    own, head = model.state_dict(), f"model.{len(model.spec.layers) - 1}.cv"
    differing = [key for key, value in own.items() if key in given and given[key].shape != value.shape]
    missing = [key for key in own if key not in given]
    if len(missing) > len(own) // 2 or any(not key.startswith(head) for key in differing):
        _refuse_unfitting(path, model, given, free=head)
    fitting = {key: given[key] for key in own if key in given and key not in differing}
    model.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting]


def _take_head(model: YOLOv9, twin: YOLOv9) -> None:
    if twin is not model:
        reference = next(model.parameters())
        head = twin.head.to(reference.device, reference.dtype).train(model.training)
        model.model[-1], model.head, model.class_widths = head, head, twin.class_widths
