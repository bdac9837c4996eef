"""Finds out what a dataset is from its path and reads one split of it, whatever the format (`yolov9k.data.formats`)."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from yolov9k.common.errors import DATA, UserError, failing_as, warn
from yolov9k.common.paths import given_path
from yolov9k.data.formats.base import Format, Listing, UnclearDataset, join_listings, registered_formats
from yolov9k.data.formats.checks import build_records
from yolov9k.data.formats.layout import DatasetLayout, check_val
from yolov9k.data.known_datasets import how_to_get
from yolov9k.data.probe import SUFFIXES, is_image
from yolov9k.data.records import Split
from yolov9k.data.repeats import find_shared

SPLITS = ("train", "val", "test")
_STANDS_FOR = {"train": ("train", "trainval"), "val": ("val", "valid", "validation", "test"), "test": ("test",)}
_OWN = {"train": ("train", "trainval"), "val": ("val", "valid", "validation"), "test": ("test",)}


def load_split(
    data: str | Path | DatasetLayout, split: str, *, single_cls: bool = False, strict: bool = False, difficult: bool = False,
    repeats: bool | None = None, keep_empty_classes: bool = False,
) -> Split:  # fmt: skip
    """Read the split ("train", "val" or "test") of a dataset, check every image and box of it, and warn of what is wrong.

    data: its path, or what `open_dataset` made of it.

    A dataset without a val split lends valid, then test, then train, with a warning; one that has one split only lends
    it as train too. `single_cls` merges all classes into one. difficult: objects that are marked so are ordinary ones;
    otherwise they are as crowd regions. repeats: an image that is listed several times has as many records; unless given,
    in train alone. keep_empty_classes: as `DatasetLayout` says. Raises UserError when the dataset cannot be understood, when
    no image is left, and with `strict` when there is any error.
    """
    result = read_split(data, split, strict=strict, difficult=difficult, repeats=repeats, keep_empty_classes=keep_empty_classes)
    _tell(result)
    return merge_classes(result) if single_cls else result


@failing_as(DATA)
def read_split(
    data: str | Path | DatasetLayout, split: str, *, strict: bool = False, difficult: bool = False, repeats: bool | None = None,
    keep_empty_classes: bool = False,
) -> Split:  # fmt: skip
    """`load_split` for callers that show the split's issues themselves."""
    layout = data if isinstance(data, DatasetLayout) else open_dataset(Path(data))
    layout = replace(layout, keep_empty_classes=layout.keep_empty_classes or keep_empty_classes)
    chosen = _choose_split(layout, split)
    listing = _read_split(layout, chosen)
    often = split == "train" if repeats is None else repeats
    records, issues = build_records(listing.images, layout.path, difficult=difficult, repeats=often)
    issues = listing.issues + issues
    result = Split(split, listing.names, listing.category_ids, records, issues, layout.path, origin=chosen)
    _refuse(result, strict)
    return result


def _tell(split: Split) -> None:
    """Warn of what was refused or is missing: training and figures would be about the rest alone."""
    if not any(record.objects for record in split.records):
        warn(f"{split.source}: none of the {len(split.records)} images of {split.name} has a label that can be used")
    where = f"list them with 'yolov9k data check {split.source}'"
    if fatal := split.fatal_issues:
        warn(f"{split.name}: {len(fatal)} faulty labels or images are left out, the first: {fatal[0]}; {where}")
    warnings = [issue for issue in split.issues if not issue.fatal]
    if counts := Counter(issue.kind for issue in warnings if issue.kind):
        counted = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        warn(f"{split.name} ({len(split.records)} images): {counted}; {where}")
    for issue in dict.fromkeys(issue for issue in warnings if not issue.kind):
        warn(f"{split.name}: {issue}")


def warn_of_training_images(layout: DatasetLayout, split: Split) -> None:
    """Warn where images of a split are in the data set's train split too: a model that was trained on them knows them.

    A train split that is not there, as on a machine that only validates, is no fault.
    """
    with suppress(UserError):
        train = next((name for name in _OWN["train"] if name in layout.splits), None)
        if train is None or train == split.origin:
            return
        chosen = _paths_by_format(layout, train)
        paths = [path for format, several in chosen.items() for path in format.list_images(several, train, layout)]
        if shared := find_shared(paths, split):
            warn(str(shared))


