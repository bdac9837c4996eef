"""The data set files of the MIT rewrite (MultimediaTechLab/YOLO): `class_num`, `class_list`, and splits by name alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolov9k.common.errors import UserError

_OURS = {"class_num": "nc", "class_list": "names"}


def is_mit(data: dict[Any, Any]) -> bool:
    """Whether the keys of a YAML file are theirs."""
    return not _OURS.keys().isdisjoint(data)


def with_our_keys(path: Path, data: dict[Any, Any]) -> dict[Any, Any]:
    """The same with our keys in place of theirs. Raises UserError where both stand there and differ."""
    for theirs, ours in _OURS.items():
        if theirs in data and ours in data and _as_list(data[ours]) != _as_list(data[theirs]):
            raise UserError(f"{path}: {theirs} and {ours} are one key and state different things; keep one of them")
    renamed = {_OURS.get(key, key): value for key, value in data.items()}
    renamed.pop("auto_download", None)
    return renamed


def _as_list(value: object) -> object:
    """Names that a mapping numbers from 0 on are a list of them."""
    return (
        list(value.values())
        if isinstance(value, dict) and [str(key) for key in value] == [*map(str, range(len(value)))]
        else value
    )


def place_of(split: str, bases: Sequence[Path]) -> str:
    """Where a split lies below the first of `bases` that has it, looked for in their order; `split` itself if nowhere.

    train2017 is train2017.txt, annotations/instances_train2017.json or images/train2017 with labels/train2017.
    """
    for base in bases:
        for place in (f"{split}.txt", f"annotations/instances_{split}.json", f"images/{split}"):
            if os.path.exists(base / place):
                return place
    return split
