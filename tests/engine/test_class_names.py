"""Classes of a checkpoint and of the data: the same names in another order are matched, other names are warned of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import synthetic_samples
from tests.command_line import run
from tests.data_cases import write_yolo
from tests.models.checkpoint_cases import altered, tiny_model
from yolov9k.common.errors import UserError
from yolov9k.compat import load
from yolov9k.config.recipe import TrainRecipe
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.loader import make_loader
from yolov9k.data.records import Split
from yolov9k.engine.evaluate.validator import ValidationResult, validate
from yolov9k.engine.train.trainer import Trainer
from yolov9k.models import DetectionModel
from yolov9k.models.checkpoints import read, save

NAMES = ["circle", "square", "star"]


def evaluated(split: Split, path: Path | None = None) -> ValidationResult:
    loader = make_loader(split, TrainRecipe(), img_size=320, batch=3, augment=False, rect=True, workers=0)
    return validate(synthetic_samples.ColorDetector(), loader, split=split, save_json=path, progress=False)


def turned(split: Split) -> Split:
    """The same data with its two classes numbered the other way round."""
    records = [replace(record, classes=1 - record.classes) for record in split.records]
    return replace(split, names=split.names[::-1], category_ids=split.category_ids[::-1], records=records)


def test_a_split_in_the_models_order_gives_the_same_figures(tmp_path: Path) -> None:
    split = synthetic_samples.split(tmp_path)
    other = turned(split)
    assert [list(r.classes) for r in other.records] == [[1, 0], [0, 1], [], [1]]
    results = [evaluated(s, tmp_path / f"{i}.json").metrics for i, s in enumerate((split, other.in_order_of(split.names)))]
    assert results[0].per_class == results[1].per_class
    np.testing.assert_array_equal(results[0].confusion, results[1].confusion)
    assert json.loads((tmp_path / "0.json").read_text()) == json.loads((tmp_path / "1.json").read_text())
    assert list(other.records[0].classes) == [1, 0]  # itself as it was


def test_a_split_in_another_order_is_not_evaluated_by_its_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="class 0 is 'blue' in the data and 'red' in the model, which has the same classes"):
        evaluated(turned(synthetic_samples.split(tmp_path)))


@pytest.mark.parametrize("names", [["red", "blue"], ["red", "green"], ["red", "red"], ["a"], ["red", "blue", "green"]])
def test_other_names_leave_a_split_as_it_is(tmp_path: Path, names: list[str]) -> None:
    split = synthetic_samples.split(tmp_path)
    assert split.in_order_of(names) is split


def predictions(
    tmp_path: Path, names: list[str], capsys: pytest.CaptureFixture[str]
) -> tuple[list[tuple[object, ...]], str, str]:
    """What `yolov9k val` finds in data of one object of each class, by class names; its table and its messages."""
    rows = "\n".join(f"{i} 0.5 0.5 0.{i + 2} 0.{i + 2}" for i in (names.index(name) for name in sorted(names)))
    folder = tmp_path / "-".join(names)
    data = write_yolo(folder, {"a": rows, "b": f"{names.index(sorted(names)[0])} 0.5 0.5 0.2 0.2"}, f"[{', '.join(names)}]")
    data.write_text(f"val: images\nnames: [{', '.join(names)}]\n")  # no training images among those that are evaluated
    command = ["--weights", tmp_path / "w.pt", "--data", data, "--img", 64, "--workers", 0, "--device", "cpu", "--save-json"]
    assert run("val", *command, "--conf", 1e-5, "--project", folder / "runs") == 0
    said = capsys.readouterr()
    found = json.loads((folder / "runs" / "exp" / "predictions.json").read_text())
    return [(r["image_id"], *r["bbox"], r["score"], names[r["category_id"]]) for r in found], said.out, said.err


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    model = tiny_model(tmp_path)
    model.names = NAMES
    with torch.no_grad():
        for level in model.head.towers(0)[1]:
            level[-1].weight.mul_(50)  # so that classes differ
    save(tmp_path / "w.pt", model)
    return tmp_path / "w.pt"


def test_validation_matches_names_in_another_order(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted, table, message = predictions(tmp_path, NAMES, capsys)
    assert len({row[-1] for row in wanted}) > 1
    assert "another order" not in message
    found, other_table, message = predictions(tmp_path, ["star", "circle", "square"], capsys)
    assert "has the classes in another order than" in message
    assert "warning" not in message
    assert sorted(found) == sorted(wanted)
    assert counts(table) == counts(other_table) == {"circle": "2", "square": "1", "star": "1"}


def counts(table: str) -> dict[str, str]:
    """Instances by class, in the order of the rows."""
    rows = [line.replace("│", " ").split() for line in table.splitlines()]
    return {row[0]: row[2] for row in rows if row and row[0] in NAMES}


def test_validation_warns_of_other_names(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = predictions(tmp_path, ["circle", "dog", "cat"], capsys)[2]
    assert message.count("warning: ") == 1
    assert "class 1 is 'dog' in the data and 'square' in the model; classes are compared by their numbers" in message


def test_a_model_that_knows_no_names_is_compared_by_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(tmp_path)
    model.names = ["0", "1", "2"]
    save(tmp_path / "w.pt", model)
    assert "warning" not in predictions(tmp_path, NAMES, capsys)[2]


def begun(
    tmp_path: Path, names: list[str], start: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> tuple[DetectionModel, str]:
    """The model that a training on data of these class names begins from, and what is said of the weights' classes."""
    data = write_yolo(tmp_path / "-".join(names), {"a": "0 0.5 0.5 0.2 0.2"}, f"[{', '.join(names)}]")
    options: dict[str, object] = {
        "data": str(data),
        "img": 64,
        "workers": 0,
        "batch": 1,
        "device": "cpu",
        "project": str(tmp_path),
    }
    model = Trainer(TrainOptions(**{**options, "weights": str(tmp_path / "w.pt"), **start})).model
    return model, "".join(line for line in capsys.readouterr().err.splitlines(keepends=True) if "w.pt" in line)


