"""COCO JSON: boxes ``x y w h`` in pixels, category ids of any value, polygons and crowd regions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolov9k.common.arrays import Float32Array
from yolov9k.common.errors import UserError, one_line, shown
from yolov9k.common.text import read_json
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
from yolov9k.data.formats.folders import accepted_paths, find_files
from yolov9k.data.formats.image_finder import ImageFinder, split_in
from yolov9k.data.formats.layout import DatasetLayout
from yolov9k.data.formats.outlines import join_outlines
from yolov9k.data.ids import Id, Key, id_key, key_order
from yolov9k.data.records import DataIssue

Json = dict[str, Any]
# Files that are not for detection.
_OTHER_TASKS = re.compile(r"(captions|person_keypoints|panoptic|stuff|image_info)_(train|val|test|unlabeled)")


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
        return DatasetLayout(path, None, {split_in(path.name) or "train": [str(path)]}, [path.parent])

    def accepts(self, path: Path) -> bool:
        """A .json file, or a folder of images with one beside them."""
        return path.suffix.lower() == ".json" or bool(_beside_images(path))

    def read(self, paths: Sequence[Path], split: str, names: Sequence[str] | None, layout: DatasetLayout) -> Listing:
        """All files; the first one's classes are the others' too where no names are given."""
        listings: list[Listing] = []
        files = _files_of(paths)
        loaded = {file: _load(file) for file in files[:1]}
        root = None if names is not None or layout.keep_empty_classes else self._empty_group(loaded, layout)
        for file in files:
            listings.append(read_coco(file, names, loaded.get(file), root))
            names = listings[0].names
        return join_listings(listings, names)

    def list_images(self, paths: Sequence[Path], split: str, layout: DatasetLayout) -> list[Path]:
        """Without the annotations."""
        return [image.path for file in _files_of(paths) for image in _read_images(_load(file)["images"], file, []).values()]

    def _empty_group(self, loaded: Mapping[Path, Json], layout: DatasetLayout) -> Key | None:
        """The category that groups the others and that no box of any split is of, as Roboflow exports one with id 0."""
        group = next((find_group(data["categories"]) for data in loaded.values()), None)
        if group is None:
            return None
        every = (loaded.get(file) or _load(file) for file in _files_of(accepted_paths(layout, self.accepts)))
        return None if any(uses(data, group) for data in every) else group


def _files_of(paths: Sequence[Path]) -> list[Path]:
    return [file for path in paths for file in ([path] if path.is_file() else _beside_images(path))]


def find_group(categories: Sequence[Any]) -> Key | None:
    """The key of a category without a group of its own that all others name as theirs."""
    entries = [entry for entry in categories if isinstance(entry, dict)]
    for entry in entries:
        others = [other.get("supercategory") for other in entries if other is not entry]
        if others and entry.get("supercategory") in ("none", "", None) and set(map(str, others)) == {str(entry.get("name"))}:
            return id_key(entry.get("id"))
    return None


def uses(data: Json, category: Key) -> bool:
    """Whether an annotation of a COCO file is of a category."""
    entries = data.get("annotations") or []
    return any(isinstance(entry, dict) and id_key(entry.get("category_id")) == category for entry in entries)


def _find_splits(folder: Path) -> dict[str, list[str]]:
    """COCO files under `folder` by the split that their names tell; one without such a name is the only split."""
    files = find_files(folder, "*.json", "annotations/*.json", "*/_annotations.coco.json")
    files = [file for file in files if not _OTHER_TASKS.match(file.name)]
    files = [file for file in files if re.match(r"instances(?![a-z])", file.name)] or files
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(split_in(file.relative_to(folder).as_posix()) or "", []).append(file)
    unnamed = splits.pop("", [])
    if not splits and unnamed:
        splits["train"] = unnamed
    for split, several in splits.items():
        if len(several) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in several)
            raise UserError(f"{folder}: several COCO files for {split} ({names}); name the one to use in a data.yaml")
    return {split: [str(file) for file in several] for split, several in splits.items()}


def _beside_images(folder: Path) -> list[Path]:
    return sorted(folder.glob("_annotations.coco.json"))


class EntryError(ValueError):
    """What is wrong with one entry of a COCO file."""


def read_coco(path: Path, names: Sequence[str] | None = None, data: Json | None = None, without: Key | None = None) -> Listing:
    """Images and annotations of a COCO JSON file.

    Classes are its categories in the order of their ids, or matched by name to `names`. data: the file's content where it
    is read already; without: the id of a category that is left out.

    Raises UserError when the file cannot be parsed or is not a COCO file.
    """
    data = _load(path) if data is None else data
    issues: list[DataIssue] = []
    if without is not None:
        data = data | {"categories": _without(data["categories"], without, path, issues)}
    found, category_ids, labels = _classes(data, path, names)
    listing = Listing(found, category_ids, [], issues)
    images = _read_images(data["images"], path, listing.issues)
    retyped = 0
    for number, entry in enumerate(data.get("annotations") or []):
        name = _brief(entry["id"]) if isinstance(entry, dict) and "id" in entry else f"number {number}"
        try:
            image = _image_of(entry, images)
            if image is None:
                message = f"annotation {name}: label without an image, image_id {shown(entry.get('image_id'))}; remove it"
                listing.issues.append(DataIssue(path, None, message, fatal=False, kind="labels without an image"))
            else:
                retyped += isinstance(image.image_id, str) != isinstance(entry["image_id"], str)
                image.annotations.append(_read_annotation(entry, labels, f"annotation {name}"))
        except EntryError as error:
            listing.issues.append(DataIssue(path, None, f"annotation {name}: {error}", fatal=True))
    if retyped:
        message = f"{retyped} annotations write image_id as text where the image's id is a number, or the other way round"
        listing.issues.append(DataIssue(path, None, f"{message}; they are taken for the same", fatal=False))
    listing.images = list(images.values())
    warn_of_fractions(listing, path)
    return listing


def _without(categories: Sequence[Any], group: Key, path: Path, issues: list[DataIssue]) -> list[Any]:
    kept = [entry for entry in categories if not (isinstance(entry, dict) and id_key(entry.get("id")) == group)]
    if len(kept) < len(categories):
        name = next(entry["name"] for entry in categories if isinstance(entry, dict) and id_key(entry.get("id")) == group)
        what = f"category {shown(group)}, {shown(name)}, groups the others and has no box: it is no class"
        issues.append(DataIssue(path, None, f"{what}; --keep-empty-classes makes it one", fatal=False))
    return kept


def _load(path: Path) -> Json:
    data = read_json(path)
    for key in ("images", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise UserError(f"{path}: no list {key!r}, so no COCO detection file; use one such as instances_*.json")
    if not isinstance(data.get("annotations") or [], list):
        raise UserError(f"{path}: 'annotations' is no list; mend the file")
    return dict(data)


def read_categories(entries: Sequence[Any], path: Path) -> dict[Key, tuple[Id, str]]:
    """Id as the file has it and name of each category, by the key of its id, in their order. Raises UserError."""
    found: dict[Key, tuple[Id, str]] = {}
    for entry in entries:
        key = id_key(entry.get("id")) if isinstance(entry, dict) else None
        if key is None or "name" not in entry:
            raise UserError(f"{path}: a category lacks its id or name; mend 'categories'")
        if not is_name(entry["name"]):
            raise UserError(f"{path}: name of category {shown(key)} is {shown(entry['name'])}; make it a text")
        if key in found:
            raise UserError(f"{path}: two categories share an id ({shown(key)}); mend 'categories'")
        found[key] = entry["id"], str(entry["name"])
    return {key: found[key] for key in sorted(found, key=key_order)}


def _classes(data: Json, path: Path, names: Sequence[str] | None) -> tuple[list[str], list[Id], dict[Key, int]]:
    """Class names, the category id of each class, and the class of each category id's key."""
    categories = read_categories(data["categories"], path)
    if names is None:
        ids, found = [stated for stated, _ in categories.values()], [name for _, name in categories.values()]
        warn_of_names(found, path)
        return found, ids, {key: label for label, key in enumerate(categories)}
    by_name = {name: label for label, name in enumerate(names)}
    if not any(name in by_name for _, name in categories.values()):
        by_name = {name.casefold(): label for label, name in enumerate(names)}  # Person and person
        categories = {key: (stated, name.casefold()) for key, (stated, name) in categories.items()}
    labels = {key: by_name[name] for key, (_, name) in categories.items() if name in by_name}
    if categories and not labels:
        given, there = (one_line(", ".join(some)) for some in (names[:3], [name for _, name in categories.values()][:3]))
        raise UserError(f"{path}: none of its categories ({there}, ...) is in names ({given}, ...); make them agree")
    known = {label: categories[key][0] for key, label in labels.items()}
    least = 1 + max((key for key in categories if isinstance(key, int)), default=0)
    spare = iter(range(least, least + len(names)))
    return list(names), [known[label] if label in known else next(spare) for label in range(len(names))], labels


