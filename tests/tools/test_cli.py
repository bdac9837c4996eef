"""The command line: every flag, the published scripts' forms, and one clear line for each error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from tests.command_line import run
from yolov9k import create_model
from yolov9k.config import TrainOptions
from yolov9k.data.synthetic import generate
from yolov9k.models.checkpoints import save

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("samples") / "data", train=4, val=3, size=64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = create_model("gelan-t", 4)
    model.names = ["circle", "square", "star", "triangle"]
    path = tmp_path_factory.mktemp("weights") / "fresh.pt"
    save(path, model)
    return path


@pytest.mark.twin
@pytest.mark.parametrize("command", ["train", "val", "predict", "info", "profile", "demo", "data check", "download"])
def test_every_option_is_explained(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(*command.split(), "--help") == 0
    options = [line for line in capsys.readouterr().out.splitlines() if re.match(r"[│|]\s+\*?\s*--", line)]
    assert options
    unexplained = [line for line in options if not re.search(r"[a-z]", re.sub(r"--\S+|<\S+>|\[.*?\]", "", line))]
    assert unexplained == []


def test_train_and_val_and_predict(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the published README calls its scripts, but for sizes."""
    monkeypatch.chdir(tmp_path)
    common = ["--data", samples, "--img", 64, "--batch", 2, "--workers", 0, "--device", "cpu"]
    recipe = ["--weights", "", "--hyp", "hyp.scratch-high.yaml", "--min-items", 0, "--epochs", 1, "--close-mosaic", 15]
    assert run("train", *common, "--cfg", "models/detect/gelan-t.yaml", "--freeze", 0, 1, "--cache", *recipe) == 0
    best = tmp_path / "runs/train/exp/weights/best.pt"
    assert best.exists()
    args = TrainOptions.from_yaml(best.parents[1] / "args.yaml")
    assert (args.freeze, args.cache, args.close_mosaic, args.weights) == ((0, 1), "ram", 0, None)
    opt = yaml.safe_load((best.parents[1] / "opt.yaml").read_text())
    assert opt == args.plain()
    assert run("val", *common, "--weights", best, "--save-json", "--conf-thres", 0.01, "--half", "--verbose") == 0
    results = json.loads((tmp_path / "runs/val/exp/predictions.json").read_text())
    assert all(set(row) >= {"image_id", "category_id", "bbox", "score"} for row in results)
    stems = {int(path.stem) for path in (samples.parent / "images/val").iterdir()}
    assert {row["image_id"] for row in results} <= stems  # the published names of images: 000000000139.jpg is 139
    image = sorted((samples.parent / "images/val").glob("*"))[0]
    low = ["--img", 64, "--conf", 0.0001]
    assert run("predict", "--weights", best, "--source", image, *low, "--save-txt", "--save-json") == 0
    folder = tmp_path / "runs/predict/exp"
    assert cv2.imread(str(folder / image.name)) is not None
    assert (folder / "labels" / f"{image.stem}.txt").read_text()
    assert (folder / "predictions.json").exists()
    assert "images: 1, videos: 0" in capsys.readouterr().out
    assert run("train", "--resume", "--epochs", 2, "--img", 96, "--cfg", "gelan-s") == 0
    assert "--resume: the run keeps what it was begun with; without effect: --cfg, --img" in capsys.readouterr().err


def test_info_prints_layers_and_all_three_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", "yolov9-c") == 0
    text = capsys.readouterr().out
    assert "RepNCSPELAN4" in text
    assert "training: 51,182,080 parameters, 238.7 GFLOPs" in text
    assert "lean: 25,498,752 parameters, 102.8 GFLOPs" in text
    assert "fused: 25,288,768 parameters, 102.1 GFLOPs" in text


