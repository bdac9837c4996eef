"""COCO JSON: boxes ``x y w h`` in pixels, category ids of any value, polygons and crowd regions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolov9k.common.arrays import Float32Array
from yolov9k.common.errors import UserError
from yolov9k.data.formats.base import Annotation, Listing, Sample, is_number
from yolov9k.data.records import Fault

Json = dict[str, Any]
_PARTS = ("train2017", "val2017", "test2017", "train2014", "val2014", "test2014", "train", "val", "valid", "test")


class EntryError(ValueError):
    """What is wrong with one entry of a COCO file."""


def read_coco(path: Path, names: Sequence[str] | None = None) -> Listing:
    """Samples of a COCO JSON file. Classes are its categories in the order of their ids, or matched by name to `names`.

    Raises UserError when the file cannot be parsed or is not a COCO file.
    """
    data = _load(path)
    found, category_ids, labels = _classes(data, path, names)
    listing = Listing(found, category_ids, [])
    samples = _read_images(data["images"], path, listing.faults)
    for number, entry in enumerate(data.get("annotations") or []):
        name = entry.get("id", f"number {number}") if isinstance(entry, dict) else f"number {number}"
        try:
            sample = _sample_of(entry, samples)
            if sample is None:
                message = f"annotation {name}: label without an image, image_id {entry.get('image_id')!r}; remove it"
                listing.faults.append(Fault(path, None, message, fatal=False))
            else:
                sample.annotations.append(_read_annotation(entry, labels, f"annotation {name}"))
        except EntryError as error:
            listing.faults.append(Fault(path, None, f"annotation {name}: {error}", fatal=True))
    listing.samples = list(samples.values())
    return listing


def coco_names(path: Path) -> list[str]:
    """Class names of a COCO JSON file, in class order. Raises UserError as `read_coco` does."""
    return _classes(_load(path), path, None)[0]


def _load(path: Path) -> Json:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from None
    except json.JSONDecodeError as error:
        where, what = f"{path}:{error.lineno}", f"{error.msg}, column {error.colno}"
        raise UserError(f"{where}: not valid JSON ({what}); mend the file") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); mend the file") from None
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
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: a category lacks its id or name; mend 'categories'") from None
    if len(ids) < len(data["categories"]):
        raise UserError(f"{path}: two categories share an id; mend 'categories'")
    if names is None:
        order = sorted(ids)
        return [ids[key] for key in order], order, {key: label for label, key in enumerate(order)}
    by_name = {name: label for label, name in enumerate(names)}
    labels = {key: by_name[name] for key, name in ids.items() if name in by_name}
    if ids and not labels:
        given, there = ", ".join(list(names)[:3]), ", ".join(list(ids.values())[:3])
        raise UserError(f"{path}: none of its categories ({there}, ...) is in names ({given}, ...); make them agree")
    known = {label: key for key, label in labels.items()}
    spare = iter(range(max(ids, default=0) + 1, max(ids, default=0) + 1 + len(names)))
    return list(names), [known[label] if label in known else next(spare) for label in range(len(names))], labels


def _read_images(entries: list[Any], path: Path, faults: list[Fault]) -> dict[Any, Sample]:
    samples: dict[Any, Sample] = {}
    finder = _ImageFinder(path)
    for number, entry in enumerate(entries):
        key = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(key, (int, str)) or not isinstance(entry.get("file_name"), str):
            message = f"image number {number} lacks its id or file_name; mend the entry"
            faults.append(Fault(path, None, message, fatal=True))
        elif key in samples:
            message = f"image id {key} ({entry['file_name']}) stands twice; remove one"
            faults.append(Fault(path, None, message, fatal=True))
        else:
            size = (entry.get("height"), entry.get("width"))
            stated = (int(size[0]), int(size[1])) if is_number(size[0]) and is_number(size[1]) else None
            image_id = key if isinstance(key, int) else None
            samples[key] = Sample(finder.find(entry["file_name"]), path, [], True, image_id, stated_size=stated)
    return samples


class _ImageFinder:
    """Looks for images where COCO layouts put them, first where the last one was."""

    def __init__(self, path: Path) -> None:
        words = re.split(r"[_\-.]", path.stem)
        own = [word for word in words if word.startswith(("train", "val", "test"))]
        bases = [path.parent, path.parent / "images", path.parent.parent / "images", path.parent.parent]
        parts = own + [part for part in _PARTS if not own or part.startswith(tuple(own))]
        nested = [base / part for base in bases for part in parts]
        folders = nested + bases if own else bases + nested
        self.folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        self.home = path.parent

    def find(self, name: str) -> Path:
        """Path of the image; where it would stand beside the JSON file if it is nowhere."""
        for variant in dict.fromkeys((name, name.replace("\\", "/"))):
            for folder in self.folders:
                if (folder / variant).is_file():
                    self.folders.remove(folder)
                    self.folders.insert(0, folder)
                    return folder / variant
        return self.home / name


def _sample_of(entry: Any, samples: Mapping[Any, Sample]) -> Sample | None:
    if not isinstance(entry, dict):
        raise EntryError("is no object; remove it")
    key = entry.get("image_id")
    return samples.get(key) if isinstance(key, (int, str)) else None


def _read_annotation(entry: Json, labels: Mapping[int, int], text: str) -> Annotation:
    category = entry.get("category_id")
    if not isinstance(category, int) or category not in labels:
        raise EntryError(f"category_id {category!r} is not among the categories or names; correct or remove it")
    bbox = entry.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise EntryError(f"bbox {bbox!r} is not four finite numbers x y w h; correct or remove it")
    x, y, w, h = bbox
    area = entry.get("area")
    return Annotation(
        label=labels[category],
        box=(x, y, x + w, y + h),
        text=f"{text}: bbox {bbox}",
        polygon=read_polygon(entry.get("segmentation")),
        crowd=bool(entry.get("iscrowd", 0)),
        area=float(area) if isinstance(area, (int, float)) and is_number(area) and area > 0 else None,
    )


def read_polygon(segmentation: object) -> Float32Array | None:
    """One outline float32 [k, 2] of a COCO segmentation; None for run-length codes and for fewer than three points."""
    if not isinstance(segmentation, list):
        return None
    parts = [np.array(flat, np.float32).reshape(-1, 2) for flat in segmentation if _is_outline(flat)]
    return join_parts(parts) if parts else None


def _is_outline(flat: object) -> bool:
    return isinstance(flat, list) and len(flat) >= 6 and len(flat) % 2 == 0 and all(map(is_number, flat))


def join_parts(parts: list[Float32Array]) -> Float32Array:
    """One outline around several, each tied to the ones before by a bridge without width at the nearest two corners."""
    outline, rest = parts[0], parts[1:]
    for part in rest:
        distance = ((outline[:, None] - part[None]) ** 2).sum(-1)
        here, there = np.unravel_index(int(distance.argmin()), distance.shape)
        loop = np.roll(part, -int(there), axis=0)
        outline = np.concatenate([outline[: here + 1], loop, loop[:1], outline[here:]])
    return outline
