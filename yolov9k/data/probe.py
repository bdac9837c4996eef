"""Which files are images, how large they are and whether they are whole, found out without decoding them."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

from yolov9k.common.errors import UserError, warn
from yolov9k.common.files import cache_folder, locked, open_regular, sweep, write_json
from yolov9k.common.text import read_json
from yolov9k.data.headers import TRUNCATED, ImageError, count_frames, opened, read_header
from yolov9k.data.images import FRAMES, NEAR_BLACK, from_pillow, is_near_black

_IMAGES = "avif bmp dib gif jfif jp2 jpe jpeg jpg pbm pgm png pnm ppm tif tiff webp"
SUFFIXES = frozenset(f".{suffix}" for suffix in _IMAGES.split())
# Images too, which people put among the others and miss later.
_OTHERS = "arw cr2 cr3 dng exr hdr heic heif jxl nef orf psd raw svg tga"
_OTHER_IMAGES = frozenset(f".{suffix}" for suffix in _OTHERS.split())
_HIDDEN = frozenset(
    """
    @eadir #recycle #snapshot @recycle @recently-snapshot @__thumb @tmp $recycle.bin recycler __macosx __pycache__ lost+found
    """.split()  # noqa: SIM905
) | {"system volume information", "network trash folder"}
WORKERS = min(32, 4 * (os.cpu_count() or 1))  # reading headers waits for the disk more than for the processor
_CACHE_FROM = 512  # fewer images than this are read faster than a cache is worth


class ImageInfo(NamedTuple):
    """Size in pixels after EXIF orientation. error: why it cannot be used, then the size is 0 x 0; note: what to know of it."""

    height: int
    width: int
    error: str | None = None
    note: str | None = None


def is_image(path: Path) -> bool:
    """Whether the name is that of an image: a known suffix and not hidden (macOS leaves `._name.jpg` files about)."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def is_hidden(name: str) -> bool:
    """Whether a folder of this name holds what no one put there: copies of editors, thumbnails, what was thrown away."""
    return name.startswith(".") or name.lower() in _HIDDEN


def list_images(folder: Path) -> list[Path]:
    """Every image under `folder`, at any depth but in no hidden folder, sorted; linked folders are followed once.

    One warning counts the images of formats that cannot be read.
    """
    found: list[Path] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not is_hidden(name)]
        found.extend(path for name in files if is_image(path := Path(root, name)))
        others.update(other_images(files))
    warn_of_others(folder, others)
    return sorted(found)


def other_images(names: Iterable[str]) -> Counter[str]:
    """How many files of which suffix are images that OpenCV does not read, hidden ones left out."""
    suffixes = (Path(name).suffix.lower() for name in names if not is_hidden(name))
    return Counter(suffix for suffix in suffixes if suffix in _OTHER_IMAGES)


def find_matches(pattern: str, base: Path) -> list[Path]:
    """What matches a glob pattern below `base`, sorted; none where it is no pattern.

    What exists is taken by its name: `data [v1]/*.jpg` begins in the folder of that name where there is one. Stars enter no
    hidden folder that the pattern does not name.
    """
    parts = Path(pattern).parts
    while parts and os.path.exists(base / parts[0]):
        base, parts = base / parts[0], parts[1:]
    rest = os.path.join(*parts) if parts else ""
    if not glob.has_magic(rest):
        return []
    rest = re.sub(r"(\*\*/)+", "**/", rest)  # each one more would look through all folders again
    try:
        found = sorted(glob.glob(rest, root_dir=base, recursive=True))
    except (ValueError, RecursionError):  # a zero byte, half of a surrogate pair, thousands of folders: no file has such a name
        return []
    return [base / match for match in found if not any(map(is_hidden, set(Path(match).parts) - set(parts)))]


def warn_of_others(place: object, others: Counter[str]) -> None:
    """One warning of files that are left out; others: how many of which suffix."""
    if others:
        listed = ", ".join(f"{suffix or 'no suffix'} {count}" for suffix, count in others.most_common(10))
        files = "1 file" if others.total() == 1 else f"{others.total()} files"
        warn(f"{place}: {files} of other formats left out ({listed}); convert what are images to PNG or JPEG")


