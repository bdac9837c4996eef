"""What implementations of YOLOv9 mean by default where they differ from the published one.

The numbers are recorded from each of them, run as a black box (tests/record_flavors.py, tests/config/flavors.json).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from yolov9k.common.errors import UserError, shown


@dataclass(frozen=True)
class Flavor:
    """How a model is begun and trained.

    recipe: keys of the training recipe that differ from the paper's. box_groups: of the box branch's second and third
    convolution. box_bias, class_bias: what their last convolutions begin with; class_bias None: ln(5 / nc / (640 / stride)^2),
    about five objects in a 640-pixel image. letterbox: where images lie in it (`config.flags.PLACEMENTS`).
    """

    recipe: Mapping[str, float] = field(default_factory=dict)
    box_groups: int = 4
    box_bias: float = 1.0
    class_bias: float | None = None
    letterbox: str = "center"


_PLAIN = {"mixup": 0.0, "copy_paste": 0.0}
_REACH = {"tal_reach": 14.99}  # 16 bins less the last one and a hundredth
FLAVORS = {
    "published": Flavor(),
    "ultralytics": Flavor({**_PLAIN, "scale": 0.5, "tal_small_side": 16.0, "tal_grown_side": 16.0}, box_groups=1, box_bias=2.0),
    "mit": Flavor({**_PLAIN, **_REACH, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "fliplr": 0.0}, class_bias=-10.0),
    "libreyolo": Flavor({**_PLAIN, **_REACH, "scale": 0.5}, class_bias=-10.0, letterbox="topleft"),
}


def find_flavor(name: str) -> Flavor:
    """The flavor of a name. Raises UserError naming those there are."""
    if name not in FLAVORS:
        raise UserError(f"--flavor {shown(name)}: expected one of {', '.join(FLAVORS)}")
    return FLAVORS[name]
