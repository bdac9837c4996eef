"""From records to samples."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.augment_cases import render
from tests.data_cases import SIZE, make_records, request
from tests.tolerances import LABEL_EDGE, LETTERBOX_PIXELS
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.dataset import DetectionDataset, Failure


def white(image: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(image[..., 0] > 184)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (96, 64), (32, 64)])
def test_evaluation_letterboxes_image_and_labels(tmp_path: Path, shape: tuple[int, int]) -> None:
    records = make_records(tmp_path, [(48, 64), (200, 100), (100, 300)])
    dataset = DetectionDataset(records, TrainRecipe(), SIZE, augment=False)
    for index, record in enumerate(records):
        sample = dataset[request(index, shape=shape)]
        image, _, boxes = render(sample)
        assert image.shape == (*shape, 3)
        assert np.abs(boxes[0] - white(image)).max() <= LABEL_EDGE
        expected = record.pixel_boxes[0] * sample.gain + [*sample.pad, *sample.pad]
        assert np.abs(boxes[0] - expected).max() <= LETTERBOX_PIXELS
        assert sample.gain <= SIZE / max(record.height, record.width)
        assert sample.failures == []


@pytest.mark.parametrize("mosaic", [True, False])
def test_training_labels_follow_the_pixels(tmp_path: Path, mosaic: bool) -> None:
    records = make_records(tmp_path, [(48, 64)])  # one image: all four tiles are the same
    dataset = DetectionDataset(records, TrainRecipe().override(mixup=0, hsv_v=0, copy_paste=0), SIZE, augment=True)
    seen = set()
    for epoch in range(40):
        sample = dataset[request(0, epoch=epoch, mosaic=mosaic)]
        image, _, boxes = render(sample)
        assert image.shape == (SIZE, SIZE, 3)
        seen.add(len(boxes))
        if len(boxes):
            hull = [*boxes[:, :2].min(0), *boxes[:, 2:].max(0)]
            found = white(image)
            # objects of which almost nothing is left have no label although a few pixels show
            assert found[0] <= hull[0] + LABEL_EDGE
            assert found[3] >= hull[3] - LABEL_EDGE
            inside = np.zeros((SIZE, SIZE), bool)
            for x1, y1, x2, y2 in np.round(boxes).astype(int):
                inside[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = True
            whole = (image[..., 0] > 184) & ~inside
            assert whole.sum() <= SIZE * 4
    assert len(seen) > 1 if mosaic else seen == {1}


def test_samples_depend_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    records = make_records(tmp_path, [(48, 64), (64, 40), (30, 30), (64, 64)])
    one, two = (DetectionDataset(records, TrainRecipe(), SIZE, augment=True, seed=7) for _ in range(2))
    other = DetectionDataset(records, TrainRecipe(), SIZE, augment=True, seed=8)
    first = render(one[request(1, epoch=3, mosaic=True)])
    one[request(2, epoch=3, mosaic=True)]
    for sample, same in (
        (one[request(1, epoch=3, mosaic=True)], True),
        (two[request(1, epoch=3, mosaic=True)], True),
        (other[request(1, epoch=3, mosaic=True)], False),
        (one[request(1, epoch=4, mosaic=True)], False),
        (one[request(1, epoch=3, mosaic=False)], False),
    ):
        image, _, boxes = render(sample)
        assert np.array_equal(image, first[0]) == same
        if same:
            assert np.array_equal(boxes, first[2])


def test_a_shared_image_is_never_written_to(tmp_path: Path) -> None:
    records = make_records(tmp_path, [(64, 64), (48, 64), (64, 64), (64, 64)])
    dataset = DetectionDataset(records, TrainRecipe().override(mixup=0.5, copy_paste=1), SIZE, augment=True, cache="ram")
    before = [dataset.images(i).copy() for i in range(4)]
    for epoch in range(20):
        for index in range(4):
            render(dataset[request(index, epoch=epoch, mosaic=epoch % 2 == 0)])
    assert all(np.array_equal(dataset.images(i), before[i]) for i in range(4))


def test_an_unreadable_image_is_replaced_in_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_records(tmp_path, [(48, 64)] * 3)
    dataset = DetectionDataset(records, TrainRecipe(), SIZE, augment=True)
    records[2].path.unlink()
    sample = dataset[request(2)]
    assert [failure.index for failure in sample.failures] == [2]
    image, classes, _ = render(sample)
    assert (image != 114).any()
    assert set(classes.tolist()) <= {0}  # of record 0, the next one
    for _ in range(2):
        dataset.report(sample.failures)
    assert dataset.unreadable == {2}
    message = capsys.readouterr().err
    assert message.count("warning") == 1
    assert str(records[2].path) in message.replace("\n", "")
    assert any(
        f.index == 2 for f in dataset[request(1, mosaic=True, epoch=1)].failures + dataset[request(2, mosaic=True)].failures
    )


def test_an_unreadable_image_counts_as_missed_in_evaluation(tmp_path: Path) -> None:
    records = make_records(tmp_path, [(48, 64)] * 2)
    dataset = DetectionDataset(records, TrainRecipe(), SIZE, augment=False)
    data = records[1].path.read_bytes()
    records[1].path.write_bytes(data[:-20])
    sample = dataset[request(1)]
    assert sample.index == 1
    image, classes, _ = render(sample)
    assert (image == 114).all()
    assert len(classes) == 0
    assert [type(f) for f in sample.failures] == [Failure]
    assert "truncated" in sample.failures[0].reason


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    dataset = DetectionDataset(make_records(None, [(48, 64)] * 3), TrainRecipe(), SIZE, augment=True)
    with pytest.raises(UserError, match="can be read"):
        dataset[request(1, mosaic=True)]


def test_crowds_are_not_trained_on(tmp_path: Path) -> None:
    records = make_records(tmp_path, [(48, 64)])
    records[0].crowd[:] = True
    assert len(render(DetectionDataset(records, TrainRecipe(), SIZE, augment=False)[request(0)])[1]) == 0


def test_an_image_of_one_pixel(tmp_path: Path) -> None:
    records = make_records(tmp_path, [(1, 1)])
    for augmented in (False, True):
        sample = DetectionDataset(records, TrainRecipe(), SIZE, augment=augmented)[request(0, mosaic=augmented)]
        assert render(sample)[0].shape == (SIZE, SIZE, 3)


def test_an_image_that_changed_its_size_still_fits(tmp_path: Path) -> None:
    records = make_records(tmp_path, [(48, 64)])
    cv2.imwrite(str(records[0].path), np.zeros((90, 30, 3), np.uint8))
    for augmented in (True, False):
        dataset = DetectionDataset(records, TrainRecipe(), SIZE, augment=augmented)
        assert render(dataset[request(0, shape=(32, 64))])[0].shape == (32, 64, 3)