def _read_images(entries: list[Any], path: Path, issues: list[DataIssue]) -> dict[Key, AnnotatedImage]:
    images: dict[Key, AnnotatedImage] = {}
    finder = ImageFinder(path)
    for number, entry in enumerate(entries):
        key = id_key(entry.get("id")) if isinstance(entry, dict) else None
        if key is None or not isinstance(entry.get("file_name"), str):
            message = f"image number {number} lacks its id or file_name; mend the entry"
            issues.append(DataIssue(path, None, message, fatal=True))
        elif key in images:
            message = f"image id {shown(key)} ({shown(entry['file_name'])}) stands twice; remove one"
            issues.append(DataIssue(path, None, message, fatal=True))
        else:
            size = (entry.get("height"), entry.get("width"))
            stated = (int(size[0]), int(size[1])) if is_number(size[0]) and is_number(size[1]) else None
            found = finder.find(entry["file_name"])
            images[key] = AnnotatedImage(found, path, [], True, entry["id"], stated_size=stated)
    return images


def _brief(value: object) -> str:
    """`shown`, which takes as long as reading the annotation does, where it would be another text than the plain one."""
    text = repr(value)
    return text if len(text) <= 60 and text.isprintable() else shown(value)


def _image_of(entry: Any, images: Mapping[Key, AnnotatedImage]) -> AnnotatedImage | None:
    if not isinstance(entry, dict):
        raise EntryError("is no object; remove it")
    key = id_key(entry.get("image_id"))
    return None if key is None else images.get(key)


