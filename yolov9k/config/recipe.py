"""Hyper-parameters: one dataclass, read from a preset's name or from a YAML file of the published form."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from yolov9k.common.errors import UserError, warn

PRESETS = Path(__file__).parent / "presets"

# Keys that published files carry although YOLOv9 has nothing that reads them: objectness, anchors, focal loss.
_WITHOUT_EFFECT = {"obj", "obj_pw", "iou_t", "anchor_t", "anchors", "fl_gamma"}
_NEUTRAL = {"fl_gamma": 0.0}
_PUBLISHED = "hyp.scratch-high.yaml"  # holds the defaults below


@dataclass(frozen=True)
class TrainRecipe:
    """Training hyper-parameters; the defaults are the paper's recipe (facts: training recipe, loss)."""

    lr0: float = 0.01  # first learning rate
    lrf: float = 0.01  # last learning rate as a share of lr0
    momentum: float = 0.937
    weight_decay: float = 5e-4  # at the nominal batch; not on biases or BatchNorm
    warmup_epochs: float = 3.0
    warmup_iterations: int = 100  # warm-up lasts at least so many iterations
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    nominal_batch: int = 64  # gradients are accumulated up to it
    clip_norm: float = 10.0
    ema_decay: float = 0.9999
    ema_tau: float = 2000.0  # optimizer steps after which the EMA decay reaches 63 % of its value
    box: float = 7.5
    cls: float = 0.5
    cls_pw: float = 1.0  # weight of the positive share in the class loss
    dfl: float = 1.5
    auxiliary: float = 0.25  # weight of the auxiliary branch's loss
    label_smoothing: float = 0.0
    tal_topk: int = 10
    tal_alpha: float = 0.5
    tal_beta: float = 6.0
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.9
    shear: float = 0.0
    perspective: float = 0.0
    flipud: float = 0.0
    fliplr: float = 0.5
    mosaic: float = 1.0
    mixup: float = 0.15
    copy_paste: float = 0.3

    def override(self, where: str = "override", **values: Any) -> TrainRecipe:
        """A copy with some values replaced, checked as those of a file are. Raises UserError that begins with `where`."""
        return _checked(self, values, where)


_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("flipud", "fliplr", "mosaic", "mixup", "copy_paste", "hsv_h", "hsv_s", "hsv_v"), (0.0, 1.0)),
    **dict.fromkeys(("momentum", "warmup_momentum", "ema_decay", "translate", "scale"), (0.0, 1.0)),
    "lr0": (1e-9, 10.0),
    "label_smoothing": (0.0, 0.999),
    "perspective": (0.0, 0.01),
    "tal_topk": (1, 1000),
    "nominal_batch": (1, 1_000_000),
    "ema_tau": (1e-9, math.inf),
    "clip_norm": (1e-9, math.inf),
    "degrees": (-180.0, 180.0),
    "shear": (-89.0, 89.0),
}


def _checked(base: TrainRecipe, values: dict[str, Any], where: str) -> TrainRecipe:
    types = {field.name: type(field.default) for field in fields(TrainRecipe)}
    accepted: dict[str, Any] = {}
    for key, value in values.items():
        if key in _WITHOUT_EFFECT:
            if key in _NEUTRAL and value != _NEUTRAL[key]:
                warn(f"{where}: {key}={value} has no effect: YOLOv9's loss does not use it")
            continue
        if key not in types:
            near = difflib.get_close_matches(str(key), types, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(types)}"
            raise UserError(f"{where}: unknown hyper-parameter '{key}'; {hint}")
        accepted[key] = _number(value, types[key], key, where)
    return replace(base, **accepted)


def _number(value: Any, kind: type, key: str, where: str) -> float | int:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # YAML reads 1e-3 as text
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: {key} is {value!r}, expected a number") from None
    low, high = _RANGES.get(key, (0.0, math.inf))
    if not math.isfinite(number) or not low <= number <= high or (kind is int and number != int(number)):
        raise UserError(f"{where}: {key} is {value}, expected {kind.__name__} from {low:g} to {high:g}")
    return int(number) if kind is int else number


def load_recipe(source: str | Path | None = None) -> TrainRecipe:
    """Read hyper-parameters.

    source: None or "default" (the paper's), a preset's name ("small"), or a YAML file with any of the published keys;
    keys that are left out keep their default. The published file's own name is the default too where there is no such
    file. Raises UserError naming the file and the key.
    """
    if source is None or str(source) == "default":
        return TrainRecipe()
    if Path(source).name == _PUBLISHED and not Path(source).exists():
        return TrainRecipe()
    path = PRESETS / f"{source}.yaml"
    if not path.exists():
        path = Path(source)
    if not path.is_file():
        presets = ", ".join(sorted(["default", *(p.stem for p in PRESETS.glob("*.yaml"))]))
        raise UserError(f"--hyp {source}: no such file or preset; presets are {presets}")
    try:
        values = yaml.safe_load(path.read_text("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected 'key: value' lines, found {type(values).__name__}")
    return _checked(TrainRecipe(), values, str(path))
