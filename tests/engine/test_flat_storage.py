"""Flat storage: a model's tensors become views of it, and a step over it is the step over the tensors."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from tests.engine_cases import BOXES, COUNTS, random_images
from tests.tolerances import STEP_BY_HAND
from yolov9k import create_model
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine.train.reference_step import ReferenceStep, make_optimizer
from yolov9k.losses import DetectionLoss
from yolov9k.models import DetectionModel
from yolov9k.models.flat_storage import ALIGN, FlatStorage
from yolov9k.ops.sgd_ema import SCALE, STATE, Settings, sgd_ema


def test_the_model_is_unchanged_but_lies_in_one_place(tiny: DetectionModel) -> None:
    tiny.to(memory_format=torch.channels_last)
    before = copy.deepcopy(tiny.state_dict())
    strides = {key: value.stride() for key, value in tiny.state_dict().items()}
    flat = FlatStorage(tiny)
    first, size = flat.values.data_ptr(), flat.values.numel() * 8
    for key, value in tiny.state_dict().items():
        assert torch.equal(value, before[key]), key
        assert value.stride() == strides[key], key
        if value.is_floating_point():
            assert first <= value.data_ptr() < first + size, key
            assert (value.data_ptr() - first) % (8 * ALIGN) == 0, key
    for key, value in flat.average.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_groups_are_the_optimizers() -> None:
    model = create_model("yolov9-t", 3)
    sizes = [len(group["params"]) for group in make_optimizer(model, TrainRecipe(), 5e-4).param_groups]
    assert FlatStorage(model).sizes() == sizes


def test_a_frozen_parameter_is_only_averaged(tiny: DetectionModel) -> None:
    tiny.model[0].requires_grad_(False)
    flat = FlatStorage(tiny)
    keys = [slot.key for slot in flat.slots[: flat.trained]]
    assert not [key for key in keys if key.startswith("model.0.")]
    assert {key for key, p in tiny.named_parameters() if p.requires_grad} == set(keys)


def test_gradients_are_added_to_the_storage_and_let_go(tiny: DetectionModel) -> None:
    flat = FlatStorage(tiny)
    for _ in range(2):
        DetectionLoss(2)(tiny.eval().branches(random_images(0)), (BOXES.double(), COUNTS))[0].backward()
        own = {key: p.grad.clone() for key, p in tiny.named_parameters() if p.grad is not None}
        flat.gather()
        assert all(p.grad is None for p in tiny.parameters())
    assert own.keys() == flat.momenta().keys()
    for slot in flat.slots[: flat.trained]:
        torch.testing.assert_close(slot.view(flat.grads), 2 * own[slot.key], **STEP_BY_HAND)
    flat.gather()  # nothing new
    assert flat.grads.any()


def test_steps_are_the_training_steps(tiny: DetectionModel) -> None:
    """Four steps over flat storage against torch's optimizer, clip and average over the tensors."""
    recipe, other = TrainRecipe(), copy.deepcopy(tiny)
    step = ReferenceStep(other, DetectionLoss(2), recipe, batch=64)
    flat, criterion = FlatStorage(tiny), DetectionLoss(2)
    state = torch.zeros(STATE, dtype=torch.float64)
    state[SCALE] = 1.0
    told = Settings(
        (recipe.lr0,) * 3, (0.0, recipe.weight_decay, 0.0), recipe.momentum, recipe.clip_norm, recipe.ema_decay, recipe.ema_tau
    )  # fmt: skip
    values = torch.tensor(told.values(), dtype=torch.float64)
    for seed in range(4):
        step(random_images(seed), BOXES.double(), COUNTS)
        criterion(tiny(random_images(seed)), (BOXES.double(), COUNTS))[0].backward()
        flat.gather()
        sgd_ema(flat.values, flat.grads, flat.momentum, flat.ema, None, values, flat.ends, state)
        flat.copy_counts()
    for mine, theirs in ((tiny, other), (flat.average, step.average.model)):
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[key], value, **STEP_BY_HAND, msg=key)


def test_momenta_are_by_name_and_views(tiny: DetectionModel) -> None:
    flat = FlatStorage(tiny)
    learning = {key: p.shape for key, p in tiny.named_parameters() if p.requires_grad}
    assert {key: value.shape for key, value in flat.momenta().items()} == learning
    flat.momenta()["model.0.conv.weight"].fill_(3.0)
    assert float(flat.momentum.sum()) == 3 * tiny.get_parameter("model.0.conv.weight").numel()


def test_a_parameter_that_left_is_noticed(tiny: DetectionModel) -> None:
    flat = FlatStorage(tiny)
    tiny.float()
    with pytest.raises(RuntimeError, match="moved out of the flat storage"):
        flat.gather()


def test_mixed_dtypes_are_named(tiny: DetectionModel, tmp_path: Path) -> None:
    tiny.model[1].float()
    with pytest.raises(ValueError, match=r"model\.1\..* is torch.float32"):
        FlatStorage(tiny)
