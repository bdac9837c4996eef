"""Pascal VOC: an XML file an image, in Annotations beside JPEGImages, in annots beside images, or beside the images.

Splits are listed in ImageSets/Main or are folders of their own. Boxes are pixels x1 y1 x2 y2 and are taken as they stand.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from yolov9k.common.errors import UserError, one_line, shown
from yolov9k.common.files import read_bytes
from yolov9k.common.numbers import is_whole, parse_number
from yolov9k.common.paths import normal
from yolov9k.common.text import read_text
from yolov9k.data.formats.base import (
    AnnotatedImage,
    Annotation,
    Format,
    Listing,
    is_set,
    join_listings,
    warn_of_fractions,
    warn_of_names,
)
from yolov9k.data.formats.folders import accepted_paths, find_files, has_yolo_labels, labeled_beside, split_folders
from yolov9k.data.formats.layout import DatasetLayout
from yolov9k.data.formats.xml_node import BoundsError, Node, parse_xml
from yolov9k.data.probe import SUFFIXES, WORKERS, is_hidden, is_image, list_images
from yolov9k.data.records import DataIssue

_SHOWN_NAMES = 20  # in messages
_ANNOTATIONS, _IMAGES = ("annotations", "annots"), ("jpegimages", "images")  # in small letters
Documents = dict[str, tuple[Path, "Node | DataIssue"]]


@dataclass(frozen=True)
class Folders:
    """Where a VOC data set has its parts; XML files beside their images have `annotations` and `images` in one folder."""

    root: Path
    annotations: Path
    images: Path

    def list_of(self, split: str) -> Path:
        """The file that lists the images of a split."""
        return self.root / "ImageSets" / "Main" / f"{split}.txt"


def find_folders(path: Path) -> Folders | None:
    """The folders of a VOC data set at `path`; None where it is none. Capitals in their names do not matter.

    COCO has annotations beside images too: they count where there are XML files, VOC's own two names always.
    """
    names = {name.lower(): name for name in sorted(os.listdir(path))} if path.is_dir() else {}
    annotations = next((path / names[name] for name in _ANNOTATIONS if name in names), None)
    images = next((path / names[name] for name in _IMAGES if name in names), None)
    if annotations is not None and images is not None and annotations.is_dir() and images.is_dir():
        own = (annotations.name, images.name) == ("Annotations", "JPEGImages")
        if own or any(name.lower().endswith(".xml") and not is_hidden(name) for name in os.listdir(annotations)):
            return Folders(path, annotations, images)
    return Folders(path, path, path) if labeled_beside(path, ".xml") and not has_yolo_labels(path) else None


class Voc(Format):
    """Folders laid out as Pascal VOC's, XML files beside their images, and folders of such named after splits."""

    dataset = "a Pascal VOC folder (Annotations and JPEGImages, annots and images, or XML files beside images)"
    entry = "a Pascal VOC folder"

    def open(self, path: Path) -> DatasetLayout | None:
        """A folder with the splits that its lists or its subfolders name, all of it as train where there are none."""
        if not path.is_dir():
            return None
        if self.accepts(path):
            return DatasetLayout(path, None, {split: [str(path)] for split in _find_splits(path) or ["train"]}, [path])
        splits = split_folders(path, self.accepts)
        return DatasetLayout(path, None, splits, [path]) if splits else None

    def accepts(self, path: Path) -> bool:
        """A folder of XML files and images."""
        return find_folders(path) is not None

    def read(self, paths: Sequence[Path], split: str, names: Sequence[str] | None, layout: DatasetLayout) -> Listing:
        """All folders; where no names are given, classes are those of every split's folders, sorted."""
        documents = {path: _parse_all(path) for path in paths}
        if names is None:
            every = {path: documents.get(path) or _parse_all(path) for path in accepted_paths(layout, self.accepts)}
            names = _names_of(document for parsed in every.values() for _, document in parsed.values())
            warn_of_names(names, layout.path)
        return join_listings([read_voc(path, split, names, documents[path]) for path in paths], names)


