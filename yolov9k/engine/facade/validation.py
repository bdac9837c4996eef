"""A validation as the command line and the facade ask for it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from yolov9k.common.device import pick_device
from yolov9k.common.errors import RUN, failing_as, note
from yolov9k.compat import load
from yolov9k.config import TrainRecipe, ValOptions
from yolov9k.data.config import load_split, open_dataset, warn_of_training_images
from yolov9k.data.letterbox import rounded_size
from yolov9k.data.loader import make_loader
from yolov9k.engine.evaluate.validator import ValidationResult, print_metrics, validate
from yolov9k.engine.events import Callbacks
from yolov9k.engine.train.run_dir import run_directory
from yolov9k.engine.train.setup import make_criterion
from yolov9k.models import DetectionModel


def run_validation(
    options: ValOptions, console: Console, network: DetectionModel | None = None, callbacks: Callbacks | None = None
) -> tuple[ValidationResult, Path]:
    """Validate `network`, or else the options' weights, and print the figures; returns them and the run's directory.

    Raises UserError.
    """
    options.check()
    layout = open_dataset(Path(options.data))
    split = load_split(
        layout, options.task, single_cls=options.single_cls, strict=options.strict, difficult=options.difficult,
        repeats=False, keep_empty_classes=options.keep_empty_classes,
    )  # fmt: skip
    warn_of_training_images(layout, split)
    device = pick_device(options.device)
    model = load(options.weights, options.cfg).to(device) if network is None else network
    split, given = (split if options.single_cls else split.in_order_of(model.names)), split
    if split is not given:
        note(f"{options.data}: has the classes in another order than {options.weights}; they are matched by their names")
    loader = make_loader(
        split, TrainRecipe(), img_size=rounded_size(options.img, "--img"), batch=options.batch, augment=False, rect=True,
        workers=options.workers, placement=model.letterbox,
    )  # fmt: skip
    with failing_as(RUN), run_directory(options.project, options.name, options.exist_ok) as directory:
        result = validate(
            model, loader, split=split, criterion=make_criterion(model, TrainRecipe()), conf=options.conf, iou=options.iou,
            max_det=options.max_det, amp=options.amp, device=device, single_cls=options.single_cls, augment=options.augment,
            plots_dir=directory, save_json=directory / "predictions.json" if options.save_json else None,
            save_txt=directory / "labels" if options.save_txt else None, save_conf=options.save_conf,
            progress=not console.quiet, callbacks=callbacks,
        )  # fmt: skip
    loader.close()
    print_metrics(result, console)
    return result, directory
