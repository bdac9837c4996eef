"""Which of the published networks a state dict is of, told by its layers' widths and depths."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from yolov9k.models.spec import ModelSpec, load_spec
from yolov9k.models.tables import NAMES, LayerSpec

# The tensor whose first size is a layer's width, and how many times as wide the layer's output is.
_LAST = {
    "Conv": ("conv.weight", 1), "ELAN1": ("cv4.conv.weight", 1), "RepNCSPELAN4": ("cv4.conv.weight", 1),
    "AConv": ("cv1.conv.weight", 1), "ADown": ("cv1.conv.weight", 2), "SPPELAN": ("cv5.conv.weight", 1),
    "CBLinear": ("conv.weight", 1),
}  # fmt: skip
_ENOUGH = 0.7  # share of the layers that must agree: a damaged file is still known, another network is not


def find_variant(state: Mapping[str, Tensor], head: int) -> ModelSpec | None:
    """The published network whose head is layer `head` and whose layers are those of `state`, None where it is none."""
    found = [(_agreement(spec, state), spec) for spec in map(load_spec, NAMES) if len(spec.layers) - 1 == head]
    share, spec = max(found, key=lambda pair: pair[0], default=(0.0, None))
    return spec if share >= _ENOUGH else None


def _agreement(spec: ModelSpec, state: Mapping[str, Tensor]) -> float:
    """The share of layers with weights that are as wide and as deep in the state dict as in the plan."""
    asked = [(number, layer) for number, layer in enumerate(spec.layers) if layer.module in _LAST]
    return sum(_agrees(number, layer, state) for number, layer in asked) / len(asked)


def _agrees(number: int, layer: LayerSpec, state: Mapping[str, Tensor]) -> bool:
    key, times = _LAST[layer.module]
    last = state.get(f"model.{number}.{key}")
    wanted = sum(layer.args[0]) if layer.module == "CBLinear" else math.ceil(layer.args[0] / 8) * 8
    if last is None or not last.dim() or last.shape[0] * times != wanted:
        return False
    if layer.module != "RepNCSPELAN4":
        return True
    depth, inner = layer.args[3], f"model.{number}.cv2.0.m."
    there = {key[len(inner) :].split(".")[0] for key in state if key.startswith(inner)}
    return bool(len(there) == depth)
