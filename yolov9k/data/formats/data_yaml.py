"""data.yaml: which keys it may have, what they mean, and where its paths lead."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from yolov9k.common.errors import UserError, one_line, shown, warn
from yolov9k.common.paths import PathFinder
from yolov9k.common.text import read_yaml
from yolov9k.config.flags import MAX_CLASSES
from yolov9k.data.formats.base import Format, UnclearDataset, is_name, warn_of_names
from yolov9k.data.formats.folders import find_files
from yolov9k.data.formats.layout import DatasetLayout
from yolov9k.data.formats.mit_yaml import is_mit, place_of, with_our_keys
from yolov9k.data.ids import id_key

_SPLITS = ("train", "val", "valid", "validation", "test")
MAX_KEYPOINTS = 10_000
_OTHER_ROWS = ("classify", "classification", "depth", "semantic")  # pose says by kpt_shape what its rows are
_KEYS = ("path", *_SPLITS, "names", "nc")
# Keys that other tools put there: read past without a word but for those that `_read_keypoints` looks at.
_OTHERS = frozenset(
    """
    author authors channels colors copyright created date description download email flip_idx info kpt_names kpt_shape
    licence license minival roboflow source stride stuff_names task title url version yaml_file
    """.split()  # noqa: SIM905  thirty quoted words would be harder to read
)


class DataYaml(Format):
    """A file that lists the splits of a data set, or the folder that holds it."""

    dataset = "a data.yaml with train, val and names, which YOLO labels need"

    def open(self, path: Path) -> DatasetLayout | None:
        """A .yaml file, or the one called data.yaml in a folder, or the only one there that lists splits."""
        if path.is_file():
            return read_data_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else None
        yamls = find_files(path, "*.yaml", "*.yml")
        chosen = [yaml for yaml in yamls if yaml.name == "data.yaml"] or [yaml for yaml in yamls if _lists_splits(yaml)]
        listed = ", ".join(yaml.name for yaml in chosen or yamls)
        if len(chosen) > 1:
            raise UnclearDataset(f"{path}: several YAML files ({listed}); name the one to use")
        if yamls and not chosen:
            raise UnclearDataset(f"{path}: none of its YAML files ({one_line(listed)}) lists train or val; give a data.yaml")
        return read_data_yaml(chosen[0]) if chosen else None


def _lists_splits(path: Path) -> bool:
    """Whether a YAML file is of a data set: folders hold hyper-parameters, arguments of runs and much else beside it."""
    try:
        data = read_yaml(path)
    except UserError:
        return False
    return isinstance(data, dict) and any(isinstance(data.get(split), (str, list)) for split in _SPLITS)


def read_data_yaml(path: Path) -> DatasetLayout:
    """Read and check a data.yaml file. Raises UserError that names the offending key or line."""
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds no keys; it needs train, val and names")
    mit = is_mit(data)
    data = with_our_keys(path, data) if mit else data
    _warn_of_keys(path, data)
    splits = {key: _entries(path, key, data[key]) for key in _SPLITS if data.get(key) not in (None, "", [])}
    if not splits:
        raise UserError(f"{path}: neither train nor val is given; add train: and val: with folders of images")
    names = _read_names(path, data.get("names"), data.get("nc"))
    own, working = _find_bases(path, data.get("path"))
    if mit:
        splits = {split: [place_of(entry, [*own, *working]) for entry in entries] for split, entries in splits.items()}
    return DatasetLayout(path, names, splits, own, working, _read_keypoints(path, data))


def _warn_of_keys(path: Path, data: dict[Any, Any]) -> None:
    """Keys that nothing here or elsewhere reads, in one line: another tool's, or a slip."""
    unknown = [str(key) for key in data if key not in _KEYS and key not in _OTHERS]
    if not unknown:
        return
    near = {key: difflib.get_close_matches(key[:100], _KEYS, 1, 0.5) for key in unknown[:20]}
    hints = [f"did you mean {match[0]!r} by {shown(key, 30)}?" for key, match in near.items() if match]
    listed = ", ".join(shown(key) for key in unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
    hint = hints[0] if hints else f"known are {', '.join(_KEYS)}"
    warn(f"{path}: {'keys' if len(unknown) > 1 else 'key'} {listed} unknown and without effect; {hint}")


def _entries(path: Path, key: str, value: object) -> list[str]:
    entries: list[Any] = value if isinstance(value, list) else [value]
    for entry in entries:
        if not isinstance(entry, str) or not entry.strip():
            raise UserError(f"{path}: {key} holds {shown(entry)}; give a path or a list of paths")
    return [entry.strip() for entry in entries]


def _read_names(path: Path, names: object, nc: object) -> list[str] | None:
    if nc is not None and (not isinstance(nc, int) or isinstance(nc, bool) or nc < 1):
        raise UserError(f"{path}: nc is {shown(nc)}; give the number of classes")
    if max(nc or 0, len(names) if isinstance(names, (list, dict)) else 0) > MAX_CLASSES:
        raise UserError(f"{path}: more than {MAX_CLASSES:,} classes; correct nc or names")
    if names is None:
        return None if nc is None else [str(index) for index in range(nc)]
    if isinstance(names, dict) and names:
        given = len(names)
        names = _in_order(path, names, nc or 0)
        nc = len(names) if nc == given else nc
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}: names is {shown(names)}; give a list of class names or 'number: name' lines")
    for index, name in enumerate(names):
        if not is_name(name):
            raise UserError(f"{path}: name of class {index} is {shown(name)}; put it in quotes")
    if nc is not None and nc != len(names):
        raise UserError(f"{path}: nc is {nc} but there are {len(names)} names; make them agree")
    read = [str(name) for name in names]
    warn_of_names(read, path)
    return read


