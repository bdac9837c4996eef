"""From annotations in any format to records: the checks that all formats share."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from yolov9k.common.arrays import Float32Array
from yolov9k.common.errors import one_line
from yolov9k.data.formats.base import AnnotatedImage, Annotation, Box
from yolov9k.data.ids import id_key, result_ids
from yolov9k.data.probe import ImageInfo, probe_images
from yolov9k.data.records import DataIssue, Record
from yolov9k.data.repeats import unite_repeats

# Annotation tools round: what leaves the image by less than this fraction of its side is clipped without a word.
ROUNDING = 1e-3
# A box and the hull of its object's outline are told apart from here on, per side: pixels, and share of the box's side.
# Annotation tools round either to whole pixels, or count the last pixel once more.
OUTLINE_PIXELS, OUTLINE_SHARE = 1.01, 0.02
AREA_SHARE = 1.05  # an object's area is at most its box's, but for rounding
LEAST_SIDE = 1e-7  # boxes are kept as float32 fractions, which cannot tell less from nothing


def build_records(
    images: list[AnnotatedImage], source: Path, *, difficult: bool = False, repeats: bool = False
) -> tuple[list[Record], list[DataIssue]]:
    """Check every image and every box of `source`; what fails is left out and reported as a fatal issue.

    difficult: objects that are marked so are ordinary ones; otherwise they are as crowd regions. repeats: an image that
    is listed several times has as many records.
    """
    images, issues = unite_repeats(images, keep=repeats)
    unique = list({id(image): image for image in images}.values())
    issues += _count_crowds(unique, source, difficult)
    called, alike = result_ids([image.path for image in unique], [image.image_id for image in unique])
    if alike and not repeats:  # it is of meaning to who evaluates
        what = f"{alike} images share their name or id with another; saved results call them by path"
        issues.append(DataIssue(source, None, what, fatal=False))
    built: dict[int, Record] = {}
    for image, info, result_id in zip(unique, probe_images([image.path for image in unique]), called, strict=True):
        if info.error:
            issues.append(_image_issue(image, info.error))
        else:
            if info.note:
                issues.append(DataIssue(image.path, None, info.note, fatal=False, kind="images with a note on what is read"))
            built[id(image)] = _build_record(image, info, difficult, issues)
            built[id(image)].result_id = result_id
    return _numbered(images, built), issues


def _numbered(images: list[AnnotatedImage], built: dict[int, Record]) -> list[Record]:
    """A record for each image that has one, its id the stated one where all are whole numbers and no two the same."""
    keys = [key for image in images if isinstance(key := id_key(image.image_id), int)]
    numbers = keys if len(set(keys)) == len(images) else range(1, len(images) + 1)
    there = [(number, image) for number, image in zip(numbers, images, strict=True) if id(image) in built]
    return [replace(built[id(image)], image_id=number) for number, image in there]


def _image_issue(image: AnnotatedImage, message: str) -> DataIssue:
    """An absent image is an issue of the line that asks for it, a damaged one of the image itself."""
    if image.source != image.path and not os.path.exists(image.path):
        return DataIssue(image.source, image.line, f"{message} ({one_line(str(image.path), 300)})", fatal=True)
    return DataIssue(image.path, None, message, fatal=True)


def _count_crowds(images: list[AnnotatedImage], source: Path, difficult: bool) -> list[DataIssue]:
    """Marks that keep objects from being trained on, where they may not be meant so."""
    annotations = [annotation for image in images for annotation in image.annotations]
    marked = sum(annotation.difficult for annotation in annotations)
    crowds = sum(annotation.crowd for annotation in annotations)
    issues = []
    if marked and not difficult:
        what = f"{marked} of {len(annotations)} objects are marked difficult: not trained on, ignored in evaluation"
        issues.append(DataIssue(source, None, f"{what}; --difficult makes them ordinary objects", fatal=False))
    if 2 * crowds > len(annotations):
        what = f"{crowds} of {len(annotations)} boxes are crowd regions: not trained on, ignored in evaluation"
        issues.append(DataIssue(source, None, f"{what}; set iscrowd to 0 if they are objects", fatal=False))
    return issues


def _build_record(image: AnnotatedImage, info: ImageInfo, difficult: bool, issues: list[DataIssue]) -> Record:
    issues.extend(_check_stated_size(image, info))
    unit = (info.width, info.height) if image.pixels else (1, 1)
    kept: list[Annotation] = []
    boxes: list[Box] = []
    seen: set[tuple[int, Box, bytes]] = set()
    for annotation in image.annotations:
        box, problem, fatal = check_box(annotation.box, unit)
        key = (annotation.label, box, b"" if annotation.polygon is None else annotation.polygon.tobytes())
        if not fatal and key in seen:
            problem, fatal = "is a duplicate of an earlier one; remove it", True
        if problem:
            kind = "" if fatal else "boxes clipped to their image"
            issues.append(DataIssue(image.source, annotation.line, f"{annotation.text} {problem}", fatal, kind))
        if not fatal:
            seen.add(key)
            issues.extend(_disagreements(image, annotation, box, info))
            kept.append(annotation)
            boxes.append(box)
    crowd = [annotation.crowd or (annotation.difficult and not difficult) for annotation in kept]
    return _assemble(image.path, info, kept, boxes, crowd, unit)


def check_box(box: Box, unit: tuple[int, int]) -> tuple[Box, str | None, bool]:
    """`box` over `unit` (width, height), clipped to 0..1; what is wrong with it; whether that rules it out."""
    if not all(map(math.isfinite, box)):
        return box, "has a coordinate that is not a finite number; correct it", True
    raw = (box[0] / unit[0], box[1] / unit[1], box[2] / unit[0], box[3] / unit[1])
    x1, y1, x2, y2 = (min(max(side, 0.0), 1.0) for side in raw)
    beyond = min(raw) < -ROUNDING or max(raw) > 1 + ROUNDING
    if min(x2 - x1, y2 - y1) <= LEAST_SIDE:
        outside = beyond and min(raw[2] - raw[0], raw[3] - raw[1]) > LEAST_SIDE
        return raw, f"{'lies outside the image' if outside else 'has no area'}; correct or remove it", True
    return (x1, y1, x2, y2), "reaches beyond the image and was clipped to it" if beyond else None, False


def _disagreements(image: AnnotatedImage, annotation: Annotation, box: Box, info: ImageInfo) -> Iterator[DataIssue]:
    """What of an object its box contradicts. Augmentation would make a box of the outline, evaluation takes the box: an
    outline whose hull is another is taken off."""
    if annotation.polygon is not None and (apart := _pixels_apart(annotation.polygon, box, image.pixels, info)):
        annotation.polygon = None
        message = f"{annotation.text} is {apart:.0f} pixels off its outline, which is not used; correct either"
        yield DataIssue(image.source, annotation.line, message, fatal=False, kind="outlines elsewhere than their box")
    x1, y1, x2, y2 = annotation.box
    if annotation.area is not None and not annotation.crowd and annotation.area > AREA_SHARE * (x2 - x1) * (y2 - y1) + 1:
        message = f"{annotation.text} states an area of {annotation.area:g}, more than its box has; correct either"
        yield DataIssue(image.source, annotation.line, message, fatal=False, kind="areas larger than their box")


def _pixels_apart(polygon: Float32Array, box: Box, pixels: bool, info: ImageInfo) -> float:
    """How far a side of the outline's hull is off the box's, within the image; 0 where that is rounding."""
    hull = [*np.minimum.reduce(polygon).tolist(), *np.maximum.reduce(polygon).tolist()]
    farthest = 0.0
    for side, value in enumerate(hull):
        extent = (info.width, info.height)[side % 2]
        place = min(max(value if pixels else value * extent, 0.0), extent)
        allowed = max(OUTLINE_PIXELS, OUTLINE_SHARE * extent * (box[side % 2 + 2] - box[side % 2]))
        apart = abs(place - box[side] * extent)
        farthest = max(farthest, apart) if apart > allowed else farthest
    return farthest


def _check_stated_size(image: AnnotatedImage, info: ImageInfo) -> Iterator[DataIssue]:
    stated = image.stated_size
    if stated is not None and stated != (info.height, info.width) and min(stated) > 0:
        yield DataIssue(
            image.source,
            image.line,
            f"states {stated[1]} x {stated[0]} pixels for {image.path.name}, which is {info.width} x {info.height}; "
            "boxes are taken as pixels of the image file, make sure that they are",
            fatal=False,
            kind="images of another size than is stated",
        )


def _assemble(
    path: Path, info: ImageInfo, kept: list[Annotation], boxes: list[Box], crowd: list[bool],
    unit: tuple[int, int],
) -> Record:  # fmt: skip
    fractions = np.array(boxes, np.float64).reshape(-1, 4)
    sides = (fractions[:, 2:] - fractions[:, :2]) * (info.width, info.height)
    areas = [side.prod() if a.area is None else a.area for a, side in zip(kept, sides, strict=True)]
    return Record(
        path=path,
        image_id=0,  # until all are there
        height=info.height,
        width=info.width,
        classes=np.array([a.label for a in kept], np.int64),
        boxes=fractions.astype(np.float32),
        polygons=[None if a.polygon is None else (a.polygon / np.array(unit, np.float32)).clip(0, 1) for a in kept],
        crowd=np.array(crowd, np.bool_),
        areas=np.array(areas, np.float32),
    )
