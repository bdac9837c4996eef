"""The facade: one object that trains, validates and predicts, with the names that users of other implementations know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import yolov9k
from tests import synthetic_samples
from tests.engine_cases import TINY
from yolov9k import YOLOv9
from yolov9k.common.errors import UserError
from yolov9k.compat import load
from yolov9k.data.synthetic import generate
from yolov9k.engine.events import PredictBatchEnd
from yolov9k.models.checkpoints import save

IMAGE = synthetic_samples.paint((64, 96), [(0, 10, 10, 60, 50)])
LOW = {"imgsz": 64, "conf": 0.001, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a model's YAML and a checkpoint of its network."""
    made = tmp_path_factory.mktemp("facade")
    generate(made / "data", train=4, val=2, size=64)
    (made / "tiny.yaml").write_text(TINY)
    torch.manual_seed(3)
    save(made / "tiny.pt", yolov9k.create_model(made / "tiny.yaml", 4))
    return made


def small(folder: Path, tmp_path: Path, **more: Any) -> dict[str, Any]:
    """Arguments of a run of an instant, by names of Ultralytics'."""
    return {"data": folder / "data" / "data.yaml", "imgsz": 64, "epochs": 1, "batch": 2, "workers": 0, "device": "cpu",
            "plots": False, "close_mosaic": 0, "project": tmp_path / "runs", **more}  # fmt: skip


# --- what it is made of


def test_a_name_a_file_or_a_network(folder: Path) -> None:
    assert repr(YOLOv9()) == "YOLOv9('yolov9-c')"
    named, filed = YOLOv9(folder / "tiny.yaml"), YOLOv9(folder / "tiny.pt")
    assert (named.model.num_classes, filed.model.num_classes) == (2, 4)
    held = YOLOv9(filed.model)
    assert held.model is filed.model
    assert filed.names[0] == "0"
    assert dict(filed.names) == {0: "0", 1: "1", 2: "2", 3: "3"}
    assert (repr(held), filed.task, filed.device.type) == ("YOLOv9('tiny')", "detect", "cpu")
    assert isinstance(filed.model, yolov9k.DetectionModel)


def test_a_name_alone_is_said_to_have_fresh_weights_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = YOLOv9("gelan-t")
    named.predict(IMAGE, **LOW)
    fetch = "('yolov9k download gelan-t' fetches published ones)"
    said = f"gelan-t has fresh weights, which find nothing: train it, or give a file of weights {fetch}"
    assert said in capsys.readouterr().err
    named.predict(IMAGE, **LOW)
    YOLOv9(folder / "tiny.pt").predict(IMAGE, **LOW)
    YOLOv9(named.model).predict(IMAGE, **LOW)
    assert "fresh weights" not in capsys.readouterr().err
    YOLOv9(folder / "tiny.yaml").predict(IMAGE, **LOW)
    assert "train it, or give a file of weights\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("yolov9-q", "model yolov9-q: "),
        ("nowhere.pt", r"nowhere\.pt"),
        (3, "expected a model's name, a file or a network, got int; yolov9k.load and yolov9k.create_model give networks"),
        (torch.nn.Linear(1, 1), "got Linear"),
    ],
)
def test_what_is_no_model_is_one_line(model: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        YOLOv9(model)


def test_code_that_took_it_for_the_network_is_told(folder: Path) -> None:
    spec = load(folder / "tiny.pt").spec
    with pytest.raises(UserError, match=r"got ModelSpec; the network's class is yolov9k\.DetectionModel"):
        YOLOv9(spec)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="task segment: only detect is there"):
        YOLOv9("yolov9-t", task="segment")


def test_info_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers, parameters, trained, gflops = YOLOv9(folder / "tiny.pt").info(imgsz=64)
    network = load(folder / "tiny.pt")
    assert (layers, parameters) == (6, sum(p.numel() for p in network.parameters()))
    assert trained <= parameters
    assert 0 < gflops < 1
    assert f"{parameters:,} parameters" in capsys.readouterr().out
    YOLOv9(folder / "tiny.pt").info(detailed=True, imgsz=64)
    assert "DDetect" in capsys.readouterr().out


def test_weights_come_and_go(folder: Path, tmp_path: Path) -> None:
    fresh = YOLOv9(folder / "tiny.yaml", verbose=False)
    model = YOLOv9(yolov9k.create_model(folder / "tiny.yaml", 4)).load(folder / "tiny.pt")
    key = "model.0.conv.weight"
    assert torch.equal(model.model.state_dict()[key], load(folder / "tiny.pt").state_dict()[key])
    model.save(tmp_path / "again.safetensors")
    assert load(tmp_path / "again.safetensors").num_classes == 4
    assert fresh.fuse() is fresh
    assert fresh.to("cpu").cpu().device.type == "cpu"


