"""Data sets that lie in folders: splits as subfolders, annotations beside the images they are of."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from yolov9k.common.errors import UserError
from yolov9k.common.paths import normal
from yolov9k.data.formats.layout import DatasetLayout
from yolov9k.data.formats.yolo import label_path
from yolov9k.data.probe import is_hidden, is_image

_LOOKED_AT = 20  # images of a folder
_SPLITS = ("train", "trainval", "val", "valid", "validation", "test")


def split_folders(root: Path, accepts: Callable[[Path], bool]) -> dict[str, list[str]]:
    """By split the subfolders of `root` that are named as one and that are accepted."""
    names = {name.lower(): name for name in sorted(os.listdir(root))}
    return {split: [str(root / names[split])] for split in _SPLITS if split in names and accepts(root / names[split])}


def has_yolo_labels(folder: Path) -> bool:
    """Whether the first images of a folder have them: other tools' files beside are what they were exported of, then."""
    images = [folder / name for name in sorted(os.listdir(folder)) if is_image(Path(name))][:_LOOKED_AT]
    return any(os.path.isfile(label) for image in images for label in (label_path(image), image.with_suffix(".txt")))


def find_files(folder: Path, *patterns: str) -> list[Path]:
    """What matches one of `patterns` under `folder`, sorted, without what is hidden or in hidden folders."""
    found = {file for pattern in patterns for file in folder.glob(pattern)}
    return sorted(file for file in found if not any(map(is_hidden, file.relative_to(folder).parts)))


def labeled_beside(folder: Path, suffix: str) -> bool:
    """Whether annotation files, known by their suffix, lie beside their images."""
    names = [name for name in os.listdir(folder) if not is_hidden(name)] if folder.is_dir() else []
    stems = {normal(Path(name).stem) for name in names if name.lower().endswith(suffix)}
    return bool(stems) and any(is_image(name) and normal(name.stem) in stems for name in map(Path, names))


def accepted_paths(layout: DatasetLayout, accepts: Callable[[Path], bool]) -> list[Path]:
    """What a format reads of all splits, so that classes found in the data are the same in each of them."""
    found: dict[Path, None] = {}
    for split in layout.splits:
        with suppress(UserError):  # a split that is not there: an error where it is asked for
            found.update((path, None) for path in layout.paths(split) if accepts(path))
    return list(found)