@pytest.mark.twin
def test_info_of_the_machine_names_every_operator(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info") == 0
    text = capsys.readouterr().out
    for operator in ("conv_bn_silu", "conv_silu", "dfl_decode", "task_aligned_assign", "detection_loss", "batched_nms"):
        assert f"{operator}: reference" in text
    assert "native code, cpu: " in text
    assert "cuDNN's fused convolutions: " in text


def test_data_check_lists_errors_and_draws(samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = generate(tmp_path / "data", train=3, val=2, size=64)
    label = sorted((data.parent / "labels/val").glob("*.txt"))[0]
    label.write_text("0 0.5 0.5 nan 0.1\n")
    assert run("data", "check", data, "--plot", tmp_path / "grid.png") == 0
    assert f"{label}:1: " in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "grid.png")) is not None
    assert run("data", "check", data, "--strict") == 3
    assert run("data", "check", samples, "--strict") == 0


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["train", "--cfg", "yolov9-t"], "give --data", 2),
        (["train", "--data", "nowhere", "--cfg", "yolov9-t"], "nowhere", 3),
        (
            ["train", "--data", "{data}", "--cfg", "yolov9-t", "--batch", 0],
            "--batch 0: expected a number from 1 on, or auto",
            2,
        ),
        (["train", "--data", "{data}", "--cfg", "yolov9-t", "--batch", "many"], "--batch many: expected a number", 2),
        (["train", "--data", "{data}", "--cfg", "yolov9-t", "--mode", "fast"], "--mode fast: expected one of auto", 2),
        (["train", "--data", "{data}", "--cfg", "yolov9-t", "--bad-steps", 0], "--bad-steps 0: expected at least 1", 2),
        (["profile", "--cfg", "yolov9-t", "--batch", 0], "--batch 0", 2),
        (["train", "--data", "{data}", "--cfg", "yolov9-t", "--freeze", "x"], "--freeze x: expected whole numbers", 2),
        (["train", "--data", "{data}", "--cfg", "yolov9-t", "--cache", "tape"], "tape", 2),
        (["train", "--resume", "nowhere.pt"], "nowhere.pt: no such checkpoint", 4),
        (["val", "--data", "{data}", "--weights", "{data}"], "is a text; models from a YAML file", 4),
        (["predict", "--weights", "{weights}", "--source", "nowhere.jpg"], "nowhere.jpg", 3),
        (["predict", "--weights", "{weights}", "--source", "{data}/..", "--conf", 2], "--conf", 2),
        (["info", "yolov9-t", "--nc", 0], "model yolov9-t: 0 classes; a model has from 1 to 100,000", 4),
        (["info", "yolov8-n"], "model yolov8-n: unknown", 4),
        (["val", "--data", "{data}", "--weights", ""], "--weights: empty; give a checkpoint", 4),
        (
            ["val", "--data", "{data}", "--weights", "{weights}", "--task", "speed"],
            "--task speed: expected one of train, val, test",
            2,
        ),
        (["val", "--data", "{data}", "--weights", "{weights}", "--workers", -1], "--workers -1: expected at least 0", 2),
        (
            ["val", "--data", "{data}", "--weights", "{weights}", "--img", 100000],
            "--img 100000: must be at least 1 and at most 16384",
            2,
        ),
        (["predict", "--weights", "{weights}", "--source", ""], "--source: empty", 3),
        (["predict", "--weights", "{weights}", "--source", "screen"], "screen: streams are not supported", 3),
        (
            ["predict", "--weights", "{weights}", "--source", "{data}", "--max-frames", 0],
            "--max-frames 0: expected at least 1",
            2,
        ),
        (
            ["predict", "--weights", "{weights}", "--source", "{data}", "--line-thickness", 0],
            "--line-thickness 0: expected a number",
            2,
        ),
        (
            ["predict", "--weights", "{weights}", "--source", "{data}", "--max-det", 0],
            "--max-det 0: expected a number from 1",
            2,
        ),
        (
            ["predict", "--weights", "{weights}", "--source", "{data}", "--max-det", 10**11],
            "--max-det 1e+11: expected a number from",
            2,
        ),
        (["predict", "--weights", "{weights}", "--source", "{images}", "--name", ""], "--name: empty", 2),
        (["predict", "--weights", "{text}", "--source", "{images}"], "is a text; models from a YAML file", 4),
        (["demo", "--epochs", 0], "--epochs 0: expected at least 1", 2),
        (["demo", "--images", 0], "--images 0: expected at least 1", 2),
        (["info", "yolov9-t", "--img", 0], "--img 0", 2),
        (["data", "check", "nowhere"], "nowhere", 3),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_errors_are_one_line_without_a_traceback(
    arguments: list[object],
    message: str,
    status: int,
    samples: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("train for an hour\n")
    assert (
        run(
            *(
                str(a).format(data=samples, images=samples.parent / "images" / "val", weights=weights, text=text)
                for a in arguments
            )
        )
        == status
    )
    assert list(tmp_path.rglob("exp*")) == []  # no empty run directory is left
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if "error:" in line]) == 1


def test_an_unreadable_image_is_named(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = np.full((64, 64, 3), 128, np.uint8)
    cv2.imwrite(str(tmp_path / "good.jpg"), good)
    (tmp_path / "bad.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:100])
    assert run("predict", "--weights", weights, "--source", tmp_path, "--img", 64, "--project", tmp_path / "runs") == 0
    captured = capsys.readouterr()
    assert "bad.jpg" in captured.err
    assert "unreadable files, left out: 1" in captured.out


@pytest.mark.twin
def test_the_installed_command_runs() -> None:
    command = Path(sys.executable).with_name("yolov9k")
    if not command.exists():
        pytest.skip("the package is not installed beside this Python")
    environment = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run([command, "data", "--help"], capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "check" in done.stdout
