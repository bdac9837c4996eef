"""Names of results: each source gets one of its own, all of them chosen before the first is written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path

from yolov9k.engine.predict.sources import is_video


def output_names(paths: Sequence[Path]) -> list[str]:
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
    like_frames = {match[1] for name in reserved if (match := re.fullmatch(r"(.*)_\d+", name))}
    names: list[str] = []
    given: set[str] = set()
    for path, name in zip(relative, own, strict=True):
        taken = (given, like_frames) if is_video(path) else (given,)
        candidates = chain([name], (one for one in _invented(path) if one.casefold() not in reserved))
        names.append(next(one for one in candidates if not any(one.casefold() in names for names in taken)))
        given.add(names[-1].casefold())
    return names


def _invented(path: Path) -> Iterator[str]:
    yield str(path)
    yield from (f"{path}_{number}" for number in count(2))


def _below_common_folder(paths: Sequence[Path]) -> list[Path]:
    absolute = [Path(os.path.abspath(path)) for path in paths]
    folder = os.path.commonpath([path.parent for path in absolute]) if absolute else ""
    return [path.relative_to(folder) for path in absolute]