def _in_order(path: Path, names: dict[Any, object], least: int) -> list[object]:
    """Names by their numbers, which may stand in quotes; of `least` classes or more, those without a name get their number."""
    numbered = {id_key(key): name for key, name in names.items()}
    if len(numbered) < len(names):
        raise UserError(f"{path}: keys of names are {shown(list(names))}, of which two are the same; keep one")
    numbers = [key for key in numbered if isinstance(key, int) and key >= 0]
    if len(numbers) < len(names):
        raise UserError(f"{path}: keys of names are {shown(list(names))}; number the classes 0, 1, 2 ...")
    size = max(*numbers, least - 1) + 1
    if size > MAX_CLASSES:
        raise UserError(f"{path}: names goes up to class {size - 1:,}, more than {MAX_CLASSES:,} classes; number them anew")
    if absent := [index for index in range(size) if index not in numbered]:
        listed = ", ".join(map(str, absent[:5])) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        warn(f"{path}: names has no class {listed}; classes without a name are called by their number")
    return [numbered.get(index, str(index)) for index in range(size)]


def _read_keypoints(path: Path, data: dict[str, Any]) -> int:
    """How many values of a row are key points. Raises UserError for keys of other tasks that cannot be obeyed."""
    task, shape, channels = data.get("task"), data.get("kpt_shape"), data.get("channels")
    if isinstance(task, str) and task.strip().lower() in _OTHER_ROWS:
        raise UserError(f"{path}: task is {shown(task)}, whose labels are no boxes or outlines; give labels for detection")
    if channels is not None and channels not in (1, 3, 4):
        raise UserError(f"{path}: channels is {shown(channels)}, but images are read in color; make it 3 or leave it out")
    if shape is None:
        if stray := [key for key in ("flip_idx", "kpt_names") if data.get(key)]:
            raise UserError(f"{path}: {stray[0]} is of key points, but there is no kpt_shape; add it, such as [17, 3]")
        return 0
    fits = isinstance(shape, list) and len(shape) == 2 and all(type(number) is int for number in shape)
    if not fits or not 1 <= shape[0] <= MAX_KEYPOINTS or shape[1] not in (2, 3):
        raise UserError(f"{path}: kpt_shape is {shown(shape)}; give the number of key points and 2 or 3 values for each")
    return int(shape[0] * shape[1])


def _find_bases(path: Path, root: object) -> tuple[list[Path], list[Path]]:
    """Folders that entries are relative to, those of the file's own folder and those of the working folder.

    In each `path`, then the folder itself.
    """
    if not isinstance(root, (str, type(None))):
        raise UserError(f"{path}: path is {shown(root)}; give the folder of the dataset")
    home, work = path.absolute().parent, Path.cwd()
    finder = PathFinder()
    own, working = ([*_under(base, root, finder), base] for base in (home, work))
    if root and len(own) == len(working) == 1:
        warn(f"{path}: path {shown(root)} is not there; its entries are looked for beside the file")
    return own, working


def _under(base: Path, root: str | None, finder: PathFinder) -> list[Path]:
    place = finder.find(root, [base], os.path.isdir) if root else None
    return [] if place is None else [place]
