"""What MPS and some XPUs lack is nowhere asked of them: training, validation and decoding make no float64 on the device.

Neither device can be tried here. That the reference operators ask for no float64 where a device has none can: the CPU is
declared such a device, and every operator of torch that makes a float64 tensor is caught.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests import synthetic_samples
from tests.engine_cases import BOXES, COUNTS, random_images
from yolov9k import create_model
from yolov9k.common import device as devices
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.loader import make_loader
from yolov9k.engine import TrainStep
from yolov9k.engine.evaluate import validator
from yolov9k.models import DetectionModel
from yolov9k.ops.reference import sgd_ema as reference_sgd
from yolov9k.ops.reference import task_aligned_assign as reference_assign
from yolov9k.tasks import task_of


class Float64Made(Exception):
    """An operator made a float64 tensor."""


class NoFloat64(TorchDispatchMode):
    """Raises where an operator makes one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64]
        if made:
            raise Float64Made(str(func))
        return found


@pytest.fixture
def without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    def exact_dtype(_: torch.device) -> torch.dtype:
        return torch.float32

    for module in (devices, reference_sgd, reference_assign, validator):
        monkeypatch.setattr(module, "exact_dtype", exact_dtype)


def model_on_the_reference(folder: Path) -> DetectionModel:
    torch.manual_seed(0)
    model = create_model("gelan-t", 2).use("reference")
    model.names = ["red", "blue"]
    return model


@pytest.mark.usefixtures("without_float64")
def test_a_training_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOV9K_BACKEND", "reference")
    model, recipe = model_on_the_reference(tmp_path).train(), TrainRecipe()
    criterion: Any = task_of(model).criterion(model, recipe)
    criterion.backend = "reference"
    step = TrainStep(model, criterion, recipe, "eager", batch=64)
    batch = random_images(0).float(), BOXES.float(), COUNTS
    with NoFloat64():
        parts = step(*batch)
    assert parts.isfinite().all()


@pytest.mark.usefixtures("without_float64")
def test_validation_on_the_device(tmp_path: Path) -> None:
    split = synthetic_samples.split(tmp_path)
    model = model_on_the_reference(tmp_path).eval()
    criterion: Any = task_of(model).criterion(model, TrainRecipe())
    criterion.backend = "reference"
    loader = make_loader(split, TrainRecipe(), img_size=64, batch=4, augment=False, rect=True, workers=0)
    options = validator.DecodeOptions(0.001, 0.7, 300, multi_label=True)
    run = validator._Run(task_of(model), model, criterion, torch.device("cpu"), "off", True, options, False)
    with NoFloat64():
        run.over(loader, lambda *_: None)
    assert run.losses() is not None


def test_what_makes_a_float64_is_caught() -> None:
    with pytest.raises(Float64Made), NoFloat64():
        torch.ones(2).double()
