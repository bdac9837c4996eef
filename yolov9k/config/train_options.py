"""What a training run is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from yolov9k.common.device import AMP
from yolov9k.common.errors import UserError, check_range, warn
from yolov9k.data.cache import nvjpeg
from yolov9k.data.cache.image_cache import check_name
from yolov9k.data.letterbox import rounded_size
from yolov9k.engine.train.schedule import CURVES
from yolov9k.engine.train.step import MODES
from yolov9k.models.spec import load_spec

MAX_SEED = 2**63 - 1
_LEAST = {
    "batch": 1, "epochs": 1, "img": 1, "workers": 0, "close_mosaic": 0, "patience": 0, "bad_steps": 1, "seed": 0,
    "min_items": 0,
}  # fmt: skip
_CHOICES = {"amp": ("auto", *AMP), "mode": MODES, "lr_curve": tuple(CURVES), "decode": ("cpu", "nvjpeg")}


@dataclass
class TrainOptions:
    """What the command line gives; field names are the flags'."""

    data: str
    cfg: str | None = None
    weights: str | None = None
    img: int = 640
    batch: int = 16  # 0: the largest that fits
    epochs: int = 500
    hyp: str | None = None
    device: str = "auto"
    workers: int = 8
    project: str = "runs/train"
    name: str = "exp"
    exist_ok: bool = False
    close_mosaic: int = 15
    cache: str | None = None
    decode: str = "cpu"
    rect: bool = False
    multi_scale: bool = False
    single_cls: bool = False
    freeze: tuple[int, ...] = ()
    patience: int = 100
    amp: str = "auto"
    mode: str = "auto"
    bad_steps: int = 10
    checkpoint: bool = False
    label_smoothing: float | None = None
    seed: int = 0
    strict: bool = False
    noval: bool = False
    noplots: bool = False
    min_items: int = 0
    optimizer: str = "SGD"
    lr_curve: str = "linear"
    save_period: int = -1

    def check(self) -> None:
        """Raise UserError for values that cannot be; round the image size up to a multiple of 32, and say so."""
        for key, low in _LEAST.items():
            if (key, value := getattr(self, key)) != ("batch", 0):  # 0: the largest that fits
                check_range(key.replace("_", "-"), value, low)
        if self.seed > MAX_SEED:
            raise UserError(f"--seed {self.seed}: expected at most {MAX_SEED}")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise UserError(f"--{key.replace('_', '-')} {getattr(self, key)}: expected one of {', '.join(choices)}")
        if self.optimizer != "SGD":
            raise UserError(f"--optimizer {self.optimizer}: SGD, the paper's, is the one there is")
        if self.cfg is None and self.weights is None:
            raise UserError("give --cfg (a model's name or YAML file), --weights (a checkpoint), or both")
        if self.cfg is not None:
            load_spec(self.cfg)  # a mistyped name is told before the data is read
        check_name(self.cache)
        if self.decode == "nvjpeg" and self.cache is None:
            raise UserError("--decode nvjpeg: it fills a cache; add --cache ram or --cache disk")
        if self.decode == "nvjpeg" and (reason := nvjpeg.why_missing()):
            raise UserError(f"--decode nvjpeg: {reason}")
        self.img = rounded_size(self.img, "--img")
        if self.close_mosaic > self.epochs // 4:
            few = self.epochs // 4
            warn(f"--close-mosaic {self.close_mosaic}: {few} of {self.epochs} epochs are without mosaic, a quarter at most")
            self.close_mosaic = few

    def plain(self) -> dict[str, Any]:
        """Values that a checkpoint and a YAML file can hold."""
        return {**asdict(self), "freeze": list(self.freeze)}
