"""What moves the weights in flat storage: SGD by the fused operator, Adam and AdamW by torch's own fused steps."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.models.flat_storage import FlatStorage
from yolov9k.ops.reference.sgd_ema import LR, advance, clip, follow
from yolov9k.ops.sgd_ema import sgd_ema

# Running means of the gradient and of its square, beside each trained value.
MOMENTS = {"SGD": 1, "AdamW": 2, "Adam": 2}
BETA2 = 0.999  # as published; beta1 is the recipe's momentum


class Optimizer(Protocol):
    """Clips the gradient in flat storage, moves weights and average, clears the gradient; nothing is read on the host."""

    def step(self) -> None:
        """One step. A gradient that is not finite changes nothing but its count in the state."""

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """What a resumed run needs, by kind and by parameter's name, as views."""


class Sgd:
    """`ops.sgd_ema`. settings, state: as it takes them."""

    def __init__(self, flat: FlatStorage, settings: Tensor, state: Tensor) -> None:
        self.flat, self.settings, self.state = flat, settings, state

    def step(self) -> None:
        flat = self.flat
        sgd_ema(flat.values, flat.grads, flat.momentum, flat.ema, None, self.settings, flat.ends, self.state)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        return {"momentum": self.flat.momenta()}


class Adam:
    """torch.optim.Adam or AdamW (Loshchilov and Hutter, 2019) over the three groups, each one long tensor.

    Clipping, average, loss scale and steps left out are those of `sgd_ema`. Learning rates are read from `settings` in device
    memory, so a captured step obeys a schedule. Raises UserError for a device without fused steps.
    """

    def __init__(
        self, name: str, flat: FlatStorage, settings: Tensor, state: Tensor, recipe: TrainRecipe, weight_decay: float
    ) -> None:
        self.flat, self.settings, self.state = flat, settings, state
        self.second = torch.zeros_like(flat.momentum)
        parts = [slice(start, end) for start, end in pairwise((0, *flat.ends))]
        self.counts = torch.zeros(len(parts), dtype=torch.float32, device=flat.values.device)
        groups = [(i, part, nn.Parameter(flat.values[part])) for i, part in enumerate(parts) if part.stop > part.start]
        kind = torch.optim.AdamW if name == "AdamW" else torch.optim.Adam
        try:
            self._torch = kind(
                [{"params": [p], "weight_decay": weight_decay if i == 1 else 0.0} for i, _, p in groups],
                betas=(recipe.momentum, BETA2), fused=True, capturable=True,
            )  # fmt: skip
        except RuntimeError as error:
            raise UserError(f"--optimizer {name}: torch has no fused step for {flat.values.device} ({error})") from None
        for group, (i, part, parameter) in zip(self._torch.param_groups, groups, strict=True):
            group["lr"] = settings[LR + i]
            parameter.grad = flat.grads[part]
            moments = {"exp_avg": flat.momentum[part], "exp_avg_sq": self.second[part]}
            self._torch.state[parameter] = {"step": self.counts[i], **moments}

    def step(self) -> None:
        flat, settings, state = self.flat, self.settings, self.state
        norm, finite, share = clip(flat.grads, settings, state)
        flat.grads.mul_(share)
        self._torch.found_inf = (~finite).to(torch.float32)  # type: ignore[attr-defined]  # as torch.amp.GradScaler tells it
        self._torch.step()
        follow(flat.ema, flat.values, settings, state, finite)
        flat.grads.zero_()
        advance(state, settings, norm, finite)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        second = self.flat.by_name(self.second)
        return {"momentum": self.flat.momenta(), "second": second, "counts": {"counts": self.counts}}


def make_optimizer(
    name: str, flat: FlatStorage, settings: Tensor, state: Tensor, recipe: TrainRecipe, weight_decay: float
) -> Optimizer:
    """The optimizer of a name. Raises UserError for another one than "SGD", "AdamW" or "Adam"."""
    if name not in MOMENTS:
        raise UserError(f"--optimizer {name}: expected one of {', '.join(MOMENTS)}")
    if name == "SGD":
        return Sgd(flat, settings, state)
    return Adam(name, flat, settings, state, recipe, weight_decay)
