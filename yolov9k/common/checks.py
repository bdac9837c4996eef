"""Argument checks of operators and compiled kernels: each error names the operator, the argument, what it must be and is."""

from __future__ import annotations

import torch
from torch import Tensor

from yolov9k.common.errors import shown


def expect(condition: bool, operator: str, argument: str, expected: str, got: object) -> None:
    """Raise ValueError unless `condition` holds."""
    if not condition:
        raise ValueError(f"{operator}: {argument} must be {expected}, got {got if isinstance(got, str) else shown(got, 200)}")


def expect_shape(tensor: Tensor, shape: tuple[int | None, ...], operator: str, argument: str) -> None:
    """Raise ValueError unless `tensor` has `shape`; None admits any extent."""
    fits = tensor.dim() == len(shape) and all(e is None or e == n for e, n in zip(shape, tensor.shape, strict=True))
    if not fits:
        wanted = ", ".join("*" if extent is None else str(extent) for extent in shape)
        raise ValueError(f"{operator}: {argument} must have shape [{wanted}], got {list(tensor.shape)}")


def expect_float(tensor: Tensor, operator: str, argument: str) -> None:
    """Raise TypeError unless `tensor` is of a floating-point dtype."""
    if not tensor.is_floating_point():
        raise TypeError(f"{operator}: {argument} must be of a floating-point dtype, got {tensor.dtype}")


def expect_device(tensor: Tensor, like: Tensor, operator: str, argument: str) -> None:
    """Raise ValueError unless `tensor` lies on the device of `like`."""
    if tensor.device != like.device:
        raise ValueError(f"{operator}: {argument} must be on {like.device}, got {tensor.device}")


def expect_dtype(tensor: Tensor, dtypes: tuple[torch.dtype, ...], operator: str, argument: str) -> None:
    """Raise TypeError unless `tensor` is of one of `dtypes`."""
    if tensor.dtype not in dtypes:
        wanted = f"{'one of ' * (len(dtypes) > 1)}{', '.join(map(str, dtypes))}"
        raise TypeError(f"{operator}: {argument} must be of dtype {wanted}, got {tensor.dtype}")
