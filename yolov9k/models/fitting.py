"""How a state dict and a model fit together: what it tells of its head, and what keeps it from being loaded."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from yolov9k.common.errors import UserError, one_line
from yolov9k.models.yolov9 import DetectionModel

_FINAL = re.compile(r"model\.(\d+)\.cv(\d+)\.(\d+)\.2\.weight")  # last convolution of a tower of a level
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class HeadForm(NamedTuple):
    """What a state dict tells of its detection head; class_widths: of each branch."""

    layer: int
    branches: int
    levels: int
    groups: int
    class_tower: str
    num_classes: int
    class_widths: list[int]


def head_form(state: Mapping[str, Tensor]) -> HeadForm | None:
    """The detection head of a state dict, None where it has none of a box and a class tower in each branch."""
    found = [(match, state[key]) for key in state if (match := _FINAL.fullmatch(key)) and state[key].dim() == 4]
    layer = max((int(match[1]) for match, _ in found), default=-1)
    finals = {(int(match[2]), int(match[3])): tensor for match, tensor in found if int(match[1]) == layer}
    towers = sorted({tower for tower, _ in finals})
    second = state.get(f"model.{layer}.cv2.0.1.conv.weight")
    if not towers or towers != list(range(2, 2 + len(towers))) or len(towers) % 2 or second is None or second.dim() != 4:
        return None
    levels = max(level for _, level in finals) + 1
    if {*finals} != {(tower, level) for tower in towers for level in range(levels)}:
        return None
    tower = "depthwise" if f"model.{layer}.cv3.0.0.0.conv.weight" in state else "plain"
    classes = [finals[number, 0] for number in towers[1::2]]
    groups = max(second.shape[0] // max(second.shape[1], 1), 1)
    return HeadForm(
        layer, len(classes), levels, groups, tower, int(classes[0].shape[0]), [int(last.shape[1]) for last in classes]
    )


def refuse_unfitting(
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


def refuse_unusable(path: str | Path, model: DetectionModel, given: Mapping[str, Tensor]) -> None:
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
