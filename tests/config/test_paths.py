"""`~` is the home folder in every option that is a path, on the command line, in args.yaml and from Python."""

from __future__ import annotations

import os
from dataclasses import MISSING
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.command_line import run
from tests.data_cases import BOX, write_yolo
from tests.support import little_model
from yolov9k.common.errors import UserError
from yolov9k.compat import load
from yolov9k.config import COMMANDS, PredictOptions, TrainOptions, option_fields
from yolov9k.config.recipe import load_recipe
from yolov9k.engine.predict.predictor import Predictor
from yolov9k.engine.predict.writers import predict_to_folder
from yolov9k.engine.train.run_dir import latest_checkpoint, make_run_directory
from yolov9k.models import create_model
from yolov9k.models.checkpoints import save

PATHS = {"data", "weights", "project", "name", "hyp", "cfg", "resume", "source", "model", "path", "plot", "folder", "to", "out"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a model, a data set and hyper-parameters; the working folder is another."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(work)
    write_yolo(home / "d", {"a": BOX, "b": BOX})
    save(home / "m.pt", create_model(str(little_model(home)), 2))
    (home / "h.yaml").write_text("lr0: 0.02\n")
    return home


def test_every_path_is_known_as_one() -> None:
    """A new option that names a file or a folder is seen here."""
    words = ("folder", "file", "checkpoint", "yaml", "png", "directory", "last.pt", "data set")
    for options in COMMANDS.values():
        for field in option_fields(options):
            names_one = any(word in field.option.help.lower() for word in words) and field.kinds == (str,) and not field.many
            assert field.option.path == (field.name in PATHS and not field.option.choices), field.name
            assert field.option.path or field.option.choices or not names_one, (
                f"{options.__name__}.{field.name}: {field.option.help}"
            )


def test_options_write_the_home_folder_out(home: Path) -> None:
    for options in COMMANDS.values():
        values = {field.name: f"~/{field.name}" for field in option_fields(options) if field.option.path}
        needed = {f.name: f.option.choices[0] for f in option_fields(options) if f.default is MISSING and f.option.choices}
        given = options(**values, **needed)
        assert {name: getattr(given, name) for name in values} == {name: f"{home}/{name}" for name in values}
    assert TrainOptions.from_flags({"data": "~/d", "project": "~/runs"}, "args.yaml").data == f"{home}/d"
    assert PredictOptions(source="a~/b", weights="").source == "a~/b"
    with pytest.raises(UserError, match=r"^~nobody-here/d: the home folder is not known; give the whole path$"):
        TrainOptions(data="~nobody-here/d")


@pytest.mark.parametrize(
    "command",
    [
        "data check ~/d/data.yaml --plot=~/grid.png",
        "predict --weights=~/m.pt --source=~/d/images --img=64 --project=~/runs",
        "predict --weights=~/m.pt --source=~/d/images/*.jpg --img=64 --name=~/runs/other",
        "info ~/m.pt --img=64",
        "info ~/little.yaml --img=64",
        "train --resume --project=~/none",
        "train --cfg=~/little.yaml --data=~/d/data.yaml --hyp=~/h.yaml --weights=~/gone.pt --project=~/runs",
    ],
)
def test_no_command_makes_a_folder_of_that_name(home: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = {
        "--project=~/none": (2, f"no run with weights/last.pt in {home}/none"),
        "gone.pt": (4, f"{home}/gone.pt: no such checkpoint"),
    }
    status = run(*command.split())
    error = capsys.readouterr().err
    wanted = [message for part, message in refused.items() if part in command]
    assert status == sum(expected for expected, _ in wanted), error
    assert all(message in error for _, message in wanted)
    assert os.listdir() == []
    assert (home / "grid.png").exists() == ("grid.png" in command)


def test_functions_take_it_too(home: Path) -> None:
    assert load("~/m.pt").num_classes == load(Path("~/m.pt")).num_classes == 2
    save("~/copy.safetensors", load("~/m.pt"))
    assert (home / "copy.safetensors").exists()
    assert create_model("~/little.yaml", 3).num_classes == 3
    assert load_recipe("~/h.yaml").lr0 == 0.02
    assert make_run_directory("~/runs", "x") == home / "runs" / "x"
    (home / "runs" / "x" / "weights").mkdir()
    (home / "runs" / "x" / "weights" / "last.pt").touch()
    assert latest_checkpoint("~/runs") == home / "runs" / "x" / "weights" / "last.pt"
    assert cv2.imwrite(str(home / "a.png"), np.zeros((40, 40, 3), np.uint8))
    summary = predict_to_folder(Predictor("~/m.pt", 64, device="cpu"), "~/a.png", "~/found", progress=False)
    assert summary.files == [home / "found" / "a.png"]
    assert os.listdir() == []
