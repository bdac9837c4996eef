"""accelerate_training on a trainer's optimizer step: the same weights, average, momentum and loss scale, in flat storage."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.compat.lookalikes import SteppingTrainer
from tests.tolerances import PEER_STEP
from yolov9k import accelerate_training
from yolov9k.compat.accelerate.step import OptimizerStep


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Weights, norms and biases, a frozen weight, and a map whose values lie channels last."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 1, 1, bias=False)
    model = nn.Sequential(*layers).to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model[3].requires_grad_(False)
    return model


def give_gradients(trainer: Any, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            drawn = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            parameter.grad = scale * drawn * (trainer.scaler.get_scale() if trainer.scaler.is_enabled() else 1.0)
    trainer.model[1].running_mean.add_(0.1)


def train(trainer: Any, steps: range, scale: float = 1.0) -> None:
    """Steps whose rate, momentum and length of gradients change."""
    for step in steps:
        for number, group in enumerate(trainer.optimizer.param_groups):
            group.update(lr=0.01 * (step + 1) * (number + 1), momentum=0.8 + 0.01 * step)
        give_gradients(trainer, step, scale * 10 ** (step % 3 - 1))
        trainer.optimizer_step()
        assert all(parameter.grad is None for parameter in trainer.model.parameters())


def everything(trainer: Any) -> dict[str, Tensor]:
    found = {f"model.{key}": value for key, value in trainer.model.state_dict().items()}
    found |= {f"ema.{key}": value for key, value in trainer.ema.ema.state_dict().items()}
    kept = trainer.optimizer.state_dict()["state"]
    return found | {f"momentum.{number}": state["momentum_buffer"] for number, state in kept.items()}


def check_equal(a: Any, b: Any, dtype: torch.dtype = torch.float32) -> None:
    mine, theirs = everything(a), everything(b)
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        torch.testing.assert_close(value, theirs[key], **PEER_STEP[dtype], msg=lambda text, key=key: f"{key}: {text}")
    assert a.ema.updates == b.ema.updates


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("before", [0, 2])
def test_a_step_does_what_theirs_does(before: int, dtype: torch.dtype) -> None:
    ours, theirs = (SteppingTrainer(network(dtype)) for _ in range(2))
    for trainer in (ours, theirs):
        train(trainer, range(before))
    kept = {id(parameter) for parameter in ours.model.parameters()}
    with accelerate_training(ours) as found:
        assert found.replaced["SteppingTrainer.optimizer_step"] == "optimizer step"
        assert isinstance(ours.optimizer_step, OptimizerStep)
        for trainer in (ours, theirs):
            train(trainer, range(before, 8))
        check_equal(ours, theirs, dtype)
    assert {id(parameter) for parameter in ours.model.parameters()} == kept
    assert "optimizer_step" not in vars(ours)
    for trainer in (ours, theirs):
        train(trainer, range(8, 10))  # by their own code, on the same tensors
    check_equal(ours, theirs, dtype)


def test_the_optimizer_is_saved_as_theirs_and_loaded_by_it() -> None:
    ours, theirs = (SteppingTrainer(network()) for _ in range(2))
    accelerate_training(ours)
    for trainer in (ours, theirs):
        train(trainer, range(3))
    saved = copy.deepcopy((ours.model.state_dict(), ours.optimizer.state_dict(), ours.ema.ema.state_dict()))
    resumed = SteppingTrainer(network())
    for part, state in zip((resumed.model, resumed.optimizer, resumed.ema.ema), saved, strict=True):
        part.load_state_dict(state)
    resumed.ema.updates = ours.ema.updates
    for trainer in (resumed, theirs):
        train(trainer, range(3, 6))
    check_equal(resumed, theirs)


@pytest.mark.parametrize("what", ["a parameter without a gradient", "momentum loaded anew", "another average"])
def test_their_own_code_steps_where_something_is_not_as_it_was(what: str) -> None:
    ours, theirs = (SteppingTrainer(network()) for _ in range(2))
    accelerate_training(ours)
    for trainer in (ours, theirs):
        train(trainer, range(2))
        if what == "momentum loaded anew":
            trainer.optimizer.load_state_dict(copy.deepcopy(trainer.optimizer.state_dict()))
        if what == "another average":
            updates = trainer.ema.updates
            trainer.ema = copy.copy(trainer.ema)
            trainer.ema.ema, trainer.ema.updates, trainer.ema._pairs = copy.deepcopy(trainer.ema.ema), updates, None
        give_gradients(trainer, 5)
        if what == "a parameter without a gradient":
            trainer.model[2].weight.grad = None
        trainer.optimizer_step()
        train(trainer, range(3, 6))
    check_equal(ours, theirs)


def split_group(trainer: Any) -> None:
    moved = trainer.optimizer.param_groups[2]["params"].pop(0)
    trainer.optimizer.add_param_group({"params": [moved], "lr": 0.5})


def renew_average(trainer: Any) -> None:
    trainer.ema.ema = copy.deepcopy(trainer.ema.ema)


def halve_average(trainer: Any) -> None:
    """As older validators of Ultralytics do on a GPU."""
    trainer.ema.ema.half().float()


HABITS: dict[str, Callable[[Any], object]] = {
    "a layer frozen": lambda trainer: trainer.model[0].requires_grad_(False),
    "a layer thawed": lambda trainer: trainer.model[3].requires_grad_(True),
    "a group of its own": split_group,
    "momentum of a group": lambda trainer: trainer.optimizer.param_groups[0].update(nesterov=False),
    "another network in the average": renew_average,
    "the average in half precision and back": halve_average,
    "the average at rest": lambda trainer: setattr(trainer.ema, "enabled", False),
    "other strides": lambda trainer: trainer.model.to(memory_format=torch.contiguous_format),
    "weights to double and back": lambda trainer: trainer.model.double().float(),
    "a hook": lambda trainer: trainer.optimizer.register_step_pre_hook(scale_gradients),
}


def scale_gradients(optimizer: Any, *arguments: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None if parameter.grad is None else 0.5 * parameter.grad


@pytest.mark.parametrize("habit", HABITS)
def test_what_users_change_between_two_steps_holds(habit: str) -> None:
    ours, theirs = (SteppingTrainer(network()) for _ in range(2))
    accelerate_training(ours)
    for trainer in (ours, theirs):
        train(trainer, range(3))
        HABITS[habit](trainer)
        trainer.ema._pairs = None
        train(trainer, range(3, 7))
    check_equal(ours, theirs)


def test_a_scheduler_sees_the_step() -> None:
    trainer = SteppingTrainer(network())
    scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda epoch: 0.5**epoch)
    accelerate_training(trainer)
    train(trainer, range(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_the_loss_scale_goes_as_theirs_does(bad: float) -> None:
    ours, theirs = (SteppingTrainer(network()) for _ in range(2))
    for trainer in (ours, theirs):
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
        trainer.scaler.scale(torch.zeros(()))  # makes the scale, as the first backward does
    accelerate_training(ours)
    scales: list[list[float]] = []
    for step in range(9):
        for trainer in (ours, theirs):
            trainer.scaler.scale(torch.zeros(()))
            give_gradients(trainer, step, bad if step == 4 else 1.0)
            average = copy.deepcopy(trainer.ema.ema.state_dict())
            trainer.optimizer_step()
            if step == 4:  # theirs follows the running statistics in this step too
                trainer.ema.ema.load_state_dict(average)
        scales.append([trainer.scaler.get_scale() for trainer in (ours, theirs)])
    assert [a for a, _ in scales] == [b for _, b in scales]
    assert (scales[2][0], scales[4][0]) == (128, 64)
    check_equal(ours, theirs)


class Shorter(SteppingTrainer):
    def optimizer_step(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=5.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model)


class Logging(SteppingTrainer):
    def optimizer_step(self) -> None:
        self.norm = nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model)


def patched() -> SteppingTrainer:
    trainer = SteppingTrainer(network())
    trainer.optimizer_step = functools.partial(trainer.optimizer_step)  # type: ignore[method-assign]
    return trainer


def hooked() -> SteppingTrainer:
    trainer = SteppingTrainer(network())
    trainer.optimizer.register_step_pre_hook(scale_gradients)
    return trainer


def sharing() -> SteppingTrainer:
    shared = nn.Conv2d(3, 3, 1)
    return SteppingTrainer(nn.Sequential(shared, nn.BatchNorm2d(3), shared))


class Lightning(SteppingTrainer):
    def optimizer_step(self, epoch: int, closure: Any) -> None:  # type: ignore[override]
        raise NotImplementedError


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: SteppingTrainer(network(), torch.optim.AdamW), "AdamW: only torch's SGD is replaced"),
        (lambda: SteppingTrainer(network(), nesterov=False), "SGD without Nesterov momentum"),
        (lambda: Shorter(network()), "Shorter: steps otherwise than ours"),
        (lambda: Lightning(network()), "Lightning: steps otherwise than ours"),
        (lambda: Logging(network()), "Logging: steps otherwise than ours"),
        (patched, "a step put into this object alone"),
        (hooked, "an optimizer with hooks around its step"),
        (sharing, "tensors that several modules share: their average follows them once for each"),
    ],
)
def test_other_steps_are_left(make: Any, why: str) -> None:
    trainer = make()
    trainer.callbacks, before = {"on_train_start": []}, vars(trainer).get("optimizer_step")
    assert accelerate_training(trainer).left[f"{type(trainer).__name__}.optimizer_step"] == why
    assert vars(trainer).get("optimizer_step") is before


def test_a_module_with_a_state_of_its_own_is_stepped() -> None:
    class Noted(nn.BatchNorm2d):
        def get_extra_state(self) -> Any:
            return {"note": 1}

        def set_extra_state(self, state: Any) -> None:
            assert state == {"note": 1}

    model = network()
    model[1] = Noted(8)
    trainer = SteppingTrainer(model)
    assert "SteppingTrainer.optimizer_step" in accelerate_training(trainer).replaced
    train(trainer, range(2))


def test_trainers_that_flat_storage_cannot_hold_are_left() -> None:
    cases: list[tuple[SteppingTrainer, str]] = [
        (SteppingTrainer(network()), why) for why in ("groups", "none of", "is not as", "several")
    ]
    cases[0][0].optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    cases[1][0].optimizer.param_groups[1]["params"].pop(0)
    cases[2][0].ema.ema[0].double()
    cases[3][0].world_size = 2  # type: ignore[attr-defined]
    for trainer, why in cases:
        trainer.callbacks = {"on_train_start": []}  # type: ignore[attr-defined]
        assert why in accelerate_training(trainer).left["SteppingTrainer.optimizer_step"]