def probe_images(paths: Sequence[Path]) -> list[ImageInfo]:
    """Size and soundness of each image, read in a thread pool; large sets are remembered in the user's cache folder."""
    remembered = _read_cache() if len(paths) >= _CACHE_FROM else {}
    with ThreadPoolExecutor(WORKERS) as pool:
        keys = list(pool.map(_cache_key, paths))
        missing = [i for i, key in enumerate(keys) if key not in remembered]
        fresh = dict(zip(missing, pool.map(probe_image, (paths[i] for i in missing)), strict=True))
    if len(fresh) >= _CACHE_FROM:
        sound = {keys[i]: info for i, info in fresh.items() if info.error is None}  # an error may pass: look again
        _write_cache(remembered | sound)
    return [fresh[i] if i in fresh else remembered[key] for i, key in enumerate(keys)]


def probe_image(path: Path) -> ImageInfo:
    """Size and soundness of one image from its header and its last bytes."""
    try:
        with open_regular(path) as file, opened(file) as image:
            header = read_header(image, os.fstat(file.fileno()).st_size)
            frames = count_frames(image)
            _check_whole(file, image, decode=header.deep)
            note = FRAMES.format(frames) if frames > 1 else None
            if header.deep and is_near_black(from_pillow(image)):
                note = NEAR_BLACK
    except FileNotFoundError:
        return ImageInfo(0, 0, "image not found; restore the file or remove it from the dataset")
    except OSError as error:
        return ImageInfo(0, 0, f"image cannot be read ({error.strerror or error}); replace or remove it")
    except ImageError as error:
        return ImageInfo(0, 0, f"image {error}")
    return ImageInfo(header.height, header.width, None, note and f"image {note}")


def _check_whole(file: BinaryIO, image: Image.Image, *, decode: bool) -> None:
    """Raises ImageError for a file that ends early. JPEG and PNG have an end mark, others are decoded."""
    if image.format in ("JPEG", "MPO"):
        whole, what = _ends_with(file, b"\xff\xd9", after=b"\xff\xda"), "JPEG without an end marker"
    elif image.format == "PNG":
        whole, what = _ends_with(file, b"IEND\xaeB`\x82", after=b"IDAT"), "PNG without its end chunk"
    else:
        whole, what, decode = True, "", True
    if not whole:
        raise ImageError(f"{TRUNCATED} ({what}); copy or download it again")
    if decode:
        image.load()


def _ends_with(file: BinaryIO, marker: bytes, *, after: bytes) -> bool:
    """Whether `marker` stands at the end, or behind the last `after`: files with something appended are whole too.

    JPEG scan data escapes 0xff, so what looks like a marker is one.
    """
    place = file.tell()
    file.seek(max(0, file.seek(0, 2) - 64))
    whole = file.read().rstrip(b"\0\r\n").endswith(marker)
    if not whole:
        file.seek(0)
        data = file.read()
        whole = data.rfind(marker) > data.rfind(after) >= 0
    file.seek(place)
    return whole


def _cache_file() -> Path:
    return cache_folder() / "images.json"


def _cache_key(path: Path) -> str:
    try:
        stat = path.stat()
    except (OSError, ValueError):  # a ValueError: no file can have this name
        return ""
    return f"{path.absolute()}|{stat.st_size}|{stat.st_mtime_ns}"


def _read_cache() -> dict[str, ImageInfo]:
    """What earlier runs found; a cache that is missing, unreadable or corrupt counts as empty."""
    try:
        stored = read_json(_cache_file())
        return {str(key): _from_cache(*row) for key, row in stored.items()}
    except (OSError, UserError, ValueError, AttributeError, TypeError):
        return {}


def _from_cache(height: object, width: object, note: object = None) -> ImageInfo:
    """One entry. Raises ValueError where it cannot be one of ours."""
    sides = [side for side in (height, width) if type(side) is int and side > 0]
    if len(sides) < 2 or not isinstance(note, str | None):
        raise ValueError("not the size of an image")
    return ImageInfo(sides[0], sides[1], None, note)


def _write_cache(entries: dict[str, ImageInfo]) -> None:
    """Keep `entries` for the next run; a folder that cannot be written only costs that run some time."""
    with contextlib.suppress(OSError, UserError):
        path = _cache_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            sweep(path)
            write_json(path, {key: [*info[:2], info.note] if info.note else info[:2] for key, info in entries.items()})


def siblings(folders: Iterable[Path]) -> set[str]:
    """Stems of all images that lie directly in `folders`."""
    names = (Path(name) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder))
    return {name.stem for name in names if is_image(name)}
