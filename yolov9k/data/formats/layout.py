"""Which files and folders the splits of a data set consist of, before any of them is read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from glob import has_magic
from pathlib import Path

from yolov9k.common.errors import UserError, shown, warn
from yolov9k.common.paths import PathFinder, spellings
from yolov9k.data.probe import find_matches, is_image, other_images, warn_of_others


@dataclass
class DatasetLayout:
    """A data set before it is read: `splits` gives, for each split it has, the files and folders to read.

    names: the classes where they are stated; bases: folders that entries are relative to, the first that has one counts;
    working_bases: those of the working folder, which are asked last and named where they have one. keypoints: how many
    values follow the box in a row of a YOLO label. keep_empty_classes: a COCO category that groups all others is a class
    though no box is of it.
    """

    path: Path
    names: list[str] | None
    splits: dict[str, list[str]]
    bases: list[Path] = field(default_factory=list)
    working_bases: list[Path] = field(default_factory=list)
    keypoints: int = 0
    keep_empty_classes: bool = False

    def __post_init__(self) -> None:
        """What is the data set's own folder is not named as the working folder."""
        self.bases = list(dict.fromkeys(self.bases))
        self.working_bases = [base for base in dict.fromkeys(self.working_bases) if base not in self.bases]

    def paths(self, split: str) -> list[Path]:
        """Files and folders of one split. Raises UserError for an entry that leads nowhere."""
        return [path for entry in self.splits[split] for path in self._resolve(entry)]

    def _resolve(self, entry: str) -> list[Path]:
        """Files and folders that `entry` names, a glob pattern among them. Raises UserError if there are none."""
        finder = PathFinder()
        for base in (*self.bases, *self.working_bases):
            if found := _find_in(base, entry, finder):
                if any(os.path.realpath(path) == path.anchor for path in found):
                    what = f"{shown(entry)} is the root of the file system"
                    raise UserError(f"{self.path}: {what}; give the folder of the images")
                if base in self.working_bases and not Path(spellings(entry)[0]).is_absolute():
                    warn(f"{self.path}: {shown(entry)} is not beside the file; taken from the working folder, {found[0]}")
                return found
        looked = ", ".join(str(base) for base in (*self.bases, *self.working_bases))
        raise UserError(f"{self.path}: {shown(entry)} not found, looked in {looked}; correct the entry or 'path'")


def check_val(layout: DatasetLayout) -> None:
    """Raise UserError where two spellings of one split lead to different files: another tool may read the other one."""
    stated = {name: entries for name, entries in layout.splits.items() if name in ("val", "valid", "validation")}
    first = next(iter(stated), "")
    for name, entries in stated.items():
        if entries != stated[first]:
            raise UserError(f"{layout.path}: {first} and {name} are one split and state different files; keep one of them")


def without_data(path: str) -> tuple[str, ...]:
    """A path as it stands and without a leading data/: Darknet and CVAT write it, though it is no folder of the archive."""
    shorter = re.sub(r"^(\./|\.\\)?data[/\\]", "", path)
    return (path,) if shorter == path else (path, shorter)


def _find_in(base: Path, entry: str, finder: PathFinder) -> list[Path]:
    """What `entry` names under `base`.

    Some exports say ``../train/images`` where they mean ``train/images``: tried when the former is not there.
    """
    plain = re.sub(r"^(\.\.[/\\])+", "", entry)
    for candidate in dict.fromkeys((entry, plain, *without_data(entry))):
        if place := finder.find(candidate, [base]):
            tidy = Path(os.path.normpath(place))
            return [tidy if os.path.exists(tidy) else place]  # a ".." behind a link leads elsewhere
        for pattern in spellings(candidate):
            if has_magic(pattern) and (found := _expand(pattern, base)):
                return found
    return []


def _expand(pattern: str, base: Path) -> list[Path]:
    """Folders, images and, where the pattern asks for the suffix by name, other files that match `pattern`."""
    found = find_matches(pattern, base)
    if others := other_images(path.name for path in found if path.suffix != Path(pattern).suffix):
        warn_of_others(pattern, others)
    return [path for path in found if path.is_dir() or is_image(path) or path.suffix == Path(pattern).suffix != ""]
