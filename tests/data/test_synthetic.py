"""The demonstration data set: the same bytes for the same seed, boxes that fit, folders that are never destroyed."""

from __future__ import annotations

import errno
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiers import examples
from yolov9k.common.errors import UserError
from yolov9k.data import synthetic


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_layout_and_labels(tmp_path: Path) -> None:
    data = synthetic.generate(tmp_path / "shapes", train=3, val=2, size=96)
    folder = data.parent
    config = yaml.safe_load(data.read_text())
    assert config == {"train": "images/train", "val": "images/val", "names": dict(enumerate(synthetic.NAMES))}
    for number, (split, count) in enumerate((("train", 3), ("val", 2))):
        images = sorted((folder / "images" / split).iterdir())
        assert [image.stem for image in images] == [f"{index:05d}" for index in range(count)]
        for index, path in enumerate(images):
            sample = synthetic.draw_sample((0, number, index), 96)
            image = cv2.imread(str(path))
            assert image is not None
            assert image.shape == (96, 96, 3)
            assert np.abs(image.astype(int) - sample.image).mean() < 8  # JPEG's loss
            rows = np.loadtxt(folder / "labels" / split / f"{path.stem}.txt", ndmin=2)
            np.testing.assert_array_equal(rows[:, 0], sample.classes)
            corners = np.concatenate((rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2), 1) * 96
            np.testing.assert_allclose(corners, sample.boxes, atol=1e-3)  # six digits in the file


def test_same_seed_same_bytes_and_another_seed_other_images(tmp_path: Path) -> None:
    first, second, other = (
        contents(synthetic.generate(tmp_path / name, train=4, val=2, size=64, seed=seed).parent)
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert first == second
    assert first["images/train/00000.jpg"] != other["images/train/00000.jpg"]
    assert first["images/train/00000.jpg"] != first["images/val/00000.jpg"]


def test_a_larger_set_begins_with_the_smaller(tmp_path: Path) -> None:
    small = contents(synthetic.generate(tmp_path / "a", train=2, val=1, size=64).parent)
    large = contents(synthetic.generate(tmp_path / "b", train=4, val=1, size=64).parent)
    assert {name: large[name] for name in small if name.startswith(("images", "labels"))} == {
        name: data for name, data in small.items() if name.startswith(("images", "labels"))
    }


def test_the_same_generation_is_kept_and_another_replaces_it(tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    synthetic.generate(folder, train=2, val=1, size=64)
    mark = folder / "images" / "train" / "00000.jpg"
    stamp = mark.stat().st_mtime_ns
    synthetic.generate(folder, train=2, val=1, size=64)
    assert mark.stat().st_mtime_ns == stamp
    synthetic.generate(folder, train=1, val=1, size=64)
    assert [path.name for path in mark.parent.iterdir()] == ["00000.jpg"]
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]  # no staging folder is left


def test_an_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:  # a full disk cannot be had in a test
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="cannot be written"):
        synthetic.generate(tmp_path / "shapes", train=1, val=1, size=64)
    assert not list(tmp_path.iterdir())


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds something other than synthetic data"):
        synthetic.generate(tmp_path, train=1, val=1, size=64)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert synthetic.generate(tmp_path / "empty", train=1, val=1, size=64).is_file()


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"size": 31}, {"seed": -1}])
def test_numbers_out_of_range_are_named(tmp_path: Path, wrong: dict[str, int]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"{name} is {value}; it must be at least"):
        synthetic.generate(tmp_path / "shapes", **wrong)


@settings(deadline=None, max_examples=examples(60))
@given(st.integers(0, 2**31), st.integers(32, 160))
def test_samples_hold_one_to_four_boxes_inside_the_image(seed: int, size: int) -> None:
    sample = synthetic.draw_sample((seed, 0, 0), size)
    assert sample.image.shape == (size, size, 3)
    assert sample.image.dtype == np.uint8
    assert 1 <= len(sample.classes) == len(sample.boxes) <= 4
    assert ((sample.classes >= 0) & (sample.classes < len(synthetic.NAMES))).all()
    assert (sample.boxes >= 0).all()
    assert (sample.boxes <= size).all()
    extent = sample.boxes[:, 2:] - sample.boxes[:, :2]
    assert (extent >= 0.1 * size).all()
    assert (extent <= 0.6 * size).all()


def test_boxes_fit_a_lone_circle_to_the_pixel() -> None:
    alpha = synthetic._coverage(synthetic._outline(0, 20.0, 0.3) + np.float32(50), 100)
    assert synthetic._tight_box(alpha > 0.5) == (30, 30, 70, 70)


def test_every_class_appears() -> None:
    seen = np.concatenate([synthetic.draw_sample((0, 0, index), 64).classes for index in range(60)])
    assert np.bincount(seen, minlength=len(synthetic.NAMES)).min() > 10
