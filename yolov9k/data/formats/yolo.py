"""YOLO text labels: a line an object, ``class x y w h`` or ``class x1 y1 x2 y2 x3 y3 ...``, fractions of the image."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yolov9k.common.errors import UserError, shown
from yolov9k.common.files import read_bytes
from yolov9k.common.numbers import is_plain, parse_number
from yolov9k.common.paths import FolderNames, PathFinder, normal
from yolov9k.common.text import decode, normalize_newlines, read_text
from yolov9k.data.formats.base import AnnotatedImage, Annotation, Format, Listing
from yolov9k.data.formats.checks import ROUNDING
from yolov9k.data.formats.key_points import KeyPoints, find_points, warn_of_points
from yolov9k.data.formats.layout import DatasetLayout, without_data
from yolov9k.data.ids import Id
from yolov9k.data.probe import WORKERS, is_hidden, is_image, list_images, siblings
from yolov9k.data.records import DataIssue

_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # ids below 91 that no class of COCO has


ListedImage = tuple[Path, Path, int | None]  # image, the file that lists it (or the image itself), line there


class Yolo(Format):
    """Folders of images, text files that list images, and images; each image has a text file of labels."""

    entry = "a folder, a .txt list, an image"

    def accepts(self, path: Path) -> bool:
        """Any folder, text file or image."""
        return path.is_dir() or path.suffix.lower() == ".txt" or is_image(path)

    def read(self, paths: Sequence[Path], split: str, names: Sequence[str] | None, layout: DatasetLayout) -> Listing:
        """All of them together: a folder of labels may serve several."""
        issues: list[DataIssue] = []
        images = [image for path in paths for image in _list_images(path, layout, issues)]
        if images and names is None:
            raise UserError(f"{layout.path}: no names for the classes of {split}; add names: [...]")
        listing = read_yolo(images, list(names or []), layout.keypoints)
        if cut := sum(annotation.cut for image in listing.images for annotation in image.annotations):
            message = f"{cut} rows have key points (kpt_shape), which are left out: their boxes are taken"
            issues.append(DataIssue(layout.path, None, message, fatal=False))
        listing.issues[:0] = issues
        return listing

    def list_images(self, paths: Sequence[Path], split: str, layout: DatasetLayout) -> list[Path]:
        """Without the labels."""
        return [image for path in paths for image, _, _ in _list_images(path, layout, [])]


def _list_images(path: Path, layout: DatasetLayout, issues: list[DataIssue]) -> list[ListedImage]:
    if path.is_dir():
        return [(image, image, None) for image in list_images(path)]
    return _read_image_list(path, layout, issues) if path.suffix.lower() == ".txt" else [(path, path, None)]


def _read_image_list(path: Path, layout: DatasetLayout, issues: list[DataIssue]) -> list[ListedImage]:
    """Images that a text file lists, one a line; relative ones are looked for beside the list first."""
    images: list[ListedImage] = []
    finder, own = PathFinder(), list(dict.fromkeys([path.parent, *layout.bases]))
    elsewhere = 0
    for line, row in enumerate(read_text(path, "replace").splitlines(), 1):
        if row := row.strip():
            spellings = without_data(row)
            found = _first(finder, spellings, own)
            if found is None and (found := _first(finder, spellings, layout.working_bases)):
                elsewhere += 1
            images.append((found or path.parent / row, path, line))
    if elsewhere:
        what = f"{elsewhere} of {len(images)} images are not beside the list; taken from the working folder {Path.cwd()}"
        issues.append(DataIssue(path, None, what, fatal=False))
    return images


def _first(finder: PathFinder, spellings: Sequence[str], bases: Sequence[Path]) -> Path | None:
    places = (finder.find(spelling, bases, os.path.isfile) for spelling in spellings)
    return next((place for place in places if place), None)


class RowError(ValueError):
    """What is wrong with one row of a label file."""


def read_yolo(images: Sequence[ListedImage], names: list[str], keypoints: int = 0) -> Listing:
    """`images` with their labels, each given as (image, the file that lists it or the image itself, line there).

    keypoints: how many values follow the box in a row, as `DatasetLayout` says.
    """
    found = _find_labels([image for image, _, _ in images])
    listing = Listing(names, category_ids(names), [])
    points: list[tuple[Path, KeyPoints]] = []
    with ThreadPoolExecutor(WORKERS) as pool:
        read = pool.map(lambda label: None if label is None else read_labels(label, len(names), keypoints), found)
        for (image, source, line), label, content in zip(images, found, read, strict=True):
            there = os.path.exists(image)
            if label is None and there:
                message = f"image without a label file ({label_path(image)}); it is used as background"
                kind = "images without a label file, used as background"
                listing.issues.append(DataIssue(image, None, message, fatal=False, kind=kind))
            origin = source if not there or label is None else label
            annotations = content.annotations if content else []
            listing.images.append(AnnotatedImage(image, origin, annotations, pixels=False, line=line))
            listing.issues.extend(content.issues if content else [])
            if label and content and content.points:
                points.append((label, content.points))
    listing.issues.extend(warn_of_points(points))
    listing.issues.extend(_find_shared(images, found))
    listing.issues.extend(_find_orphans([image for image, _, _ in images]))
    return listing


def _find_shared(images: Sequence[ListedImage], labels: Sequence[Path | None]) -> list[DataIssue]:
    """Label files of several images, such as a.jpg and a.png: all are taken to show the same objects."""
    users: dict[Path, dict[Path, None]] = {}
    for (image, _, _), label in zip(images, labels, strict=True):
        if label is not None:
            users.setdefault(label, {})[image] = None
    issues = []
    for label, several in users.items():
        if len(several) > 1:
            message = f"label file of several images ({', '.join(image.name for image in several)}); rename all but one"
            issues.append(DataIssue(label, None, message, fatal=False, kind="label files of several images each"))
    return issues


def category_ids(names: Sequence[str]) -> list[Id]:
    """Ids of classes in COCO results: 0 on, but COCO's own 80 classes keep COCO's ids, as in the published validation."""
    if len(names) == 80 and (names[0], names[-1]) == ("person", "toothbrush"):
        return [number for number in range(1, 91) if number not in _COCO_GAPS]
    return list(range(len(names)))


def label_path(image: Path) -> Path:
    """Where the labels of `image` belong: the last folder ``images`` becomes ``labels``, else beside the image."""
    folders = list(image.parent.parts)
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return Path(*folders, image.stem + ".txt")


def _find_labels(images: Sequence[Path]) -> list[Path | None]:
    """Label file of each image, looked up in folder listings: one call a folder, not two an image."""
    candidates = [(label_path(image), image.parent / f"{image.stem}.txt") for image in images]
    there = {folder: FolderNames(folder) for folder in {path.parent for path in chain.from_iterable(candidates)}}

    def find(path: Path) -> Path | None:
        name = there[path.parent].find(path.name)
        return None if name is None else path if name == path.name else path.with_name(name)

    return [find(first) or find(second) for first, second in candidates]


def _find_orphans(images: Sequence[Path]) -> list[DataIssue]:
    """Label files that no image belongs to, in the folders where the labels of `images` are."""
    folders: dict[Path, set[Path]] = {}
    listed: dict[Path, set[str]] = {}  # a list may name files that a folder's images are not, such as .heic
    for image in images:
        listed.setdefault(image.parent, set()).add(image.stem)
    for parent in listed:
        folders.setdefault(label_path(parent / "x").parent, set()).add(parent)
    issues = []
    for folder, parents in sorted(folders.items()):
        stems = set(map(normal, siblings({*parents, folder}).union(*(listed[parent] for parent in parents))))
        for name in sorted(name for name in FolderNames(folder).names if not is_hidden(name)):
            path = folder / name
            if path.suffix.lower() != ".txt" or (path.suffix == ".txt" and normal(path.stem) in stems):
                continue
            if _looks_like_labels(path):
                message = "label without an image; add the image or remove the label"
                if path.suffix != ".txt":
                    message = f"label that is not read; rename it to {path.stem}.txt"
                issues.append(DataIssue(path, None, message, fatal=False, kind="labels without an image"))
    return issues


def _looks_like_labels(path: Path) -> bool:
    """Tells labels from the lists of class names and images that tools put beside them."""
    try:
        row = read_text(path, "replace").partition("\n")[0].split()
        return len([parse_number(value) for value in row]) != 1
    except (UserError, ValueError):
        return False


class LabelFile(NamedTuple):
    """Objects of one label file; `points`: the kpt_shape of points behind the box in each of its rows, unsaid in data.yaml."""

    annotations: list[Annotation]
    issues: list[DataIssue]
    points: KeyPoints | None = None


def read_labels(path: Path, num_classes: int, keypoints: int = 0) -> LabelFile:
    """What one label file says; rows that cannot be understood become fatal issues."""
    annotations: list[Annotation] = []
    issues: list[DataIssue] = []
    try:
        text = normalize_newlines(decode(read_bytes(path), "replace"))
    except OSError as error:
        what = f"label file cannot be read ({error.strerror}); check the file"
        return LabelFile([], [DataIssue(path, None, what, fatal=True)])
    for number, row in enumerate(text.splitlines(), 1):
        if not row.strip():
            continue
        try:
            annotations.append(parse_row(row, num_classes, number, keypoints))
        except RowError as error:
            issues.append(DataIssue(path, number, f"row {shown(row.strip())}: {error}", fatal=True))
    return LabelFile(annotations, issues, None if keypoints else find_points(text))


def parse_row(row: str, num_classes: int, line: int | None = None, keypoints: int = 0) -> Annotation:
    """One row as an annotation in fractions, without its key points. Raises RowError with the value and the remedy."""
    try:
        label, *values = map(float if is_plain(row) else parse_number, row.split())
    except ValueError:
        raise RowError(f"{_first_non_number(row)} is not a number; separate numbers by spaces") from None
    cut = bool(keypoints) and len(values) != 4
    if cut and len(values) != 4 + keypoints:
        raise RowError(f"{1 + len(values)} columns; with the data set's kpt_shape a row has 5 or {5 + keypoints}")
    values = values[:4] if cut else values
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise RowError(f"{1 + len(values)} columns; a box has 5 (class x y w h), a polygon 7 or more and an odd number")
    bad = next((value for value in (label, *values) if not math.isfinite(value)), None)
    if bad is not None:
        raise RowError(f"{bad} is not a finite number; correct it")
    if not (label.is_integer() and 0 <= label < num_classes):
        raise RowError(f"class {label:g} is not in 0..{num_classes - 1}; correct the row or add the class to names")
    outside = next((value for value in values if not -ROUNDING <= value <= 1 + ROUNDING), None)
    if outside is not None:
        raise RowError(f"coordinate {outside:g} is outside 0..1; divide pixels by the width and height of the image")
    if len(values) > 4 and (boxes := _boxes_on_line(row)):
        raise RowError(f"{boxes} boxes on one line; write each on a line of its own")
    text = f"row {shown(row.strip())}"
    if len(values) == 4:
        x, y, w, h = values
        return Annotation(int(label), (x - w / 2, y - h / 2, x + w / 2, y + h / 2), text, line, cut=cut)
    polygon = np.array(values, np.float32).reshape(-1, 2)
    box = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    return Annotation(int(label), box, text, line, polygon)


def _boxes_on_line(row: str) -> int:
    """How many boxes a row seems to hold: whole numbers, and only those, where each one's class would be; 0 for an outline."""
    numbers = row.split()
    if len(numbers) % 5 or not all(number.isdecimal() for number in numbers[::5]):
        return 0
    others = (number for place, number in enumerate(numbers) if place % 5)
    return 0 if any(number.isdecimal() for number in others) else len(numbers) // 5


def _first_non_number(row: str) -> str:
    return shown(next((value for value in row.split() if not _is_float(value)), row), 20)


def _is_float(value: str) -> bool:
    try:
        parse_number(value)
    except ValueError:
        return False
    return True
