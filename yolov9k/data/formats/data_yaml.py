"""data.yaml: which keys it may have, what they mean, and where its paths lead."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import yaml

from yolov9k.common.errors import UserError, warn
from yolov9k.data.probe import is_image

_PARTS = ("train", "val", "valid", "validation", "test")
_KEYS = ("path", *_PARTS, "names", "nc")
# Keys that other tools put there and that say nothing about boxes: read past without a word.
_OTHERS = frozenset(
    """
    author authors channels colors copyright created date description download email flip_idx info kpt_names kpt_shape
    licence license minival roboflow source stride stuff_names task title url version yaml_file
    """.split()  # noqa: SIM905  thirty quoted words would be harder to read
)


@dataclass
class DataYaml:
    """A data.yaml file: class names if stated, entries of each part, and the folders that paths are relative to."""

    names: list[str] | None
    parts: dict[str, list[str]]
    bases: list[Path]


def read_yaml(path: Path) -> DataYaml:
    """Read and check a data.yaml file. Raises UserError that names the key or line at fault."""
    data = _parse(path)
    for key in data:
        if key not in _KEYS and key not in _OTHERS:
            near = difflib.get_close_matches(str(key), _KEYS, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KEYS)}"
            raise UserError(f"{path}: unknown key {str(key)!r}; {hint}")
    parts = {key: _entries(path, key, data[key]) for key in _PARTS if data.get(key) not in (None, "", [])}
    if not parts:
        raise UserError(f"{path}: neither train nor val is given; add train: and val: with folders of images")
    return DataYaml(_read_names(path, data.get("names"), data.get("nc")), parts, _find_bases(path, data.get("path")))


def _parse(path: Path) -> dict[Any, Any]:
    try:
        data = yaml.safe_load(path.read_text("utf-8-sig"))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML ({error.problem}); mend the file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); mend the file") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds no keys; it needs train, val and names")
    return data


def _entries(path: Path, key: str, value: object) -> list[str]:
    entries: list[Any] = value if isinstance(value, list) else [value]
    for entry in entries:
        if not isinstance(entry, str) or not entry.strip():
            raise UserError(f"{path}: {key} holds {entry!r}; give a path or a list of paths")
    return [entry.strip() for entry in entries]


def _read_names(path: Path, names: object, nc: object) -> list[str] | None:
    if nc is not None and (not isinstance(nc, int) or isinstance(nc, bool) or nc < 1):
        raise UserError(f"{path}: nc is {nc!r}; give the number of classes")
    if names is None:
        return None if nc is None else [str(index) for index in range(nc)]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(f"{path}: keys of names are {list(names)}; number them 0..{len(names) - 1} without gaps")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}: names is {names!r}; give a list of class names or 'number: name' lines")
    for index, name in enumerate(names):
        if name is None or isinstance(name, (bool, list, dict)):
            raise UserError(f"{path}: name of class {index} is {name!r}; put it in quotes")
    if nc is not None and nc != len(names):
        raise UserError(f"{path}: nc is {nc} but there are {len(names)} names; make them agree")
    read = [str(name) for name in names]
    if twice := sorted({name for name in read if read.count(name) > 1}):
        warn(f"{path}: several classes have the same name ({', '.join(twice)}); tables cannot tell them apart")
    return read


def _find_bases(path: Path, root: object) -> list[Path]:
    """Folders that entries are relative to: `path` from the file's folder or the working folder, then these two."""
    home = path.absolute().parent
    if root is None or root == "":
        return [home, Path.cwd()]
    if not isinstance(root, str):
        raise UserError(f"{path}: path is {root!r}; give the folder of the dataset")
    places = [place for place in (home / Path(root).expanduser(), Path.cwd() / root) if place.is_dir()]
    if not places:
        warn(f"{path}: path {root!r} is not there; its entries are looked for beside the file")
    return list(dict.fromkeys([*places, home, Path.cwd()]))


def resolve(entry: str, bases: Sequence[Path], source: Path) -> list[Path]:
    """Files and folders that `entry` of `source` names, a glob pattern among them. Raises UserError if there are none.

    Some exports say ``../train/images`` where they mean ``train/images``: tried when the former is not there.
    """
    plain = entry
    while plain.startswith("../"):
        plain = plain[3:]
    for candidate in dict.fromkeys((entry, plain)):
        for base in bases:
            place = base / Path(candidate).expanduser()
            if place.exists():
                tidy = Path(os.path.normpath(place))
                return [tidy if tidy.exists() else place]  # a ".." behind a link leads elsewhere
            if has_magic(candidate) and (found := _expand(candidate, base)):
                return found
    looked = ", ".join(str(base) for base in bases)
    raise UserError(f"{source}: {entry!r} not found, looked in {looked}; correct the entry or 'path'")


def _expand(pattern: str, base: Path) -> list[Path]:
    """Folders, images and, where the pattern asks for the suffix by name, other files that match `pattern`."""
    found = [base / match for match in sorted(glob(pattern, root_dir=base, recursive=True))]
    return [path for path in found if path.is_dir() or is_image(path) or path.suffix == Path(pattern).suffix != ""]
