"""Pascal VOC: one XML file an image under Annotations, images under JPEGImages, splits listed in ImageSets/Main.

Boxes are pixels x1 y1 x2 y2 and are taken as they stand.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from xml.parsers import expat

from yolov9k.common.errors import one_line, shown
from yolov9k.common.files import read_bytes
from yolov9k.common.paths import normal
from yolov9k.common.text import decode_xml, read_text
from yolov9k.data.formats.base import (
    AnnotatedImage,
    Annotation,
    Format,
    Listing,
    is_set,
    join_listings,
    warn_of_fractions,
)
from yolov9k.data.formats.layout import DatasetLayout
from yolov9k.data.probe import SUFFIXES, WORKERS, is_image
from yolov9k.data.records import DataIssue

_DEEPEST = 64  # levels of elements
_SHOWN_NAMES = 20  # in messages


@dataclass(slots=True)
class Node:
    """An XML element that knows its line; `texts` are the pieces of what stands between its tags."""

    tag: str
    line: int
    texts: list[str] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    def find(self, path: str) -> Node | None:
        """The first element at `path`, tags joined by slashes."""
        node: Node | None = self
        for tag in path.split("/"):
            node = next((child for child in node.children if child.tag == tag), None) if node else None
        return node

    def value(self, path: str) -> str:
        """The text at `path` without blanks around it, empty if there is none."""
        node = self.find(path)
        return "".join(node.texts).strip() if node else ""


class Voc(Format):
    """Folders laid out as Pascal VOC's."""

    dataset = "a Pascal VOC folder (Annotations beside JPEGImages)"
    entry = "a Pascal VOC folder"

    def open(self, path: Path) -> DatasetLayout | None:
        """A folder with the splits that its lists name, all of it as train where there are none."""
        if not self.accepts(path):
            return None
        return DatasetLayout(path, None, {split: [str(path)] for split in _find_splits(path) or ["train"]}, [path])

    def accepts(self, path: Path) -> bool:
        """A folder that has the two that every such data set has."""
        return (path / "Annotations").is_dir() and (path / "JPEGImages").is_dir()

    def read(self, paths: Sequence[Path], split: str, names: Sequence[str] | None, layout: DatasetLayout) -> Listing:
        """All folders; the first one's classes are the others' too where no names are given."""
        listings: list[Listing] = []
        for path in paths:
            listings.append(read_voc(path, split, names))
            names = listings[0].names
        return join_listings(listings, names)


def _find_splits(folder: Path) -> list[str]:
    """Names of the splits listed in ImageSets/Main; lists of single classes (``dog_train``) are no splits."""
    lists = (folder / "ImageSets" / "Main").glob("*.txt")
    return sorted(path.stem for path in lists if path.stem in ("train", "val", "valid", "test", "trainval"))


class ObjectError(ValueError):
    """What is wrong with one object of an XML file."""


class BoundsError(ValueError):
    """An XML file holds what no annotation needs: deep nesting, or entities and defaults, few of which stand for gigabytes."""


def parse_xml(data: bytes) -> Node:
    """The root element. Raises `expat.ExpatError` with the line of what is wrong, BoundsError, and what `decode_xml`
    raises."""
    stack = [Node("", 0)]
    parser = expat.ParserCreate()

    def start(tag: str, _: dict[str, str]) -> None:
        node = Node(tag, parser.CurrentLineNumber)
        if len(stack) > _DEEPEST:
            raise BoundsError(f"line {node.line} has more than {_DEEPEST} levels")
        stack[-1].children.append(node)
        stack.append(node)

    def refuse(*_: Any) -> NoReturn:
        raise BoundsError(f"line {parser.CurrentLineNumber} declares entities or attributes")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.CharacterDataHandler = lambda data: stack[-1].texts.append(data)
    parser.EntityDeclHandler = parser.AttlistDeclHandler = refuse
    parser.buffer_text = True
    parser.Parse(decode_xml(data), True)  # of multi-byte encodings expat itself knows UTF-8 and UTF-16 alone
    return stack[0].children[0]


def read_voc(folder: Path, split: str, names: Sequence[str] | None = None) -> Listing:
    """Images of one split of a VOC folder: those ImageSets/Main/`split`.txt lists, or all where there is no such list.

    Classes are those of the whole folder, sorted, unless `names` gives them.
    """
    documents = _parse_all(folder)
    found = list(names) if names is not None else _names_of(document for _, document in documents.values())
    images = _images_by_stem(folder / "JPEGImages")
    listing = Listing(found, [*range(len(found))], [])
    labels: dict[str, int] = {}
    for label, name in enumerate(found):
        labels.setdefault(name, label)  # of two names alike the first
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    members = _read_list(listed, images) if os.path.isfile(listed) else [(stem, None) for stem in sorted(images)]
    for stem, line in members:
        path, document = documents.get(stem, (folder / "Annotations" / f"{stem}.xml", None))
        if stem not in images:
            absent = folder / "JPEGImages" / f"{stem}.jpg"
            listing.images.append(AnnotatedImage(absent, listed if line else path, [], pixels=True, line=line))
        elif isinstance(document, DataIssue):
            listing.issues.append(document)
        else:
            image = _choose(images[stem], path, document, listing.issues)
            listing.images.append(_read_image(image, path, document, labels, listing.issues))
    for stem in sorted(documents.keys() - images.keys() - {stem for stem, _ in members}):
        message = "label without an image; add the image or remove the label"
        listing.issues.append(DataIssue(documents[stem][0], None, message, fatal=False, kind="labels without an image"))
    listing.issues = list(dict.fromkeys(listing.issues))  # a member that is listed twice
    warn_of_fractions(listing, folder)
    return listing


