"""State dicts as other implementations name them, drawn by the shared folder's layouts, and what theirs compute of them."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.support import golden_weights, shared

NAMES = [f"class {i}" for i in range(80)]


@functools.cache
def name_maps() -> Any:
    """The shared folder's own maps of names, written apart from ours."""
    spec = importlib.util.spec_from_file_location("compat_names", shared("compat/names.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def layout(peer: str, variant: str) -> dict[str, list[int]]:
    """Keys and shapes of a state dict, 80 classes. peer: "published" too, of which variant names the network."""
    if peer == "published":
        return dict(json.loads(shared(f"golden/models/{variant}.json").read_text())["state_dict"])
    return dict(json.loads(shared(f"compat/layouts/{peer}-{variant}.json").read_text()))


def state_dict(peer: str, variant: str) -> dict[str, Tensor]:
    """Tensors under the peer's names, with the values that the fixtures were computed with."""
    return {key: _values(peer, variant, key, shape) for key, shape in layout(peer, variant).items()}


def _values(peer: str, variant: str, key: str, shape: list[int]) -> Tensor:
    if "dfl" in key or "anc2vec" in key:
        return torch.arange(16, dtype=torch.float32).view(shape)
    draw = golden_weights().fill
    if peer == "mit":
        key = name_maps().mit_to_published(key, variant)
    elif peer == "libreyolo":
        key = name_maps().libre_to_lean(key, variant) or key
    if peer == "ultralytics" and variant != "t-depthwise" and _is_dense(key):
        return _block_diagonal(torch.from_numpy(draw(key, (shape[0], shape[1] // 4, *shape[2:])))).float()
    value = torch.from_numpy(np.asarray(draw(key, tuple(shape))))
    return value.float() if value.is_floating_point() else value


def _is_dense(key: str) -> bool:
    """Whether it is a kernel of Ultralytics' boxes that is in groups elsewhere."""
    return re.fullmatch(r"model\.(22|42)\.cv2\.\d\.(1\.conv|2)\.weight", key) is not None


def _block_diagonal(grouped: Tensor) -> Tensor:
    """A dense kernel that computes what four groups do."""
    rows, columns = grouped.shape[0] // 4, grouped.shape[1]
    dense = grouped.new_zeros(grouped.shape[0], 4 * columns, *grouped.shape[2:])
    for group in range(4):
        part = slice(group * rows, (group + 1) * rows)
        dense[part, group * columns : (group + 1) * columns] = grouped[part]
    return dense


def image() -> Tensor:
    """The fixtures' input, float64."""
    return torch.from_numpy(golden_weights().image((1, 3, 128, 96), 777))


def libre_content(variant: str, **more: Any) -> dict[str, Any]:
    """A whole file of LibreYOLO's."""
    head = {"schema_version": "1.0", "libreyolo_version": "1.6.0", "model_family": "yolo9", "task": "detect", "imgsz": 640}
    facts = {"size": variant[0], "nc": 80, "names": dict(enumerate(NAMES))}
    return {"model": state_dict("libreyolo", variant), **head, **facts, **more}


def lightning_content(variant: str, average: bool = False) -> dict[str, Any]:
    """A checkpoint of the MIT rewrite's training. average: with the moving average beside, whose weights are the right ones."""
    state = state_dict("mit", variant)
    tensors = {f"model.model.{key}": value for key, value in state.items()}
    if average:
        tensors = {key: torch.full_like(value, 9) for key, value in tensors.items()}
        tensors |= {f"ema.model.{key}": value for key, value in state.items()}
    return {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.5.0", "state_dict": tensors, "loops": {}}
