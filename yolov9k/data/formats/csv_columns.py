"""Which columns of a table hold the image, the class and the box, by the names that tools give them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolov9k.common.numbers import parse_number
from yolov9k.data.formats.base import Box
from yolov9k.data.probe import is_image

# Names in small letters, without what stands between their words; of several columns that fit the first name here counts.
_NAMES = {
    "image": "filename imagename imagefilename filepath imagepath imgname imgpath file path image img imagefile imageid imgid",
    "class": "class classname label labelname category categoryname objectclass objectname object name",
    "number": "classid labelid categoryid",
    "split": "split subset set partition",
    "width": "imagewidth imgwidth imgw width",
    "height": "imageheight imgheight imgh height",
    "bbox": "bbox boundingbox box",
    "crowd": "isgroupof groupof iscrowd crowd",
    "difficult": "difficult isdifficult",
}
_SIDES = ("w boxwidth bboxwidth bboxw width", "h boxheight bboxheight bboxh height")
# Kinds of boxes, each with four columns: two corners, a corner and a size, a center and a size.
_BOXES = {
    "corners": (
        "xmin x1 xtl left bboxxmin bboxx1 x0", "ymin y1 ytl top bboxymin bboxy1 y0",
        "xmax x2 xbr right bboxxmax bboxx2", "ymax y2 ybr bottom bboxymax bboxy2",
    ),
    "center": ("xcenter centerx cx xc", "ycenter centery cy yc", *_SIDES),
    "sized": ("x bboxx boxx", "y bboxy boxy", *_SIDES),
}  # fmt: skip
WANTED = "a header such as filename,width,height,class,xmin,ymin,xmax,ymax, or rows such as a.jpg,xmin,ymin,xmax,ymax,class"


@dataclass(frozen=True)
class Columns:
    """Where the cells of a row are: `box` four columns of a `kind`, or the one of a list; others are -1 where there is none."""

    kind: str
    box: tuple[int, ...]
    image: int
    label: int = -1
    split: int = -1
    width: int = -1
    height: int = -1
    header: bool = True
    crowd: int = -1
    difficult: int = -1
    twice: str = ""  # a column among these that the header names twice

    def read_box(self, row: Sequence[str]) -> Box | None:
        """The corners; None where the cells are empty, as those of images without an object. Raises ValueError."""
        cells = [row[column].strip() for column in self.box]
        if self.kind == "list":
            cells = re.split(r"[\s,;]+", cells[0].strip("[](){}\"' ")) if cells[0] else [""]
        if not any(cells):
            return None
        a, b, c, d = map(parse_number, cells)
        if self.kind == "corners":
            return a, b, c, d
        return (a - c / 2, b - d / 2, a + c / 2, b + d / 2) if self.kind == "center" else (a, b, a + c, b + d)


def find_columns(row: Sequence[str]) -> Columns | None:
    """What the first row of a table says of all: by the names in it, or by the numbers where it is no header already."""
    names = [re.sub(r"[^a-z0-9]", "", cell.lower()) for cell in row]
    at = {role: _first(names, spellings) for role, spellings in _NAMES.items()}
    kinds = {kind: tuple(_first(names, spellings) for spellings in columns) for kind, columns in _BOXES.items()}
    kinds["list"] = (at["bbox"],)
    kind = next((kind for kind, columns in kinds.items() if min(columns) >= 0), None)
    if kind is None or at["image"] < 0:
        return _without_header(row)
    label = at["class"] if at["class"] >= 0 else at["number"]
    width, height = (-1 if at[side] in kinds[kind] else at[side] for side in ("width", "height"))
    used = (at["image"], label, at["split"], *kinds[kind], at["crowd"], at["difficult"])
    twice = next((row[column] for column in used if column >= 0 and names.count(names[column]) > 1), "")
    return Columns(
        kind, kinds[kind], at["image"], label, at["split"], width, height, crowd=at["crowd"], difficult=at["difficult"],
        twice=twice,
    )  # fmt: skip


def _first(names: Sequence[str], spellings: str) -> int:
    return next((names.index(spelling) for spelling in spellings.split() if spelling in names), -1)


def _without_header(row: Sequence[str]) -> Columns | None:
    """RetinaNet's path,x1,y1,x2,y2,class, whose last five may be empty, and TensorFlow's order."""
    numbers = [_is_number(cell) for cell in row]
    if not row or not is_image(Path(row[0].strip())):
        return None
    if len(row) == 6 and all(numbers[1:5]):
        return Columns("corners", (1, 2, 3, 4), 0, label=5, header=False)
    if len(row) == 8 and all(numbers[1:3]) and all(numbers[4:]):
        return Columns("corners", (4, 5, 6, 7), 0, label=3, width=1, height=2, header=False)
    return None


def _is_number(cell: str) -> bool:
    try:
        parse_number(cell.strip() or "0")
    except ValueError:
        return False
    return True
