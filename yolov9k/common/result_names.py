"""Names of results: each source gets one of its own, all of them chosen before the first is written."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count
from pathlib import Path


def output_names(paths: Sequence[Path], is_video: Callable[[Path], bool] = lambda path: False) -> list[str]:
    """For each source the name of its results, without their suffix, below the folder that they go into.

    The stem, where no two sources share theirs, else the path from the folder that all are in. Of a.jpg and a.png in one
    folder the first is `a` and the second `a.png`; the same file for the second time gets a number. No name is invented that
    another source has by its own. Names are compared without case, as some file systems do, and a video's frames, which are
    called NAME_1 on, count as names.
    """
    relative, own = _below_common_folder(paths), [path.stem for path in paths]
    if len({name.casefold() for name in own}) < len(own):
        own = [str(path.with_suffix("")) for path in relative]
    reserved = {name.casefold() for name in own}
    given, videos = set[str](), {name.casefold() for path, name in zip(paths, own, strict=True) if is_video(path)}
    names: list[str] = []
    for path, name in zip(relative, own, strict=True):
        mark = "-" if str(path).casefold() in videos else "_"  # NAME_2 would be that video's second frame
        invented = (one for one in _invented(path, mark) if one.casefold() not in reserved)
        free = (one for one in chain([name], invented) if one.casefold() not in given)
        if is_video(path):
            free = (one for one in free if not any(_video_of(other) == one.casefold() for other in reserved | given))
        names.append(next(free))
        given.add(names[-1].casefold())
        if is_video(path):
            videos.add(names[-1].casefold())
    return names


def _video_of(name: str) -> str | None:
    """The name of the video of which `name` would be a frame."""
    match = re.fullmatch(r"(.*)_\d+", name.casefold(), re.DOTALL)
    return match[1] if match else None


def _invented(path: Path, mark: str) -> Iterator[str]:
    yield str(path)
    yield from (f"{path}{mark}{number}" for number in count(2))


def _below_common_folder(paths: Sequence[Path]) -> list[Path]:
    absolute = [Path(os.path.abspath(path)) for path in paths]
    folder = os.path.commonpath([path.parent for path in absolute]) if absolute else ""
    return [path.relative_to(folder) for path in absolute]


def folder_name(name: str) -> str:
    """A class's name as the name of a folder on any system; what the file system's encoding lacks is written as its number."""
    plain = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "_", name)
    encoding = sys.getfilesystemencoding()
    plain = plain if plain.isascii() else plain.encode(encoding, "backslashreplace").decode(encoding).replace("\\", "")
    return plain.encode("utf-8", "replace")[:200].decode("utf-8", "ignore").strip(" .") or "_"
