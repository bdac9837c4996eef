"""labelme: a JSON file an image, rectangles and polygons in pixels, beside the images or where `imagePath` leads."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from yolov9k.common.arrays import Float32Array
from yolov9k.common.errors import UserError, one_line, shown
from yolov9k.common.files import open_regular
from yolov9k.common.numbers import is_whole
from yolov9k.common.paths import PathFinder, normal
from yolov9k.common.text import decode, read_json
from yolov9k.data.formats.base import (
    AnnotatedImage,
    Annotation,
    Format,
    Listing,
    is_name,
    is_number,
    is_set,
    join_listings,
    warn_of_fractions,
    warn_of_names,
)
from yolov9k.data.formats.folders import accepted_paths, has_yolo_labels, split_folders
from yolov9k.data.formats.layout import DatasetLayout
from yolov9k.data.formats.outlines import join_outlines
from yolov9k.data.probe import WORKERS, is_image
from yolov9k.data.records import DataIssue

_HEAD = 1 << 14  # bytes at the start of a file in which one of its keys stands
_KEYS = re.compile(r'"(?:shapes|imagePath|imageData)"\s*:')
_LOOKED_AT = 20  # files of a folder
Json = dict[str, Any]
Documents = dict[Path, "Json | DataIssue"]


class Labelme(Format):
    """Folders of labelme's files, and of such folders named after splits."""

    dataset = "a folder of labelme JSON files"
    entry = "a folder of labelme JSON files"

    def open(self, path: Path) -> DatasetLayout | None:
        """A file or a folder of them, all of it train, or a folder with a folder of them for each split."""
        if self.accepts(path):
            return DatasetLayout(path, None, {"train": [str(path)]}, [path])
        splits = split_folders(path, self.accepts) if path.is_dir() else {}
        return DatasetLayout(path, None, splits, [path]) if splits else None

    def accepts(self, path: Path) -> bool:
        """A file of labelme's, or a folder with some that no YOLO labels have been made of."""
        if not path.is_dir():
            return path.suffix.lower() == ".json" and _is_labelme(path)
        some = _json_files(path)[:_LOOKED_AT]
        return any(map(_is_labelme, some)) and not has_yolo_labels(path)

    def read(self, paths: Sequence[Path], split: str, names: Sequence[str] | None, layout: DatasetLayout) -> Listing:
        """All folders; where no names are given, classes are those of every split's folders, sorted."""
        documents = {path: _parse_all(path) for path in paths}
        if names is None:
            every = {path: documents.get(path) or _parse_all(path) for path in accepted_paths(layout, self.accepts)}
            names = sorted({name for parsed in every.values() for document in parsed.values() for name in _labels(document)})
            warn_of_names(names, layout.path)
        return join_listings([_read_folder(path, parsed, names) for path, parsed in documents.items()], names)


def _is_labelme(path: Path, unreadable: bool = False) -> bool:
    """By its first bytes: a COCO file may have gigabytes. unreadable: whether one that cannot be read counts."""
    try:
        with open_regular(path) as file:
            return _KEYS.search(decode(file.read(_HEAD), "replace")) is not None
    except OSError:
        return unreadable and not path.is_dir()


def _json_files(path: Path) -> list[Path]:
    names = sorted(name for name in os.listdir(path) if name.lower().endswith(".json") and not name.startswith("."))
    return [path / name for name in names]


def _parse_all(path: Path) -> Documents:
    """The content of a file, or of each file of a folder; what is another tool's is left out."""

    def parse(file: Path) -> Json | DataIssue | None:
        if not _is_labelme(file, unreadable=True):
            return None
        try:
            data = read_json(file)
        except UserError as error:
            line, _, message = str(error).removeprefix(f"{file}").removeprefix(":").partition(": ")
            line, message = (line, message) if is_whole(line) else ("", f"{line}: {message}".strip(": "))
            return DataIssue(file, int(line) if line else None, message, fatal=True)
        if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
            return DataIssue(file, None, "has no list 'shapes'; save it with labelme again", fatal=True)
        data.pop("imageData", None)  # the whole image, in text
        return data

    files = _json_files(path) if path.is_dir() else [path]
    with ThreadPoolExecutor(WORKERS) as pool:
        parsed = zip(files, pool.map(parse, files), strict=True)
        return {file: document for file, document in parsed if document is not None}


def _labels(document: Json | DataIssue) -> list[str]:
    shapes = document["shapes"] if isinstance(document, dict) else []
    return [str(shape["label"]) for shape in shapes if isinstance(shape, dict) and is_name(shape.get("label"))]


def _read_folder(path: Path, documents: Documents, names: Sequence[str]) -> Listing:
    listing = Listing(list(names), [*range(len(names))], [])
    labels = {name: number for number, name in reversed(list(enumerate(names)))}  # of two names alike the first
    there = sorted(image for image in (path if path.is_dir() else path.parent).iterdir() if is_image(image))
    beside = {normal(image.stem): image for image in reversed(there)}  # of several the first
    for file, document in documents.items():
        if isinstance(document, DataIssue):
            listing.issues.append(document)
        else:
            listing.images.append(_read_image(file, document, labels, beside, listing.issues))
    if path.is_dir():
        _add_others(listing, there, documents)
    warn_of_fractions(listing, path)
    return listing


