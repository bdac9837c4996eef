"""Tables with a row a box: CSV of Kaggle, TensorFlow, RetinaNet, Roboflow and Open Images."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from yolov9k.common.errors import UserError, one_line, shown
from yolov9k.common.files import open_regular
from yolov9k.common.numbers import is_whole
from yolov9k.common.text import decode, normalize_newlines, read_text
from yolov9k.config.flags import MAX_CLASSES
from yolov9k.data.formats.base import AnnotatedImage, Annotation, Box, Format, Listing, is_set, join_listings, warn_of_names
from yolov9k.data.formats.csv_columns import WANTED, Columns, find_columns
from yolov9k.data.formats.folders import accepted_paths, find_files
from yolov9k.data.formats.image_finder import ImageFinder, split_in
from yolov9k.data.formats.layout import DatasetLayout
from yolov9k.data.records import DataIssue

_SUFFIXES = (".csv", ".tsv")
_DELIMITERS = ",;\t|"
_HEAD = 1 << 14  # bytes in which the first row ends
_ALL = "object"  # the class where a table has no column of classes


@dataclass(frozen=True)
class Row:
    """A row that can be read; `label` is the text of its class, `box` None for an image without an object."""

    line: int
    image: str
    label: str
    box: Box | None
    size: tuple[int, int] | None
    split: str | None
    crowd: bool = False
    difficult: bool = False


class Csv(Format):
    """Tables, in files that their names or a column of theirs give splits to."""

    dataset = "a .csv table of boxes"
    entry = "a .csv table"

    def open(self, path: Path) -> DatasetLayout | None:
        """A table, or a folder that has some, be it in the folders of the images as Roboflow exports them."""
        if path.is_dir():
            files = find_files(path, "*.[ct]sv", "annotations/*.[ct]sv", "labels/*.[ct]sv", "*/_annotations.csv")
            files = [file for file in files if _is_table(file)]
            return _by_split(path, files) if files else None
        return _by_split(path, [path]) if self.accepts(path) else None

    def accepts(self, path: Path) -> bool:
        """A table, or a folder of images with one beside them."""
        return path.suffix.lower() in _SUFFIXES or (path / "_annotations.csv").is_file()

    def read(self, paths: Sequence[Path], split: str, names: Sequence[str] | None, layout: DatasetLayout) -> Listing:
        """All tables; where no names are given, classes are those of every split's tables, sorted."""
        issues: list[DataIssue] = []
        tables = {path: list(_rows(_file(path), issues)) for path in paths}
        if names is None:
            every = {path: tables.get(path) or list(_rows(_file(path), [])) for path in accepted_paths(layout, self.accepts)}
            names = _names_of([row for rows in every.values() for row in rows], layout.path)
        listing = join_listings([_read_table(_file(path), rows, split, names) for path, rows in tables.items()], names)
        listing.issues[:0] = issues
        return listing


def _by_split(root: Path, files: Sequence[Path]) -> DatasetLayout:
    """Tables by split: by a column of theirs, or the one that their place tells; one without is the only split."""
    splits: dict[str, list[str]] = {}
    for file in files:
        stated = sorted({row.split for row in _rows(file, []) if row.split})
        for split in stated or [split_in(file.relative_to(root).as_posix() if file != root else file.name) or ""]:
            splits.setdefault(split, []).append(str(file))
    unnamed = splits.pop("", [])
    if unnamed and not splits:
        splits["train"] = unnamed
    for split, several in splits.items():
        if len(several) > 1:
            listed = one_line(", ".join(Path(file).name for file in several))
            raise UserError(f"{root}: several tables of {split} ({listed}); name the one to use, or list them in a data.yaml")
    return DatasetLayout(root, None, splits, [root if root.is_dir() else root.parent])


def _file(path: Path) -> Path:
    return path / "_annotations.csv" if path.is_dir() else path


def _is_table(path: Path) -> bool:
    """Whether a file is a table of boxes: folders hold others too. One that cannot be read is, and told so when it is read."""
    try:
        with open_regular(path) as file:
            head = normalize_newlines(decode(file.read(_HEAD), "replace"))
        return find_columns(next(_split(head), (0, []))[1]) is not None
    except OSError:
        return not path.is_dir()
    except csv.Error:
        return False


