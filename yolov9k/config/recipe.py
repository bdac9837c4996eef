"""Hyper-parameters: one dataclass, read from a preset's name or from a YAML file of the published form."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from yolov9k.common.errors import UserError, one_line, shown, warn
from yolov9k.common.paths import given_path
from yolov9k.config.base import read_mapping
from yolov9k.config.flavors import find_flavor
from yolov9k.config.option import Option, option_fields, read_number

PRESETS = Path(__file__).parent / "presets"

# Keys that published files carry although YOLOv9 has nothing that reads them: objectness, anchors, focal loss.
_WITHOUT_EFFECT = {"obj", "obj_pw", "iou_t", "anchor_t", "anchors", "fl_gamma"}
_NEUTRAL = {"fl_gamma": 0.0}
_PUBLISHED = "hyp.scratch-high.yaml"  # holds the defaults below
_TINY = 1e-9  # the least of what must not be 0


def _from_zero(text: str, high: float = math.inf, unit: str = "") -> Option:
    return Option(text, low=0, high=high, unit=unit)


@dataclass(frozen=True)
class TrainRecipe:
    """Training hyper-parameters; the defaults are the paper's recipe (arXiv 2402.13616, appendix A)."""

    lr0: Annotated[float, Option("first learning rate", low=_TINY, high=10)] = 0.01
    lrf: Annotated[float, _from_zero("last learning rate as a share of lr0")] = 0.01
    momentum: Annotated[float, _from_zero("of SGD, Nesterov's", 1)] = 0.937
    weight_decay: Annotated[float, _from_zero("at the nominal batch; not on biases or BatchNorm")] = 5e-4
    warmup_epochs: Annotated[float, _from_zero("length of the warm-up; 0: none", unit="epochs")] = 3.0
    warmup_iterations: Annotated[int, _from_zero("warm-up lasts at least so many iterations", unit="iterations")] = 100
    warmup_momentum: Annotated[float, _from_zero("momentum at the start of the warm-up", 1)] = 0.8
    warmup_bias_lr: Annotated[float, _from_zero("learning rate of biases at the start of the warm-up")] = 0.1
    nominal_batch: Annotated[int, Option("gradients are accumulated up to it", low=1, high=1_000_000, unit="images")] = 64
    clip_norm: Annotated[float, Option("largest norm of the gradient", low=_TINY)] = 10.0
    ema_decay: Annotated[float, _from_zero("share that the average of the weights keeps of itself at a step", 1)] = 0.9999
    ema_tau: Annotated[
        float, Option("steps after which the EMA decay reaches 63 % of its value", low=_TINY, unit="optimizer steps")
    ] = 2000.0  # fmt: skip
    box: Annotated[float, _from_zero("weight of the box loss")] = 7.5
    cls: Annotated[float, _from_zero("weight of the class loss")] = 0.5
    cls_pw: Annotated[float, _from_zero("weight of the positive share in the class loss")] = 1.0
    dfl: Annotated[float, _from_zero("weight of the distribution focal loss")] = 1.5
    auxiliary: Annotated[float, _from_zero("weight of the auxiliary branch's loss")] = 0.25
    label_smoothing: Annotated[float, _from_zero("smoothing of the class targets", 0.999)] = 0.0
    tal_topk: Annotated[int, Option("anchors that the assigner selects for an object", low=1, high=1000)] = 10
    tal_alpha: Annotated[float, _from_zero("exponent of the class score in the assigner's metric")] = 0.5
    tal_beta: Annotated[float, _from_zero("exponent of the IoU in the assigner's metric")] = 6.0
    tal_small_side: Annotated[
        float, _from_zero("a box's side below it looks for anchors as one of tal_grown_side does; 0: none", unit="pixels")
    ] = 0.0  # fmt: skip
    tal_grown_side: Annotated[float, _from_zero("what small sides count as where anchors are looked for", unit="pixels")] = 0.0
    tal_reach: Annotated[
        float, _from_zero("farthest side of a box that an anchor reaches, matched as the MIT rewrite; 0: all", unit="strides")
    ] = 0.0  # fmt: skip
    hsv_h: Annotated[float, _from_zero("largest change of the hue, as a share", 1)] = 0.015
    hsv_s: Annotated[float, _from_zero("largest change of the saturation, as a share", 1)] = 0.7
    hsv_v: Annotated[float, _from_zero("largest change of the brightness, as a share", 1)] = 0.4
    degrees: Annotated[float, Option("largest rotation, in either direction", low=-180, high=180, unit="degrees")] = 0.0
    translate: Annotated[float, _from_zero("largest shift as a share of the image size", 1)] = 0.1
    scale: Annotated[float, _from_zero("largest change of the scale: 1 - scale to 1 + scale", 1)] = 0.9
    shear: Annotated[float, Option("largest shear, in either direction", low=-89, high=89, unit="degrees")] = 0.0
    perspective: Annotated[float, _from_zero("largest perspective, a pixel", 0.01)] = 0.0
    flipud: Annotated[float, _from_zero("probability of an upside-down flip", 1)] = 0.0
    fliplr: Annotated[float, _from_zero("probability of a left-right flip", 1)] = 0.5
    mosaic: Annotated[float, _from_zero("probability of a mosaic of four images", 1)] = 1.0
    mixup: Annotated[float, _from_zero("probability that a mosaic is mixed with another one", 1)] = 0.15
    copy_paste: Annotated[float, _from_zero("probability that an outlined object is pasted once more, mirrored", 1)] = 0.3

    def override(self, where: str = "override", **values: Any) -> TrainRecipe:
        """A copy with some values replaced, checked as those of a file are. Raises UserError that begins with `where`."""
        return _checked(self, values, where)

    def overridden(self, pairs: Iterable[str]) -> TrainRecipe:
        """A copy with the values of texts such as "lr0=0.02". Raises UserError naming the text."""
        recipe = self
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals:
                raise UserError(f"--override {one_line(pair, 60)}: expected KEY=VALUE, such as lr0=0.02")
            recipe = recipe.override("--override", **{key.strip(): value})
        return recipe