def find_splits(data: str | Path | DatasetLayout) -> list[str]:
    """Which of train, val and test a dataset has of its own, in this order."""
    there = (data if isinstance(data, DatasetLayout) else open_dataset(Path(data))).splits
    return [split for split in SPLITS if any(name in there for name in _OWN[split])] or ["train"]


def merge_classes(split: Split) -> Split:
    """`split` with all classes made one, called "object" unless there is only one name."""
    for record in split.records:
        record.classes[:] = 0
    split.names = split.names if len(split.names) == 1 else ["object"]
    split.category_ids = split.category_ids[:1]
    return split


@failing_as(DATA)
def open_dataset(path: Path) -> DatasetLayout:
    """What `path` is and which splits it has. Raises UserError when it is no dataset."""
    path = given_path(path).absolute()
    wanted = ", ".join(format.dataset for format in registered_formats() if format.dataset)
    if not os.path.exists(path):
        raise UserError(f"{path}: not found; {how_to_get(path.name) or f'give {wanted}'}")
    if not (os.path.isfile(path) or os.path.isdir(path)):  # a pipe or a device would be waited for
        raise UserError(f"{path}: no regular file and no folder; give {wanted}")
    unclear: UnclearDataset | None = None
    for format in registered_formats():
        try:
            if layout := format.open(path):
                check_val(layout)
                return layout
        except UnclearDataset as error:  # noqa: PERF203 (four of them)
            unclear = unclear or error
    raise unclear or UserError(f"{path}: not a dataset; give {wanted}")


def _choose_split(layout: DatasetLayout, split: str) -> str:
    """The split of the data set that is read as `split`."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} is not one of {', '.join(SPLITS)}; choose one of them")
    chosen = next((name for name in _STANDS_FOR[split] if name in layout.splits), None)
    if chosen is None and split == "val" and "train" in layout.splits:
        chosen = "train"
    if chosen is None and split == "train" and len(layout.splits) == 1:
        chosen = next(iter(layout.splits))
    if chosen is None:
        there = ", ".join(layout.splits) or "none"
        raise UserError(f"{layout.path}: no split {split!r}, there is {there}; add {split}: to it or choose another")
    if chosen in SPLITS and chosen != split:
        warn(f"{layout.path}: no {split} split; using {chosen} as {split}")
    return chosen


def _read_split(layout: DatasetLayout, split: str) -> Listing:
    """All entries of one split, read and put together: first those of the formats that are asked first."""
    chosen = _paths_by_format(layout, split)
    names, listings = layout.names, list[Listing]()
    for format in registered_formats():
        if format in chosen:
            listings.append(format.read(chosen[format], split, names, layout))
            names = listings[0].names
    return join_listings(listings, names)


def _paths_by_format(layout: DatasetLayout, split: str) -> dict[Format, list[Path]]:
    chosen: dict[Format, list[Path]] = {}
    for path in layout.paths(split):
        chosen.setdefault(_format_of(path, layout), []).append(path)
    return chosen


def _format_of(path: Path, layout: DatasetLayout) -> Format:
    regular = os.path.isfile(path) or os.path.isdir(path) or is_image(path)  # of an image it is told as of all images
    for format in registered_formats():
        if regular and format.accepts(path):
            return format
    wanted = ", ".join(format.entry for format in reversed(registered_formats()) if format.entry)
    raise UserError(f"{path}: not {wanted}; correct the entry in {layout.path}")


def _refuse(split: Split, strict: bool) -> None:
    """Raise UserError for a split without images and, when `strict`, for errors."""
    fatal = split.fatal_issues
    if not split.records:
        formats = ", ".join(sorted(SUFFIXES))
        why = f"{len(fatal)} errors, the first: {fatal[0]}" if fatal else f"no image found ({formats})"
        raise UserError(f"{split.source}: {split.name} is empty: {why}; correct the path or the data")
    if strict and fatal:
        first = "; ".join(map(str, fatal[:3]))
        what = f"{len(fatal)} errors in {split.name}, the first: {first}"
        raise UserError(f"{split.source}: {what}; correct them or leave out --strict")
