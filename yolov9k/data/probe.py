"""Which files are images, how large they are and whether they are whole, found out without decoding them."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from yolov9k.common.errors import UserError
from yolov9k.common.files import cache_folder, write_json
from yolov9k.common.text import read_json

SUFFIXES = frozenset({".bmp", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
WORKERS = min(32, 4 * (os.cpu_count() or 1))  # reading headers waits for the disk more than for the processor
_ORIENTATION = 0x0112
_CACHE_FROM = 512  # fewer images than this are read faster than a cache is worth


class ImageInfo(NamedTuple):
    """Size in pixels after EXIF orientation; `fault` says what is wrong, and then the size is 0 x 0."""

    height: int
    width: int
    fault: str | None = None


def is_image(path: Path) -> bool:
    """Whether the name is that of an image: a known suffix and not hidden (macOS leaves `._name.jpg` files about)."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """Every image under `folder`, at any depth, sorted; linked folders are followed once."""
    found: list[Path] = []
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found.extend(path for name in files if is_image(path := Path(root, name)))
    return sorted(found)


def probe_images(paths: Sequence[Path]) -> list[ImageInfo]:
    """Size and soundness of each image, read in a thread pool; large sets are remembered in the user's cache folder."""
    remembered = _read_cache() if len(paths) >= _CACHE_FROM else {}
    with ThreadPoolExecutor(WORKERS) as pool:
        keys = list(pool.map(_cache_key, paths))
        missing = [i for i, key in enumerate(keys) if key not in remembered]
        fresh = dict(zip(missing, pool.map(probe_image, (paths[i] for i in missing)), strict=True))
    if len(fresh) >= _CACHE_FROM:
        sound = {keys[i]: info for i, info in fresh.items() if info.fault is None}  # a fault may pass: look again
        _write_cache(remembered | sound)
    return [fresh[i] if i in fresh else remembered[key] for i, key in enumerate(keys)]


def probe_image(path: Path) -> ImageInfo:
    """Size and soundness of one image from its header and its last bytes."""
    try:
        with Image.open(path) as image:
            width, height = _upright_size(image)
            fault = _truncation(path, image)
    except FileNotFoundError:
        return ImageInfo(0, 0, "image not found; restore the file or remove it from the dataset")
    except UnidentifiedImageError:
        what = "is empty" if path.stat().st_size == 0 else "is not a readable image"
        return ImageInfo(0, 0, f"image {what}; replace or remove it")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return ImageInfo(0, 0, f"image cannot be read ({error}); replace or remove it")
    return ImageInfo(0, 0, fault) if fault else ImageInfo(height, width)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as OpenCV decodes the image: EXIF orientations 5 to 8 turn it by a quarter."""
    width, height = image.size
    tags = getattr(image, "tag_v2", None)
    if tags is not None:  # TIFF; some versions of Pillow have turned `size` already, the tags are as stored
        width, height, orientation = int(tags.get(256, width)), int(tags.get(257, height)), tags.get(_ORIENTATION, 1)
    else:
        orientation = exif_orientation(image.info.get("exif", b""))
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def exif_orientation(data: bytes) -> int:
    """The orientation in an EXIF block, 1 where it holds none.

    Image.getexif() would decode a whole PNG in search of a late chunk and obey XMP, which OpenCV does not.
    """
    exif = Image.Exif()
    try:
        exif.load(data)
        return int(exif.get(_ORIENTATION, 1))
    except (OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1  # damaged EXIF does not make a damaged image


def _truncation(path: Path, image: Image.Image) -> str | None:
    if image.format in ("JPEG", "MPO"):
        whole = _ends_with(path, b"\xff\xd9") or _has_late_marker(path, b"\xff\xd9", after=b"\xff\xda")
        what = "JPEG without an end marker"
    elif image.format == "PNG":
        whole = _ends_with(path, b"IEND\xaeB`\x82") or _has_late_marker(path, b"IEND\xaeB`\x82", after=b"IDAT")
        what = "PNG without its end chunk"
    else:
        image.load()
        return None
    return None if whole else f"image is truncated ({what}); copy or download it again"


def _ends_with(path: Path, marker: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64))
        return file.read().rstrip(b"\0\r\n").endswith(marker)


def _has_late_marker(path: Path, marker: bytes, *, after: bytes) -> bool:
    """Files with something appended are whole too. JPEG scan data escapes 0xff, so what looks like a marker is one."""
    data = path.read_bytes()
    return data.rfind(marker) > data.rfind(after) >= 0


def _cache_file() -> Path:
    return cache_folder() / "images.json"


def _cache_key(path: Path) -> str:
    try:
        stat = path.stat()
    except (OSError, ValueError):  # a ValueError: the name holds a zero byte
        return ""
    return f"{path.absolute()}|{stat.st_size}|{stat.st_mtime_ns}"


def _read_cache() -> dict[str, ImageInfo]:
    """What earlier runs found; a cache that is missing, unreadable or corrupt counts as empty."""
    try:
        stored = read_json(_cache_file())
        return {key: ImageInfo(int(height), int(width)) for key, (height, width) in stored.items()}
    except (UserError, RuntimeError, ValueError, AttributeError, TypeError):
        return {}


def _write_cache(entries: dict[str, ImageInfo]) -> None:
    """Keep `entries` for the next run; a folder that cannot be written only costs that run some time."""
    with contextlib.suppress(OSError, RuntimeError, UserError):
        write_json(_cache_file(), {key: info[:2] for key, info in entries.items()})


def siblings(folders: Iterable[Path]) -> set[str]:
    """Stems of all images that lie directly in `folders`."""
    names = (Path(name) for folder in folders if folder.is_dir() for name in os.listdir(folder))
    return {name.stem for name in names if is_image(name)}
