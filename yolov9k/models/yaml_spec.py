"""Models from YAML files of the published format."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path
from typing import Any, NamedTuple

from yolov9k.common.errors import UserError, shown
from yolov9k.common.text import read_yaml
from yolov9k.config.flags import MAX_CLASSES
from yolov9k.models.activations import ACTIVATIONS, make_activation
from yolov9k.models.registry import find, heads, is_head
from yolov9k.models.tables import IMAGE, MAX_LAYERS, MAX_REPEATS, LayerSpec

_KEYS = ("nc", "depth_multiple", "width_multiple", "activation", "anchors", "backbone", "head")  # anchors: without effect

_LARGEST = 2**31  # of an argument


class ModelFile(NamedTuple):
    """What a model file says: its layers with multiples applied, the blocks' activation, the number of classes."""

    layers: tuple[LayerSpec, ...]
    activation: str
    num_classes: int


def read_model_file(path: Path) -> ModelFile:
    """Read the published format: backbone and head lists of [from, number, module, args], multiples, activation, nc.

    Raises UserError naming the file, layer and value.
    """
    return parse_model_table(path, _read_table(path))


def parse_model_table(path: str | Path, table: dict[str, Any]) -> ModelFile:
    """What the values of such a file say; messages name `path`. Raises as `read_model_file`."""
    depth, width = (_multiple(path, key, table.get(key, 1)) for key in ("depth_multiple", "width_multiple"))
    classes = table.get("nc", 80)
    if type(classes) is not int or not 1 <= classes <= MAX_CLASSES:
        raise UserError(f"{path}: nc is {shown(classes)}, expected a number of classes from 1 to {MAX_CLASSES:,}")
    rows = [*table["backbone"], *table["head"]]
    if len(rows) > MAX_LAYERS:
        raise UserError(f"{path}: {len(rows):,} layers, expected at most {MAX_LAYERS:,}")
    layers = tuple(_yaml_layer(path, i, row, depth, width) for i, row in enumerate(rows))
    if not layers or not is_head(layers[-1].module):
        last = f"the last layer is {layers[-1].module}" if layers else "there are no layers"
        raise UserError(f"{path}: {last}, expected one of {', '.join(heads())}")
    for i, layer in enumerate(layers):
        if is_head(layer.module) and (i < len(layers) - 1 or layer.args not in (("nc",), (classes,))):
            raise UserError(f"{path}: layer {i} {layer.module} {shown(list(layer.args))}, expected it last and with [nc] alone")
    return ModelFile(layers, _activation(table.get("activation"), path), classes)


def _read_table(path: Path) -> dict[str, Any]:
    table = read_yaml(path)
    if not isinstance(table, dict) or not all(isinstance(table.get(k), list) for k in ("backbone", "head")):
        raise UserError(f"{path}: a model file needs the lists 'backbone' and 'head'")
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(shown(key).strip("'"), _KEYS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(_KEYS)}"
            raise UserError(f"{path}: unknown key {shown(key)}; {hint}")
    return table


def _multiple(path: str | Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 100:
        raise UserError(f"{path}: {key} is {shown(value)}, expected a number above 0")
    return float(value)


def _yaml_layer(path: str | Path, i: int, row: Any, depth: float, width: float) -> LayerSpec:
    if not isinstance(row, list) or len(row) != 4 or not isinstance(row[2], str) or not isinstance(row[3], list):
        raise UserError(f"{path}: layer {i} is {shown(row)}, expected [from, number, module, args]")
    sources, repeats, module, args = row
    listed = sources if isinstance(sources, list) else [sources]
    if len(module) > 60 or not module.isprintable():
        raise UserError(f"{path}: layer {i} is a {shown(module)}, expected a module's name")
    if not listed or any(type(s) is not int or not IMAGE <= (i + s if s < 0 else s) < i for s in listed):
        raise UserError(f"{path}: layer {i} {module} reads {shown(sources)}, expected layers before it")
    if type(repeats) is not int or not 1 <= repeats <= MAX_REPEATS:
        raise UserError(f"{path}: layer {i} {module} has the number {shown(repeats)}, expected 1 to {MAX_REPEATS}")
    values = [_literal(arg) for arg in args]
    if huge := [v for v in values if isinstance(v, (int, float)) and not abs(v) <= _LARGEST]:
        raise UserError(f"{path}: layer {i} {module} has the argument {shown(huge[0])}, expected at most {_LARGEST:,}")
    if width != 1 and values and type(values[0]) is int and _is_scaled(module):
        values[0] = values[0] * width  # the output's width alone is scaled; the builder rounds it
    absolute = tuple(i + s if s < 0 else s for s in listed)
    return LayerSpec(absolute, module, tuple(values), max(round(repeats * depth), 1) if repeats > 1 else repeats)


def _is_scaled(module: str) -> bool:
    """Whether width_multiple scales the first argument of a module; the builder refuses one that is not known."""
    try:
        return find(module).scales
    except ValueError:
        return True


def _literal(value: Any) -> Any:
    """Arguments are literals, or text that reads as one ("None"); any other text ("nc", "nearest") stays text."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _activation(text: Any, path: str | Path) -> str:
    if text is None:
        return "SiLU"
    try:
        make_activation(text)
    except (TypeError, ValueError):
        known = ", ".join(ACTIVATIONS)
        raise UserError(
            f"{path}: activation {shown(text)} is unknown; known: {known}, with plain values as arguments"
        ) from None
    return str(text)
