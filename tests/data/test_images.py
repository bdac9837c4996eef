"""What an image is, how large it may be, and that every version of OpenCV reads the same out of it as the probe has seen."""

from __future__ import annotations

import os
import resource
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.data_cases import BOX, write_image, write_yolo
from tests.mutations import within_time
from yolov9k.common.errors import UserError
from yolov9k.data import images, probe
from yolov9k.data.config import load_split
from yolov9k.data.images import UnreadableImage, decode_image, read_image
from yolov9k.data.probe import probe_image

SCENE = np.zeros((48, 80, 3), np.uint8)  # RGB, one orange rectangle off the center
SCENE[8:24, 8:40] = (250, 120, 20)
EXIF_FORMATS = ("jpg", "png", "webp", "tif", "avif")


def save(path: Path, pixels: np.ndarray = SCENE, orientation: int = 1, kind: str | None = None, **options: object) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    if orientation > 1:
        options |= {"tiffinfo": {0x0112: orientation}} if path.suffix == ".tif" else {"exif": exif.tobytes()}
    Image.fromarray(pixels).save(path, kind, quality=95, **options)
    return path


def box_of(image: np.ndarray) -> tuple[int, ...]:
    """x1 y1 x2 y2 of what is bright, in tens of pixels."""
    rows, columns = np.nonzero(image.max(-1) > 120)
    return tuple(round(int(side) / 10) for side in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))


def bmp(width: int, height: int) -> bytes:
    """The header of a bitmap, and some bytes."""
    return struct.pack("<2sIIIIiiHHIIiiII", b"BM", 64, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(10)


def png(width: int, height: int) -> bytes:
    """A whole black image of 8-bit gray."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj()
    rows = b"".join([*(packer.compress(bytes(1 + width)) for _ in range(height)), packer.flush()])
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", EXIF_FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("opencv", ["as it is", "turns nothing", "decodes nothing"])
def test_every_orientation_whatever_opencv_does(
    tmp_path: Path, suffix: str, orientation: int, opencv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 5.0 OpenCV does not turn WebP, before 4.11 it has no AVIF, and a build may lack any format."""
    path = save(tmp_path / f"a.{suffix}", orientation=orientation)
    decode = cv2.imdecode
    if opencv == "turns nothing" and suffix != "tif":
        monkeypatch.setattr(cv2, "imdecode", lambda data, flags: decode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION))
    if opencv == "decodes nothing":
        monkeypatch.setattr(cv2, "imdecode", lambda data, flags: None)
    wanted = {
        1: (1, 1, 4, 2), 2: (4, 1, 7, 2), 3: (4, 2, 7, 4), 4: (1, 2, 4, 4),
        5: (1, 1, 2, 4), 6: (2, 1, 4, 4), 7: (2, 4, 4, 7), 8: (1, 4, 2, 7),
    }[orientation]  # fmt: skip
    if opencv == "turns nothing" and suffix == "jpg" and orientation in (2, 3, 4):
        pytest.skip("every version of OpenCV turns JPEG")
    size = (48, 80) if orientation < 5 else (80, 48)
    assert probe_image(path)[:3] == (*size, None)
    for image in (read_image(path), read_image(path, size=size), read_image(path, truncated=True)):
        assert image.shape == (*size, 3)
        assert box_of(image) == wanted
        y, x = np.argwhere(image.max(-1) > 120).mean(0).astype(int)
        assert np.abs(image[y, x].astype(int) - (20, 120, 250)).max() < 20  # BGR


