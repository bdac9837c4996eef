"""Watching a run's losses: their means, and steps that are not finite, with the images and the layer they come from."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolov9k.common.device import autocast_to, is_cuda
from yolov9k.common.errors import UserError, warn
from yolov9k.common.host_copy import AsyncHostCopy
from yolov9k.data.loader import Batch
from yolov9k.data.records import Record
from yolov9k.engine.train.step import TrainStep, to_float
from yolov9k.ops.sgd_ema import SCALE, SKIPPED

SHOWN = 4  # images that a warning names
FAR = 30  # times training's loss, from which on validation's is told
BEHIND = 64  # steps that the host may be ahead of the device


class LossMonitor:
    """Losses of a run, read without waiting for the device; what is not finite is warned about, much of it ends the run.

    limit: this many consecutive iterations without a finite loss and gradient raise UserError, which names the layer, the
    images and `last_good`, the checkpoint to go back to. A gradient that overflows in fp16 while the loss scale settles is
    counted in `skipped` alone.
    """

    def __init__(self, step: TrainStep, records: Sequence[Record], limit: int, last_good: Path) -> None:
        self.step, self.records, self.limit, self.last_good = step, records, limit, last_good
        self.consecutive, self.skipped = 0, step.skipped
        self._figures = AsyncHostCopy(self._judge, step.device, BEHIND if is_cuda(step.device) else 0)
        self._batch: Batch | None = None  # the last step's
        self._told = self._far = self._gone = False
        self.start()

    def start(self, sums: Sequence[float] = (), count: int = 0) -> None:
        """Begin an epoch's means, or go on with `sums` as another monitor had them."""
        self._sum, self._count = list(sums) or [0.0] * len(self.step.task.losses), count

    @property
    def sums(self) -> tuple[list[float], int]:
        """What the means are made of: the sum of each loss in the epoch so far, and how many steps were finite."""
        return list(self._sum), self._count

    @property
    def means(self) -> dict[str, float]:
        """Mean of each of the task's losses in the epoch so far, by name, NaN where none was finite."""
        return self.step.task.loss_values([part / self._count if self._count else math.nan for part in self._sum])

    def add(self, parts: Tensor, batch: Batch) -> None:
        """Note the loss parts of the step that was given `batch`."""
        self._batch = batch
        figures = torch.cat((parts.float(), self.step.state.float()))
        self._figures.give((self.step.iteration, batch.indices), figures)

    def wait(self) -> None:
        """Wait for the figures of all steps so far."""
        self._figures.finish()

    def finish(self) -> None:
        """End an epoch: wait for its figures, and warn once of a loss that was exactly 0 in all of its steps."""
        self.wait()
        recipe = self.step.recipe
        idle = [
            loss.label
            for loss, total in zip(self.step.task.losses, self._sum, strict=True)
            if total == 0 and getattr(recipe, loss.name, 1) != 0
        ]
        if self._count and idle and not self._told:
            self._told = True
            warn(
                f"the {' and '.join(idle)} loss was exactly 0 in all {self._count} steps of an epoch: nothing is learned; "
                f"look at the labels in train_batch0.png and with 'yolov9k data check', or lower lr0 ({recipe.lr0})"
            )

    def compare(self, losses: dict[str, float], validation: dict[str, float] | None) -> None:
        """Warn once where an epoch's validation losses, by name as `means`, are far above those of its training, or exactly 0.

        Overfitting does not do that. Validation alone uses the running statistics, which follow the weights with a delay of
        1 / momentum = 33 steps a layer: in a deep network whose weights change fast the error multiplies from layer to layer.
        """
        labels = {loss.name: loss.label for loss in self.step.task.losses}
        gone = [labels[name] for name, loss in (validation or {}).items() if loss == 0 < losses[name]]
        if gone and not self._gone:
            self._gone = True
            warn(
                f"validation's {' and '.join(gone)} loss is exactly 0: the model finds nothing any more or there is no object; "
                f"lower lr0 ({self.step.recipe.lr0}) if its AP stays 0"
            )
        far = [name for name, loss in (validation or {}).items() if loss > FAR * max(losses[name], 1e-3)]
        if validation and far and not self._far:
            self._far = True
            figures = ", ".join(f"{labels[name]} {validation[name]:.4g} against {losses[name]:.4g}" for name in far)
            warn(
                f"validation's loss is far above training's ({figures}): BatchNorm's running statistics lag behind weights "
                f"that change fast; it passes within a few epochs, or else lower lr0 ({self.step.recipe.lr0})"
            )

    def _judge(self, step: tuple[int, Sequence[int]], figures: Tensor) -> None:
        number = len(self.step.task.losses)
        parts, state = figures[:number].tolist(), figures[number:].tolist()
        error = self._error(parts, state)
        if all(map(math.isfinite, parts)):
            self._sum, self._count = [a + b for a, b in zip(self._sum, parts, strict=True)], self._count + 1
        self.consecutive = self.consecutive + 1 if error else 0
        if error:
            self._warn(error, *step)

    def _error(self, parts: list[float], state: list[float]) -> str:
        """What of a step is not finite, empty where nothing is wrong."""
        left_out, self.skipped = int(state[SKIPPED]) - self.skipped, int(state[SKIPPED])
        settling = self.step.dtype == torch.float16 and state[SCALE] >= 1
        if not all(map(math.isfinite, parts)):
            return "loss"
        return "gradient" if left_out > 0 and not settling else ""

    def _warn(self, error: str, iteration: int, indices: Sequence[int]) -> None:
        files = ", ".join(self.records[i].path.name for i in indices[:SHOWN]) + (", ..." if len(indices) > SHOWN else "")
        warn(f"the {error} is not finite at iteration {iteration} (images {files}); the step is skipped")
        if self.consecutive >= self.limit:
            assert self._batch is not None
            place = find_nonfinite(self.step, self._batch.images, *self.step.task.targets(self._batch))
            raise UserError(
                f"the {error} was not finite for {self.consecutive} consecutive iterations; {place}; images {files}; lower lr0 "
                f"({self.step.recipe.lr0}) or train with --amp off; {self.last_good} is the last good state"
            )


def find_nonfinite(step: TrainStep, images: Tensor, targets: Tensor, counts: Tensor) -> str:
    """Where a batch first stops being finite: a tensor of the model, the images, a layer, the loss or a gradient."""
    twin = copy.deepcopy(step.model).use("reference")
    for key, value in twin.state_dict().items():
        if not value.isfinite().all():
            return f"the model's {key} is not finite"
    images = to_float(images).to(memory_format=step.memory_format)
    if not images.isfinite().all():
        return "the images are not finite"
    nonfinite: list[str] = []
    names = {module: name for name, module in twin.named_modules()}

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not nonfinite and not output.isfinite().all():
            nonfinite.append(f"{names[module]} ({type(module).__name__}) is the first layer whose output is not finite")

    for module in twin.modules():
        module.register_forward_hook(look)
    with autocast_to(step.device, step.dtype):
        branches = twin(images)
    if nonfinite:
        return nonfinite[0]
    total, parts = step.criterion(branches, (targets, counts))
    if not parts.isfinite().all():
        return f"every layer is finite, the loss is not: {step.task.loss_text(step.task.loss_values(parts.tolist()), ', ')}"
    total.backward()  # type: ignore[no-untyped-call]
    for key, parameter in reversed(list(twin.named_parameters())):  # as the gradient travels
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"the gradient is not finite from {key} on"
    return "done anew, the last batch is finite"