def _split(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row of a table, its delimiter the most frequent one of its first line. Raises csv.Error."""
    reader = csv.reader(io.StringIO(text), delimiter=max(_DELIMITERS, key=text.partition("\n")[0].count))
    for cells in reader:
        yield reader.line_num, cells


def _rows(path: Path, issues: list[DataIssue]) -> Iterator[Row]:
    """The rows of a table; what is wrong with one joins `issues`. Raises UserError where it is no table of boxes."""
    columns, line = None, 0
    try:
        for line, cells in _split(read_text(path)):
            if columns is None:
                columns = find_columns(cells)
                if columns is None:
                    raise UserError(f"{path}:1: {shown(cells)} names no columns of images and boxes; it needs {WANTED}")
                if columns.twice:
                    raise UserError(f"{path}:1: column {shown(columns.twice)} stands twice; keep or rename one")
                if columns.header:
                    continue
            if any(map(str.strip, cells)):
                try:
                    yield _read_row(cells, columns, line)
                except ValueError as error:
                    issues.append(DataIssue(path, line, f"row {shown(','.join(cells))}: {error}", fatal=True))
    except csv.Error as error:
        raise UserError(f"{path}:{line + 1}: not a table ({error}); mend the row") from None
    if columns is None:
        raise UserError(f"{path}: is empty; it needs {WANTED}")


def _read_row(cells: Sequence[str], columns: Columns, line: int) -> Row:
    """One row. Raises ValueError with what is wrong and the remedy."""
    wanted = 1 + max(*columns.box, columns.image, columns.label)
    if len(cells) < wanted:
        raise ValueError(f"{len(cells)} columns, {wanted} are needed; complete the row")
    image, label = cells[columns.image].strip(), cells[columns.label].strip() if columns.label >= 0 else _ALL
    try:
        box = columns.read_box(cells)
    except ValueError:
        given = " ".join(one_line(cells[column], 20) or "?" for column in columns.box)
        raise ValueError(f"box {given}; it needs four numbers, or none for an image without an object") from None
    if not image or (box and not label):
        raise ValueError(f"no {'class' if image else 'image'}; complete the row")
    split = cells[columns.split] if 0 <= columns.split < len(cells) else ""
    sides = [cells[side].strip() if 0 <= side < len(cells) else "" for side in (columns.height, columns.width)]
    size = (int(sides[0]), int(sides[1])) if all(map(is_whole, sides)) else None
    crowd, difficult = (0 <= flag < len(cells) and is_set(cells[flag]) for flag in (columns.crowd, columns.difficult))
    return Row(line, image, label, box, size, split_in(split), crowd, difficult)


def _names_of(rows: Sequence[Row], source: Path) -> list[str]:
    """The classes of all boxes, in the order of their numbers where all are numbers."""
    found = sorted({row.label for row in rows if row.box})
    if len(found) > MAX_CLASSES:
        raise UserError(f"{source}: more than {MAX_CLASSES:,} classes; is the column of classes the right one?")
    warn_of_names(found, source)
    return sorted(found, key=int) if all(map(is_whole, found)) else found


def _read_table(path: Path, rows: Sequence[Row], split: str, names: Sequence[str]) -> Listing:
    """Images and boxes of one split of a table, whose boxes are all in pixels or all in fractions."""
    listing = Listing(list(names), [*range(len(names))], [])
    wanted = split_in(split) or split
    if any(row.split for row in rows):
        if lost := [row for row in rows if row.split is None]:
            message = f"{len(lost)} rows, the first here, are of no split (train, val, test) and are left out; complete them"
            listing.issues.append(DataIssue(path, lost[0].line, message, fatal=True))
        rows = [row for row in rows if row.split == wanted]
    boxes = [row.box for row in rows if row.box]
    fractions = bool(boxes) and all(0 <= side <= 1 for box in boxes for side in box)
    if fractions:
        message = f"all {len(boxes)} boxes lie within 0..1 and are taken as fractions of the images"
        listing.issues.append(DataIssue(path, None, message, fatal=False))
    labels = {name: number for number, name in reversed(list(enumerate(names)))}  # of two names alike the first
    finder, images = ImageFinder(path), dict[str, AnnotatedImage]()
    for row in rows:
        if row.image not in images:
            place = finder.find_loosely(row.image)
            images[row.image] = AnnotatedImage(place, path, [], not fractions, line=row.line, stated_size=row.size)
        label = _label(row, labels)
        if row.box and label is None:
            message = f"class {shown(row.label)} is not in names ({one_line(', '.join(names))}); correct it or add it"
            listing.issues.append(DataIssue(path, row.line, message, fatal=True))
        elif row.box and label is not None:
            text = f"{one_line(row.label, 60)} box {' '.join(f'{side:g}' for side in row.box)}"
            annotation = Annotation(label, row.box, text, row.line, crowd=row.crowd, difficult=row.difficult)
            images[row.image].annotations.append(annotation)
    listing.images = list(images.values())
    return listing


def _label(row: Row, labels: dict[str, int]) -> int | None:
    """The class of a row by its name, or by its number where names are other texts."""
    if row.label in labels:
        return labels[row.label]
    return int(row.label) if is_whole(row.label) and int(row.label) < len(labels) else None
