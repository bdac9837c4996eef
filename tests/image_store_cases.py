"""What tests of the file of images are made of: real images to change, readers that count, processes beside this one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

from tests.data_cases import make_records
from tests.support import shared
from yolov9k.common.arrays import Image
from yolov9k.data.cache.image_cache import ImageSource, Reader
from yolov9k.data.records import Record

ROOT = Path(__file__).resolve().parents[1]
SIZE = 160  # of the images in the cache
PIXELS = SIZE * SIZE * 3 // 4 * 3  # bytes of one of them: BCCD's images are 480 x 640
BUILD = """
reader = CountingReader(records_in(sys.argv[1]), delay=float(sys.argv[2]))
source = make_source(reader, "disk")
print(len(reader.read), *digests(source, len(reader.records)))
"""


class CountingReader(Reader):
    """Notes which images are read from their files; may take its time."""

    def __init__(self, records: list[Record], *, delay: float = 0) -> None:
        super().__init__(records, SIZE, fast=False)
        self.read: list[int] = []
        self.delay = delay

    def __call__(self, index: int) -> Image:
        self.read.append(index)
        time.sleep(self.delay)
        return super().__call__(index)


def make_images(folder: Path, count: int) -> list[Record]:
    """Copies of real images, in a folder of their own so that they may be changed."""
    records = make_records(None, [(480, 640)] * count)
    folder.mkdir(parents=True, exist_ok=True)
    for record, source in zip(records, sorted(shared("data/bccd/JPEGImages").iterdir()), strict=False):
        record.path = folder / source.name
        record.path.write_bytes(source.read_bytes())
    return records


def the_file(home: Path) -> Path:
    """The only cache there is."""
    (file,) = home.glob("*.images")
    return file


def digests(source: ImageSource, count: int) -> list[str]:
    """What tells the images of a source apart."""
    return [hashlib.sha256(source(index).tobytes()).hexdigest() for index in range(count)]


def records_in(folder: str) -> list[Record]:
    """Records of the images that `make_images` has put there."""
    paths = sorted(Path(folder).iterdir())
    records = make_records(None, [(480, 640)] * len(paths))
    for record, path in zip(records, paths, strict=True):
        record.path = path
    return records


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process that runs `code` with the names of this module and the environment of this process."""
    code = f"import sys\nfrom tests.image_store_cases import *\nfrom yolov9k.data.cache.image_cache import make_source\n{code}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
