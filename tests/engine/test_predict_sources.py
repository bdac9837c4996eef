"""What a source is: looked at before it is guessed, nothing left out unsaid, and what a program may hand over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests import synthetic_samples
from tests.command_line import run
from tests.data_cases import BOX, write_image, write_yolo
from tests.mutations import within_time
from tests.support import little_model
from yolov9k.common.errors import UserError
from yolov9k.data.config import load_split
from yolov9k.engine.predict.predictor import Predictor
from yolov9k.engine.predict.sources import open_source
from yolov9k.models import create_model
from yolov9k.models.checkpoints import save


@pytest.fixture
def colors() -> Predictor:
    return Predictor(synthetic_samples.ColorDetector(), img_size=320, device="cpu")


def names(source: object) -> list[str]:
    return [path.name for path in open_source(source).paths]


# --- names


@pytest.mark.parametrize("name", ["2024", "0", "screen shots", "screen", "data [v1]", "a*b", "what?", "http:", "~draft"])
def test_a_folder_that_exists_is_taken(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / name / "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert names(name) == names(tmp_path / name) == names(f"{name}/a.jpg") == ["a.jpg"]
    assert names(f"{name}/*.jpg") == names(f"{name}/**/?.*") == names(str(tmp_path / name / "[ab].jpg")) == ["a.jpg"]
    write_yolo(tmp_path, {"b": BOX})
    (tmp_path / "data.yaml").write_text(f"train: '{name}/*.jpg'\nval: images\nnames: [cell, dust]\n")
    if name != "~draft":
        assert [record.path.name for record in load_split(tmp_path / "data.yaml", "train").records] == ["a.jpg"]


def test_a_file_called_like_a_stream_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "screen 1.jpg")
    assert names("screen 1.jpg") == ["screen 1.jpg"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("2024", "streams are not supported"),
        ("rtsp://camera/1", "streams are not supported"),
        ("screen 0", "streams are not supported"),
        ("data [v1]/*.jpg", "no image or video matches the pattern"),
        ("gone", "no such file or folder"),
        ("gone/a.jpg", "no such file or folder"),
        ("", "--source: empty"),
        (" ", "--source: empty"),
        ("a\0b", "no such file or folder"),
        ("n" * 300, "no such file or folder"),
        ("~nobody-here/a.jpg", "the home folder is not known"),
    ],
)
def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        open_source(source)


def test_the_source_is_looked_at_before_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", "--source", "gone", "--weights", "gone.pt") == 3
    assert "gone: no such file or folder" in capsys.readouterr().err


def test_what_is_no_regular_file(tmp_path: Path, colors: Predictor, capfd: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with within_time():
        source = open_source(tmp_path)
        assert [result.path.name for result in colors(source)] == ["a.jpg"]
        assert [path.name for path in source.skipped] == ["gone.jpg", "pipe.jpg", "pipe.mp4"]
        for name in ("pipe.jpg", "pipe.mp4", "gone.jpg"):
            with pytest.raises(UserError, match=rf"{name}: cannot read the (image|video)"):
                list(colors(tmp_path / name))
    assert capfd.readouterr().err.count("warning: skipped") == 3


# --- what is left out


@pytest.mark.parametrize("pattern", ["", "*", "**/*"])
def test_files_of_other_formats_are_counted(tmp_path: Path, pattern: str, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a.jpg", "b.jfif"):
        write_image(tmp_path / "s" / name, format="JPEG")
    for name in ("c.HEIC", "d.heif", "e", "f.jxl", "g.jxl", "h.mts", "._a.jpg", ".hidden"):
        (tmp_path / "s" / name).touch()
    source = str(tmp_path / "s" / pattern)
    assert names(source) == ["a.jpg", "b.jfif"]
    told = capfd.readouterr().err
    assert "6 files of other formats left out (.jxl 2, .heic 1, .heif 1, no suffix 1, .mts 1)" in told
    assert len(told.splitlines()) == 1


def test_hidden_folders_are_not_entered(tmp_path: Path) -> None:
    for folder in ("", "deep", ".ipynb_checkpoints", "@eaDir", "__MACOSX/deep"):
        write_image(tmp_path / "s" / folder / "a.jpg")
    assert len(names(str(tmp_path / "s" / "**" / "*.jpg"))) == len(names(str(tmp_path / "s" / "**"))) == 2
    assert len(names(str(tmp_path / "s" / "@eaDir" / "*.jpg"))) == len(names(tmp_path / "s" / "@eaDir")) == 1


@pytest.mark.parametrize("name", ["b.HEIC", "b", "b.md"])
def test_a_listed_file_of_another_format_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "a.jpg")
    (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text(f"a.jpg\n\n{name}\n")
    with pytest.raises(UserError, match=rf"list\.txt:3: {name}: '.*' is no known format"):
        open_source(tmp_path / "list.txt")


def test_lines_of_a_list_are_looked_for_beside_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("list/a.jpg", "work/a.jpg", "work/b.jpg"):
        write_image(tmp_path / place)
    (tmp_path / "list" / "list.txt").write_text("a.jpg\nb.jpg\n")
    monkeypatch.chdir(tmp_path / "work")
    assert open_source(tmp_path / "list" / "list.txt").paths == [tmp_path / "list" / "a.jpg", tmp_path / "work" / "b.jpg"]


def test_further_frames_and_dark_images_are_told(tmp_path: Path, colors: Predictor, capfd: pytest.CaptureFixture[str]) -> None:
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "blue", "green")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.tif", save_all=True, append_images=frames[1:])
    cv2.imwrite(str(tmp_path / "c.png"), np.linspace(1, 4095, 1200).astype(np.uint16).reshape(30, 40))
    assert len(list(colors(tmp_path))) == 3
    told = capfd.readouterr().err
    for name in ("a.webp", "b.tif"):
        assert f"{tmp_path / name}: the image holds 3 frames, of which the first is used" in told
    assert f"{tmp_path / 'c.png'}: the image is near black" in told


# --- what a program hands over

SCENE = synthetic_samples.paint((120, 200), [(0, 40, 20, 140, 100)])  # BGR, a red rectangle
PILLOW = Image.fromarray(SCENE[..., ::-1])


def test_everything_that_is_an_image(tmp_path: Path, colors: Predictor) -> None:
    path = tmp_path / "a.png"
    PILLOW.save(path)
    alpha = np.dstack([SCENE, np.full((120, 200), 9, np.uint8)])
    palette = PILLOW.convert("P", palette=Image.Palette.ADAPTIVE)
    one = [SCENE, alpha, PILLOW, PILLOW.convert("RGBA"), palette, path, str(path), Image.open(path)]
    for image in (*one, *([image] for image in one), tuple(one[:1]), np.stack([SCENE])):
        (result,) = colors(image)
        np.testing.assert_allclose(result.boxes, [[40, 20, 140, 100]], atol=1.5)
        assert result.classes.tolist() == [0]
    assert [len(result) for result in colors(one)] == [1] * len(one)


def test_gray_images(colors: Predictor) -> None:
    gray = SCENE[..., 2]
    for image in (gray, gray[..., None], Image.fromarray(gray), Image.fromarray(gray.astype(np.uint16) << 8), [gray]):
        (result,) = colors(image)
        assert result.image.shape == (120, 200, 3)
        assert (result.image == gray[..., None]).all()


def test_an_opened_file_is_turned_as_its_path_is(tmp_path: Path, colors: Predictor) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    PILLOW.save(path, exif=exif)
    by_path, opened = next(colors(path)), next(colors(Image.open(path)))
    assert by_path.image.shape == (200, 120, 3)
    np.testing.assert_array_equal(by_path.image, opened.image)


def test_a_generator_is_read_one_at_a_time(colors: Predictor) -> None:
    drawn = []

    def images() -> Iterator[np.ndarray]:
        for number in range(5):
            drawn.append(number)
            yield SCENE

    results = colors(images())
    assert drawn == []
    next(results)
    assert drawn == [0]
    assert len(list(results)) == 4


@pytest.mark.parametrize(
    "source",
    [None, 1.5, object(), [None], [0], b"a.jpg", [SCENE.astype(np.float32)], SCENE > 5, [[SCENE]],
     np.zeros((2, 3, 4, 5, 6), np.uint8), np.zeros(5, np.uint8), np.array(5, np.uint8), Image.new("F", (5, 5))],
)  # fmt: skip
def test_anything_else_is_one_line(colors: Predictor, source: object) -> None:
    with pytest.raises(UserError, match=r"^image0?: ") as raised:
        list(colors(source))
    assert "\n" not in str(raised.value)


def test_a_damaged_pillow_image_is_one_line(tmp_path: Path, colors: Predictor) -> None:
    path = write_image(tmp_path / "a.jpg", 64, 64)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserError, match="image0: cannot be decoded"):
        list(colors(Image.open(path)))


def test_nothing_to_do_is_no_error(colors: Predictor) -> None:
    assert list(colors([])) == []


def test_a_list_of_paths_on_the_command_line(tmp_path: Path) -> None:
    """The whole way, by names that were taken for streams."""
    write_image(tmp_path / "2024" / "a.jpg")
    save(tmp_path / "m.pt", create_model(str(little_model(tmp_path)), 2))
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        flags = ("--weights", "m.pt", "--img", "64", "--device", "cpu", "--project", "runs", "--save-txt")
        assert run("predict", "--source", "2024", *flags) == 0
    finally:
        os.chdir(before)
    assert (tmp_path / "runs" / "exp" / "labels" / "a.txt").exists()
