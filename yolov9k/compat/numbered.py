"""Layers by number and modules by the published names: the published code's files, its lean forms and Ultralytics'."""

from __future__ import annotations

import re

from yolov9k.common.errors import UserError, one_line
from yolov9k.compat.variants import find_variant
from yolov9k.compat.weights import Held, State, Weights, assemble
from yolov9k.models.fitting import head_form
from yolov9k.models.spec import ModelSpec
from yolov9k.models.yaml_spec import parse_model_table

_HEAD = re.compile(r"\d+\.cv2\.\d+\.2\.weight")
_TABLE = ("nc", "depth_multiple", "width_multiple", "activation", "backbone", "head")


def is_numbered(held: Held) -> bool:
    """Whether a head is named as in the published files."""
    return any(_HEAD.fullmatch(key) for key in held.tensors)


def as_ours(held: Held) -> State:
    """Tensors under our keys, where layers have the published numbers and names."""
    return {f"model.{key}": tensor for key, tensor in held.tensors.items()}


def read_numbered(held: Held, family: str) -> Weights | None:
    """Weights of a published network, or of one that the file's own YAML describes. Raises UserError."""
    state = as_ours(held)
    form = head_form(state)
    if form is None:
        return None
    spec = find_variant(state, form.layer) or _described(held)
    return None if spec is None else assemble(held, family, state, spec)


def _described(held: Held) -> ModelSpec | None:
    """The plan of a network that no table here has, from the YAML that its pickled module carries."""
    table = held.facts.get("yaml")
    if not isinstance(table, dict) or not all(isinstance(table.get(key), list) for key in ("backbone", "head")):
        return None
    name = table.get("yaml_file")
    stem = re.sub(r"\.ya?ml$", "", one_line(name.rsplit("/", 1)[-1], 100)) if isinstance(name, str) else "custom"
    try:
        found = parse_model_table(held.path, {key: table[key] for key in _TABLE if table.get(key) is not None})
    except UserError:
        return None
    return ModelSpec(stem or "custom", found.layers, found.activation, found.num_classes)
