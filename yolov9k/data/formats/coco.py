"""COCO JSON: boxes ``x y w h`` in pixels, category ids of any value, polygons and crowd regions."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolov9k.common.arrays import Float32Array
from yolov9k.common.errors import UserError, one_line, shown
from yolov9k.common.text import read_json
from yolov9k.data.formats.base import AnnotatedImage, Annotation, Format, Listing, is_number, is_set, join_listings
from yolov9k.data.formats.layout import DatasetLayout, spellings
from yolov9k.data.records import DataIssue

Json = dict[str, Any]
_FOLDERS = ("train2017", "val2017", "test2017", "train2014", "val2014", "test2014", "train", "val", "valid", "test")


BRIDGE_CORNERS = 512  # of each of two outlines that are joined
_OTHER_TASKS = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")  # files that are not for detection


class Coco(Format):
    """COCO JSON files, also those beside the images as Roboflow exports them."""

    dataset = "a COCO JSON file or a folder of them"
    entry = "a .json file"

    def open(self, path: Path) -> DatasetLayout | None:
        """A .json file, or a folder with some."""
        if path.is_dir():
            splits = _find_splits(path)
            return DatasetLayout(path, None, splits, [path]) if splits else None
        if path.suffix.lower() != ".json":
            return None
        return DatasetLayout(path, None, {_split_of(path, path.parent) or "train": [str(path)]}, [path.parent])

    def accepts(self, path: Path) -> bool:
        """A .json file, or a folder of images with one beside them."""
        return path.suffix.lower() == ".json" or bool(_beside_images(path))

    def read(self, paths: Sequence[Path], split: str, names: Sequence[str] | None, layout: DatasetLayout) -> Listing:
        """All files; the first one's classes are the others' too where no names are given."""
        listings: list[Listing] = []
        for path in paths:
            for file in [path] if path.is_file() else _beside_images(path):
                listings.append(read_coco(file, names))
                names = listings[0].names
        return join_listings(listings, names)


def _find_splits(folder: Path) -> dict[str, list[str]]:
    """COCO files under `folder` by the split that their names tell; one without such a name is the only split."""
    patterns = ("*.json", "annotations/*.json", "*/_annotations.coco.json")
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    files = [file for file in files if not file.name.startswith(_OTHER_TASKS)]
    files = [file for file in files if file.name.startswith("instances")] or files
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_of(file, folder) or "", []).append(file)
    unnamed = splits.pop("", [])
    if not splits and unnamed:
        splits["train"] = unnamed
    for split, several in splits.items():
        if len(several) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in several)
            raise UserError(f"{folder}: several COCO files for {split} ({names}); name the one to use in a data.yaml")
    return {split: [str(file) for file in several] for split, several in splits.items()}


def _split_of(file: Path, folder: Path) -> str | None:
    found = re.search(r"(?<![a-z])(?:mini)?(train|val|test)", str(file.relative_to(folder)).lower())
    return found[1] if found else None


def _beside_images(folder: Path) -> list[Path]:
    return sorted(folder.glob("_annotations.coco.json"))


class EntryError(ValueError):
    """What is wrong with one entry of a COCO file."""


def read_coco(path: Path, names: Sequence[str] | None = None) -> Listing:
    """Images and annotations of a COCO JSON file.

    Classes are its categories in the order of their ids, or matched by name to `names`.

    Raises UserError when the file cannot be parsed or is not a COCO file.
    """
    data = _load(path)
    found, category_ids, labels = _classes(data, path, names)
    listing = Listing(found, category_ids, [])
    images = _read_images(data["images"], path, listing.issues)
    for number, entry in enumerate(data.get("annotations") or []):
        name = shown(entry["id"]) if isinstance(entry, dict) and "id" in entry else f"number {number}"
        try:
            image = _image_of(entry, images)
            if image is None:
                message = f"annotation {name}: label without an image, image_id {shown(entry.get('image_id'))}; remove it"
                listing.issues.append(DataIssue(path, None, message, fatal=False, kind="labels without an image"))
            else:
                image.annotations.append(_read_annotation(entry, labels, f"annotation {name}"))
        except EntryError as error:
            listing.issues.append(DataIssue(path, None, f"annotation {name}: {error}", fatal=True))
    listing.images = list(images.values())
    return listing


def _load(path: Path) -> Json:
    data = read_json(path)
    for key in ("images", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise UserError(f"{path}: no list {key!r}, so no COCO detection file; use one such as instances_*.json")
    if not isinstance(data.get("annotations") or [], list):
        raise UserError(f"{path}: 'annotations' is no list; mend the file")
    return dict(data)


def _classes(data: Json, path: Path, names: Sequence[str] | None) -> tuple[list[str], list[int], dict[int, int]]:
    """Class names, the category id of each class, and the class of each category id."""
    try:
        ids = {int(category["id"]): str(category["name"]) for category in data["categories"]}
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: a category lacks its id or name; mend 'categories'") from None
    if len(ids) < len(data["categories"]):
        raise UserError(f"{path}: two categories share an id; mend 'categories'")
    if names is None:
        order = sorted(ids)
        return [ids[key] for key in order], order, {key: label for label, key in enumerate(order)}
    by_name = {name: label for label, name in enumerate(names)}
    labels = {key: by_name[name] for key, name in ids.items() if name in by_name}
    if ids and not labels:
        given, there = one_line(", ".join(list(names)[:3])), one_line(", ".join(list(ids.values())[:3]))
        raise UserError(f"{path}: none of its categories ({there}, ...) is in names ({given}, ...); make them agree")
    known = {label: key for key, label in labels.items()}
    spare = iter(range(max(ids, default=0) + 1, max(ids, default=0) + 1 + len(names)))
    return list(names), [known[label] if label in known else next(spare) for label in range(len(names))], labels


def _read_images(entries: list[Any], path: Path, issues: list[DataIssue]) -> dict[Any, AnnotatedImage]:
    images: dict[Any, AnnotatedImage] = {}
    finder = _ImageFinder(path)
    for number, entry in enumerate(entries):
        key = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(key, (int, str)) or not isinstance(entry.get("file_name"), str):
            message = f"image number {number} lacks its id or file_name; mend the entry"
            issues.append(DataIssue(path, None, message, fatal=True))
        elif key in images:
            message = f"image id {shown(key)} ({shown(entry['file_name'])}) stands twice; remove one"
            issues.append(DataIssue(path, None, message, fatal=True))
        else:
            size = (entry.get("height"), entry.get("width"))
            stated = (int(size[0]), int(size[1])) if is_number(size[0]) and is_number(size[1]) else None
            image_id = key if isinstance(key, int) else None
            images[key] = AnnotatedImage(finder.find(entry["file_name"]), path, [], True, image_id, stated_size=stated)
    return images


class _ImageFinder:
    """Looks for images where COCO layouts put them, first where the last one was."""

    def __init__(self, path: Path) -> None:
        words = re.split(r"[_\-.]", path.stem)
        own = [word for word in words if word.startswith(("train", "val", "test"))]
        bases = [path.parent, path.parent / "images", path.parent.parent / "images", path.parent.parent]
        names = own + [name for name in _FOLDERS if not own or name.startswith(tuple(own))]
        nested = [base / name for base in bases for name in names]
        folders = nested + bases if own else bases + nested
        self.folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        self.home = path.parent

    def find(self, name: str) -> Path:
        """Path of the image; where it would stand beside the JSON file if it is nowhere."""
        for variant in spellings(name):
            for folder in self.folders:
                if os.path.isfile(folder / variant):
                    self.folders.remove(folder)
                    self.folders.insert(0, folder)
                    return folder / variant
        return self.home / name


def _image_of(entry: Any, images: Mapping[Any, AnnotatedImage]) -> AnnotatedImage | None:
    if not isinstance(entry, dict):
        raise EntryError("is no object; remove it")
    key = entry.get("image_id")
    return images.get(key) if isinstance(key, (int, str)) else None


def _read_annotation(entry: Json, labels: Mapping[int, int], text: str) -> Annotation:
    category = entry.get("category_id")
    if not isinstance(category, int) or category not in labels:
        raise EntryError(f"category_id {shown(category)} is not among the categories or names; correct or remove it")
    bbox = entry.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise EntryError(f"bbox {shown(bbox)} is not four finite numbers x y w h; correct or remove it")
    x, y, w, h = bbox
    area = entry.get("area")
    return Annotation(
        label=labels[category],
        box=(x, y, x + w, y + h),
        text=f"{text}: bbox {shown(bbox)}",
        polygon=read_polygon(entry.get("segmentation")),
        crowd=is_set(entry.get("iscrowd")),
        difficult=is_set(entry.get("ignore")) or is_set(entry.get("difficult")),  # as converters from VOC write them
        area=float(area) if isinstance(area, (int, float)) and is_number(area) and area > 0 else None,
    )


def read_polygon(segmentation: object) -> Float32Array | None:
    """One outline float32 [k, 2] of a COCO segmentation; None for run-length codes and for fewer than three points."""
    if not isinstance(segmentation, list):
        return None
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which no box agrees with
        outlines = [np.array(flat, np.float32).reshape(-1, 2) for flat in segmentation if _is_outline(flat)]
    return join_outlines(outlines) if outlines else None


def _is_outline(flat: object) -> bool:
    return isinstance(flat, list) and len(flat) >= 6 and len(flat) % 2 == 0 and all(map(is_number, flat))


def join_outlines(outlines: list[Float32Array]) -> Float32Array:
    """One outline around several, each tied to the ones before by a bridge without width at the nearest two corners.

    Of long or many outlines the nearest of some corners, evenly spaced: a bridge encloses nothing, wherever it is.
    """
    joined, rest = outlines[0], outlines[1:]
    most = min(max(BRIDGE_CORNERS * 8 // len(outlines), 32), BRIDGE_CORNERS)
    for outline in rest:
        here_step, there_step = -(-len(joined) // most), -(-len(outline) // most)
        distance = ((joined[::here_step, None] - outline[None, ::there_step]) ** 2).sum(-1)
        nearest = np.unravel_index(int(distance.argmin()), distance.shape)
        here, there = int(nearest[0]) * here_step, int(nearest[1]) * there_step
        loop = np.roll(outline, -there, axis=0)
        joined = np.concatenate([joined[: here + 1], loop, loop[:1], joined[here:]])
    return joined
