"""Memory of a training step: what it takes, what is free, and what to do when it did not fit."""

from __future__ import annotations

import copy
import gc
import math
import resource
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from yolov9k.common.device import (
    AMP,
    device_memory,
    empty_cache,
    free_device_memory,
    is_cuda,
    model_device,
    peak_reserved,
)
from yolov9k.common.errors import UserError
from yolov9k.common.memory import available_memory
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine.train.optimizer import MOMENTS
from yolov9k.models import DetectionModel
from yolov9k.models.analysis.live_bytes import step_bytes
from yolov9k.ops import available
from yolov9k.tasks import Criterion, task_of

SHARE = 0.85  # of what is free: allocators split blocks, images wait in queues, validation has maps of its own
COUNTED = (16, 32)  # batches that are counted on shapes, a line through both gives the rest
_FAILURES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
)


class Footprint(NamedTuple):
    """Bytes of training: of the weights in whatever form, and of the step: `fixed` + images * `image`."""

    weights: int
    gradients: int
    momentum: int
    average: int
    low_precision: int  # autocast's copies of the weights
    fixed: int
    image: int

    @property
    def states(self) -> int:
        """What is there whatever the batch."""
        return self.weights + self.gradients + self.momentum + self.average + self.low_precision

    def total(self, batch: int) -> int:
        """All of it."""
        return self.states + self.fixed + batch * self.image


def footprint(
    model: DetectionModel, criterion: Criterion, img_size: int, amp: str = "off", optimizer: str = "SGD"
) -> Footprint:
    """An estimate from shapes alone, for the model's device; checkpointed as the model is."""
    weights, learning = _bytes(model.state_dict().values()), _bytes(p for p in model.parameters() if p.requires_grad)
    low = AMP[amp]
    dtype = low or next(model.parameters()).dtype
    copies = sum(p.numel() for p in model.parameters()) * dtype.itemsize if low else 0
    cuda = is_cuda(model_device(model))
    backend = "triton" if cuda and "triton" in available("conv_bn_silu") else "reference"
    loss: Any = copy.copy(criterion)
    loss.backend = "reference"
    counted = None if cuda and "triton" in available("detection_loss") else loss
    width = task_of(model).target_width
    few, many = COUNTED  # of one or two images the peak lies elsewhere
    first, second = (step_bytes(model, counted, batch, img_size, dtype, backend, width).peak for batch in COUNTED)
    image = math.ceil((second - first) / (many - few))
    moments = MOMENTS[optimizer] * learning
    return Footprint(weights, learning, moments, weights, copies, max(first - few * image, 0), image)


def batch_sizes(nominal: int, most: int) -> list[int]:
    """Batches worth choosing from: so many accumulated steps of them are the nominal batch, give or take an eighth.

    All up to 8, then multiples of 4; at most `most` and the nominal batch, beyond which a step would be another recipe's.
    """
    sizes = [b for b in range(1, min(nominal, most) + 1) if b <= 8 or b % 4 == 0]
    return [b for b in sizes if abs(b * max(round(nominal / b), 1) - nominal) <= nominal / 8] or [min(nominal, most)]


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still take on a device; what torch keeps but does not use is free. Raises UserError."""
    if (free := free_device_memory(device)) is not None:
        return free
    found = [room for room in (available_memory(), _process_room()) if room is not None]
    if not found:
        raise UserError("--batch auto: this system does not say how much memory is free; give --batch a number")
    return max(min(found), 0)


def _process_room() -> int | None:
    """What the limit of the address space leaves."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return limit - pages * resource.getpagesize()


def memory_gb(device: torch.device) -> float:
    """Peak memory: the GPU's reserved, else the process's own."""
    if (peak := peak_reserved(device)) is not None:
        return peak / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator refused: torch's of a GPU or of the CPU, or Python's own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _FAILURES)
    )


def explain_out_of_memory(
    error: BaseException, model: DetectionModel, criterion: Criterion, batch: int, img_size: int, *, amp: str = "off",
    recipe: TrainRecipe | None = None, optimizer: str = "SGD",
) -> UserError:  # fmt: skip
    """What a step that ran out of memory had allocated, and what to change. What the failed step still holds is let go."""
    device, recipe = next(model.parameters()).device, recipe or TrainRecipe()
    reserved = _reserved(device)
    let_go(error)
    cost = footprint(model, criterion, img_size, amp, optimizer)
    room = int(SHARE * (free_memory(device) + cost.states))
    parts = {"weights": cost.weights, "gradients": cost.gradients, "momentum": cost.momentum, "moving average": cost.average}
    if cost.low_precision:
        parts[f"weights in {amp}"] = cost.low_precision
    account = ", ".join(f"{name} {gb(size)}" for name, size in parts.items())
    step = f"activations about {gb(cost.fixed + batch * cost.image)} ({gb(cost.image)} an image)"
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"out of memory: a step of {batch} images of {img_size} px on {device} takes {account}, {step}{reserved}; "
        f"{gb(room)} can be had. {_advice(model, criterion, cost, room, batch, img_size, amp, recipe, optimizer)} ({said})"
    )


def _advice(
    model: DetectionModel,
    criterion: Criterion,
    cost: Footprint,
    room: int,
    batch: int,
    img_size: int,
    amp: str,
    recipe: TrainRecipe,
    optimizer: str,
) -> str:
    sizes = batch_sizes(recipe.nominal_batch, max(batch - 1, 1))
    remedies = []
    if fits := _fitting(cost, room, sizes):
        remedies.append(f"--batch {fits} (gradients are still accumulated to {recipe.nominal_batch} images)")
    if not model.checkpointed:
        try:
            saving = footprint(model.checkpoint_stages(), criterion, img_size, amp, optimizer)
        finally:
            model.checkpoint_stages(False)
        fits = _fitting(saving, room, batch_sizes(recipe.nominal_batch, max(batch, recipe.nominal_batch)))
        about = f", {gb(saving.image)} an image: about {fits} fit" if fits else ""
        remedies.append(f"--checkpoint (one more forward a step{about})")
    if amp == "off" and is_cuda(model_device(model)):
        remedies.append("--amp bf16")
    smaller = max(32 * round(img_size * 0.75 / 32), 32)
    if smaller < img_size:
        remedies.append(f"--img {smaller}")
    return f"Try {', or '.join(remedies)}" if remedies else "Nothing smaller is left to try but another --cfg"


def _fitting(cost: Footprint, room: int, sizes: Sequence[int]) -> int | None:
    return max((size for size in sizes if cost.total(size) <= room), default=None)


def _reserved(device: torch.device) -> str:
    memory = device_memory(device)
    if memory is None:
        return ""
    held = f"allocated {gb(memory.allocated)} and reserved {gb(memory.reserved)}"
    return f"; torch had {held} of the GPU's {gb(memory.total)}"


def let_go(error: BaseException) -> None:
    """Free what the frames of an error still hold: a step's activations, mostly."""
    traceback.clear_frames(error.__traceback__)
    collect()


def collect() -> None:
    """Free what nobody holds any more, torch's cache too."""
    gc.collect()
    empty_cache()


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def gb(size: float) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.2f} GB" if size < 1e10 else f"{size / 1e9:.1f} GB"
