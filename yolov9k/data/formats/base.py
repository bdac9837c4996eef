"""What a label format is: which paths are data sets of it, which splits they have, and how their annotations are read.

A format is a class of its own file that is registered in `yolov9k.data.formats`; nothing else knows its name.
"""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yolov9k.common.arrays import Float32Array
from yolov9k.common.errors import UserError, one_line, warn
from yolov9k.common.text import has_unseen
from yolov9k.data.formats.layout import DatasetLayout
from yolov9k.data.ids import Id
from yolov9k.data.records import DataIssue

Box = tuple[float, float, float, float]


@dataclass
class Annotation:
    """One labeled object as a file states it; `text` is how messages call it.

    `box` is x1 y1 x2 y2 and `polygon` float32 [k, 2], both in pixels or both in fractions, as `AnnotatedImage.pixels` says.
    difficult: marked as one that a detector need not find, which makes it a crowd region unless the user asks otherwise.
    cut: more was stated than a box or an outline, such as key points, and is left out.
    """

    label: int
    box: Box
    text: str
    line: int | None = None
    polygon: Float32Array | None = None
    crowd: bool = False
    difficult: bool = False
    cut: bool = False
    area: float | None = None


@dataclass
class AnnotatedImage:
    """One image and the objects that `source` states for it, boxes in pixels or in fractions.

    `stated_size` is the (height, width) written there, `line` the one of `source` that asks for the image, `image_id`
    what COCO results call it, as it is written there.
    """

    path: Path
    source: Path
    annotations: list[Annotation]
    pixels: bool
    image_id: Id | None = None
    line: int | None = None
    stated_size: tuple[int, int] | None = None


@dataclass
class Listing:
    """What a reader found: class names, their ids in the source, images still unchecked, and issues."""

    names: list[str]
    category_ids: list[Id]
    images: list[AnnotatedImage]
    issues: list[DataIssue] = field(default_factory=list)


class UnclearDataset(UserError):
    """A format knows a path in several ways; the message counts where no other format knows it."""


class Format:
    """A label format.

    dataset: how messages call its data sets, such as "a COCO JSON file". entry: how they call what a data set may list
    for a split, such as "a .json file". Either is empty where there is no such thing.
    """

    dataset = ""
    entry = ""

    def open(self, path: Path) -> DatasetLayout | None:
        """The splits of the data set at an existing absolute path; None where it is none of this format.

        Raises UserError where it is one and cannot be understood, UnclearDataset where the user has to be asked.
        """
        return None

    def accepts(self, path: Path) -> bool:
        """Whether this format reads a file or folder that a data set lists for a split."""
        return False

    def read(self, paths: Sequence[Path], split: str, names: Sequence[str] | None, layout: DatasetLayout) -> Listing:
        """Images and annotations of all accepted `paths` of a split.

        names: the classes as the data set or a format read before gives them; where there are none the format finds its
        own. layout: whose paths they are. Raises UserError where one cannot be read at all; what is wrong with single
        images and objects joins the listing's issues.
        """
        raise NotImplementedError

    def list_images(self, paths: Sequence[Path], split: str, layout: DatasetLayout) -> list[Path]:
        """Paths of the images that `read` would find, without their labels where that is cheaper. Raises UserError."""
        return [image.path for image in self.read(paths, split, [], layout).images]


_registered: list[Format] = []


def register(format: Format) -> None:
    """Add a format. Those registered later are asked first, so the more particular ones follow the more general."""
    _registered.insert(0, format)


def registered_formats() -> tuple[Format, ...]:
    """All formats in the order in which they are asked."""
    return tuple(_registered)


def join_listings(listings: Sequence[Listing], names: Sequence[str] | None = None) -> Listing:
    """Several listings as one, whose classes are those of the first; one without images where there are none."""
    if not listings:
        return Listing(list(names or []), [*range(len(names or []))], [])
    images = [image for listing in listings for image in listing.images]
    issues = [issue for listing in listings for issue in listing.issues]
    return Listing(listings[0].names, listings[0].category_ids, images, issues)


def warn_of_fractions(listing: Listing, path: Path) -> None:
    """Add an issue where all boxes of a format that counts in pixels would fit into one pixel."""
    boxes = [annotation.box for image in listing.images for annotation in image.annotations]
    if boxes and all(0 <= side <= 1 for box in boxes for side in box):
        message = f"all {len(boxes)} boxes lie within 0..1, as fractions do, and are taken as pixels"
        what = f"{message}; multiply them by the width and height of their image"
        listing.issues.append(DataIssue(path, None, what, fatal=False))


def is_set(value: object) -> bool:
    """Whether a file's flag is on: a number but 0, true or yes, as a value or as text."""
    if not isinstance(value, str):
        return isinstance(value, (bool, int, float)) and bool(value)
    text = value.strip().lower()
    return text in ("true", "yes") or (re.fullmatch(r"[0-9]+(\.[0-9]*)?", text) is not None and float(text) != 0)


def is_name(value: object) -> bool:
    """Whether `value` can be the name of a class: a text, or a number or a date that was meant as one."""
    return isinstance(value, (str, int, float, datetime.date)) and not isinstance(value, bool)


def warn_of_names(names: Sequence[str], path: Path) -> None:
    """Warn of classes that have the same name, and of names with characters that nobody sees."""
    if hidden := [name for name in names if has_unseen(name)]:
        listed = ", ".join(ascii(name[:30]) for name in hidden[:5])
        warn(f"{path}: names hold characters that cannot be seen: {listed}; they are other classes than those without them")
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        warn(f"{path}: several classes have the same name ({one_line(', '.join(twice))}); tables cannot tell them apart")


def is_number(value: object) -> bool:
    """Whether `value` is a real number (a bool is not) that a float holds, which is not infinite."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond 1e308
        return False