# --- training


def test_it_trains_by_the_names_of_ultralytics(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = YOLOv9(folder / "tiny.yaml", verbose=False)
    metrics = model.train(**small(folder, tmp_path, name="a", lr0=0.02, cos_lr=True, amp=False, seed=3, patience=0, val=False,
                                  fraction=0.5, warmup_epochs=0, nbs=2))  # fmt: skip
    assert capsys.readouterr().out == ""
    trainer = model.trainer
    assert trainer is not None
    assert (trainer.recipe.lr0, trainer.recipe.nominal_batch, trainer.options.lr_curve) == (0.02, 2, "cosine")
    assert (trainer.options.amp, trainer.options.noval, trainer.options.seed) == ("off", True, 3)
    assert len(trainer.train_split.records) == 2
    assert metrics.save_dir == tmp_path / "runs" / "a"
    assert model.ckpt_path == tmp_path / "runs" / "a" / "weights" / "best.pt"
    assert list(model.names) == trainer.train_split.names
    assert 0 <= metrics.box.map <= metrics.box.map50 <= 1
    assert metrics is model.metrics


@pytest.mark.e2e
def test_a_name_is_trained_from_fresh_weights_of_the_seed(folder: Path, tmp_path: Path) -> None:
    runs = []
    for number in range(2):
        model = YOLOv9(folder / "tiny.yaml", verbose=False)
        if number:
            model.info(imgsz=64)  # which makes a network of other weights, and changes nothing
        model.train(**small(folder, tmp_path, seed=5))
        runs.append(model.model.state_dict())
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


@pytest.mark.e2e
def test_training_starts_from_what_the_network_holds(folder: Path, tmp_path: Path) -> None:
    """A file's weights, or those that were changed in place; the learning rate is too small to move them."""
    still = small(folder, tmp_path, lr0=1e-9, warmup_epochs=0, momentum=0, weight_decay=0)
    model, key = YOLOv9(folder / "tiny.pt", verbose=False), "model.0.conv.weight"
    model.train(**still)
    assert torch.allclose(model.model.state_dict()[key], load(folder / "tiny.pt").state_dict()[key], atol=1e-5)
    with torch.no_grad():
        model.model.state_dict()[key].fill_(0.25)
    model.train(**still)
    assert torch.allclose(model.model.state_dict()[key], torch.tensor(0.25), atol=1e-5)


@pytest.mark.e2e
def test_a_run_is_resumed(folder: Path, tmp_path: Path) -> None:
    model = YOLOv9(folder / "tiny.yaml", verbose=False)
    model.add_callback("on_fit_epoch_end", lambda event: setattr(event, "stop", True))
    model.train(**small(folder, tmp_path, epochs=3))
    again = YOLOv9(model.ckpt_path.with_name("last.pt"), verbose=False)
    again.train(resume=True, device="cpu")
    assert again.trainer.directory == model.trainer.directory
    assert (again.trainer.first_epoch, again.trainer.next_epoch) == (1, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epcohs": 3}, r"epcohs.*[Dd]id you mean 'epochs'"),
        ({"imgz": 64}, "imgz.*'imgsz'|'img'"),
        ({"epochs": "many"}, "epochs"),
        ({"batch": -7}, "batch"),
        ({"device": "cuda:77"}, "device cuda:77"),
        ({"data": "nowhere.yaml"}, r"nowhere\.yaml"),
        ({"augment": True}, "augment: expected a function of image, boxes and classes, got bool"),
    ],
)
def test_mistakes_are_one_line(folder: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        YOLOv9(folder / "tiny.yaml", verbose=False).train(**{**small(folder, tmp_path), **options})
    assert "\n" not in str(told.value)
    assert not (tmp_path / "runs").exists()


def test_an_augmentation_of_the_users_reaches_the_loader(folder: Path, tmp_path: Path) -> None:
    seen = []

    def look(image, boxes, classes):
        seen.append(image.shape)
        return image, boxes, classes

    YOLOv9(folder / "tiny.yaml", verbose=False).train(**small(folder, tmp_path, augment=look, mosaic=0))
    assert seen == [(64, 64, 3)] * 4


# --- validation


def test_it_validates(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = YOLOv9(folder / "tiny.pt")
    with pytest.raises(UserError, match=r"val: give data, a data\.yaml or a folder"):
        model.val()
    metrics = model.val(folder / "data" / "data.yaml", imgsz=64, batch=2, workers=0, device="cpu", project=tmp_path, name="v")
    assert metrics.save_dir == tmp_path / "v"
    assert list(metrics.results_dict) == [
        "metrics/precision(B)", "metrics/recall(B)", "metrics/mAP50(B)", "metrics/mAP50-95(B)", "fitness",
    ]  # fmt: skip
    assert set(metrics.speed) == {"preprocess", "inference", "postprocess"}
    assert metrics.maps.shape == (4,)
    assert len(metrics.box.p) == len(metrics.box.f1) == len(metrics.ap_class_index) == len(metrics.summary())
    assert metrics.ap == metrics.box.map  # ours by its own name
    assert "AP50" in capsys.readouterr().out


# --- prediction


@pytest.fixture(scope="module")
def model(folder: Path) -> YOLOv9:
    return YOLOv9(folder / "tiny.pt")


def test_lists_generators_and_calls(model: YOLOv9, folder: Path) -> None:
    one, several = model(IMAGE, **LOW), model.predict([IMAGE, IMAGE[:32]], **LOW)
    assert isinstance(one, list)
    assert [len(one), len(several)] == [1, 2]
    assert several[1].orig_shape == (32, 96)
    assert one[0].boxes.xyxy.tolist() == several[0].boxes.xyxy.tolist()
    stream = model(folder / "data" / "images" / "val", stream=True, **LOW)
    assert not isinstance(stream, list)
    assert next(stream).path.parent.name == "val"
    same = yolov9k.Predictor(model.model, 64, conf=0.001, device="cpu")
    assert next(iter(same(IMAGE))).boxes.tolist() == one[0].boxes.tolist()


def test_nothing_is_written_unless_it_is_asked_for(model: YOLOv9, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model(IMAGE, **LOW)
    assert not list(tmp_path.iterdir())
    cv2.imwrite("a.png", IMAGE)
    model("a.png", save=True, save_txt=True, save_conf=True, project="out", name="files", **LOW)
    assert {str(path.relative_to("out/files")) for path in Path("out/files").rglob("*.*")} == {"a.png", "labels/a.txt"}
    model([IMAGE, IMAGE], save=True, project="out", name="arrays", **LOW)
    assert {path.name for path in Path("out/arrays").iterdir()} == {"image0.png", "image1.png"}


def test_the_network_is_made_ready_once_and_again_where_it_changes(folder: Path) -> None:
    model = YOLOv9(folder / "tiny.pt")
    before = model(IMAGE, **LOW)[0].boxes.tolist()
    ready = model._predictor
    model(IMAGE, **LOW)
    assert model._predictor is ready
    with torch.no_grad():
        model.model.state_dict()["model.0.conv.weight"].mul_(-3)
    assert model(IMAGE, **LOW)[0].boxes.tolist() != before
    assert model._predictor is not ready
    assert all(box.cls == 1 for box in model(IMAGE, classes=[1], max_det=3, **LOW)[0].boxes)


def test_callbacks_are_told_of_predictions(model: YOLOv9) -> None:
    seen = []
    model.add_callback("on_predict_batch_end", lambda event: seen.append(len(event.results)))
    model([IMAGE] * 2, **LOW)
    model.clear_callback(PredictBatchEnd)
    model(IMAGE, **LOW)
    assert seen == [1, 1]
    model.reset_callbacks()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (None, {}, "predict: give a source"),
        (0, {}, "predict: camera 0 does not end; give stream=True"),
        ("nowhere.jpg", {}, r"nowhere\.jpg: no such file"),
        ("https://host/a.jpg", {}, "nothing is fetched from the network"),
        (IMAGE, {"cnof": 0.2}, "cnof.*'conf'"),
        (IMAGE, {"conf": 2}, "conf"),
        (IMAGE, {"classes": ["green"]}, "classes green: the model knows"),
    ],
)
def test_mistakes_of_prediction_are_one_line(model: YOLOv9, source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model(source, **options)


@pytest.mark.parametrize("verb", ["export", "track", "tune", "benchmark"])
def test_what_is_not_there_says_what_to_do(model: YOLOv9, verb: str) -> None:
    with pytest.raises(UserError, match=f"{verb}: there is no "):
        getattr(model, verb)()


def test_verbose_prints_a_line_an_image(model: YOLOv9, capsys: pytest.CaptureFixture[str]) -> None:
    model(np.zeros((64, 64, 3), np.uint8), verbose=True, imgsz=64, conf=1.0, device="cpu")
    assert capsys.readouterr().out == "image0: nothing\n"
