"""Validation end to end: mapping to original pixels, the real loss, modes, pictures and JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import yolov9k
from tests import scenes
from tests.support import shared
from yolov9k.data.loader import Loader, make_loader
from yolov9k.data.records import Split
from yolov9k.engine.validator import print_metrics, validate
from yolov9k.errors import UserError
from yolov9k.hyp import Hyp
from yolov9k.losses import DetectionLoss


def loader_of(split: Split, img_size: int = 128, batch: int = 2, rect: bool = True) -> Loader:
    return make_loader(split, Hyp(), img_size=img_size, batch=batch, augment=False, rect=rect, workers=0)


def tiny(split: Split, name: str = "gelan-t") -> yolov9k.YOLOv9:
    torch.manual_seed(0)
    model = yolov9k.create_model(name, num_classes=len(split.names))
    model.names = split.names
    return model


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return scenes.split(tmp_path)


@pytest.mark.parametrize("rect", [False, True])
def test_detections_land_on_the_original_pixels(split: Split, tmp_path: Path, rect: bool) -> None:
    """Wide, tall, small and large pictures: who is right in the letterboxed picture is right in the original."""
    path, loader = tmp_path / "r.json", loader_of(split, 320, 3, rect)
    result = validate(scenes.ColourDetector(), loader, split=split, save_json=path, progress=False)
    assert result.metrics.ap75 == 1.0
    assert result.metrics.ap > 0.9
    np.testing.assert_array_equal(result.metrics.confusion, np.diag([3, 2, 0]))
    saved = {(row["image_id"], row["category_id"]): row for row in json.loads(path.read_text())}
    assert set(saved) == {(11, 7), (11, 3), (5, 7), (5, 3), (2, 7)}
    np.testing.assert_allclose(saved[2, 7]["bbox"], [300, 100, 260, 300], atol=3)  # halved on the way: 2 px a pixel


def test_loss_is_that_of_the_raw_maps(split: Split) -> None:
    model, criterion, loader = tiny(split, "yolov9-t"), DetectionLoss(2), loader_of(split, batch=4, rect=False)
    result = validate(model, loader, split=split, criterion=criterion, progress=False)
    batch = next(iter(loader))
    with torch.no_grad():
        branches = model.eval().branches(batch.images.float() / 255)
    assert len(branches) == 2
    _, parts = criterion(branches, (batch.boxes, batch.counts))
    assert result.losses == pytest.approx(parts.tolist(), rel=1e-6)
    assert min(result.losses) > 0


def test_modes_and_weights_are_left_as_they_were(split: Split) -> None:
    model = tiny(split)
    model.train()
    frozen = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    frozen.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = validate(model, loader_of(split), split=split, progress=False)
    assert model.training
    assert not frozen.training
    assert sum(not m.training for m in model.modules()) == 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert min(result.speed.preprocess, result.speed.inference, result.speed.postprocess) > 0
    assert result.losses is None


def test_mode_is_restored_after_a_failure(split: Split) -> None:
    model = tiny(split)
    model.train()
    with pytest.raises(UserError, match="--amp fp8"):
        validate(model, loader_of(split), split=split, amp="fp8", progress=False)
    assert model.training


def test_mixed_precision_runs(split: Split) -> None:
    options = {"criterion": DetectionLoss(2), "amp": "bf16", "channels_last": True}
    result = validate(tiny(split), loader_of(split), split=split, progress=False, **options)
    assert np.isfinite(result.losses).all()


def test_nan_is_said(split: Split, capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny(split)
    with torch.no_grad():
        model.head.cv3[0][-1].bias.fill_(float("nan"))
    result = validate(model, loader_of(split), split=split, progress=False)
    assert result.metrics.ap == 0
    assert "NaN or infinity in 4 of 4 images" in capfd.readouterr().err


def test_classes_must_agree(split: Split) -> None:
    model = yolov9k.create_model("gelan-t", num_classes=5)
    with pytest.raises(UserError, match="2 classes in the data, 5 in the model"):
        validate(model, loader_of(split), split=split, progress=False)


def test_options_are_checked(split: Split) -> None:
    for options, message in [({"conf": -1}, "--conf -1"), ({"iou": 2}, "--iou 2"), ({"max_det": 0}, "--max-det 0")]:
        with pytest.raises(UserError, match=message):
            validate(tiny(split), loader_of(split), split=split, progress=False, **options)


def test_single_class_counts_any_class(split: Split) -> None:
    """Red and blue become one: a detector of two classes is right about every object."""
    one = Split("val", ["object"], [1], split.records, [], split.source)
    for record in one.records:
        record.classes[:] = 0
    options = {"single_cls": True, "criterion": DetectionLoss(2)}
    result = validate(scenes.ColourDetector(), loader_of(one, 320), split=one, progress=False, **options)
    assert result.losses is None
    assert result.metrics.ap75 == 1.0
    assert len(result.metrics.per_class) == 1


def test_pictures_and_table(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "plots"
    result = validate(scenes.ColourDetector(), loader_of(split, 320), split=split, plots_dir=out, progress=False)
    names = {path.name for path in out.iterdir()}
    assert names == {
        "PR_curve.png", "F1_curve.png", "confusion_matrix.png", "val_batch0_labels.png", "val_batch0_pred.png",
    }  # fmt: skip
    labels, predictions = (cv2.imread(str(out / f"val_batch0_{kind}.png")) for kind in ("labels", "pred"))
    assert labels.shape == predictions.shape
    assert (labels != predictions).any()  # scores stand on one of them
    stream = io.StringIO()
    print_metrics(result, Console(file=stream, width=100))
    for text in ("all", "red", "blue", "AP75 1.0000", "postprocess"):
        assert text in stream.getvalue()


def test_real_photographs() -> None:
    from yolov9k.data.config import load_split

    split = load_split(shared("data/coco-demo"), "val")
    small = Split(split.name, split.names, split.category_ids, split.records[:4], [], split.source)
    result = validate(tiny(small), loader_of(small, 96), split=small, conf=1e-6, progress=False)
    assert result.metrics.images == 4
    assert sum(row.instances for row in result.metrics.per_class) == sum(int((~r.crowd).sum()) for r in small.records)
