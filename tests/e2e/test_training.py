"""Training on small synthetic samples: the schedule, the loop, what it leaves, and what can go wrong."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from tests.support import little_model
from yolov9k import load
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.cache import nvjpeg
from yolov9k.data.config import load_split
from yolov9k.data.synthetic import generate
from yolov9k.engine.evaluate.validator import ValidationResult
from yolov9k.engine.train.run_dir import Results, columns, latest_checkpoint, make_run_directory
from yolov9k.engine.train.schedule import Schedule
from yolov9k.engine.train.trainer import Trainer
from yolov9k.models.checkpoints import FORMAT
from yolov9k.tasks import DetectTask

pytestmark = pytest.mark.e2e

HYP = {"nominal_batch": 4, "warmup_epochs": 1, "warmup_iterations": 2, "ema_decay": 0.9, "ema_tau": 4}

COLUMNS = (
    "epoch", "time",
    "train/box_loss", "train/cls_loss", "train/dfl_loss",
    "metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95",
    "val/box_loss", "val/cls_loss", "val/dfl_loss",
    "lr/pg0", "images_per_s", "memory_gb",
)  # fmt: skip


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("samples") / "data", train=8, val=4, size=64)


def plain_options(samples: Path, folder: Path) -> dict[str, Any]:
    """Two epochs of gelan-t on the samples, into `folder`."""
    recipe = folder / "hyp.yaml"
    recipe.write_text(yaml.safe_dump(HYP))
    return {
        "data": str(samples), "cfg": "gelan-t", "img": 64, "batch": 4, "epochs": 2, "hyp": str(recipe), "device": "cpu",
        "workers": 0, "project": str(folder / "runs"), "name": "exp", "close_mosaic": 0,
    }  # fmt: skip


@pytest.fixture
def options(samples: Path, tmp_path: Path) -> dict[str, Any]:
    return plain_options(samples, tmp_path)


@pytest.fixture
def little(options: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The same with a little model, where a whole run matters and its model does not."""
    return {**options, "cfg": str(little_model(tmp_path))}


@pytest.fixture(scope="module")
def straight(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, ValidationResult]:
    """A run that went to its end, and what it returned; nobody changes it."""
    run = trainer(plain_options(samples, tmp_path_factory.mktemp("straight")))
    return run, run.fit()


def trainer(options: dict[str, Any], **changes: Any) -> Trainer:
    return Trainer(TrainOptions(**{**options, **changes}), Console(quiet=True))


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_schedule_is_the_papers() -> None:
    schedule = Schedule(TrainRecipe(), batch=16, iterations_per_epoch=1000, epochs=500)
    assert schedule.warmup == 3000
    assert schedule.accumulate == 4
    first, middle, late = schedule.at(0), schedule.at(1500), schedule.at(499 * 1000)
    assert (first.lr, first.bias_lr, first.momentum, first.accumulate) == (0.0, 0.1, 0.8, 1)
    lr = 0.01 * ((1 - 1 / 500) * 0.99 + 0.01)
    assert middle.lr == pytest.approx(lr / 2)
    assert middle.bias_lr == pytest.approx(0.1 + (lr - 0.1) / 2)
    assert middle.momentum == pytest.approx((0.8 + 0.937) / 2)
    assert middle.accumulate == 2
    assert late.lr == late.bias_lr == pytest.approx(0.01 * (1 / 500 * 0.99 + 0.01))
    assert (late.momentum, late.accumulate) == (0.937, 4)


def test_warm_up_lasts_at_least_a_hundred_iterations() -> None:
    assert Schedule(TrainRecipe(), 16, 5, 500).warmup == 100
    assert Schedule(TrainRecipe(warmup_epochs=0.0), 16, 5, 500).warmup == 0


def test_a_run_leaves_weights_figures_and_images(straight: tuple[Trainer, ValidationResult]) -> None:
    run, result = straight
    lines = rows(run.directory)
    assert tuple(lines[0]) == COLUMNS == columns(DetectTask())
    assert [int(line["epoch"]) for line in lines] == [0, 1]
    assert all(float(line["val/cls_loss"]) > 0 and math.isfinite(float(line["train/box_loss"])) for line in lines)
    assert result.losses is not None
    assert min(result.losses.values()) > 0
    expected = ["results.png", "labels.png", "confusion_matrix.png", "PR_curve.png", "F1_curve.png", "train_batch0.png",
                "val_batch0_labels.png", "val_batch0_pred.png", "opt.yaml", "hyp.yaml"]  # fmt: skip
    assert [name for name in expected if not (run.directory / name).exists()] == []
    best = load(run.directory / "weights" / "best.pt")
    assert best.names == run.train_split.names
    assert best(torch.rand(1, 3, 64, 64)).shape == (1, 8, 84)


