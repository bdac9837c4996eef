"""What a run's options ask of the models and the machine, told before the data is read."""

from __future__ import annotations

from yolov9k.common.errors import UserError
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.cache import nvjpeg
from yolov9k.data.letterbox import rounded_size
from yolov9k.models.spec import load_spec


def check_options(options: TrainOptions, resumed: bool = False) -> None:
    """Raise UserError for options that cannot be; round the image size up to a multiple of 32, and say so.

    A resumed run has its model from last.pt and needs no file of it.
    """
    options.check()
    if options.cfg is not None and not resumed:
        load_spec(options.cfg)
    if options.decode == "nvjpeg" and (reason := nvjpeg.why_missing()):
        raise UserError(f"--decode nvjpeg: {reason}")
    options.img = rounded_size(options.img, "--img")
