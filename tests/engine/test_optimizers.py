"""Adam and AdamW over flat storage are torch's own over the parameters, clipped, averaged and skipped as SGD's steps are."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.engine_cases import BOXES, COUNTS, random_images
from tests.tolerances import STEP_BY_HAND
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.config.train_options import TrainOptions
from yolov9k.engine import TrainStep
from yolov9k.engine.train.check_options import suited
from yolov9k.engine.train.memory import footprint
from yolov9k.engine.train.optimizer import MOMENTS
from yolov9k.engine.train.reference_step import ReferenceStep
from yolov9k.engine.train.schedule import Schedule
from yolov9k.losses import DetectionLoss
from yolov9k.models import DetectionModel

RECIPE = TrainRecipe(
    lr0=0.01, warmup_bias_lr=0.0, warmup_epochs=1.0, warmup_iterations=3, clip_norm=0.5, ema_decay=0.9, ema_tau=3.0,
    nominal_batch=2,
)  # fmt: skip


def make(
    model: DetectionModel, name: str, kind: type = TrainStep, recipe: TrainRecipe = RECIPE, **options: object
) -> TrainStep:
    schedule = Schedule(recipe, 2, 3, 10)
    return kind(model, DetectionLoss(2), recipe, batch=2, schedule=schedule, optimizer=name, **options)


@pytest.mark.parametrize("name", MOMENTS)
def test_steps_are_those_of_torch(tiny: DetectionModel, name: str) -> None:
    """Through warm-up, accumulation, clipping and three learning rates; layer 1 is frozen."""
    tiny.model[1].requires_grad_(False)
    twin = copy.deepcopy(tiny)
    recipe = replace(RECIPE, nominal_batch=4)
    step, reference = make(tiny, name, recipe=recipe, channels_last=False), make(twin, name, ReferenceStep, recipe)
    start = copy.deepcopy(tiny.state_dict())
    for i in range(8):
        parts = step(random_images(i), BOXES.double(), COUNTS)
        wanted = reference(random_images(i), BOXES.double(), COUNTS)
        np.testing.assert_allclose(parts, wanted, **STEP_BY_HAND)
    for mine, theirs in ((step.model, twin), (step.ema, reference.average.model)):
        for key, value in theirs.state_dict().items():
            np.testing.assert_allclose(mine.state_dict()[key], value, **STEP_BY_HAND, err_msg=key)
    assert step.updates == 5
    moved = {key for key, value in tiny.state_dict().items() if not torch.equal(value, start[key])}
    assert "model.0.conv.weight" in moved
    assert "model.1.conv.weight" not in moved


@pytest.mark.parametrize("name", MOMENTS)
def test_a_gradient_that_is_not_finite_changes_nothing(tiny: DetectionModel, name: str) -> None:
    step = make(tiny, name)
    for i in range(2):
        step(random_images(i), BOXES.double(), COUNTS)
    before = copy.deepcopy(step.state_dict())
    weights = {key: value.detach().clone() for key, value in tiny.named_parameters()}
    step(random_images(2) * math.nan, BOXES.double(), COUNTS)
    assert (step.skipped, step.updates) == (1, int(before["state"][2]))
    assert all(torch.equal(value, weights[key]) for key, value in tiny.named_parameters())
    for kind, moments in step.optimizer.moments().items():
        assert all(torch.equal(value, before[kind][key]) for key, value in moments.items()), kind
    step(random_images(3), BOXES.double(), COUNTS)
    assert step.updates == before["state"][2] + 1


@pytest.mark.parametrize("name", ["AdamW", "Adam"])
def test_a_state_that_was_saved_goes_on_to_the_last_bit(tiny: DetectionModel, name: str) -> None:
    one = make(tiny, name)
    for i in range(3):
        one(random_images(i), BOXES.double(), COUNTS)
    other = make(copy.deepcopy(tiny), name)
    other.ema.load_state_dict(one.ema.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for i in range(3, 6):
        assert torch.equal(one(random_images(i), BOXES.double(), COUNTS), other(random_images(i), BOXES.double(), COUNTS))
    for mine, theirs in ((one.model, other.model), (one.ema, other.ema)):
        assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in mine.state_dict().items())


def test_the_state_of_another_optimizer_is_refused(tiny: DetectionModel) -> None:
    sgd, adam = make(copy.deepcopy(tiny), "SGD"), make(tiny, "Adam")
    with pytest.raises(ValueError, match="another model or optimizer"):
        adam.load_state_dict(sgd.state_dict())
    with pytest.raises(UserError, match=r"^--optimizer Lion: expected one of SGD, AdamW, Adam$"):
        make(copy.deepcopy(tiny), "Lion")


def test_a_loss_scale_does_not_change_the_step(tiny: DetectionModel) -> None:
    tiny.float()
    plain = make(copy.deepcopy(tiny), "AdamW")
    scaled = make(tiny, "AdamW")
    scaled.state[3] = 1024.0
    for step, scale in ((plain, 1.0), (scaled, 1024.0)):
        step.flat.grads.fill_(1e-3 * scale)
        step._tell(step.schedule.at(50))
        step.optimizer.step()
    assert torch.equal(plain.flat.values, scaled.flat.values)
    assert float(plain.grad_norm) == float(scaled.grad_norm) > 0


def test_memory_counts_both_moments(tiny: DetectionModel) -> None:
    criterion = DetectionLoss(2)
    sgd, adam = (footprint(tiny, criterion, 64, optimizer=name) for name in ("SGD", "AdamW"))
    assert adam.momentum == 2 * sgd.momentum
    assert adam.total(4) - sgd.total(4) == sgd.momentum
    held = make(tiny, "AdamW").optimizer.moments()
    assert sum(t.nbytes for kind in ("momentum", "second") for t in held[kind].values()) == adam.momentum


def test_rates_that_are_for_sgd_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = TrainRecipe()
    assert suited(recipe, TrainOptions("d")) is recipe
    assert capsys.readouterr().err == ""
    changed = suited(recipe, TrainOptions("d", optimizer="AdamW"))
    assert changed == TrainRecipe(warmup_bias_lr=0.0)
    text = capsys.readouterr().err
    assert "--optimizer AdamW: lr0 0.01 is a rate for SGD; lr0=0.001 is usual" in text
    assert "biases warm up from 0, not from warmup_bias_lr 0.1" in text
    named = ("lr0=0.01", "warmup_bias_lr=0.1")
    assert suited(recipe, TrainOptions("d", optimizer="Adam", override=named)) == recipe
    assert capsys.readouterr().err == ""
