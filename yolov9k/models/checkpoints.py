"""Saving and loading: files hold tensors and plain values alone, so that reading one runs no code from it."""

from __future__ import annotations

import errno
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from yolov9k.errors import UserError
from yolov9k.models.spec import Layer, ModelSpec
from yolov9k.models.yolov9 import YOLOv9

FORMAT = "yolov9k-1"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that a crash or a full disk leaves the previous one whole: temporary file, fsync, rename.

    Raises UserError naming the file and the cause.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        if isinstance(error, RuntimeError) and "write" not in str(error):
            raise
        full = isinstance(error, RuntimeError) or error.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = "the disk is full" if full else getattr(error, "strerror", str(error))
        kept = "; the previous file is kept" if path.exists() else ""
        raise UserError(f"{path}: cannot be saved, {cause}{kept}; free space or choose another --project") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def save(path: str | Path, model: YOLOv9, **extra: Any) -> None:
    """Save a model with its plan, class names and anything of tensors and plain values. Raises UserError."""
    content = {"format": FORMAT, **describe(model), "model": model.state_dict(), **extra}
    write_atomically(Path(path), lambda temporary: torch.save(content, temporary))


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


def rebuild(content: Mapping[str, Any]) -> YOLOv9:
    """The model that `describe` described, with fresh weights."""
    table = content["spec"]
    layers = tuple(Layer(tuple(s), module, tuple(args), repeats) for s, module, args, repeats in table["layers"])
    spec = ModelSpec(table["name"], layers, table["activation"])
    model = YOLOv9(spec, content["num_classes"], content["names"], content["class_widths"])
    return model.fuse() if content["fused"] else model


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file. Raises UserError naming the file and the remedy."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            return {"model": load_file(path)}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: holds Python objects, not only tensors, and is not opened; convert it to a state dict first"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, SafetensorError) as error:
        raise UserError(f"{path}: damaged or not a checkpoint ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, expected a checkpoint or a state dict")
    return content


def load(path: str | Path) -> YOLOv9:
    """The model of a checkpoint that this package saved, in evaluation mode: its EMA weights where it has them.

    Raises UserError naming the file.
    """
    content = read(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: has no layer table; build the model by name and give this file as --weights")
    model = rebuild(content)
    model.load_state_dict(content.get("ema") or content["model"])
    return model.eval()


def weights_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict in a checkpoint's content, whichever of the usual keys holds it."""
    for key in ("ema", "model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            return dict(content[key])
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def load_weights(model: YOLOv9, path: str | Path) -> list[str]:
    """Start `model` from a checkpoint's weights; returns the keys that were left fresh.

    Only the head's towers may differ in shape, as they do for another number of classes. Raises UserError with the
    keys and shapes of any other mismatch.
    """
    given, own = weights_of(read(path)), model.state_dict()
    differing = [key for key, value in own.items() if key in given and given[key].shape != value.shape]
    head = f"model.{len(model.spec.layers) - 1}.cv"
    faults = [key for key in differing if not key.startswith(head)]
    missing = [key for key in own if key not in given]
    if faults or len(missing) > len(own) // 2:
        lines = [f"{key}: file {list(given[key].shape)}, model {list(own[key].shape)}" for key in faults[:5]]
        lines += [f"{key}: missing in the file" for key in missing[:5]] if not faults else []
        raise UserError(
            f"{path}: does not fit {model.spec.name}, {len(faults)} keys of another shape and {len(missing)} missing "
            f"of {len(own)}; " + "; ".join(lines)
        )
    fitting = {key: given[key] for key in own if key in given and key not in differing}
    model.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting]
