"""Which listed images are one image: lists repeat names, folders overlap, links lead to one file, ids share a file."""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from yolov9k.data.formats.base import AnnotatedImage, Annotation, Box
from yolov9k.data.probe import WORKERS
from yolov9k.data.records import DataIssue, Split

Content = frozenset[tuple[int, Box]]


def unite_repeats(images: Sequence[AnnotatedImage], *, keep: bool) -> tuple[list[AnnotatedImage], list[DataIssue]]:
    """`images` without repeats, and one warning for each that was repeated.

    Where the same image comes with other objects, such as one file under two ids, it gets all of them. keep: what is
    listed several times with the same objects stays as often, the same AnnotatedImage: in training it may be meant.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for index, identity in enumerate(identities([image.path for image in images])):
        places[identity or f"\0{index}"].append(index)  # what is not there is no other's repeat
    result: list[AnnotatedImage | None] = list(images)
    issues: list[DataIssue] = []
    for several in places.values():
        if len(several) > 1:
            group = [images[index] for index in several]
            contents = [_content(image) for image in group]
            times = max(Counter(contents).values())
            result[several[0]] = _united(group, contents)
            for number, index in enumerate(several[1:], 2):
                result[index] = result[several[0]] if keep and number <= times else None
            issues.extend(_warnings(group, len(set(contents)), times, keep))
    return [image for image in result if image is not None], issues


def find_overlap(train: Split, val: Split) -> DataIssue | None:
    """A warning where images to validate on are trained on; none where one split stands in for the other."""
    if train.origin == val.origin:
        return None
    return find_shared([record.path for record in train.records], val)


def find_shared(trained_on: Sequence[Path], val: Split) -> DataIssue | None:
    """A warning where images of a split are among those that are trained on."""
    known = set(identities(trained_on)) - {None}
    shared = [
        record.path
        for record, identity in zip(val.records, identities([record.path for record in val.records]), strict=True)
        if identity in known
    ]
    if not shared:
        return None
    what = f"{len(shared)} of {len(val.records)} images of {val.name} are in train too, such as {shared[0]}"
    return DataIssue(val.source, None, f"{what}; figures will be too good, list each image in one of them", fatal=False)


def identities(paths: Sequence[Path]) -> list[str | None]:
    """What tells each file from others, whatever links lead to it; None for one that is not there."""
    folders = {folder: os.path.realpath(folder) for folder in {path.parent for path in paths} if os.path.isdir(folder)}

    def identity(path: Path) -> str | None:
        try:
            linked = stat.S_ISLNK(os.lstat(path).st_mode)
        except (OSError, ValueError):  # a ValueError: the name holds a zero byte
            return None
        return os.path.realpath(path) if linked else os.path.join(folders[path.parent], path.name)

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(identity, paths))


def _content(image: AnnotatedImage) -> Content:
    return frozenset((annotation.label, annotation.box) for annotation in image.annotations)


def _united(group: Sequence[AnnotatedImage], contents: Sequence[Content]) -> AnnotatedImage:
    """The first of the group, with the objects of those that have others."""
    first, seen = group[0], set(contents[0])
    more: list[Annotation] = []
    for image in group[1:]:
        if image.pixels == first.pixels:
            more += [note for note in image.annotations if (note.label, note.box) not in seen]
            seen.update((note.label, note.box) for note in more)
    first.annotations = [*first.annotations, *more]
    return first


def _warnings(group: Sequence[AnnotatedImage], contents: int, times: int, keep: bool) -> list[DataIssue]:
    path, issues = group[0].path, []
    if times > 1:
        what = "trained on as often" if keep else "counted once"
        message = f"image is listed {len(group)} times, {what}; list it once"
        issues.append(DataIssue(path, None, message, fatal=False, kind=f"images listed more than once, {what}"))
    if contents > 1:
        sources = ", ".join(dict.fromkeys(str(image.source) for image in group))
        message = f"image is labeled {contents} times ({sources}): its objects are put together; label it once"
        issues.append(DataIssue(path, None, message, fatal=False, kind="images labeled in several places, put together"))
    return issues