def test_an_interrupted_run_resumes_to_the_same_weights(
    options: dict[str, Any], straight: tuple[Trainer, ValidationResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = trainer(options, name="broken")
    train_epoch = broken._train_epoch

    def interrupted(epoch: int) -> Any:
        if epoch == 1:
            raise KeyboardInterrupt
        return train_epoch(epoch)

    monkeypatch.setattr(broken, "_train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        broken.fit()
    resumed = Trainer.resume(broken.directory / "weights" / "last.pt")
    assert resumed.directory == broken.directory.resolve()
    resumed.fit()
    found = resumed.step.ema.state_dict()
    for key, value in straight[0].step.ema.state_dict().items():
        assert torch.equal(found[key], value), key
    assert [line["epoch"] for line in rows(broken.directory)] == ["0", "1"]


def test_nothing_to_resume_is_said(straight: tuple[Trainer, ValidationResult], tmp_path: Path) -> None:
    run, _ = straight
    with pytest.raises(UserError, match=r"its 2 epochs are done, nothing to resume"):
        Trainer.resume(run.directory / "weights" / "last.pt")
    with pytest.raises(UserError, match=r"best\.pt: holds no optimizer state"):
        Trainer.resume(run.directory / "weights" / "best.pt")
    with pytest.raises(UserError, match=r"no run with weights/last\.pt"):
        latest_checkpoint(tmp_path / "nowhere")
    assert latest_checkpoint(run.options.project) == run.directory / "weights" / "last.pt"


def test_the_same_seed_gives_the_same_run(little: dict[str, Any]) -> None:
    first, second, other = (trainer(little, epochs=1, name=name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    for run in (first, second, other):
        run.fit()
    weights = [run.model.state_dict()["model.1.conv.weight"] for run in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    "changes",
    [
        {"rect": True, "single_cls": True, "cfg": "yolov9-t"},  # the others train the little model
        {"multi_scale": True, "amp": "bf16", "cache": "ram", "workers": 2},
        {"label_smoothing": 0.1, "noval": True, "noplots": True, "epochs": 2, "save_period": 1, "lr_curve": "cosine"},
        {"batch": 0, "checkpoint": True},
    ],
    ids=["rect-single", "multi-scale-bf16-ram", "smoothing-noval-noplots", "batch-auto-checkpoint"],
)
def test_options_train(little: dict[str, Any], changes: dict[str, Any]) -> None:
    run = trainer(little, **{"epochs": 1, **changes})
    result = run.fit()
    assert all(math.isfinite(float(line["train/cls_loss"])) for line in rows(run.directory))
    assert len(result.metrics.per_class) == (1 if changes.get("single_cls") else 4)
    if changes.get("noval"):
        assert [line["val/box_loss"] == "" for line in rows(run.directory)] == [True, False]
    assert (list(run.directory.glob("*.png")) == []) == changes.get("noplots", False)
    kept = {path.name for path in (run.directory / "weights").iterdir()}
    assert kept == {"best.pt", "last.pt", *(["epoch1.pt"] if changes.get("save_period") else [])}


def test_images_with_few_objects_are_left_out(options: dict[str, Any]) -> None:
    counts = [len(record.classes) for record in load_split(options["data"], "train").records]
    least = max(counts)
    assert least > min(counts)
    run = trainer(options, min_items=least)
    assert [len(record.classes) for record in run.train_split.records] == [n for n in counts if n == least]
    assert len(run.val_split.records) == len(load_split(options["data"], "val").records)
    with pytest.raises(UserError, match=rf"--min-items 99: none of {len(counts)} training images has as many"):
        trainer(options, min_items=99)


def test_frozen_layers_keep_their_weights(options: dict[str, Any], little: dict[str, Any]) -> None:
    run = trainer(little, epochs=1, freeze=(3,))
    before = {key: value.clone() for key, value in run.model.named_parameters()}
    run.fit()
    same = {int(key.split(".")[1]) for key, value in run.model.named_parameters() if torch.equal(value, before[key])}
    assert {0, 1, 2} <= same
    assert 4 not in same
    with pytest.raises(UserError, match="--freeze 99,1: the model has layers 0 to 22"):
        trainer(options, freeze=(99, 1))


@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (0, 3)])
def test_patience_stops_early(little: dict[str, Any], patience: int, epochs: int) -> None:
    recipe = Path(little["hyp"])
    recipe.write_text(yaml.safe_dump({**HYP, "lr0": 1e-9, "warmup_bias_lr": 0.0}))
    run = trainer(little, epochs=3, patience=patience)
    run.fit()
    assert len(rows(run.directory)) == epochs


def test_weights_start_a_run_with_other_classes(options: dict[str, Any], straight: tuple[Trainer, ValidationResult]) -> None:
    best = straight[0].directory / "weights" / "best.pt"
    again = trainer(options, cfg=None, weights=str(best), single_cls=True, name="again")
    own, given = again.model.state_dict(), load(best).state_dict()
    assert torch.equal(own["model.4.cv1.conv.weight"], given["model.4.cv1.conv.weight"])
    assert again.model.num_classes == 1
    with pytest.raises(UserError, match=r"does not fit gelan-s.*model\.0\.conv\.weight: file \[16, 3, 3, 3\], model \[32"):
        trainer(options, cfg="gelan-s", weights=str(best))


def test_a_loss_that_is_not_finite_stops_the_run(little: dict[str, Any]) -> None:
    run = trainer(little, epochs=20)
    with torch.no_grad():
        run.model.model[0].conv.weight.fill_(math.nan)  # type: ignore[union-attr]
    message = (
        r"the loss was not finite for 10 consecutive iterations; the model's model\.0\.conv\.weight is not finite; images "
        r"\d+\.jpg, .*; lower lr0 \(0\.01\) or train with --amp off; .*last\.pt is the last good state"
    )
    with pytest.raises(UserError, match=message):
        run.fit()
    run = trainer(little, epochs=2, bad_steps=2)
    with torch.no_grad():
        run.model.model[1].bn.weight.fill_(math.inf)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="the loss was not finite for 2 consecutive iterations"):
        run.fit()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": -2}, "--batch -2: expected at least 1"),
        ({"epochs": 0}, "--epochs 0: expected at least 1"),
        ({"workers": -1}, "--workers -1: expected at least 0"),
        ({"seed": -1}, "--seed -1: expected at least 0"),
        ({"seed": 2**63}, "--seed 9223372036854775808: expected at most 9223372036854775807"),
        ({"freeze": (1000,)}, "--freeze 1000: the model has layers 0 to 22"),
        ({"freeze": (-3,)}, "--freeze -3: the model has layers 0 to 22"),
        ({"freeze": (23,)}, "--freeze 23: nothing is left to train"),
        ({"patience": -1}, "--patience -1: expected at least 0"),
        ({"close_mosaic": -1}, "--close-mosaic -1: expected at least 0"),
        ({"label_smoothing": 2.0}, "--label-smoothing: label_smoothing is 2.0, expected float from 0 to 0.999"),
        ({"decode": "nvjpeg"}, "--decode nvjpeg: it fills a cache; add --cache ram or --cache disk"),
        ({"decode": "gpu"}, "--decode gpu: expected one of cpu, nvjpeg"),
        ({"optimizer": "RAdam"}, "--optimizer RAdam: expected one of SGD, AdamW, Adam"),
        ({"lr_curve": "cubic"}, "--lr-curve cubic: expected one of linear, cosine, flat-cosine, constant"),
        ({"cfg": "yolov8-n", "data": "nowhere.yaml"}, "model yolov8-n: unknown"),  # before the data is read
        ({"cache": "tape", "data": "nowhere.yaml"}, "--cache tape: no such cache"),
        ({"cfg": None}, "give --cfg"),
        ({"cfg": "yolov8-n"}, "model yolov8-n: unknown"),
        ({"amp": "fp8"}, "--amp fp8: expected"),
        ({"mode": "fast"}, "--mode fast: expected one of auto"),
        ({"mode": "captured"}, "--mode captured: CUDA graphs need a GPU"),
        ({"bad_steps": 0}, "--bad-steps 0: expected at least 1"),
        ({"device": "0,1"}, "--device 0,1: a run uses one device"),
        ({"device": "cuda:7"}, "--device cuda:7: torch sees"),
        ({"data": "nowhere.yaml"}, "nowhere.yaml: "),
        ({"weights": "nowhere.pt"}, "nowhere.pt: no such checkpoint"),
        ({"hyp": "nowhere.yaml"}, "nowhere.yaml: no such file or preset"),
    ],
)
def test_bad_options_are_one_clear_line(options: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        trainer(options, **changes)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(nvjpeg.why_missing() is None, reason="nvJPEG is here")
def test_nvjpeg_says_what_is_missing(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"--decode nvjpeg: it needs (a GPU, and torch sees none|torchvision, built for)"):
        trainer(options, decode="nvjpeg", cache="ram")


def test_a_run_directory_that_cannot_be_written(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*choose another --project"):
        trainer(options, project=str(tmp_path / "file"))


def test_run_directories_are_numbered(tmp_path: Path) -> None:
    made = [make_run_directory(tmp_path, "exp").name for _ in range(3)]
    assert made == ["exp", "exp2", "exp3"]
    assert make_run_directory(tmp_path, "exp", exist_ok=True).name == "exp"


def test_image_size_is_rounded_and_said(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert trainer(options, img=60).options.img == 64
    assert "--img 60 is no multiple of 32; 64 is used" in capsys.readouterr().err


def test_a_damaged_layer_table_is_named(options: dict[str, Any], tmp_path: Path) -> None:
    weights = tmp_path / "damaged.pt"
    torch.save({"spec": {"name": "x", "layers": 5}, "format": FORMAT}, weights)
    with pytest.raises(UserError, match=r"damaged\.pt: its layer table is damaged"):
        trainer(options, cfg=None, weights=str(weights))


def test_train_and_val_of_other_classes_are_refused_in_one_line(options: dict[str, Any], tmp_path: Path) -> None:
    """COCO files carry their own classes, each part its own."""
    image = tmp_path / "a.png"
    Image.new("RGB", (32, 32)).save(image)
    for part, names in (("train", ["cat", "dog"]), ("val", ["dog", "cat"])):
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 16, 16]}
        entry = {"id": 1, "file_name": image.name, "width": 32, "height": 32}
        content = {"images": [entry], "annotations": [box], "categories": categories}
        (tmp_path / f"{part}.json").write_text(json.dumps(content))
    data = tmp_path / "data.yaml"
    data.write_text("train: train.json\nval: val.json\n")
    with pytest.raises(UserError) as caught:
        trainer(options, data=str(data))
    assert str(caught.value).startswith(
        f"{data}: train (2 classes) and val (2) differ, class 0 is cat in train and dog in val; "
    )
    assert "\n" not in str(caught.value)
    one = json.loads((tmp_path / "val.json").read_text())
    (tmp_path / "val.json").write_text(json.dumps({**one, "categories": [{"id": 1, "name": "cat"}]}))
    with pytest.raises(UserError, match=r"train \(2 classes\) and val \(1\) differ, class 1 is dog in train and none in val; "):
        trainer(options, data=str(data))
    assert trainer(options, data=str(data), single_cls=True).model.num_classes == 1  # then names mean nothing
    (tmp_path / "val.json").write_text(json.dumps(one))
    data.write_text("train: train.json\nval: val.json\nnames: [cat, dog]\n")
    assert trainer(options, data=str(data)).val_split.records[0].classes.tolist() == [1]


def test_faulty_labels_are_counted_and_strict_refuses_them(
    options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = generate(tmp_path / "faulty", train=4, val=2, size=64)
    label = sorted((data.parent / "labels" / "train").glob("*.txt"))[0]
    label.write_text(label.read_text() + "9 0.5 0.5 0.1 0.1\n")
    trainer(options, data=str(data))
    assert "train: 1 faulty labels or images are left out" in capsys.readouterr().err
    with pytest.raises(UserError, match=label.name):
        trainer(options, data=str(data), strict=True)


def test_results_of_a_resumed_run_are_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    results = Results(path, DetectTask())
    for epoch in range(3):
        results.add({"epoch": epoch, "time": 1.5, "val/box_loss": math.nan})
    Results(path, DetectTask(), first=2).add({"epoch": 2, "time": 9.0})
    with path.open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["epoch"], line["time"], line["val/box_loss"]) for line in lines] == [
        ("0", "1.5", ""), ("1", "1.5", ""), ("2", "9", ""),
    ]  # fmt: skip


def test_an_interrupt_after_an_epoch_does_not_repeat_it(little: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its line is written and its checkpoint saved, the next one has not begun."""
    trainer = Trainer(TrainOptions(**{**little, "epochs": 3}))
    told = trainer.console.print

    def interrupted(text: object) -> None:
        told(text)
        if str(text).startswith("epoch 1/3"):
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.console, "print", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    resumed = Trainer.resume(trainer.directory / "weights" / "last.pt")
    assert resumed.first_epoch == 1
    resumed.fit()
    with (trainer.directory / "results.csv").open() as file:
        assert [line["epoch"] for line in csv.DictReader(file)] == ["0", "1", "2"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_last_checkpoint_that_resumes(little: dict[str, Any], number: int, status: int) -> None:
    """Sent to all processes of the run, as terminals and schedulers do."""
    given = {**little, "epochs": 200, "workers": 1}
    flags = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "yolov9k.cli", "train", *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs inherit it ignored
        start_new_session=True,
    )  # fmt: skip
    last = Path(little["project"]) / "exp" / "weights" / "last.pt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert "Traceback" not in output
    assert "go on with --resume" in output
    assert Trainer.resume(last).first_epoch >= 1
