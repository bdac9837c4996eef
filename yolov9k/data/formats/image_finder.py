"""Where images lie that one annotation file names, and which split the name of such a file tells."""

from __future__ import annotations

import os
import re
from pathlib import Path

from yolov9k.common.paths import PathFinder, normal
from yolov9k.data.probe import is_image

_FOLDERS = ("train2017", "val2017", "test2017", "train2014", "val2014", "test2014", "train", "val", "valid", "test")
_SPLIT_WORD = re.compile(
    r"(?<![^\W\d_])(?:mini)?(?:(?P<train>train(?:ing|val)?)|(?P<val>val(?:id|idation)?)|(?P<test>test(?:ing|dev)?))(?![^\W\d_])"
)


def split_in(text: str) -> str | None:
    """The split that a file's name tells: the last whole word of one, so that ``valves_train.json`` is train."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text)  # TrainSet
    found = [match.lastgroup for match in _SPLIT_WORD.finditer(words.lower())]
    return found[-1] if found else None


class ImageFinder:
    """Looks for images where COCO layouts put them, in the same order for each."""

    def __init__(self, path: Path) -> None:
        own = [word for word in re.split(r"[_\-.]", path.stem) if split_in(word)]
        splits = {split_in(word) for word in own}
        bases = [path.parent, path.parent / "images", path.parent.parent / "images", path.parent.parent]
        names = own + [name for name in _FOLDERS if not own or split_in(name) in splits]
        nested = [base / name for base in bases for name in names]
        folders = nested + bases if own else bases + nested
        self.folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        self.home = path.parent
        self._finder = PathFinder()
        self._stems: dict[Path, dict[str, str]] = {}

    def find(self, name: str) -> Path:
        """Path of the image; where it would stand beside the file that states it if it is nowhere."""
        return self._finder.find(name, self.folders, os.path.isfile) or self.home / name

    def find_loosely(self, name: str) -> Path:
        """`find` also of a name without its suffix, and of what had another folder on the machine that wrote it."""
        last = name.replace("\\", "/").rpartition("/")[2]
        for spelling in dict.fromkeys((name, last)):
            if found := self._finder.find(spelling, self.folders, os.path.isfile):
                return found
        stems = (self._by_stem(folder, last) for folder in self.folders)
        return next((path for path in stems if path), self.home / name)

    def _by_stem(self, folder: Path, stem: str) -> Path | None:
        if folder not in self._stems:
            names = sorted(os.listdir(folder))
            self._stems[folder] = {normal(Path(name).stem): name for name in reversed(names) if is_image(Path(name))}
        name = self._stems[folder].get(normal(stem))
        return None if name is None else folder / name