@pytest.mark.parametrize("kind", ["GIF", "AVIF", "WEBP", "JPEG2000", "PPM", "TIFF", "BMP", "PNG"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_content_counts_not_the_name(tmp_path: Path, kind: str, suffix: str) -> None:
    """With the same pixels whatever OpenCV makes of such a file; reduced decoding is a JPEG's alone."""
    path = save(tmp_path / f"a.{suffix}", kind=kind)
    assert probe_image(path)[:3] == (48, 80, None)
    assert box_of(read_image(path, size=(48, 80))) == (1, 1, 4, 2)
    assert max(read_image(path, reduce=2, size=(48, 80)).shape) in (40, 80)


@pytest.mark.parametrize("suffix", ["jfif", "avif", "jp2", "gif", "jpe", "pbm", "pnm", "webp", "JPG"])
def test_formats_that_are_trained_on(tmp_path: Path, suffix: str) -> None:
    path = write_yolo(tmp_path, {})
    kind = {"jfif": "JPEG", "jpe": "JPEG", "pbm": "PPM", "pnm": "PPM"}.get(suffix)
    write_image(tmp_path / "images" / f"a.{suffix}", format=kind)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(BOX)
    (record,) = load_split(path, "train").records
    assert (record.height, record.width, len(record.classes)) == (20, 40, 1)
    assert read_image(record.path, size=(20, 40)).shape == (20, 40, 3)


def test_images_of_other_formats_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_yolo(tmp_path, {"a": BOX})
    for name in ("b.HEIC", "c.heic", "d.jxl", "notes.md", "Thumbs.db", ".e.heic"):
        (tmp_path / "images" / name).touch()
    assert len(load_split(path, "train").records) == 1
    told = capfd.readouterr().err
    assert f"{tmp_path / 'images'}: 3 files of other formats left out (.heic 2, .jxl 1)" in told
    path.write_text("train: images/*\nval: images/*.jpg\nnames: [x]\n")
    assert len(load_split(path, "train").records) == 1
    assert "images/*: 3 files of other formats left out (.heic 2, .jxl 1)" in capfd.readouterr().err
    assert len(load_split(path, "val").records) == 1
    assert capfd.readouterr().err == ""


# --- sizes


@pytest.mark.parametrize("content", [bmp(30000, 30000), bmp(12000, 12000), png(20000, 20000)], ids=["bmp", "small bmp", "png"])
def test_a_header_is_read_before_the_memory_is_taken(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for truncated in (False, True):
        with pytest.raises(UnreadableImage, match=r"bomb\.png: the file (has more than 178,956,970 pixels|is truncated)"):
            read_image(path, truncated=truncated)
    assert probe_image(path).error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_opencv_is_not_given_a_chunk_of_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = save(tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("given to OpenCV"))
    with pytest.raises(pytest.fail.Exception):
        decode_image(data, "a.png")
    vast = data[:-12] + struct.pack(">I", 2**31 - 1) + data[-8:]  # of the last one
    np.testing.assert_array_equal(decode_image(vast, "a.png"), SCENE[..., ::-1])


def test_probe_and_decoder_agree_on_a_damaged_orientation(tmp_path: Path) -> None:
    """OpenCV takes it though the type of its tag is none; Pillow does not."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\x10\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    path = save(tmp_path / "a.jpg", exif=exif)
    info = probe_image(path)
    assert read_image(path).shape[:2] == read_image(path, size=info[:2]).shape[:2] == info[:2]


def test_32_bits_a_channel_are_refused_by_the_probe(tmp_path: Path) -> None:
    for number, dtype in enumerate((np.float32, np.int32)):
        path = tmp_path / f"{number}.tif"
        Image.fromarray(np.ones((8, 9), dtype)).save(path)
        words = ("floating point; convert it to 8 or 16", "signed; convert it to 8 or 16 without a sign")[number]
        assert probe_image(path).error == f"image has 32 bits a channel, {words}"
        with pytest.raises(UnreadableImage, match=f"the file has 32 bits a channel, {words}"):
            read_image(path)


def tiff(bits: int, kind: int, channels: int, *, big: bool = False) -> bytes:
    """A whole image of 2 x 1 zeros; kind: 1 unsigned, 2 signed, 3 floating point, 6 complex."""
    size = 2 * channels * bits // 8
    where = {True: 16 + 8 + 20 * 9 + 8, False: 8 + 2 + 12 * 9 + 4}[big]
    tags = [(256, 2), (257, 1), (258, bits), (259, 1), (262, 2 if channels == 3 else 1), (273, where), (277, channels),
            (279, size), (339, kind)]  # fmt: skip
    entry, head, count = ("<HHQQ", struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16), "<Q") if big else (
        "<HHII", struct.pack("<2sHI", b"II", 42, 8), "<H"
    )  # fmt: skip
    body = b"".join(struct.pack(entry, tag, 4, 1, value) for tag, value in tags)
    return head + struct.pack(count, 9) + body + bytes(8 if big else 4) + bytes(size)


@pytest.mark.parametrize(
    ("bits", "kind", "channels", "words"),
    [
        (32, 3, 1, "has 32 bits a channel, floating point; convert it to 8 or 16"),
        (32, 3, 3, "has 32 bits a channel, floating point; convert it to 8 or 16"),
        (64, 3, 1, "has 64 bits a channel, floating point; convert it to 8 or 16"),
        (32, 1, 1, "has 32 bits a channel; convert it to 8 or 16"),
        (32, 1, 3, "has 32 bits a channel; convert it to 8 or 16"),
        (32, 2, 1, "has 32 bits a channel, signed; convert it to 8 or 16 without a sign"),
        (16, 2, 1, "has 16 bits a channel, signed; convert it to 8 or 16 without a sign"),
        (64, 6, 1, "has 64 bits a channel, complex; convert it to 8 or 16"),
    ],
)
@pytest.mark.parametrize("big", [False, True])
def test_what_a_tiff_holds_that_is_not_read_is_said_rightly(
    bits: int, kind: int, channels: int, words: str, big: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(bits, kind, channels, big=big))
    assert probe_image(path).error == f"image {words}"
    with pytest.raises(UnreadableImage, match=f"the file {words}"):
        read_image(path)


@pytest.mark.parametrize(("name", "limit"), [("a.png", 4095), ("a.tif", 4095), ("c.png", 900)])
def test_few_bits_stored_in_16_are_told(tmp_path: Path, name: str, limit: int) -> None:
    path = write_yolo(tmp_path, {})
    pixels = np.linspace(0, limit, 800).astype(np.uint16).reshape(20, 40)
    pixels = np.repeat(pixels[..., None], 3, -1) if name.startswith("c") else pixels
    file = tmp_path / "images" / name
    file.parent.mkdir()
    assert cv2.imwrite(str(file), pixels)
    issue = [issue for issue in load_split(path, "train").issues if "near black" in issue.message]
    assert [(one.path, one.fatal) for one in issue] == [(file, False)]
    notes: list[str] = []
    assert read_image(file, notes=notes).max() < 16
    assert notes == [images.NEAR_BLACK]
    assert cv2.imwrite(str(file), pixels * 16)
    assert read_image(file, notes=(notes := [])).max() > 50
    assert notes == []
    assert probe_image(file)[2:] == (None, None)


def test_a_portable_map_of_12_bits_is_scaled(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 4 2 4095\n" + np.full((2, 4), 4095, ">u2").tobytes())
    notes: list[str] = []
    assert read_image(path, notes=notes).min() == 255
    assert notes == []
    assert probe_image(path) == (2, 4, None, None)


# --- frames


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_further_frames_are_told(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_yolo(tmp_path, {})
    frames = [Image.fromarray(np.roll(SCENE, step, 1)) for step in (0, 7, 20)]
    file = tmp_path / "images" / f"a.{kind.lower()}"
    file.parent.mkdir()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], lossless=True)
    message = "image holds 3 frames, of which the first is used"
    assert [str(issue) for issue in load_split(path, "train").issues if issue.path == file][1] == f"{file}: {message}"
    assert box_of(read_image(file)) == (1, 1, 4, 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "_CACHE_FROM", 1)
    assert [probe.probe_images([file])[0].note for _ in range(2)] == [message, message]  # remembered too


def test_copies_and_previews_are_no_frames(tmp_path: Path) -> None:
    scene = Image.fromarray(SCENE)
    file = tmp_path / "pyramid.tif"
    small = scene.resize((40, 24))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    scene.save(file, save_all=True, append_images=[small])
    assert probe_image(file) == (48, 80, None, None)
    scene.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[scene])
    assert probe_image(tmp_path / "phone.jpg") == (48, 80, None, None)


# --- paths


def test_what_is_no_file(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": BOX})
    (tmp_path / "images" / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "images" / "pipe.jpg")
    (tmp_path / "images" / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "images" / "device.jpg").symlink_to("/dev/zero")
    with within_time():
        split = load_split(path, "train")
    assert [record.path.name for record in split.records] == ["a.jpg"]
    told = {issue.path.name: issue.message for issue in split.fatal_issues}
    assert told == {
        "pipe.jpg": "image cannot be read (not a regular file); replace or remove it",
        "device.jpg": "image cannot be read (not a regular file); replace or remove it",
        "gone.jpg": "image not found; restore the file or remove it from the dataset",
    }


@pytest.mark.parametrize("name", ["pipe.jpg", "folder.jpg", "gone.jpg", "n" * 300 + ".jpg", "a\0b.jpg", "\ud800.jpg"])
def test_any_path_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    with within_time(), pytest.raises(UnreadableImage, match="cannot read the image"):
        read_image(tmp_path / name)
    assert probe_image(tmp_path / name).error
    assert probe.probe_images([tmp_path / name])[0].error
    path = write_yolo(tmp_path, {"a": BOX})
    if "\0" in name or "\ud800" in name:
        return
    path.write_text(f"train: [images, {name}]\nnames: [cell, dust]\n")
    with within_time():
        if name in ("pipe.jpg", "folder.jpg"):
            assert [issue.path.name for issue in load_split(path, "train").fatal_issues] == [name] * name.startswith("pipe")
        else:
            with pytest.raises(UserError, match=r"^.*data\.yaml: .* not found, looked in .*$"):
                load_split(path, "train")


# --- hidden folders

HIDDEN = [".ipynb_checkpoints", ".Trash-1000/files", "@eaDir/a.jpg", "__MACOSX/train", ".AppleDouble", "$RECYCLE.BIN"]


@pytest.mark.parametrize("entry", ["images", "images/**", "images/**/*.jpg", "im*/"])
def test_hidden_folders_are_not_entered(tmp_path: Path, entry: str) -> None:
    path = write_yolo(tmp_path, {"a": BOX, "b": BOX})
    for folder in HIDDEN:
        write_image(tmp_path / "images" / folder / "a-checkpoint.jpg")
    write_image(tmp_path / "images" / "deep" / "c.jpg")
    path.write_text(f"train: '{entry}'\nval: images\nnames: [cell, dust]\n")
    assert {record.path.name for record in load_split(path, "train").records} == {"a.jpg", "b.jpg", "c.jpg"}


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    path = write_yolo(tmp_path / ".cache" / "@eaDir", {"a": BOX})
    write_image(path.parent / "__MACOSX" / "b.jpg")
    path.write_text("train: images\nval: __MACOSX/*\nnames: [cell, dust]\n")
    assert [record.path.name for record in load_split(path, "train").records] == ["a.jpg"]
    assert [record.path.name for record in load_split(path, "val").records] == ["b.jpg"]


# --- the cache of sizes


@pytest.mark.parametrize(
    "content",
    ["[1]", '{"KEY": [1e999, 5]}', '{"KEY": [-5, 5]}', '{"KEY": [1.5, true]}', '{"KEY": [5, 5, 7]}', '{"KEY": 5}',
     '{"KEY": [5, 5, null, 1]}', "[" * 100_000, '{"KEY": [null, null]}', '{"KEY": {"height": 5}}', "\ud800"],
)  # fmt: skip
def test_nonsense_in_the_cache_is_read_anew(tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "_CACHE_FROM", 1)
    path = write_image(tmp_path / "a.png")
    cache = tmp_path / "cache" / "yolov9k" / "images.json"
    cache.parent.mkdir(parents=True)
    (cache.parent / ".images.json.killed").touch()
    cache.write_bytes(content.replace("KEY", probe._cache_key(path)).encode(errors="surrogatepass"))
    assert probe.probe_images([path]) == [(20, 40, None, None)]
    assert sorted(file.name for file in cache.parent.iterdir()) == ["images.json", "images.json.lock"]


def test_without_a_home_nothing_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987654321)
    monkeypatch.setattr(probe, "_CACHE_FROM", 1)
    assert probe.probe_images([write_image(tmp_path / "a.png")]) == [(20, 40, None, None)]


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UnreadableImage, match="the file is empty"):
        read_image(tmp_path / "a.jpg")
