"""Damaged image files: read or refused in one line, never a traceback, a hang or gigabytes; probe and decoder agree."""

from __future__ import annotations

import io
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.mutations import mutants, within_time
from tests.tiers import examples
from yolov9k.data.images import UnreadableImage, read_image
from yolov9k.data.probe import probe_image

pytestmark = pytest.mark.e2e

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")
MOST_MEMORY = 2 << 20  # KiB: the largest image that is decoded, once as RGBA and once as BGR, and some room


def originals() -> list[bytes]:
    """Small images of every format, plain, and with orientation, alpha, palette, 16 bits, several scans or frames."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    color, deep = Image.fromarray(noise[..., :3]), Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0])
    plain = [(color, name, {}) for name in FORMATS]
    turned = [(color, name, {"exif": exif.tobytes()}) for name in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF")]
    others = [
        (color.convert("L"), "JPEG", {"progressive": True}),
        (color.convert("CMYK"), "JPEG", {}),
        (Image.fromarray(noise), "PNG", {}),
        (color.convert("P"), "PNG", {}),
        (deep, "PNG", {}),
        (deep, "TIFF", {"compression": "tiff_lzw"}),
        (color, "TIFF", {"compression": "jpeg"}),
        *(
            (color, name, {"save_all": True, "append_images": [color.rotate(90)] * 2})
            for name in ("GIF", "PNG", "TIFF", "WEBP")
        ),
    ]
    files = []
    for image, name, options in plain + turned + others:
        file = io.BytesIO()
        image.save(file, name, **options)
        files.append(file.getvalue())
    return files


def examine(path: Path, data: bytes) -> bool:
    """Whether a file of these bytes is taken; asserts what holds of all."""
    path.write_bytes(data)
    with within_time():
        info = probe_image(path)
        lenient = strict = None
        try:
            lenient = read_image(path, truncated=True, notes=[])
            strict = read_image(path, size=(info.height, info.width))
        except UnreadableImage as error:
            message = str(error)
            assert message.startswith(f"{path}: the file ")
            assert "\n" not in message
            assert len(message) < len(str(path)) + 200
    if info.error is None:
        assert strict is None or strict.shape == (info.height, info.width, 3)
        # a JPEG or PNG is not decoded by the probe, and its damage may lie within
        assert strict is not None or data.startswith((b"\xff\xd8", b"\x89PNG"))
    else:
        assert (info.height, info.width) == (0, 0)
        assert "\n" not in info.error
        assert len(info.error) < 200
    return strict is not None or lenient is not None


@pytest.mark.parametrize(("count", "seed"), [(500, 1), pytest.param(100, 2, marks=pytest.mark.twin)])
def test_damaged_files_are_read_or_refused(tmp_path: Path, count: int, seed: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = [examine(tmp_path / "x.jpg", data) for data in mutants(originals(), examples(count), seed)]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY
    assert 0.1 < np.mean(taken) < 0.9


def test_undamaged_files_are_taken(tmp_path: Path) -> None:
    assert all(examine(tmp_path / "x.jpg", data) for data in originals())
