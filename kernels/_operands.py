"""What kernels take: maps as matrices, and vectors of one value a channel. Nothing here needs Triton."""

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


def pitch_of(x: Tensor) -> int:
    """Elements from one pixel to the next of a channels-last map [B, C, H, W], or of a slice of its channels; 0 for others."""
    batch, channels, height, width = x.shape
    image, between, line, pixel = x.stride()
    pitch = pixel if width > 1 else line if height > 1 else image if batch > 1 else channels
    # the stride of a lone row, column or image says nothing
    regular = (height == 1 or line == width * pitch) and (batch == 1 or image == height * width * pitch)
    return pitch if regular and pitch >= channels and (channels == 1 or between == 1) else 0


def as_matrix(x: Tensor) -> Tensor:
    """A map [B, C, H, W] with neighboring channels as a matrix [B * H * W, C]; other layouts are copied."""
    batch, channels, height, width = x.shape
    pitch = pitch_of(x)
    if not pitch:
        return x.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()
    return x.as_strided((batch * height * width, channels), (pitch, 1))
