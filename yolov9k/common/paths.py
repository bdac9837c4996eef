"""Paths out of files that other systems wrote: backslashes, and names in another normal form of Unicode.

macOS's older file system takes letters and accents apart (NFD), keyboards put them together (NFC): both look alike.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from yolov9k.common.errors import UserError
from yolov9k.common.files import user_path


def normal(name: str) -> str:
    """A name in the form in which names are compared."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def spellings(path: str) -> list[str]:
    """What a path out of a file may mean: itself with `~` as the home folder, and that with backslashes between folders.

    The first that is there counts; the home folder of nobody is looked for as it stands, so that the file is named.
    """
    with suppress(UserError):
        path = str(user_path(path)) if path.startswith("~") else path
    return list(dict.fromkeys((path, path.replace("\\", "/"))))


def given_path(path: str | Path) -> Path:
    """`user_path`; where nothing stands under that name, the file or folder whose name is the same in another normal form."""
    found = user_path(path)
    if str(found).isascii() or os.path.lexists(found):
        return found
    return PathFinder().in_other_form(found) or found


class FolderNames:
    """The names in a folder, none where there is no such folder."""

    def __init__(self, folder: Path) -> None:
        try:
            self.names = frozenset(os.listdir(folder))
        except (OSError, ValueError):  # a ValueError: the path holds a zero byte
            self.names = frozenset()
        self._by_form = {normal(name): name for name in sorted(self.names) if not name.isascii()}

    def find(self, name: str) -> str | None:
        """`name` as it stands there, if need be in another normal form."""
        return name if name in self.names else self._by_form.get(normal(name))


class PathFinder:
    """Looks for paths as files state them; folders that are listed on the way are remembered."""

    def __init__(self) -> None:
        self._listed: dict[Path, FolderNames] = {}

    def find(self, path: str, bases: Iterable[Path], wanted: Callable[[Path], bool] = os.path.exists) -> Path | None:
        """The first place where `path` is `wanted`: under one base after the other, in each under all its spellings."""
        for base in bases:
            for spelling in spellings(path):
                if wanted(place := base / spelling):
                    return place
                if not spelling.isascii() and (other := self.in_other_form(place)) and wanted(other):
                    return other
        return None

    def in_other_form(self, path: Path) -> Path | None:
        """`path` with each name as its folder has it."""
        found = Path(path.anchor)
        for part in path.parts[1:] if path.anchor else path.parts:
            there = self._listing(found).find(part) if not part.isascii() else part
            if there is None:
                return None
            found /= there
        return found

    def _listing(self, folder: Path) -> FolderNames:
        if folder not in self._listed:
            self._listed[folder] = FolderNames(folder)
        return self._listed[folder]
