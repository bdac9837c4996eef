"""`--batch auto`: the largest batch whose step fits in memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from yolov9k.common.device import is_cuda, peak_reserved, reset_peak_memory, synchronize
from yolov9k.common.errors import RUN, UserError, failing_as
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine.train.cuda_graphs import WARM_UP
from yolov9k.engine.train.memory import (
    SHARE,
    batch_sizes,
    collect,
    footprint,
    free_memory,
    gb,
    is_out_of_memory,
    let_go,
)
from yolov9k.engine.train.schedule import Schedule
from yolov9k.engine.train.step import TrainStep
from yolov9k.engine.train.synthetic_batch import synthetic_batch
from yolov9k.models import DetectionModel
from yolov9k.tasks import Criterion

TRIAL_UPDATES = WARM_UP + 1  # a later update than the first holds momentum, and a captured one its graph
TRIAL_ACCUMULATION = 3  # steps to an update: the first update is run eagerly while the other steps' graph holds its memory


class BatchChoice(NamedTuple):
    """A batch and the line that says why."""

    batch: int
    reason: str


@failing_as(RUN)
def pick_batch(
    model: DetectionModel, criterion: Criterion, recipe: TrainRecipe, img_size: int, device: torch.device, *, amp: str = "off",
    images: int | None = None, share: float = SHARE, optimizer: str = "SGD", **step_options: Any,
) -> BatchChoice:  # fmt: skip
    """The largest batch whose step fits in a share of the free memory; never more than the images or the nominal batch.

    On CUDA real steps of a copy of the model are run, at two small batches and then at the chosen one; on a CPU the memory
    is counted on shapes. step_options go to TrainStep. Raises UserError where nothing fits.
    """
    sizes = batch_sizes(recipe.nominal_batch, images or recipe.nominal_batch)
    room = int(share * free_memory(device))
    if is_cuda(device):
        needs: Callable[[int], int] = _Trials(model, criterion, recipe, img_size, amp, {"optimizer": optimizer, **step_options})
        how = "measured"
    else:
        needs, how = footprint(model, criterion, img_size, amp, optimizer).total, "estimated"
    try:
        batch, line = largest_batch(needs, room, sizes)
    except MemoryError:
        raise UserError(
            f"--batch auto: not even {sizes[0]} images of {img_size} px fit in {gb(room)}, {share:.0%} of what is free on "
            f"{device}; give a smaller --img, --checkpoint or a smaller model"
        ) from None
    bound = f"; more would exceed {_bound(recipe, images)}" if batch == sizes[-1] else ""
    return BatchChoice(
        batch, f"--batch auto: {batch} images of {img_size} px, {how}: {line}, {share:.0%} of what is free{bound}"
    )


def _bound(recipe: TrainRecipe, images: int | None) -> str:
    few = images is not None and images < recipe.nominal_batch
    return f"the {images} images there are" if few else f"the recipe's {recipe.nominal_batch} images a step"


def largest_batch(needs: Callable[[int], int], room: int, sizes: Sequence[int]) -> tuple[int, str]:
    """The largest of `sizes` (ascending) whose bytes, on a line through two small ones and then asked for, are within `room`.

    needs(batch) may raise an out-of-memory error itself. Returns the batch and its account. Raises MemoryError.
    """
    low, high = sizes[0], sizes[min(3, len(sizes) - 1)]
    first, second = _tried(needs, low), _tried(needs, high)
    wall = math.inf if math.isfinite(second) else high  # from here on the allocator refuses
    slope = (second - first) / (high - low) if low < high < wall else 0.0
    for batch in reversed([size for size in sizes if size < wall]):
        if first + slope * (batch - low) <= room and (found := _tried(needs, batch)) <= room:
            return batch, f"{gb(found)} of {gb(room)}, {gb(slope)} an image"
    raise MemoryError


def _tried(needs: Callable[[int], int], batch: int) -> float:
    try:
        return needs(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        let_go(error)
        return math.inf


class _Trials:
    """Peak bytes of real steps, by batch; each is tried once."""

    def __init__(
        self,
        model: DetectionModel,
        criterion: Criterion,
        recipe: TrainRecipe,
        img_size: int,
        amp: str,
        step_options: dict[str, Any],
    ) -> None:
        self.model, self.criterion, self.recipe, self.options = model, criterion, recipe, {"amp": amp, **step_options}
        self.img_size, self.classes = img_size, model.num_classes
        self.device = next(model.parameters()).device
        self.found: dict[int, int] = {}

    def __call__(self, batch: int) -> int:
        if batch not in self.found:
            before = reset_peak_memory(self.device)
            recipe, schedule = trial_schedule(self.recipe, batch)
            step = TrainStep(copy.deepcopy(self.model), self.criterion, recipe, batch=batch, schedule=schedule, **self.options)
            for size in trial_sizes(batch, schedule):
                step(*synthetic_batch(size, self.img_size, self.classes, self.device, task=step.task))
            synchronize(self.device)
            self.found[batch] = (peak_reserved(self.device) or 0) - before
            del step
            collect()
        return self.found[batch]


def trial_schedule(recipe: TrainRecipe, batch: int) -> tuple[TrainRecipe, Schedule]:
    """A recipe with as many steps to an update as the run's, but no more than make a difference, and its schedule."""
    recipe = recipe.override(warmup_epochs=0.0, nominal_batch=min(recipe.nominal_batch, TRIAL_ACCUMULATION * batch))
    return recipe, Schedule(recipe, batch, 1000, 1)


def trial_sizes(batch: int, schedule: Schedule) -> list[int]:
    """Batches of all kinds that a run has: those of several updates, and an epoch's smaller last one."""
    return [batch] * (TRIAL_UPDATES * schedule.accumulate) + [batch - 1] * (batch > 1)
