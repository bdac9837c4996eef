"""Validation end to end: mapping to original pixels, the real loss, modes, images and JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import yolov9k
from tests import synthetic_samples
from tests.host_reads import HostRead, forbidden_host_reads
from tests.support import shared
from tests.tiers import slow_case
from tests.tolerances import FUSED, JSON_BOX, JSON_SCORE
from yolov9k.common.errors import UserError
from yolov9k.common.host_copy import AsyncHostCopy
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.letterbox import map_to_image
from yolov9k.data.loader import Batch, Loader, make_loader
from yolov9k.data.records import Split
from yolov9k.engine.evaluate import validator
from yolov9k.engine.evaluate.validator import print_metrics, validate
from yolov9k.losses import DetectionLoss
from yolov9k.ops import batched_nms
from yolov9k.tasks.detect.coco import CocoEvaluator


def loader_of(split: Split, img_size: int = 64, batch: int = 2, rect: bool = True) -> Loader:
    return make_loader(split, TrainRecipe(), img_size=img_size, batch=batch, augment=False, rect=rect, workers=0)


def tiny(split: Split, name: str = "gelan-t") -> yolov9k.DetectionModel:
    torch.manual_seed(0)
    model = yolov9k.create_model(name, num_classes=len(split.names))
    model.names = split.names
    return model


def one_class(split: Split) -> Split:
    for record in split.records:
        record.classes[:] = 0
    return Split("val", ["object"], [1], split.records, [], split.source)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return synthetic_samples.split(tmp_path)


@pytest.mark.parametrize("rect", [False, True])
def test_detections_land_on_the_original_pixels(split: Split, tmp_path: Path, rect: bool) -> None:
    """Wide, tall, small and large images: who is right in the letterboxed image is right in the original."""
    path, loader = tmp_path / "r.json", loader_of(split, 320, 3, rect)
    result = validate(synthetic_samples.ColorDetector(), loader, split=split, save_json=path, progress=False)
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
    assert list(result.losses) == ["box", "cls", "dfl"]
    assert list(result.losses.values()) == pytest.approx(parts.tolist(), rel=1e-6)
    assert min(result.losses.values()) > 0


def plain(
    model: yolov9k.DetectionModel, loader: Loader, split: Split, criterion: DetectionLoss | None = None
) -> tuple[CocoEvaluator, torch.Tensor]:
    """Validation as it is defined: the model itself, every branch, every anchor decoded, image by image."""
    evaluator, total = CocoEvaluator(split.names, split.category_ids, split.records), torch.zeros(3)
    weight = next(model.parameters())
    with torch.no_grad():
        for batch in loader:
            branches = model.eval().branches(batch.images.to(weight.dtype) / 255)
            kept = batched_nms(model.decode(branches[-1]), 0.001, 0.7, multi_label=True)
            if criterion:
                total = total + criterion(branches, (batch.boxes, batch.counts))[1] * len(batch)
            for row, index in enumerate(batch.indices):
                record, found = split.records[index], kept.detections[row, : int(kept.counts[row])]
                boxes = map_to_image(found[:, :4], batch.scale[row], batch.pad[row], (record.height, record.width))
                evaluator.update(record.image_id, torch.cat([boxes, found[:, 4:]], 1))
    return evaluator, total / len(split.records)


@pytest.mark.parametrize("with_loss", [slow_case(False), True])
def test_the_fused_copy_finds_and_loses_what_the_model_does(split: Split, tmp_path: Path, with_loss: bool) -> None:
    """In float64, where folding costs nothing: every detection, every figure, every branch's loss."""
    model, loader = tiny(split, "yolov9-t").double().train(), loader_of(split, 128, 3)
    with torch.no_grad():  # statistics that are not the initial ones
        model.branches(torch.rand(4, 3, 64, 64, dtype=torch.float64))
    criterion = DetectionLoss(2) if with_loss else None
    result = validate(model, loader, split=split, criterion=criterion, save_json=tmp_path / "a.json", progress=False)
    evaluator, losses = plain(model, loader, split, criterion)
    evaluator.save_json(tmp_path / "b.json")
    found, wanted = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert len(wanted) > 100
    assert [(r["image_id"], r["category_id"]) for r in found] == [(r["image_id"], r["category_id"]) for r in wanted]
    np.testing.assert_allclose([r["bbox"] for r in found], [r["bbox"] for r in wanted], atol=JSON_BOX)
    np.testing.assert_allclose([r["score"] for r in found], [r["score"] for r in wanted], atol=JSON_SCORE)
    assert result.metrics.to_dict() == evaluator.compute().to_dict()
    if with_loss:
        np.testing.assert_allclose(list(result.losses.values()), losses, rtol=FUSED)


class Ready:
    """A loader whose batches are made: what reads the host's own tensors is done."""

    def __init__(self, loader: Loader) -> None:
        self.dataset, self.batches = loader.dataset, list(loader)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each read of a tensor an error while batches are worked on, but for the hand-over's."""
    over = validator._Run.over

    def watched(run: Any, *arguments: Any) -> None:
        with forbidden_host_reads(AsyncHostCopy._take):
            over(run, *arguments)

    monkeypatch.setattr(validator._Run, "over", watched)


