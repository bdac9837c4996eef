"""Our modules as pickled ones of the published code or of Ultralytics, whose classes are not installed.

Names of classes and attributes are those that their own files show. Tensors are the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from yolov9k.compat.pickled import Named, named
from yolov9k.models import DetectionModel
from yolov9k.models.heads.detect import Detect
from yolov9k.models.registry import is_head
from yolov9k.models.tables import LayerSpec

Paths = Mapping[str, str]  # of classes, by the names of ours


def network(model: DetectionModel, paths: Paths, head: str, **attributes: Any) -> Named:
    """A model as their class of a whole network. paths: of their blocks; head: of their detection head."""
    layers = nn.Sequential()
    for number, (spec, module) in enumerate(zip(model.spec.layers, model.model, strict=True)):
        twin = _head(module, head, paths) if isinstance(module, Detect) else _twin(module, paths)
        twin.__dict__.update(
            i=number, f=_sources(number, spec), type=getattr(twin, "path", "") or _path(twin),
            np=sum(parameter.numel() for parameter in module.parameters()),
        )  # fmt: skip
        layers.add_module(str(number), twin)
    whole: dict[str, Any] = {
        "yaml": yaml_of(model), "save": _read_again(model), "inplace": True, "stride": _strides(model.head.strides),
    }  # fmt: skip
    return named(paths["model"], {"model": layers}, **whole | attributes).train(model.training)


def yaml_of(model: DetectionModel) -> dict[str, Any]:
    """The network's layers as a file of the published format lists them."""
    rows = [
        [_sources(number, layer), layer.repeats, layer.module, _arguments(layer)]
        for number, layer in enumerate(model.spec.layers)
    ]
    first_up = next((n for n, layer in enumerate(model.spec.layers) if layer.module == "nn.Upsample"), len(rows) - 1)
    table = {"nc": model.num_classes, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 3}
    return {**table, "backbone": rows[:first_up], "head": rows[first_up:]}


def _arguments(layer: LayerSpec) -> list[Any]:
    return ["nc"] if is_head(layer.module) else ["None" if value is None else value for value in layer.args]


def _sources(number: int, layer: LayerSpec) -> int | list[int]:
    """What a layer reads: -1 for the one before it, numbers for others."""
    found = [-1 if source in (number - 1, -1) else source for source in layer.sources]
    if is_head(layer.module):
        return list(layer.sources)
    return found[0] if len(found) == 1 else found


def _read_again(model: DetectionModel) -> list[int]:
    """Layers that others than the next one read, once for each reader."""
    reads = [source for number, layer in enumerate(model.spec.layers) for source in _listed(_sources(number, layer))]
    return sorted(source for source in reads if source >= 0)


def _listed(sources: int | list[int]) -> list[int]:
    return [sources] if isinstance(sources, int) else sources


def _strides(strides: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([float(stride) for stride in strides])


def _path(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _twin(module: nn.Module, paths: Paths) -> nn.Module:
    """A module of theirs with the same tensors; torch's own modules are the same there."""
    own = type(module).__name__
    inner = {name: None if part is None else _twin(part, paths) for name, part in module._modules.items()}
    if own in paths and type(module).__module__.startswith("yolov9k."):
        if own == "SPPELAN":
            pools = {f"cv{number}": _pool(paths) for number in (2, 3, 4)}
            inner = {"cv1": inner["cv1"], **pools, "cv5": inner["cv5"]}
        path = paths["DWConv"] if own == "Conv" and "DWConv" in paths and _is_depthwise(module) else paths[own]
        if not path.startswith("torch."):
            return named(path, inner, **_attributes(module))
        return nn.Identity()
    parts = [part for part in inner.values() if part is not None]
    if isinstance(module, nn.Sequential):
        return nn.Sequential(*parts)
    return nn.ModuleList(parts) if isinstance(module, nn.ModuleList) else module


def _pool(paths: Paths) -> nn.Module:
    """One of the three pools of SPPELAN: a module of its own in the published code."""
    pool = nn.MaxPool2d(5, 1, 2)
    return named(paths["SP"], {"m": pool}) if "SP" in paths else pool


def _is_depthwise(module: Any) -> bool:
    return bool(module.conv.groups > 1 and module.conv.groups == module.conv.in_channels)


def _attributes(module: Any) -> dict[str, Any]:
    """What their class remembers beside its modules."""
    match type(module).__name__:
        case "RepConvN":
            conv = module.conv1.conv
            return {"g": conv.groups, "c1": conv.in_channels, "c2": conv.out_channels, "bn": None}
        case "RepNBottleneck":
            return {"add": module.add}
        case "ELAN1" | "RepNCSPELAN4":
            return {"c": module.cv1.conv.out_channels // 2}
        case "ADown":
            return {"c": module.cv1.conv.out_channels}
        case "SPPELAN":
            return {"c": module.cv1.conv.out_channels}
        case "CBLinear":
            return {"c2s": module.widths}
        case "CBFuse":
            return {"idx": module.index}
        case "Concat":
            return {"d": module.dim}
    return {}


def _head(head: Detect, path: str, paths: Paths) -> Named:
    parts: list[tuple[str, Any]] = list(head.named_children())
    inner = {name: _twin(part, paths) for name, part in parts if not name.startswith("dfl")}
    bins = {name: named(paths["DFL"], {"conv": part.conv}, c1=head.reg_max) for name, part in parts if name not in inner}
    facts = {"nc": head.nc, "nl": len(head.strides), "reg_max": head.reg_max, "no": head.nc + 4 * head.reg_max, "inplace": True}
    return named(path, {**inner, **bins}, **facts, stride=_strides(head.strides))
