"""One accumulation step of training: forward, loss, backward and, when its turn comes, clip, SGD and EMA.

Nothing in it asks the device for anything, so the whole of it can be recorded as one CUDA graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from yolov9k.common.checks import expect_device, expect_shape
from yolov9k.common.device import AMP, GraphRecorder, NotRecorded, autocast_to, is_cuda, model_device
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine.train.cuda_graphs import Graphs, capacity
from yolov9k.engine.train.optimizer import make_optimizer
from yolov9k.engine.train.schedule import FIRST_SCALE, Phase, Schedule, settings
from yolov9k.models import DetectionModel
from yolov9k.models.flat_storage import FlatStorage
from yolov9k.ops.library import label
from yolov9k.ops.sgd_ema import NORM, SCALE, SETTINGS, SKIPPED, STATE, UPDATES
from yolov9k.tasks import Criterion, task_of

_log = logging.getLogger(__name__).info
MODES = ("auto", "eager", "captured", "compiled")


class TrainStep:
    """Trains `model` step by step.

    Call it with images [B, 3, H, W] (uint8, or floating 0..1), the task's targets (for detection rows [B, G, 5]: class, cx,
    cy, w, h normalized) and their counts [B], all on the model's device; it returns the loss parts, one for each of the
    task's losses (box, class, dfl), as a device tensor, without waiting.
    `model` and `ema` are the weights: the model's tensors move into flat storage, so move it to its device before.

    mode: "eager"; "captured": the whole step as a CUDA graph, one for each shape of batch; "compiled": network and loss by
    torch.compile; "auto": captured on a GPU, else eager. All give the same trajectory; `mode` says which one runs. A step
    that cannot be recorded runs eagerly, and `log` says why.
    schedule sets learning rates, momentum and accumulation by iteration; without one they stay those of `recipe`. batch:
    images a step, by which weight decay scales. optimizer: "SGD", "AdamW" or "Adam". amp: "off", "fp16" (the loss scale
    moves on the device) or "bf16". A step whose gradient is not finite changes no weight and is counted in `skipped`. Raises
    UserError for a mode or optimizer that cannot be.
    """

    def __init__(
        self,
        model: DetectionModel,
        criterion: Criterion,
        recipe: TrainRecipe,
        mode: str = "auto",
        *,
        batch: int | None = None,
        schedule: Schedule | None = None,
        amp: str = "off",
        channels_last: bool = True,
        optimizer: str = "SGD",
        log: Callable[[str], object] = _log,
    ) -> None:
        self.model, self.criterion, self.recipe, self.schedule, self.log = model, criterion, recipe, schedule, log
        self.task, self.device = task_of(model), model_device(model)
        self.mode, self.dtype = choose_mode(mode, self.device), AMP[amp]
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        share = (batch or recipe.nominal_batch) * (schedule.accumulate if schedule else 1) / recipe.nominal_batch
        self.weight_decay = recipe.weight_decay * share
        self.flat = FlatStorage(model)
        self._good_statistics = self.flat.statistics.clone()
        like = self.flat.values
        self.state, self._settings = (like.new_zeros(size) for size in (STATE, SETTINGS))
        self.state[SCALE] = FIRST_SCALE if self.dtype == torch.float16 else 1.0
        self.optimizer = make_optimizer(optimizer, self.flat, self._settings, self.state, recipe, self.weight_decay)
        self._told: list[float] = []
        self.iteration = self.waiting = 0
        self._graphs = Graphs(GraphRecorder(self.device), log) if self.mode == "captured" else None
        self._losses = torch.compile(self._forward, dynamic=False) if self.mode == "compiled" else None

    def __call__(self, images: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
        """One accumulation step. Raises ValueError for a batch on another device or of shapes that do not fit."""
        self._check(images, targets, counts)
        phase = self.phase
        due = self.waiting + 1 >= phase.accumulate
        if due:
            self._tell(phase)
        parts = self._run(due, images, targets, counts)
        self.iteration, self.waiting = self.iteration + 1, 0 if due else self.waiting + 1
        return parts

    def _run(self, due: bool, images: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
        run = self._accumulate_and_update if due else self._accumulate
        if self._graphs is None:
            return run(images, targets, counts)
        try:
            return self._graphs("update" if due else "accumulate", run, images, targets, counts)
        except NotRecorded as error:
            self._graphs, self.mode = None, "eager"
            self.log(f"the training step cannot be recorded and runs eagerly: {error}")
            self.model.zero_grad()  # gradients of the recording, which nothing has filled
            return run(images, targets, counts)

    def _check(self, images: Tensor, targets: Tensor, counts: Tensor) -> None:
        for name, tensor in (("images", images), ("targets", targets), ("counts", counts)):
            expect_device(tensor, self.flat.values, "TrainStep", name)
        expect_shape(targets, (len(images), None, self.task.target_width), "TrainStep", "targets")
        expect_shape(counts, (len(images),), "TrainStep", "counts")

    @property
    def ema(self) -> DetectionModel:
        """The moving average of the weights, in evaluation mode."""
        self.flat.copy_counts()
        return self.flat.average  # type: ignore[return-value]

    @property
    def phase(self) -> Phase:
        """What the schedule prescribes for the next call."""
        recipe = self.recipe
        return self.schedule.at(self.iteration) if self.schedule else Phase(recipe.lr0, recipe.lr0, recipe.momentum, 1)

    @property
    def grad_norm(self) -> Tensor:
        """Length of the last optimizer step's gradient before it was clipped, a scalar on the device."""
        return self.state[NORM]

    @property
    def skipped(self) -> int:
        """Optimizer steps left out because their gradient was not finite. Waits for the device."""
        return int(self.state[SKIPPED])

    @property
    def updates(self) -> int:
        """Optimizer steps done. Waits for the device."""
        return int(self.state[UPDATES])

    def _tell(self, phase: Phase) -> None:
        """Put a phase's settings into device memory, without waiting for it."""
        values = settings(phase, self.recipe, self.weight_decay, self.dtype == torch.float16).values()
        if values != self._told:
            sent = torch.tensor(values, dtype=self._settings.dtype, pin_memory=is_cuda(self.device))
            self._settings.copy_(sent, non_blocking=True)
            self._told = values

    def _accumulate(self, images: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
        """Add a batch's gradient to what waits in flat storage."""
        scale = self.state[SCALE] if self.dtype == torch.float16 else None
        if self._losses is None:
            parts = self.criterion.backward(self._branches(images), (targets, counts), scale)
        else:
            room = F.pad(targets, (0, 0, 0, capacity(targets.shape[1]) - targets.shape[1]))
            total, parts = self._losses(images, room, counts)
            with label("step/backward"):
                (total if scale is None else total * scale).backward()  # type: ignore[no-untyped-call]
        with label("step/backward"):
            self.flat.gather()
        return parts

    def _branches(self, images: Tensor) -> Any:
        with label("step/input"):
            images = to_float(images.contiguous(memory_format=self.memory_format))
        if images.dtype != self.dtype and images.dtype != self.flat.values.dtype:
            images = images.to(self.flat.values.dtype)
        with label("step/forward"), autocast_to(self.device, self.dtype):
            return self.model(images)

    def _forward(self, images: Tensor, targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """What torch.compile is given."""
        return self.criterion(self._branches(images), (targets, counts))

    def _accumulate_and_update(self, images: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
        """The batch that completes an optimizer step."""
        parts = self._accumulate(images, targets, counts)
        with label("step/optimizer"):
            statistics = self.flat.statistics
            # one batch that overflows would spoil the running statistics for good
            statistics.copy_(torch.where(statistics.isfinite(), statistics, self._good_statistics))
            self._good_statistics.copy_(statistics)
            self.optimizer.step()
        return parts

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside the model's own weights and the average's.

        Gradients are those that wait for an update, none right after one.
        """
        tensors = {**self.optimizer.moments(), "grads": self.flat.gradients() if self.waiting else {}}
        copies = {name: {key: value.clone() for key, value in held.items()} for name, held in tensors.items()}
        scaled = self.dtype == torch.float16
        return {**copies, "state": self.state.clone(), "scaled": scaled, "iteration": self.iteration, "waiting": self.waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, in whatever precision. Raises ValueError where it is another model's."""
        waiting = state.get("waiting", 0)  # earlier versions dropped what waited
        held = [*self.optimizer.moments().items()] + ([("grads", self.flat.gradients())] if waiting else [])
        for name, own in held:
            if own.keys() != state.get(name, {}).keys():
                raise ValueError(
                    "TrainStep: the state is of another model or optimizer, other frozen layers or an earlier version"
                )
        for name, own in held:
            for key, value in own.items():
                value.copy_(state[name][key])
        scale = self.state[SCALE].clone()
        self.state.copy_(state["state"])
        if (self.dtype == torch.float16) != state.get("scaled", float(state["state"][SCALE]) != 1):
            self.flat.grads.mul_(scale / self.state[SCALE])
            self.state[SCALE] = scale
        self._good_statistics.copy_(self.flat.statistics)
        self.iteration, self.waiting = state["iteration"], waiting


def choose_mode(mode: str, device: torch.device) -> str:
    """The mode that runs on a device. Raises UserError for an unknown one or one that needs a GPU."""
    if mode not in MODES:
        raise UserError(f"--mode {mode}: expected one of {', '.join(MODES)}")
    if mode == "captured" and not is_cuda(device):
        raise UserError(f"--mode captured: CUDA graphs need a GPU, the model is on {device}; use eager or compiled")
    if mode == "auto":
        return "captured" if is_cuda(device) else "eager"
    return mode


def to_float(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to float32 0..1; floats pass through."""
    return images / 255 if images.dtype == torch.uint8 else images
