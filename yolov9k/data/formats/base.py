"""From annotations in any format to records: the checks that all formats share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from yolov9k.common.arrays import Float32Array
from yolov9k.data.probe import ImageInfo, probe_images
from yolov9k.data.records import Fault, Record

# Annotation tools round: what leaves the image by less than this fraction of its side is clipped without a word.
ROUNDING = 1e-3
_LEAST_SIDE = 1e-7  # boxes are kept as float32 fractions, which cannot tell less from nothing

Box = tuple[float, float, float, float]


@dataclass
class Annotation:
    """One labeled object as a file states it; `text` is how messages call it.

    `box` is x1 y1 x2 y2 and `polygon` float32 [k, 2], both in pixels or both in fractions, as the sample says.
    """

    label: int
    box: Box
    text: str
    line: int | None = None
    polygon: Float32Array | None = None
    crowd: bool = False
    area: float | None = None


@dataclass
class Sample:
    """One image and the objects that `source` states for it; `stated_size` is the (height, width) written there."""

    path: Path
    source: Path
    annotations: list[Annotation]
    pixels: bool
    image_id: int | None = None
    line: int | None = None
    stated_size: tuple[int, int] | None = None


@dataclass
class Listing:
    """What a reader found: class names, their ids in the source, samples still unchecked, and faults."""

    names: list[str]
    category_ids: list[int]
    samples: list[Sample]
    faults: list[Fault] = field(default_factory=list)


def build_records(samples: list[Sample]) -> tuple[list[Record], list[Fault]]:
    """Check every image and every box; what fails is left out and told as a fatal fault."""
    infos = probe_images([sample.path for sample in samples])
    ids = [sample.image_id for sample in samples]
    if None in ids or len(set(ids)) < len(ids):  # several sources together: their ids may clash
        ids = list(range(1, len(samples) + 1))
    records: list[Record] = []
    faults: list[Fault] = []
    for sample, info, image_id in zip(samples, infos, ids, strict=True):
        if info.fault:
            faults.append(_image_fault(sample, info.fault))
            continue
        record = _build_record(sample, info, image_id or 0, faults)
        stem = sample.path.stem  # as the published validation names images
        record.result_id = (int(stem) if stem.isdecimal() else stem) if sample.image_id is None else sample.image_id
        records.append(record)
    return records, faults


def _image_fault(sample: Sample, message: str) -> Fault:
    """An absent image is the fault of the line that asks for it, a broken one of the image itself."""
    if sample.source != sample.path and not sample.path.exists():
        return Fault(sample.source, sample.line, f"{message} ({sample.path})", fatal=True)
    return Fault(sample.path, None, message, fatal=True)


def _build_record(sample: Sample, info: ImageInfo, image_id: int, faults: list[Fault]) -> Record:
    faults.extend(_check_stated_size(sample, info))
    unit = (info.width, info.height) if sample.pixels else (1, 1)
    kept: list[Annotation] = []
    boxes: list[Box] = []
    seen: set[tuple[int, Box, bytes]] = set()
    for annotation in sample.annotations:
        box, problem, fatal = check_box(annotation.box, unit)
        key = (annotation.label, box, b"" if annotation.polygon is None else annotation.polygon.tobytes())
        if not fatal and key in seen:
            problem, fatal = "is a duplicate of an earlier one; remove it", True
        if problem:
            faults.append(Fault(sample.source, annotation.line, f"{annotation.text} {problem}", fatal))
        if not fatal:
            seen.add(key)
            kept.append(annotation)
            boxes.append(box)
    return _assemble(sample.path, image_id, info, kept, boxes, unit)


def check_box(box: Box, unit: tuple[int, int]) -> tuple[Box, str | None, bool]:
    """`box` over `unit` (width, height), clipped to 0..1; what is wrong with it; whether that rules it out."""
    if not all(map(math.isfinite, box)):
        return box, "has a coordinate that is not a finite number; correct it", True
    raw = (box[0] / unit[0], box[1] / unit[1], box[2] / unit[0], box[3] / unit[1])
    x1, y1, x2, y2 = (min(max(side, 0.0), 1.0) for side in raw)
    beyond = min(raw) < -ROUNDING or max(raw) > 1 + ROUNDING
    if min(x2 - x1, y2 - y1) <= _LEAST_SIDE:
        outside = beyond and min(raw[2] - raw[0], raw[3] - raw[1]) > _LEAST_SIDE
        return raw, f"{'lies outside the image' if outside else 'has no area'}; correct or remove it", True
    return (x1, y1, x2, y2), "reaches beyond the image and was clipped to it" if beyond else None, False


def _check_stated_size(sample: Sample, info: ImageInfo) -> Iterator[Fault]:
    stated = sample.stated_size
    if stated is not None and stated != (info.height, info.width) and min(stated) > 0:
        yield Fault(
            sample.source,
            sample.line,
            f"states {stated[1]} x {stated[0]} pixels for {sample.path.name}, which is {info.width} x {info.height}; "
            "boxes are taken as pixels of the image file, make sure that they are",
            fatal=False,
        )


def _assemble(
    path: Path, image_id: int, info: ImageInfo, kept: list[Annotation], boxes: list[Box], unit: tuple[int, int]
) -> Record:
    fractions = np.array(boxes, np.float64).reshape(-1, 4)
    sides = (fractions[:, 2:] - fractions[:, :2]) * (info.width, info.height)
    areas = [side.prod() if a.area is None else a.area for a, side in zip(kept, sides, strict=True)]
    return Record(
        path=path,
        image_id=image_id,
        height=info.height,
        width=info.width,
        classes=np.array([a.label for a in kept], np.int64),
        boxes=fractions.astype(np.float32),
        polygons=[None if a.polygon is None else (a.polygon / np.array(unit, np.float32)).clip(0, 1) for a in kept],
        crowd=np.array([a.crowd for a in kept], np.bool_),
        areas=np.array(areas, np.float32),
    )


def shorten(text: str, limit: int = 60) -> str:
    """`text` in quotes, cut to `limit` characters, for messages."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def is_number(value: object) -> bool:
    """Whether `value` is a finite real number (a bool is not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
