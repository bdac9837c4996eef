"""Which files and folders the splits of a data set consist of, before any of them is read."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path

from yolov9k.common.errors import UserError, shown
from yolov9k.common.files import user_path
from yolov9k.data.probe import is_hidden, is_image


@dataclass
class DatasetLayout:
    """A data set before it is read: `splits` gives, for each split it has, the files and folders to read.

    names: the classes where they are stated; bases: folders that entries are relative to, the first that has one counts.
    """

    path: Path
    names: list[str] | None
    splits: dict[str, list[str]]
    bases: list[Path] = field(default_factory=list)

    def paths(self, split: str) -> list[Path]:
        """Files and folders of one split. Raises UserError for an entry that leads nowhere."""
        return [path for entry in self.splits[split] for path in _resolve(entry, self.bases, self.path)]


def _resolve(entry: str, bases: Sequence[Path], source: Path) -> list[Path]:
    """Files and folders that `entry` of `source` names, a glob pattern among them. Raises UserError if there are none.

    Some exports say ``../train/images`` where they mean ``train/images``: tried when the former is not there.
    """
    plain = [re.sub(r"^(\.\./)+", "", spelling) for spelling in spellings(entry)]
    for candidate in dict.fromkeys((*spellings(entry), *plain)):
        for base in bases:
            place = base / candidate
            if os.path.exists(place):  # pathlib raises for a name that is too long
                if os.path.realpath(place) == place.anchor:
                    raise UserError(f"{source}: {shown(entry)} is the root of the file system; give the folder of the images")
                tidy = Path(os.path.normpath(place))
                return [tidy if os.path.exists(tidy) else place]  # a ".." behind a link leads elsewhere
            if has_magic(candidate) and (found := _expand(candidate, base)):
                return found
    looked = ", ".join(str(base) for base in bases)
    raise UserError(f"{source}: {shown(entry)} not found, looked in {looked}; correct the entry or 'path'")


def spellings(entry: str) -> list[str]:
    """What an entry of a user's list may mean: the path with `~` as the home folder, and one with Windows' backslashes.

    The first that is there counts; the home folder of nobody is looked for as it stands, so that the list is named.
    """
    with suppress(UserError):
        entry = str(user_path(entry)) if entry.startswith("~") else entry
    return list(dict.fromkeys((entry, entry.replace("\\", "/"))))


def _expand(pattern: str, base: Path) -> list[Path]:
    """Folders, images and, where the pattern asks for the suffix by name, other files that match `pattern`."""
    pattern = re.sub(r"(\*\*/)+", "**/", pattern)  # each one more would look through all folders again
    named = set(Path(pattern).parts)
    try:
        matches = sorted(glob(pattern, root_dir=base, recursive=True))
    except ValueError:  # a zero byte or half of a surrogate pair: no file has such a name
        return []
    found = [base / match for match in matches if not _is_within_hidden(match, named)]
    return [path for path in found if path.is_dir() or is_image(path) or path.suffix == Path(pattern).suffix != ""]


def _is_within_hidden(match: str, named: set[str]) -> bool:
    """Whether a pattern's star, not the user, has entered a hidden folder; named: the pattern's own parts."""
    return any(is_hidden(part) for part in Path(match).parts if part not in named)
