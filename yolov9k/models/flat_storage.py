"""Flat storage: a model's parameters, gradients, momentum, average and buffers as views of a few long tensors."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from yolov9k.ops.sgd_ema import GROUPS

ALIGN = 64  # values; every view starts at a multiple, so that vector loads and tensor cores may read it in 16 bits too


class Slot(NamedTuple):
    """Where one tensor of a state dict lies: offset and strides in values."""

    key: str
    start: int
    shape: torch.Size
    stride: tuple[int, ...]

    def view(self, flat: Tensor) -> Tensor:
        """The tensor's place in `flat`."""
        return flat.as_strided(self.shape, self.stride, flat.storage_offset() + self.start)


class FlatStorage:
    """Moves the floating tensors of `model` into flat storage and its moving average, `average`, alike.

    average: a model of the same tensors, a new copy of `model` if None; groups: the parameters of each group, up to three, by
    kind if None: bias, weight, norm.

    values: [M] of the model: trained parameters by group (which end at `ends`), then frozen parameters
    and buffers; grads, momentum: [ends[-1]] zeros; ema: [M] of `average`. Each view keeps its tensor's strides; between
    views are zeros, which a step leaves zero. Integer buffers stay where they are. Raises ValueError naming a tensor whose
    dtype or device is not that of the rest, a parameter that learns and is in no group, or a tensor that the average lacks.
    """

    def __init__(
        self, model: nn.Module, average: nn.Module | None = None, groups: Sequence[Sequence[Tensor]] | None = None
    ) -> None:
        self.average = average or copy.deepcopy(model).eval().requires_grad_(False)
        grouped = _grouped(model, groups or _by_kind(model))
        _check_average(self.average, grouped)
        self.slots, self.ends, total = _lay_out(grouped)
        self.trained = sum(map(len, grouped[:GROUPS]))  # the first slots, which are parameters that learn
        like = next(iter(model.parameters()))
        self.values, self.ema = (torch.zeros(total, dtype=like.dtype, device=like.device) for _ in range(2))
        self.grads, self.momentum = (torch.zeros_like(self.values[: self.ends[-1]]) for _ in range(2))
        _move(model, self.slots, self.values)
        _move(self.average, self.slots, self.ema)
        state = model.state_dict(keep_vars=True)
        self._bound = [(state[slot.key], slot.view(self.values), slot.view(self.grads)) for slot in self.slots[: self.trained]]
        mine = {key: value for key, value in self.average.state_dict().items() if isinstance(value, Tensor)}
        pairs = [(value, state[key]) for key, value in mine.items() if not value.is_floating_point()]
        self._mine, self._theirs = [value for value, _ in pairs], [theirs for _, theirs in pairs]

    @property
    def statistics(self) -> Tensor:
        """What does not learn: the running statistics of BatchNorm, and frozen parameters."""
        return self.values[self.ends[-1] :]

    def gather(self) -> None:
        """Add every parameter's gradient to `grads` and let go of it; backward then has no old one to add to.

        Raises RuntimeError where a parameter itself has left the storage, by `model.to` for instance.
        """
        views, grads = list[Tensor](), list[Tensor]()
        for parameter, value, view in self._bound:
            if parameter.data_ptr() != value.data_ptr():
                raise RuntimeError("a parameter was moved out of the flat storage; move the model before training is set up")
            if parameter.grad is not None:
                views.append(view)
                grads.append(parameter.grad)
                parameter.grad = None
        if views:
            torch._foreach_add_(views, grads)

    def places(self, model: nn.Module) -> list[tuple[Tensor, int]]:
        """The tensors of `model` and of the average that lie here, and the address of each."""
        found = []
        for module, flat in ((model, self.values), (self.average, self.ema)):
            state = module.state_dict(keep_vars=True)
            found += [(state[slot.key], slot.view(flat).data_ptr()) for slot in self.slots]
        return found

    def copy_counts(self) -> None:
        """Bring the average's integer buffers, BatchNorm's counters, up to the model's."""
        if self._mine:
            torch._foreach_copy_(self._mine, self._theirs)

    def momenta(self) -> dict[str, Tensor]:
        """Momentum of each trained parameter by its name, as views."""
        return self.by_name(self.momentum)

    def gradients(self) -> dict[str, Tensor]:
        """What `grads` holds of each trained parameter by its name, as views."""
        return self.by_name(self.grads)

    def by_name(self, flat: Tensor) -> dict[str, Tensor]:
        """What a tensor laid out as `momentum` holds of each trained parameter, as views."""
        return {slot.key: slot.view(flat) for slot in self.slots[: self.trained]}

    def sizes(self) -> list[int]:
        """How many tensors each group has."""
        starts = [slot.start for slot in self.slots[: self.trained]]
        below = [sum(start < end for start in starts) for end in self.ends]
        return [end - start for start, end in zip([0, *below], below, strict=False)]


def _by_kind(model: nn.Module) -> list[list[Tensor]]:
    """Parameters called bias, the other ones, and the other ones of normalization."""
    norms = {id(p) for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) for p in m.parameters(False)}
    kinds: list[list[Tensor]] = [[] for _ in range(GROUPS)]
    for key, parameter in model.named_parameters():
        kinds[0 if key.rpartition(".")[2] == "bias" else 2 if id(parameter) in norms else 1].append(parameter)
    return kinds


def _grouped(model: nn.Module, groups: Sequence[Sequence[Tensor]]) -> list[dict[str, Tensor]]:
    """Floating tensors of the state dict by group, last those that do not learn. A shared tensor is listed once."""
    of = {id(parameter): number for number, group in enumerate(groups) for parameter in group}
    grouped: list[dict[str, Tensor]] = [{} for _ in range(GROUPS + 1)]
    like, seen = next(iter(model.parameters())), set()
    for key, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or id(tensor) in seen:  # an extra state is anything
            continue
        seen.add(id(tensor))
        if (tensor.dtype, tensor.device) != (like.dtype, like.device):
            raise ValueError(f"{key} is {tensor.dtype} on {tensor.device}, other tensors {like.dtype} on {like.device}")
        if tensor.requires_grad and id(tensor) not in of:
            raise ValueError(f"{key} learns and is in none of the optimizer's groups")
        grouped[of[id(tensor)] if tensor.requires_grad else GROUPS][key] = tensor
    return grouped


def _check_average(average: nn.Module, grouped: list[dict[str, Tensor]]) -> None:
    state = average.state_dict()
    for key, tensor in ((key, tensor) for group in grouped for key, tensor in group.items()):
        mine = state.get(key)
        if mine is None or (mine.shape, mine.dtype, mine.device) != (tensor.shape, tensor.dtype, tensor.device):
            raise ValueError(f"the average's {key} is not as the model's")


def _lay_out(groups: list[dict[str, Tensor]]) -> tuple[list[Slot], list[int], int]:
    """A slot a tensor, the ends of the three groups, and the end of all."""
    slots, ends, start = [], [], 0
    for tensors in groups:
        for key, tensor in tensors.items():
            stride = torch.empty_like(tensor, device="meta").stride()  # the tensor's own where it is dense
            slots.append(Slot(key, start, tensor.shape, stride))
            start += -(-tensor.numel() // ALIGN) * ALIGN
        ends.append(start)
    return slots, ends[:GROUPS], start


def _move(model: nn.Module, slots: list[Slot], flat: Tensor) -> None:
    """Turn the model's tensors into views of `flat`, of the same values."""
    state = model.state_dict(keep_vars=True)
    for slot in slots:
        view = slot.view(flat)
        view.copy_(state[slot.key].detach())
        state[slot.key].data = view
