"""What a run is made of: splits, model, loss, loaders."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from yolov9k.common.console import literal
from yolov9k.common.device import is_cuda
from yolov9k.common.errors import DATA, UserError, failing_as, warn
from yolov9k.compat import fresh, load_weights, read
from yolov9k.config.flags import PLACEMENTS
from yolov9k.config.recipe import TrainRecipe
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.config import load_split, open_dataset
from yolov9k.data.loader import Loader, make_loader
from yolov9k.data.records import Split
from yolov9k.data.repeats import find_overlap
from yolov9k.data.transform import Transform
from yolov9k.engine.train.resume import SavedRun
from yolov9k.models import DetectionModel, create_model
from yolov9k.tasks import Criterion, task_of


def make_criterion(model: DetectionModel, recipe: TrainRecipe) -> Criterion:
    """The loss of a model's task under a recipe."""
    return task_of(model).criterion(model, recipe)


@failing_as(DATA)
def load_splits(options: TrainOptions, console: Console) -> tuple[Split, Split]:
    """Training and validation split. Raises UserError where nothing can be trained on them."""
    layout = replace(open_dataset(Path(options.data)), keep_empty_classes=options.keep_empty_classes)
    train, val = (
        load_split(layout, name, single_cls=options.single_cls, strict=options.strict, difficult=options.difficult)
        for name in ("train", "val")
    )
    if overlap := find_overlap(train, val):
        warn(str(overlap))
    if not options.single_cls:
        _check_names(options.data, train.names, val.names)
    train = _with_objects(train, options.min_items, console)
    train = _drawn(train, options.fraction, options.seed, console)
    if not any(record.objects for record in train.records):
        raise UserError(f"{options.data}: no training image has an object; 'yolov9k data check {options.data}' lists why")
    return train, val


def _check_names(data: str, train: list[str], val: list[str]) -> None:
    """Splits in files of their own (COCO, VOC) may number their classes apart: the figures would mean nothing."""
    if train != val:
        pairs = enumerate(zip_longest(train, val, fillvalue="none"))
        number, (first, second) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        raise UserError(
            f"{data}: train ({len(train)} classes) and val ({len(val)}) differ, class {number} is {first} "
            f"in train and {second} in val; give both the same classes in the same order, or names: in a data.yaml"
        )


def _with_objects(split: Split, min_items: int, console: Console) -> Split:
    """The images with as many objects as --min-items asks for."""
    kept = [record for record in split.records if record.objects >= min_items]
    if len(kept) == len(split.records):
        return split
    if not kept:
        raise UserError(f"--min-items {min_items}: none of {len(split.records)} training images has as many objects")
    console.print(f"--min-items {min_items}: {len(split.records) - len(kept)} training images are left out")
    return replace(split, records=kept)


def _drawn(split: Split, fraction: float, seed: int, console: Console) -> Split:
    """--fraction: so many of the images, drawn by --seed, in their order."""
    count = max(round(fraction * len(split.records)), 1)
    if count == len(split.records):
        return split
    chosen = np.sort(np.random.default_rng(seed).choice(len(split.records), count, replace=False))
    console.print(f"--fraction {fraction:g}: {count} of {len(split.records)} training images")
    return replace(split, records=[split.records[index] for index in chosen])


def make_loaders(
    options: TrainOptions,
    recipe: TrainRecipe,
    train: Split,
    val: Split,
    device: torch.device,
    placement: str = PLACEMENTS[0],
    augment: Transform | None = None,
) -> tuple[Loader, Loader]:
    """The loaders of training, augmented, by the user's `augment` first of all, and of validation, in rectangles.

    placement: where images lie in their letterboxes.
    """
    common: dict[str, Any] = {"img_size": options.img, "workers": options.workers, "cache": options.cache}
    common["placement"] = placement
    training = make_loader(
        train, recipe, batch=min(options.batch, len(train.records)), augment=True, rect=options.rect, seed=options.seed,
        close_mosaic=options.close_mosaic, epochs=options.epochs, multi_scale=options.multi_scale,
        augment_on=device if is_cuda(device) else "worker", decode=options.decode, transform=augment,
        **common,
    )  # fmt: skip
    return training, make_loader(val, recipe, batch=2 * options.batch, augment=False, rect=True, **common)


def build_model(options: TrainOptions, split: Split, resume: SavedRun | None, console: Console) -> DetectionModel:
    """A fresh model, one from --weights, or the one of a resumed run. Raises UserError."""
    given = read(options.weights, options.cfg) if options.weights and not resume else None
    if resume:
        model = resume.model()
    elif options.cfg is not None:
        model = create_model(options.cfg, len(split.names), flavor=options.flavor)
    else:
        assert given is not None  # the options ask for the one or the other
        model = fresh(given, str(options.weights), split.names)
    model.names = list(split.names)
    if given is not None:
        untaken = load_weights(model, str(options.weights), given)
        taken = len(model.state_dict()) - len(untaken)
        console.print(literal(f"{options.weights}: {taken} tensors taken, {len(untaken)} fresh"))
    _freeze(model, options.freeze)
    return model


def _freeze(model: DetectionModel, layers: tuple[int, ...]) -> None:
    """Freeze layers: one number N means the first N, several mean just those (as the published flag)."""
    given = ",".join(map(str, layers))
    chosen = range(layers[0]) if len(layers) == 1 and layers[0] >= 0 else layers
    for number in chosen:
        if not 0 <= number < len(model.model):
            raise UserError(f"--freeze {given}: the model has layers 0 to {len(model.model) - 1}")
        model.model[number].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"--freeze {given}: nothing is left to train")
