"""Finds out what a dataset is from its path and reads one part of it.

A dataset is a data.yaml file (as users of YOLOv5, v7, v9 and Ultralytics have them), a folder holding one, a Pascal
VOC folder, a COCO folder or a COCO JSON file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yolov9k.common.errors import UserError, warn
from yolov9k.data.formats.base import Listing, Sample, build_records
from yolov9k.data.formats.coco import coco_names, read_coco
from yolov9k.data.formats.data_yaml import read_yaml, resolve
from yolov9k.data.formats.voc import is_voc, read_voc, voc_names, voc_parts
from yolov9k.data.formats.yolo import read_yolo
from yolov9k.data.probe import SUFFIXES, is_image, list_images
from yolov9k.data.records import Split

SPLITS = ("train", "val", "test")
_STANDS_FOR = {"train": ("train", "trainval"), "val": ("val", "valid", "validation", "test"), "test": ("test",)}
_NO_BOXES = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")  # COCO files that are not for detection
_Image = tuple[Path, Path, int | None]  # image, the file that lists it (or the image itself), line there


@dataclass
class Source:
    """A dataset before it is read: `parts` gives, for each part it has, the folders and files to read."""

    path: Path
    names: list[str] | None
    parts: dict[str, list[str]]
    bases: list[Path] = field(default_factory=list)


def load_split(data: str | Path, split: str, *, single_cls: bool = False, strict: bool = False) -> Split:
    """Read the part `split` ("train", "val" or "test") of a dataset and check every image and box of it.

    A source without a val part lends valid, then test, then train, with a warning; one that has one part only lends
    it as train too. `single_cls` merges all classes into one. Raises UserError when the source cannot be understood,
    when no image is left, and with `strict` when there is any fatal fault.
    """
    source = open_source(Path(data))
    part = _choose_part(source, split)
    listing = _read_part(source, part)
    records, faults = build_records(listing.samples)
    result = Split(split, listing.names, listing.category_ids, records, listing.faults + faults, source.path)
    _refuse(result, strict)
    if records and not any(len(record.classes) for record in records):
        warn(f"{source.path}: none of the {len(records)} images of {split} has a label that can be used")
    return merge_classes(result) if single_cls else result


def load_names(data: str | Path) -> list[str]:
    """Class names of a dataset, without reading its images. Raises UserError when the source cannot be understood."""
    source = open_source(Path(data))
    if source.names is not None:
        return source.names
    part, entries = next(iter(source.parts.items()))
    path = resolve(entries[0], source.bases, source.path)[0]
    if path.suffix.lower() == ".json" or (path.is_dir() and _beside_json(path)):
        return coco_names(path if path.is_file() else _beside_json(path)[0])
    if is_voc(path):
        return voc_names(path)
    raise UserError(f"{source.path}: no names for the classes of {part}; add names: [...]")


def find_splits(data: str | Path) -> list[str]:
    """Which of train, val and test a dataset has of its own, in this order."""
    parts = open_source(Path(data)).parts
    own = {"val": ("val", "valid", "validation")}
    found = [split for split in SPLITS if any(part in parts for part in own.get(split, _STANDS_FOR[split]))]
    return found or ["train"]


def merge_classes(split: Split) -> Split:
    """`split` with all classes made one, called "object" unless there is only one name."""
    for record in split.records:
        record.classes[:] = 0
    split.names = split.names if len(split.names) == 1 else ["object"]
    split.category_ids = split.category_ids[:1]
    return split


def open_source(path: Path) -> Source:
    """What `path` is and which parts it has. Raises UserError when it is no dataset."""
    path = path.expanduser().absolute()
    if not path.exists():
        raise UserError(f"{path}: not found; give a data.yaml, a COCO JSON file, or a COCO or Pascal VOC folder")
    if path.is_file():
        return _open_file(path)
    yamls = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    yamls = [yaml for yaml in yamls if yaml.name == "data.yaml"] or yamls
    if len(yamls) == 1:
        return _open_file(yamls[0])
    if is_voc(path):
        return Source(path, None, {part: [str(path)] for part in voc_parts(path) or ["train"]}, [path])
    if parts := _coco_parts(path):
        return Source(path, None, parts, [path])
    if len(yamls) > 1:
        raise UserError(f"{path}: several YAML files ({', '.join(y.name for y in yamls)}); name the one to use")
    raise UserError(
        f"{path}: not a dataset: no data.yaml, no COCO JSON file, no Annotations with JPEGImages; "
        "for YOLO labels write a data.yaml with train, val and names"
    )


def _open_file(path: Path) -> Source:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return Source(path, None, {_part_of(path, path.parent) or "train": [str(path)]}, [path.parent])
    if suffix in (".yaml", ".yml"):
        config = read_yaml(path)
        return Source(path, config.names, config.parts, config.bases)
    raise UserError(f"{path}: not a dataset; give a .yaml or .json file or a folder")


def _coco_parts(folder: Path) -> dict[str, list[str]]:
    """COCO files under `folder` by the part that their names tell; one without such a name is the only part."""
    patterns = ("*.json", "annotations/*.json", "*/_annotations.coco.json")
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    files = [file for file in files if not file.name.startswith(_NO_BOXES)]
    files = [file for file in files if file.name.startswith("instances")] or files
    parts: dict[str, list[Path]] = {}
    for file in files:
        parts.setdefault(_part_of(file, folder) or "", []).append(file)
    unnamed = parts.pop("", [])
    if not parts and unnamed:
        parts["train"] = unnamed
    for part, several in parts.items():
        if len(several) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in several)
            raise UserError(f"{folder}: several COCO files for {part} ({names}); name the one to use in a data.yaml")
    return {part: [str(file) for file in several] for part, several in parts.items()}


def _part_of(file: Path, folder: Path) -> str | None:
    found = re.search(r"(?<![a-z])(?:mini)?(train|val|test)", str(file.relative_to(folder)).lower())
    return found[1] if found else None


def _beside_json(folder: Path) -> list[Path]:
    return sorted(folder.glob("_annotations.coco.json"))


def _choose_part(source: Source, split: str) -> str:
    if split not in SPLITS:
        raise UserError(f"split {split!r} is not one of {', '.join(SPLITS)}; choose one of them")
    part = next((part for part in _STANDS_FOR[split] if part in source.parts), None)
    if part is None and split == "val" and "train" in source.parts:
        part = "train"
    if part is None and split == "train" and len(source.parts) == 1:
        part = next(iter(source.parts))
    if part is None:
        there = ", ".join(source.parts) or "none"
        raise UserError(f"{source.path}: no part {split!r}, there is {there}; add {split}: to it or choose another")
    if part in SPLITS and part != split:
        warn(f"{source.path}: no {split} part; using {part} as {split}")
    return part


def _read_part(source: Source, part: str) -> Listing:
    """All entries of one part, read and put together."""
    names = source.names
    listings: list[Listing] = []
    images: list[_Image] = []
    for entry in source.parts[part]:
        for path in resolve(entry, source.bases, source.path):
            if path.suffix.lower() == ".json" or _beside_json(path):
                listings.extend(read_coco(file, names) for file in ([path] if path.is_file() else _beside_json(path)))
            elif is_voc(path):
                listings.append(read_voc(path, part, names))
            else:
                images.extend(_list_entry(path, source))
            names = names if names is not None or not listings else listings[0].names
    if images:
        if names is None:
            raise UserError(f"{source.path}: no names for the classes of {part}; add names: [...]")
        listings.append(read_yolo(images, names))
    return _join(listings, names or [])


def _list_entry(path: Path, source: Source) -> list[_Image]:
    if path.is_dir():
        return [(image, image, None) for image in list_images(path)]
    if path.suffix.lower() == ".txt":
        return _read_image_list(path, source.bases)
    if is_image(path):
        return [(path, path, None)]
    raise UserError(f"{path}: not a folder, a .txt list, a .json file or an image; correct the entry in {source.path}")


def _read_image_list(path: Path, bases: Sequence[Path]) -> list[_Image]:
    """Images that a text file lists, one a line; relative ones are looked for beside the list first."""
    images: list[_Image] = []
    for line, row in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), 1):
        if row := row.strip():
            places = [base / row for base in (path.parent, *bases)]
            images.append((next((place for place in places if place.is_file()), places[0]), path, line))
    return images


def _join(listings: list[Listing], names: list[str]) -> Listing:
    if not listings:
        return Listing(names, list(range(len(names))), [])
    first = listings[0]
    samples: list[Sample] = [sample for listing in listings for sample in listing.samples]
    faults = [fault for listing in listings for fault in listing.faults]
    return Listing(first.names, first.category_ids, samples, faults)


def _refuse(split: Split, strict: bool) -> None:
    """Raise UserError for a part without images and, when `strict`, for fatal faults."""
    fatal = split.fatal_faults
    if not split.records:
        formats = ", ".join(sorted(SUFFIXES))
        why = f"{len(fatal)} faults, the first: {fatal[0]}" if fatal else f"no image found ({formats})"
        raise UserError(f"{split.source}: {split.name} is empty: {why}; correct the path or the data")
    if strict and fatal:
        first = "; ".join(map(str, fatal[:3]))
        what = f"{len(fatal)} faults in {split.name}, the first: {first}"
        raise UserError(f"{split.source}: {what}; mend them or leave out --strict")
