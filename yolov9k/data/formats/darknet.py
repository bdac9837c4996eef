"""Darknet's obj.data with obj.names and lists of images, as CVAT exports YOLO: labels are `yolov9k.data.formats.yolo`'s."""

from __future__ import annotations

import os
from pathlib import Path

from yolov9k.common.errors import UserError, shown, warn
from yolov9k.common.numbers import is_whole
from yolov9k.common.paths import PathFinder, spellings
from yolov9k.common.text import read_text
from yolov9k.config.flags import MAX_CLASSES
from yolov9k.data.formats.base import Format, UnclearDataset, warn_of_names
from yolov9k.data.formats.folders import find_files
from yolov9k.data.formats.layout import DatasetLayout, without_data

_SPLITS = ("train", "val", "valid", "test")


class Darknet(Format):
    """A .data file of `key = value` lines: train, valid and names lead to text files."""

    dataset = "a Darknet .data file with its lists (CVAT's YOLO export)"

    def open(self, path: Path) -> DatasetLayout | None:
        """A .data file, or the one called obj.data in a folder, or the only one there."""
        if path.is_file():
            return read_data_file(path) if path.suffix.lower() == ".data" else None
        files = find_files(path, "*.data")
        files = [file for file in files if file.name == "obj.data"] or files
        if len(files) > 1:
            raise UnclearDataset(f"{path}: several .data files ({', '.join(file.name for file in files)}); name the one to use")
        return read_data_file(files[0]) if files else None


def read_data_file(path: Path) -> DatasetLayout:
    """Read and check a .data file. Raises UserError that names the file, the line and the remedy."""
    values, lines = dict[str, str](), dict[str, int]()
    for number, row in enumerate(read_text(path).splitlines(), 1):
        key, equals, value = (part.strip() for part in row.partition("="))
        if not row.strip() or row.lstrip().startswith(("#", ";")):
            continue
        if not equals:
            raise UserError(f"{path}:{number}: {shown(row.strip())} is no 'key = value' line; correct it")
        if (key := key.lower()) in lines:
            raise UserError(f"{path}:{number}: key {shown(key)} stands twice, first in line {lines[key]}; keep one")
        values[key], lines[key] = value, number
    splits = {split: [values[split]] for split in _SPLITS if values.get(split)}
    if not splits:
        raise UserError(f"{path}: neither train nor valid is given; add lines such as train = train.txt")
    return DatasetLayout(path, _read_names(path, values), splits, [path.parent], [Path.cwd()])


def _read_names(path: Path, values: dict[str, str]) -> list[str]:
    """The classes, a line each, of the file that the key `names` leads to."""
    if not values.get("names"):
        raise UserError(f"{path}: names is not given; add a line such as names = obj.names")
    finder, working = PathFinder(), Path.cwd()
    wanted = [(spelling, base) for base in (path.parent, working) for spelling in without_data(values["names"])]
    places = ((finder.find(spelling, [base], os.path.isfile), base) for spelling, base in wanted)
    found, base = next(((place, base) for place, base in places if place), (None, working))
    if found is None:
        looked = f"looked in {path.parent}, {working}"
        raise UserError(f"{path}: names leads to {shown(values['names'])}, which is not there, {looked}; correct the entry")
    if base is working and working != path.parent and not os.path.isabs(spellings(values["names"])[0]):
        warn(f"{path}: {shown(values['names'])} is not beside the file; taken from the working folder, {found}")
    names = [row.strip() for row in read_text(found).strip().splitlines()]
    stated = values.get("classes", "")
    if not names or len(names) > MAX_CLASSES:
        raise UserError(f"{found}: holds {len(names):,} names; give one to {MAX_CLASSES:,}, a line each")
    if stated and not (is_whole(stated) and int(stated) == len(names)):
        raise UserError(f"{path}: classes is {shown(stated)} but {found.name} has {len(names)} names; make them agree")
    warn_of_names(names, found)
    return names
