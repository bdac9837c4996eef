"""What kernels take beside maps: vectors of one value a channel. Nothing here needs Triton."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Norm(NamedTuple):
    """One BatchNorm: gamma, beta of any floating dtype, mean, invstd float32, all [C]."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    invstd: Tensor


class Running(NamedTuple):
    """Running statistics that a training batch moves: mean, var [C], batches (a count), and by how much."""

    mean: Tensor
    var: Tensor
    batches: Tensor
    momentum: float


class Deferred(NamedTuple):
    """A BatchNorm that its readers apply: gamma, beta [C]; where its `Affine` is written, float32 [4, C]; SiLU or not."""

    gamma: Tensor
    beta: Tensor
    table: Tensor
    activation: bool


class Affine(NamedTuple):
    """How a reader normalizes on the way in: u = (x - center) * scale + shift, then SiLU(u) where active; float32 [C]."""

    center: Tensor
    scale: Tensor
    shift: Tensor
    active: Tensor


class Epilogue(NamedTuple):
    """What a map's gradient is propagated through: its layer's raw output z [B, C, H, W], BatchNorm, SiLU or not."""

    z: Tensor
    gamma: Tensor
    beta: Tensor
    mean: Tensor
    invstd: Tensor
    activation: bool
