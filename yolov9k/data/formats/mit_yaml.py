"""The data set files of the MIT rewrite (MultimediaTechLab/YOLO): `class_num`, `class_list`, and splits by name alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_OURS = {"class_num": "nc", "class_list": "names"}


def is_mit(data: dict[Any, Any]) -> bool:
    """Whether the keys of a YAML file are theirs."""
    return not _OURS.keys().isdisjoint(data)


def with_our_keys(data: dict[Any, Any]) -> dict[Any, Any]:
    """The same with our keys in place of theirs; what has both keeps ours."""
    renamed = {_OURS.get(key, key): value for key, value in data.items() if _OURS.get(key) not in data}
    renamed.pop("auto_download", None)
    return renamed


def place_of(split: str, bases: Sequence[Path]) -> str:
    """Where a split lies below the first of `bases` that has it, looked for in their order; `split` itself if nowhere.

    train2017 is train2017.txt, annotations/instances_train2017.json or images/train2017 with labels/train2017.
    """
    for base in bases:
        for place in (f"{split}.txt", f"annotations/instances_{split}.json", f"images/{split}"):
            if os.path.exists(base / place):
                return place
    return split