def _images_by_stem(folder: Path) -> dict[str, list[Path]]:
    images: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if is_image(path):
            images.setdefault(normal(path.stem), []).append(path)
    return images


def _choose(images: Sequence[Path], path: Path, document: Node | None, issues: list[DataIssue]) -> Path:
    """Of the images of one stem the one that the XML file names, else the first; the others are told."""
    named = normal(_last(document.value("filename"))) if document else ""
    chosen = next((image for image in images if normal(image.name) == named), images[0])
    for image in images:
        if image != chosen:
            message = f"image shares its label file ({path}) with {chosen.name}; rename it and label it apart"
            issues.append(DataIssue(image, None, message, fatal=True))
    return chosen


def _last(path: str) -> str:
    """The name of a file in a path of whatever system."""
    return path.replace("\\", "/").rpartition("/")[2]


def _parse_all(folder: Path) -> dict[str, tuple[Path, Node | DataIssue]]:
    """Path and content of each XML file, by its stem in the form in which names are compared."""

    def parse(path: Path) -> Node | DataIssue:
        try:
            return parse_xml(read_bytes(path))
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            return DataIssue(path, error.lineno, f"not valid XML ({reason}); mend the file", fatal=True)
        except BoundsError as error:
            return DataIssue(path, None, f"not read ({error}); remove what no annotation needs", fatal=True)
        except (LookupError, UnicodeError) as error:
            return DataIssue(path, None, f"not valid XML ({error}); save it as UTF-8", fatal=True)
        except OSError as error:
            return DataIssue(path, None, f"cannot be read ({error.strerror}); check the file", fatal=True)

    paths = sorted(path for path in (folder / "Annotations").iterdir() if path.suffix.lower() == ".xml")
    with ThreadPoolExecutor(WORKERS) as pool:
        return {normal(path.stem): (path, document) for path, document in zip(paths, pool.map(parse, paths), strict=True)}


def _names_of(documents: Iterable[Node | DataIssue]) -> list[str]:
    names: set[str] = set()
    for document in documents:
        if isinstance(document, Node):
            names.update(child.value("name") for child in document.children if child.tag == "object")
    return sorted(names - {""})


def _read_list(path: Path, images: Container[str]) -> list[tuple[str, int | None]]:
    """Image stems and their lines; some lists carry a 1, 0 or -1 behind each, some name the images' files."""
    members: list[tuple[str, int | None]] = []
    for line, row in enumerate(read_text(path).splitlines(), 1):
        if row.strip():
            name = normal(re.sub(r"\s+(-1|0|1)$", "", row.strip()))
            last = Path(_last(name))
            stem = last.stem if last.suffix.lower() in SUFFIXES else last.name
            members.append((stem if name not in images and stem in images else name, line))
    return members


def _read_image(
    image: Path, path: Path, document: Node | None, labels: dict[str, int], issues: list[DataIssue]
) -> AnnotatedImage:
    annotated = AnnotatedImage(image, path, [], pixels=True)
    if document is None:
        message = f"image without a label file ({path}); it is used as background"
        issues.append(DataIssue(image, None, message, fatal=False, kind="images without a label file, used as background"))
        return annotated
    height, width = document.value("size/height"), document.value("size/width")
    if height.isdecimal() and width.isdecimal() and max(len(height), len(width)) < 10:
        annotated.stated_size = int(height), int(width)
    issues.extend(_find_strays(path, document))
    for child in document.children:
        if child.tag == "object":
            try:
                annotated.annotations.append(_read_object(child, labels))
            except ObjectError as error:
                issues.append(DataIssue(path, child.line, str(error), fatal=True))
    return annotated


def _find_strays(path: Path, document: Node) -> Iterator[DataIssue]:
    """Objects that stand deeper than the root, or whose tag has capitals: another format's, none of which would be read."""
    waiting = [(child, child.tag == "object") for child in document.children]
    while waiting:
        node, known = waiting.pop()
        if not known and node.tag.lower() == "object":
            message = f"<{node.tag}> is not read; put objects as <object> directly into the root element"
            yield DataIssue(path, node.line, message, fatal=True)
        elif not known:
            waiting += [(child, False) for child in node.children]


def _read_object(node: Node, labels: dict[str, int]) -> Annotation:
    name = node.value("name")
    if name not in labels:
        known = ", ".join([*list(labels)[:_SHOWN_NAMES], *(["..."] if len(labels) > _SHOWN_NAMES else [])])
        raise ObjectError(f"class {shown(name)} is not in names ({one_line(known)}); correct it or add it to names")
    sides = [node.value(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x1, y1, x2, y2 = map(float, sides)
    except ValueError:
        given = " ".join(one_line(side, 20) or "?" for side in sides)
        raise ObjectError(f"bndbox of {one_line(name, 60)} is {given}; it needs four numbers") from None
    text = f"{one_line(name, 60)} box {' '.join(one_line(side, 20) for side in sides)}"
    return Annotation(labels[name], (x1, y1, x2, y2), text, node.line, difficult=is_set(node.value("difficult")))