def _checked(base: TrainRecipe, values: dict[str, Any], where: str) -> TrainRecipe:
    known = {field.name: field for field in option_fields(TrainRecipe)}
    accepted: dict[str, Any] = {}
    for key, value in values.items():
        if key in _WITHOUT_EFFECT:
            if key in _NEUTRAL and value != _NEUTRAL[key]:
                warn(f"{where}: {key}={value} has no effect: YOLOv9's loss does not use it")
            continue
        if key not in known:
            near = difflib.get_close_matches(str(key)[:100], known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
            raise UserError(f"{where}: unknown hyper-parameter {shown(str(key))}; {hint}")
        field = known[key]
        accepted[key] = read_number(value, field.kinds[0], field.option, f"{where}: {key}")
    return replace(base, **accepted)


def load_recipe(source: str | Path | None = None, flavor: str = "published") -> TrainRecipe:
    """Read hyper-parameters.

    source: None or "default" (the flavor's), a preset's name ("small"), or a YAML file with any of the published keys; keys
    that are left out keep their default. The published file's own name is the default too where there is no such file.
    flavor: whose defaults are meant (`yolov9k.config.flavors`); "published" is the paper. Raises UserError naming the file
    and the key.
    """
    base = TrainRecipe().override(f"--flavor {flavor}", **find_flavor(flavor).recipe)
    if source is None or str(source) == "default":
        return base
    if Path(source).name == _PUBLISHED and not Path(source).exists():
        return base
    path = PRESETS / f"{source}.yaml"
    if not path.exists():
        path = given_path(source)
    if not path.is_file():
        presets = ", ".join(sorted(["default", *(p.stem for p in PRESETS.glob("*.yaml"))]))
        raise UserError(f"--hyp {source}: no such file or preset; presets are {presets}")
    return _checked(base, read_mapping(path), str(path))
