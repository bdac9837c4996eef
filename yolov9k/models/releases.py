"""Where published weights lie. Nothing is fetched unless 'yolov9k download' asks for it."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from yolov9k.common.errors import USAGE, UserError, one_line
from yolov9k.models.tables import likely_name


class Release(NamedTuple):
    """The folder of a release on its server, what it holds, and its repository's license."""

    folder: str
    files: tuple[str, ...]
    license: str


# Names of files as both repositories and others' scripts link to them; the files themselves were not fetched when this was
# written. "-converted" is the main branch alone, which predicts as the whole does; t was published in that form only.
RELEASES = (
    Release(
        "https://github.com/WongKinYiu/yolov9/releases/download/v0.1",
        (
            "yolov9-t-converted", "yolov9-s", "yolov9-s-converted", "yolov9-m", "yolov9-m-converted", "yolov9-c",
            "yolov9-c-converted", "yolov9-e", "yolov9-e-converted", "gelan-s", "gelan-m", "gelan-c", "gelan-e",
        ),
        "GPL-3.0",
    ),
    Release(
        "https://github.com/MultimediaTechLab/YOLO/releases/download/v1.0-alpha", ("v9-t", "v9-s", "v9-m", "v9-c"), "MIT"
    ),
)  # fmt: skip
NAMES = tuple(name for release in RELEASES for name in release.files)


class Published(NamedTuple):
    """A file of published weights."""

    file: str
    folder: str
    license: str


def find_published(name: str) -> Published:
    """The file of a name such as "yolov9-c", with or without .pt. Raises UserError naming those that there are."""
    stem = name.removesuffix(".pt")
    stem = stem if stem in NAMES or f"{stem}-converted" not in NAMES else f"{stem}-converted"
    for release in RELEASES:
        if stem in release.files:
            return Published(f"{stem}.pt", release.folder, release.license)
    near = next(iter(difflib.get_close_matches(stem[:100].lower(), NAMES, 1, cutoff=0.8)), "")
    meant = likely_name(name) or near
    known = f"did you mean '{meant}'?" if meant else f"there are {', '.join(NAMES)}"
    raise UserError(f"{one_line(name, 60)}: no published weights have this name; {known}", USAGE)
