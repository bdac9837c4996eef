"""A trainer's optimizer step (clipping, Nesterov SGD, moving average) by one operator over flat storage."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from yolov9k.models.flat_storage import FlatStorage
from yolov9k.ops.sgd_ema import GROUPS, SCALE, SETTINGS, STATE, TRACKER, Settings, sgd_ema

CLIP = 10.0  # the norm that Ultralytics clips at; that a trainer does so too is found out by `agrees`
_TAU = 1e-3  # the average's decay is what the trainer says for each step: the operator's own ramp is over at once
_CLOSE = 1e-5  # two steps in float32, relative to what they change
_KINDS = (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError, AssertionError)


class NoStep(ValueError):
    """Why a trainer's step is left to its own code."""


class OptimizerStep:
    """Takes the place of `trainer.optimizer_step`.

    The trainer's weights, its average's and the optimizer's momentum become views of flat storage when it is made; each is the
    same object as before, and so is what they are saved as. The trainer's scaler and optimizer are read at each step, so
    schedules hold. A step whose gradient is not finite changes neither weights nor average. Where something is not as it was
    (a parameter without a gradient or newly with one, momentum loaded anew, other groups, hooks, weights or an average that
    left the flat storage), the trainer's own code takes the step. Raises NoStep for an
    optimizer that is not torch's SGD with Nesterov momentum and at most three groups, or weights that are not on one device.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.original = trainer, getattr(trainer, "optimizer_step", None)
        self.groups = _groups(trainer.optimizer)
        self.average = trainer.ema
        tensors = [id(value) for value in trainer.model.state_dict(keep_vars=True).values()]
        if len(set(tensors)) < len(tensors):
            raise NoStep("tensors that several modules share: their average follows them once for each")
        try:
            self.flat = FlatStorage(trainer.model, self.average.ema, [group["params"] for group in self.groups])
        except ValueError as error:
            raise NoStep(str(error)) from None
        self._settings, self._state = (self.flat.values.new_zeros(size) for size in (SETTINGS, STATE))
        self._state[SCALE] = 1.0
        self._told: list[float] = []
        self._momenta = self._bind()
        self._trained = {id(parameter) for parameter, _ in self._momenta}
        self._places = self.flat.places(trainer.model)

    def __call__(self) -> None:
        """One step, as the trainer's own."""
        if not self._is_bound():
            self.original()  # type: ignore[misc]  # a trainer has one
            return
        self.flat.gather()
        self.average.updates += 1
        self._tell(self.trainer.scaler)
        flat = self.flat
        sgd_ema(flat.values, flat.grads, flat.momentum, flat.ema, None, self._settings, flat.ends, self._state)
        self._answer(self.trainer.scaler)
        self.trainer.optimizer._opt_called = True  # a scheduler asks for it

    def _bind(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Each trained parameter and its momentum, which is a view from now on."""
        parameters, optimizer = dict(self.trainer.model.named_parameters()), self.trainer.optimizer
        bound = []
        for key, view in self.flat.momenta().items():
            kept = optimizer.state[parameters[key]].get("momentum_buffer")
            if kept is not None:
                view.copy_(kept)
            optimizer.state[parameters[key]]["momentum_buffer"] = view
            bound.append((parameters[key], view))
        if hasattr(self.average, "_pairs"):
            self.average._pairs = None  # lists of the tensors as they lay before
        return bound

    def _is_bound(self) -> bool:
        """Whether all is as it was when the step was made, but for values and gradients."""
        average, optimizer = self.average, self.trainer.optimizer
        if self.trainer.ema is not average or average.ema is not self.flat.average or not getattr(average, "enabled", True):
            return False
        try:
            groups = _groups(optimizer)
        except NoStep:
            return False
        if len(groups) != len(self.groups) or any(a is not b for a, b in zip(groups, self.groups, strict=True)):
            return False
        learning = {id(parameter) for group in groups for parameter in group["params"] if parameter.grad is not None}
        return (
            learning == self._trained
            and all(optimizer.state[parameter].get("momentum_buffer") is momentum for parameter, momentum in self._momenta)
            and all(tensor.data_ptr() == place for tensor, place in self._places)
        )

    def _tell(self, scaler: Any) -> None:
        lr, decay = ([float(group[key]) for group in self.groups] for key in ("lr", "weight_decay"))
        rest = [0.0] * (GROUPS - len(self.groups))
        settings = Settings(
            tuple(lr + rest), tuple(decay + rest), float(self.groups[0]["momentum"]), CLIP,  # type: ignore[arg-type]
            self.average.decay(self.average.updates), _TAU,
        )  # fmt: skip
        if scaler.is_enabled():
            growth, backoff, interval = scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()
            settings = settings._replace(growth=growth, backoff=backoff, interval=interval)
            self._state[SCALE], self._state[TRACKER] = scaler._scale, scaler._growth_tracker
        if settings.values() != self._told:
            self._told = settings.values()
            self._settings.copy_(torch.tensor(self._told, dtype=torch.float64))

    def _answer(self, scaler: Any) -> None:
        """Tell the trainer's scaler what became of the scale, without reading it on the host."""
        if scaler.is_enabled():
            scaler._scale.copy_(self._state[SCALE])
            scaler._growth_tracker.copy_(self._state[TRACKER])


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    """The optimizer's groups that hold something. Raises NoStep where the operator has not what they ask for."""
    if type(optimizer) is not torch.optim.SGD:
        raise NoStep(f"{type(optimizer).__name__}: only torch's SGD is replaced")
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise NoStep("an optimizer with hooks around its step")
    groups = [group for group in optimizer.param_groups if group["params"]]
    if not all(group["nesterov"] and not group["maximize"] for group in groups):
        raise NoStep("SGD without Nesterov momentum")
    if not 1 <= len(groups) <= GROUPS or len({group["momentum"] for group in groups}) > 1:
        raise NoStep(f"SGD with {len(groups)} groups; at most {GROUPS} of one momentum are replaced")
    return groups


def step_of(trainer: Any) -> OptimizerStep:
    """Ours for this trainer. Raises NoStep with the reason where it is left."""
    if getattr(trainer, "world_size", 1) > 1:
        raise NoStep("several processes: their gradients lie in buckets")
    if "optimizer_step" in getattr(trainer, "__dict__", {}):
        raise NoStep("a step put into this object alone")
    _groups(trainer.optimizer)
    if not agrees(trainer):
        raise NoStep(f"{type(trainer).__name__}: steps otherwise than ours")
    return OptimizerStep(trainer)


def agrees(trainer: Any) -> bool:
    """Whether the trainer's step does to a small model what ours does, for long and short gradients."""
    try:
        theirs, ours = _twin(trainer), _twin(trainer)
        step, kept = OptimizerStep(ours), set(vars(theirs))
        for scale in (100.0, 0.01):
            for twin in (theirs, ours):
                for parameter in twin.model.parameters():
                    parameter.grad = scale * torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
            type(trainer).optimizer_step(theirs)
            step()
        pairs = zip(_results(theirs), _results(ours), strict=True)
        cleared = all(parameter.grad is None for parameter in theirs.model.parameters())
        return cleared and set(vars(theirs)) == kept and all(torch.allclose(a, b, rtol=_CLOSE, atol=_CLOSE) for a, b in pairs)
    except _KINDS:
        return False


def _results(twin: SimpleNamespace) -> list[Tensor]:
    return [*twin.model.state_dict().values(), *twin.ema.ema.state_dict().values()]


def _twin(trainer: Any) -> SimpleNamespace:
    """What a trainer steps with, of a model of six weights."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(0.5, 2, parameter.numel()).view_as(parameter))
    groups = [{"params": [model.weight], "weight_decay": 5e-2}, {"params": [model.bias], "lr": 0.1}]
    average = copy.copy(trainer.ema)
    average.ema, average.updates, average._pairs = copy.deepcopy(model).requires_grad_(False), 0, None
    return SimpleNamespace(
        model=model, optimizer=torch.optim.SGD(groups, lr=0.2, momentum=0.9, nesterov=True), ema=average,
        scaler=torch.amp.GradScaler("cpu", enabled=False), device=torch.device("cpu"), args=getattr(trainer, "args", None),
    )  # fmt: skip
