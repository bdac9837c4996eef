"""What another implementation means by default is what was recorded from it as a black box (tests/record_flavors.py)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data_cases import train_options, write_yolo
from tests.record_flavors import CASES, INTO, NC, SIZE
from yolov9k.common.errors import UserError
from yolov9k.config import TrainRecipe, load_recipe
from yolov9k.config.flavors import FLAVORS, Flavor
from yolov9k.data.letterbox import letterbox
from yolov9k.engine.train.trainer import Trainer
from yolov9k.models import create_model
from yolov9k.ops import task_aligned_assign
from yolov9k.tasks import task_of

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("flavors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FLAVORS)
def test_a_model_is_begun_as_theirs(name: str) -> None:
    theirs, model = RECORDED[name], create_model("gelan-t", NC, flavor=name)
    boxes, classes = model.head.towers(model.head.num_branches - 1)
    assert boxes[0][1].conv.groups == theirs["box_groups"]  # type: ignore[index, union-attr]
    for level, (box, cls) in enumerate(zip(theirs["bias"]["box"], theirs["bias"]["class"], strict=True)):
        assert boxes[level][-1].bias[0].item() == pytest.approx(box)  # type: ignore[index]
        assert classes[level][-1].bias[0].item() == pytest.approx(cls)  # type: ignore[index]


@pytest.mark.parametrize("name", FLAVORS)
def test_an_image_lies_in_its_letterbox_as_theirs(name: str) -> None:
    model = create_model("gelan-t", NC, flavor=name)
    _, _, (left, top) = letterbox(np.zeros((*SIZE, 3), np.uint8), INTO, placement=model.letterbox)
    assert {"left": left, "top": top} == RECORDED[name]["letterbox"]


@pytest.mark.parametrize("name", FLAVORS)
def test_the_recipe_has_their_values(name: str) -> None:
    theirs, ours = RECORDED[name], asdict(load_recipe(flavor=name))
    assert {key: ours[key] for key in theirs["recipe"]} == theirs["recipe"]


@pytest.mark.parametrize("key", CASES)
@pytest.mark.parametrize("name", ["ultralytics", "libreyolo", "mit"])
def test_anchors_go_to_boxes_as_their_assigner_has_it(name: str, key: str) -> None:
    model = create_model("gelan-t", NC, flavor=name)
    options = task_of(model).criterion(model, load_recipe(flavor=name)).options.assign  # type: ignore[attr-defined]
    case = CASES[key]()
    shape = case["boxes"].shape[:2]
    for backend in ("reference", "auto"):
        operands = (case["scores"], case["predicted"], case["anchors"], torch.zeros(shape), case["boxes"], torch.ones(shape))
        found = task_aligned_assign(*operands, options=options, backend=backend, strides=case["strides"]).gt_index
        assert [[(row >= 0).nonzero().flatten().tolist(), row[row >= 0].tolist()] for row in found] == RECORDED[name][key]


def test_the_published_flavor_is_none() -> None:
    assert FLAVORS["published"] == Flavor()
    assert load_recipe(flavor="published") == load_recipe() == TrainRecipe()


def test_a_file_of_hyperparameters_comes_on_top(tmp_path: Path) -> None:
    (tmp_path / "hyp.yaml").write_text("mixup: 0.1\n")
    recipe = load_recipe(tmp_path / "hyp.yaml", "ultralytics")
    assert (recipe.mixup, recipe.scale, recipe.copy_paste) == (0.1, 0.5, 0.0)


def test_a_run_is_of_one_flavor(tmp_path: Path) -> None:
    data = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.4", "b": ""})
    trainer = Trainer(train_options(data, tmp_path, flavor="libreyolo"))
    assert (trainer.model.letterbox, trainer.recipe.scale) == ("topleft", 0.5)
    assert trainer.val_loader.dataset.placement == "topleft"  # type: ignore[attr-defined]
    assert trainer.model.head.towers(0)[1][0][-1].bias[0].item() == -10  # type: ignore[index]
    with pytest.raises(UserError, match="--flavor yolo: expected one of published, ultralytics, mit, libreyolo"):
        Trainer(train_options(data, tmp_path, flavor="yolo"))