def _find_splits(folder: Path) -> list[str]:
    """Names of the splits listed in ImageSets/Main; lists of single classes (``dog_train``) are no splits.

    Raises UserError where val.txt and valid.txt both lie there and differ.
    """
    lists = {path.stem: path for path in find_files(folder / "ImageSets" / "Main", "*.txt")}
    val, valid = lists.get("val"), lists.get("valid")
    if val and valid and read_text(val).split() != read_text(valid).split():
        raise UserError(f"{folder}: val.txt and valid.txt are one split and list different images; keep one of them")
    return [stem for stem in lists if stem in ("train", "val", "valid", "test", "trainval")]


_SIDES = ("xmin", "ymin", "xmax", "ymax")


class ObjectError(ValueError):
    """What is wrong with one object of an XML file."""


def read_voc(folder: Path, split: str, names: Sequence[str] | None = None, documents: Documents | None = None) -> Listing:
    """Images of one split of a VOC folder: those ImageSets/Main/`split`.txt lists, or all where there is no such list.

    Classes are those of the whole folder, sorted, unless `names` gives them. documents: its XML files where they are read
    already. Raises UserError where it is no such folder, or has its images in folders of their own.
    """
    folders = find_folders(folder)
    if folders is None:
        raise UserError(f"{folder}: no Pascal VOC folder; give one with Annotations and JPEGImages")
    documents = _parse_all(folder) if documents is None else documents
    found = list(names) if names is not None else _names_of(document for _, document in documents.values())
    images = _images_by_stem(folders.images)
    listing = Listing(found, [*range(len(found))], [])
    labels: dict[str, int] = {}
    for label, name in enumerate(found):
        labels.setdefault(name, label)  # of two names alike the first
    listed = folders.list_of(split)
    members = _read_list(listed, images) if os.path.lexists(listed) else [(stem, None) for stem in sorted(images)]
    for stem, line in members:
        path, document = documents.get(stem, (folders.annotations / f"{stem}.xml", None))
        if stem not in images:
            absent = folders.images / f"{stem}.jpg"
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
    if not images and (nested := sorted(path.name for path in folder.iterdir() if path.is_dir() and list_images(path))):
        listed = one_line(", ".join(nested[:5]))
        raise UserError(f"{folder}: has no images, its folders have ({listed}); put the images directly into {folder.name}")
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


def _parse_all(folder: Path) -> Documents:
    """Path and content of each XML file of a VOC folder, by its stem in the form in which names are compared."""
    folders = find_folders(folder)

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

    place = folders.annotations if folders else folder
    paths = sorted(path for path in place.iterdir() if path.suffix.lower() == ".xml" and not is_hidden(path.name))
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
    if is_whole(height) and is_whole(width):
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
    box = node.find("bndbox")
    if twice := node.repeated(("name", "bndbox", "difficult")) or (box.repeated(_SIDES) if box else ""):
        raise ObjectError(f"<{twice}> stands twice in one object; keep one")
    name = node.value("name")
    if name not in labels:
        known = ", ".join([*list(labels)[:_SHOWN_NAMES], *(["..."] if len(labels) > _SHOWN_NAMES else [])])
        raise ObjectError(f"class {shown(name)} is not in names ({one_line(known)}); correct it or add it to names")
    sides = [node.value(f"bndbox/{key}") for key in _SIDES]
    try:
        x1, y1, x2, y2 = map(parse_number, sides)
    except ValueError:
        given = " ".join(one_line(side, 20) or "?" for side in sides)
        raise ObjectError(f"bndbox of {one_line(name, 60)} is {given}; it needs four numbers") from None
    text = f"{one_line(name, 60)} box {' '.join(one_line(side, 20) for side in sides)}"
    return Annotation(labels[name], (x1, y1, x2, y2), text, node.line, difficult=is_set(node.value("difficult")))