def _add_others(listing: Listing, images: Sequence[Path], documents: Documents) -> None:
    """Of the images in a folder those that no file names: background, or an issue where a file of their name names another."""
    known, stems = {image.path for image in listing.images}, {normal(file.stem): file for file in documents}
    for image in images:
        if image in known:
            continue
        owner = stems.get(normal(image.stem))
        if owner and isinstance(documents[owner], dict):
            message = f"image shares its label file ({owner}), which names another; rename it and label it apart"
            listing.issues.append(DataIssue(image, None, message, fatal=True))
        elif not owner:
            message = f"image without a label file ({image.with_suffix('.json')}); it is used as background"
            kind = "images without a label file, used as background"
            listing.issues.append(DataIssue(image, None, message, fatal=False, kind=kind))
            listing.images.append(AnnotatedImage(image, image, [], pixels=True))


def _read_image(
    file: Path, document: Json, labels: dict[str, int], beside: Mapping[str, Path], issues: list[DataIssue]
) -> AnnotatedImage:
    size = document.get("imageHeight"), document.get("imageWidth")
    stated = (int(size[0]), int(size[1])) if is_number(size[0]) and is_number(size[1]) else None  # type: ignore[arg-type]
    image = AnnotatedImage(_image_of(file, document, beside), file, [], pixels=True, stated_size=stated)
    groups: dict[tuple[int, Any], list[Annotation]] = {}
    for number, shape in enumerate(document["shapes"], 1):
        try:
            annotation = _read_shape(shape, labels, number)
        except ShapeError as error:
            issues.append(DataIssue(file, None, f"shape {number}: {error}", fatal=True))
            continue
        group = shape.get("group_id")
        group = group if isinstance(group, (int, str)) and not isinstance(group, bool) else None
        groups.setdefault((annotation.label, number if group is None else (group,)), []).append(annotation)
    image.annotations = [_united(group) for group in groups.values()]
    return image


def _image_of(file: Path, document: Json, images: Mapping[str, Path]) -> Path:
    """Where `imagePath` leads, else the image of the same name beside the file, found in `images` by its stem."""
    stated = document.get("imagePath")
    if isinstance(stated, str) and stated:
        if found := PathFinder().find(stated, [file.parent], os.path.isfile):
            return Path(os.path.normpath(found))
        if found := PathFinder().find(stated.replace("\\", "/").rpartition("/")[2], [file.parent], os.path.isfile):
            return found
    return images.get(normal(file.stem)) or file.with_suffix(".jpg")


class ShapeError(ValueError):
    """What is wrong with one shape of a file."""


def _read_shape(shape: Any, labels: dict[str, int], number: int) -> Annotation:
    if not isinstance(shape, dict) or not is_name(shape.get("label")):
        raise ShapeError("has no label; name its class")
    name, kind = str(shape["label"]), shape.get("shape_type", "polygon")  # files of early versions have polygons alone
    if name not in labels:
        raise ShapeError(f"class {shown(name)} is not in names ({one_line(', '.join(labels))}); correct it or add it")
    if kind not in ("rectangle", "polygon", "circle"):
        raise ShapeError(f"{one_line(name, 60)} is a {shown(kind)}, which is not read; draw it as a rectangle or a polygon")
    points = _read_points(shape.get("points"))
    if points is None or len(points) < (3 if kind == "polygon" else 2) or (kind == "circle" and len(points) > 2):
        raise ShapeError(f"{kind} of {one_line(name, 60)} has points {shown(shape.get('points'))}; it needs pairs of numbers")
    if kind == "circle":  # its center and a point on it
        points = points[0] + np.hypot(*(points[1] - points[0])) * np.array([[-1], [1]])
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    return Annotation(
        labels[name], (x1, y1, x2, y2), f"shape {number}: {kind} of {one_line(name, 60)}",
        polygon=points.astype(np.float32) if kind == "polygon" else None, difficult=is_set(shape.get("difficult")),
    )  # fmt: skip


def _read_points(value: object) -> Any:
    """float64 [k, 2]; None for what is no list of pairs of finite numbers."""
    if not isinstance(value, list) or not value:
        return None
    pairs = [pair for pair in value if isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair))]
    return np.array(pairs, np.float64) if len(pairs) == len(value) else None


def _united(group: list[Annotation]) -> Annotation:
    """The shapes of one class and one group_id are parts of one object."""
    first = group[0]
    if len(group) > 1:
        boxes = np.array([annotation.box for annotation in group])
        (x1, y1), (x2, y2) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
        first.box = x1, y1, x2, y2
        first.polygon = join_outlines([_outline(annotation) for annotation in group])
    return first


def _outline(annotation: Annotation) -> Float32Array:
    x1, y1, x2, y2 = annotation.box
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)
    return corners if annotation.polygon is None else annotation.polygon