def class_rows(model: DetectionModel) -> dict[str, list[float]]:
    """Weights and bias of each class at the first level, by name."""
    last = model.head.towers(0)[1][0][-1]
    rows = torch.cat((last.weight.flatten(1), last.bias[:, None]), 1).tolist()
    return dict(zip(model.names, rows, strict=True))


@pytest.mark.parametrize("by_name", [False, True], ids=["table of the file", "--cfg"])
def test_training_takes_class_weights_by_name(
    weights: Path, tmp_path: Path, by_name: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    start: dict[str, object] = {"cfg": str(tmp_path / "tiny.yaml") if by_name else None}
    wanted = class_rows(load(weights))
    for names, message in ((NAMES, ""), (["star", "circle", "square"], "has the classes in another order")):
        model, said = begun(tmp_path, names, start, capsys)
        assert model.names == names
        assert class_rows(model) == wanted
        assert message in said
        assert bool(message) == ("another order" in said)
        assert "warning" not in said


def test_training_warns_of_other_names(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, said = begun(tmp_path, ["circle", "dog", "cat"], {"cfg": None}, capsys)
    assert list(class_rows(model).values()) == list(class_rows(load(weights)).values())
    assert said.count("warning: ") == 1
    assert "class 1 is 'dog' in the model and 'square' in the file" in said


@pytest.mark.parametrize("stated", [["0", "1", "2"], None, 7, ["a", 1, {}], ["circle", "square"]])
def test_weights_without_usable_names_are_taken_by_number(
    weights: Path, tmp_path: Path, stated: object, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": read(weights)["model"], "names": stated}, tmp_path / "w.pt")
    wanted = list(class_rows(load(altered(tmp_path / "other.pt", tiny_model(tmp_path), model=read(weights)["model"]))).values())
    model, said = begun(tmp_path, ["star", "circle", "square"], {"cfg": str(tmp_path / "tiny.yaml")}, capsys)
    assert list(class_rows(model).values()) == wanted
    assert "warning" not in said


def test_a_head_of_another_number_of_classes_is_not_compared(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, said = begun(tmp_path, ["star", "circle"], {"cfg": None}, capsys)
    assert model.num_classes == 2
    assert "matched by" not in said