def _read_annotation(entry: Json, labels: Mapping[Key, int], text: str) -> Annotation:
    category = id_key(entry.get("category_id"))
    if category is None or category not in labels:
        stated = shown(entry.get("category_id"))
        raise EntryError(f"category_id {stated} is not among the categories or names; correct or remove it")
    bbox = entry.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise EntryError(f"bbox {shown(bbox)} is not four finite numbers x y w h; correct or remove it")
    x, y, w, h = bbox
    area = entry.get("area")
    return Annotation(
        label=labels[category],
        box=(x, y, x + w, y + h),
        text=f"{text}: bbox [{x:.10g}, {y:.10g}, {w:.10g}, {h:.10g}]",
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
        outlines = [outline for flat in segmentation if (outline := _read_outline(flat)) is not None]
    return join_outlines(outlines) if outlines else None


def _read_outline(flat: object) -> Float32Array | None:
    """float32 [k, 2] of k >= 3 points; None for what is no list of finite numbers. Looks at a list, not at each number."""
    if not isinstance(flat, list) or len(flat) < 6 or len(flat) % 2 or not set(map(type, flat)) <= {int, float}:
        return None
    try:
        points = np.array(flat, np.float64)
    except OverflowError:  # an integer beyond 1e308
        return None
    return points.astype(np.float32).reshape(-1, 2) if np.isfinite(points).all() else None