@pytest.mark.parametrize(("backend", "amp"), [("reference", "off"), slow_case("triton", "bf16")])
@pytest.mark.parametrize("options", [{"criterion": DetectionLoss(2)}, slow_case({}), slow_case({"single_cls": True})])
def test_the_loop_reads_nothing_but_by_the_hand_over(
    split: Split, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], backend: str, amp: str
) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    model = tiny(split, "yolov9-t")
    model.head.backend = backend
    split = one_class(split) if options.get("single_cls") else split
    ready = Ready(loader_of(split))
    wanted = validate(model, ready, split=split, amp=amp, conf=0.01, progress=False, **options)
    watch(monkeypatch)
    found = validate(model, ready, split=split, amp=amp, conf=0.01, progress=False, **options)
    assert found.metrics.to_dict() == wanted.metrics.to_dict()
    assert found.losses == wanted.losses


def test_a_loop_that_reads_is_caught(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reading(DetectionLoss):
        def __call__(self, branches: Any, targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
            total, parts = super().__call__(branches, targets)
            return total, parts if total > 0 else parts * 2

    watch(monkeypatch)
    with pytest.raises(HostRead):
        validate(tiny(split), Ready(loader_of(split)), split=split, criterion=Reading(2), progress=False)


def test_the_copy_is_made_once(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fuse = yolov9k.DetectionModel.fuse
    monkeypatch.setattr(yolov9k.DetectionModel, "fuse", lambda model: calls.append(model.head.num_branches) or fuse(model))
    model, loader = tiny(split, "yolov9-t"), loader_of(split, batch=2)
    validate(model, loader, split=split, progress=False)
    validate(model, loader, split=split, criterion=DetectionLoss(2), progress=False)
    assert calls == [2, 2]


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
    assert np.isfinite(list(result.losses.values())).all()


def test_nan_is_said(split: Split, capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny(split)
    with torch.no_grad():
        model.head.cv3[0][-1].bias.fill_(float("nan"))
    result = validate(model, loader_of(split), split=split, progress=False)
    assert result.metrics.ap == 0
    assert "NaN or infinity in 4 of 4 images" in capfd.readouterr().err


def test_outputs_beyond_any_loss_are_said(split: Split, capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny(split)
    with torch.no_grad():
        model.head.cv3[0][-1].bias.fill_(3e38)  # a checkpoint of weights of 1e30 came to this
    validate(model, loader_of(split), split=split, criterion=DetectionLoss(2), progress=False)
    assert "the loss is not finite" in capfd.readouterr().err


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
    one = one_class(split)
    options = {"single_cls": True, "criterion": DetectionLoss(2)}
    result = validate(synthetic_samples.ColorDetector(), loader_of(one, 320), split=one, progress=False, **options)
    assert result.losses is None
    assert result.metrics.ap75 == 1.0
    assert len(result.metrics.per_class) == 1


def test_images_and_table(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "plots"
    result = validate(synthetic_samples.ColorDetector(), loader_of(split, 320), split=split, plots_dir=out, progress=False)
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


def test_real_images() -> None:
    from yolov9k.data.config import load_split

    split = load_split(shared("data/coco-demo"), "val")
    small = Split(split.name, split.names, split.category_ids, split.records[:4], [], split.source)
    result = validate(tiny(small), loader_of(small, 96), split=small, conf=1e-6, progress=False)
    assert result.metrics.images == 4
    assert sum(row.instances for row in result.metrics.per_class) == sum(int((~r.crowd).sum()) for r in small.records)


def test_labels_of_what_was_found(split: Split, tmp_path: Path) -> None:
    """A file an image, empty where nothing was found; in shares of the original image, with scores where asked for."""
    loader = loader_of(split, 320)
    for conf in (False, True):
        validate(
            synthetic_samples.ColorDetector(),
            loader,
            split=split,
            save_txt=tmp_path / str(conf),
            save_conf=conf,
            progress=False,
        )
    assert {path.name for path in (tmp_path / "True").iterdir()} == {f"{record.path.stem}.txt" for record in split.records}
    assert (tmp_path / "True" / "empty.txt").read_text() == ""
    for record in split.records:
        rows = np.loadtxt(tmp_path / "True" / f"{record.path.stem}.txt", ndmin=2).reshape(-1, 6)
        assert sorted(rows[:, 0]) == sorted(record.classes)
        rows = rows[np.argsort(rows[:, 0])]
        wanted = record.boxes[np.argsort(record.classes)]
        centers = np.hstack([(wanted[:, :2] + wanted[:, 2:]) / 2, wanted[:, 2:] - wanted[:, :2]])
        pixels = (rows[:, 1:5] - centers) * [record.width, record.height, record.width, record.height]
        np.testing.assert_allclose(pixels, 0, atol=3)  # halved on the way, as above
        assert rows[:, 5] == pytest.approx(0.9)
        plain = (tmp_path / "False" / f"{record.path.stem}.txt").read_text().splitlines()
        assert [line.split() for line in plain] == [
            line.split()[:5] for line in (tmp_path / "True" / f"{record.path.stem}.txt").read_text().splitlines()
        ]


def test_augmented_predictions_have_no_loss(split: Split) -> None:
    model = tiny(split)
    result = validate(model, loader_of(split), split=split, criterion=DetectionLoss(2), conf=0.01, augment=True, progress=False)
    assert result.losses is None
    assert result.metrics.images == 4
