"""Ids of images and categories: what they are compared by, and what COCO results call an image.

Tools write one id as 1, as 1.0 and as "1". They are compared by their key; results hold them as their file does.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from yolov9k.common.numbers import is_whole

Id = int | float | str  # as a file has it
Key = int | str

_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")


def id_key(value: object) -> Key | None:
    """What an id is compared by: 1, 1.0 and "1" are one, "01" is another; None for what is no id."""
    if isinstance(value, str):
        text = value.strip()
        return int(text) if _NUMBER.fullmatch(text) else text or None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (isinstance(value, int) or math.isfinite(value)):
        return None
    return int(value) if value == int(value) else None


def known_key(value: object) -> Key:
    """`id_key` of what has to be an id. Raises ValueError."""
    key = id_key(value)
    if key is None:
        raise ValueError(f"{value!r} is no id")
    return key


def key_order(key: Key) -> tuple[bool, Key]:
    """Sorts numbers before texts."""
    return isinstance(key, str), key


def result_ids(paths: Sequence[Path], stated: Sequence[Id | None]) -> tuple[list[Id], int]:
    """What COCO results call each image: its stated id, else as the published validation its stem, a number where it is one.

    Images that this would call alike are called by their paths below the folder of all, and counted.
    """
    ids = [_of_stem(path) if known is None else known for path, known in zip(paths, stated, strict=True)]
    counts = Counter(map(id_key, ids))
    if len(counts) == len(ids):
        return ids, 0
    alike = [counts[id_key(value)] > 1 for value in ids]
    root = os.path.commonpath([path.parent for path in paths])
    for name in _NAMES:
        longer = [name(path.relative_to(root)) if same else value for path, value, same in zip(paths, ids, alike, strict=True)]
        if len(set(map(id_key, longer))) == len(ids):
            break
    return longer, sum(alike)


def _of_stem(path: Path) -> Id:
    return int(path.stem) if is_whole(path.stem) else path.stem


_NAMES: tuple[Callable[[Path], str], ...] = (lambda path: path.with_suffix("").as_posix(), lambda path: path.as_posix())
