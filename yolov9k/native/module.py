"""The compiled module: loaded at the first call, its arguments checked, its errors raised.

A checkout that was not built imports, and says when asked what is to be done. Shapes, dtypes and devices are checked here,
since an address tells none of them; lengths and what indices point at by the module itself.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

from yolov9k.common.checks import expect_device, expect_dtype, expect_shape
from yolov9k.kernels._operands import pitch_of

_Constant = TypeVar("_Constant")
_ERRORS = {1: ValueError, 2: RuntimeError, 3: MemoryError}  # csrc/status.h
Shapes = dict[str, tuple[Tensor, tuple[int | None, ...]]]
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # csrc/dtype.h
_NO_CUDA = (
    "yolov9k._native was built without CUDA: no nvcc was found, or YOLOV9K_CUDA=0; put nvcc on PATH, set CUDA_HOME, or set "
    "YOLOV9K_CUDA=pip to take the compiler from PyPI, then `pip install -e .`"
)


@functools.cache
def _load() -> tuple[ModuleType | None, str]:
    """The compiled module, or None and the reason; asked once a process."""
    try:
        return importlib.import_module("yolov9k._native"), ""
    except ModuleNotFoundError:
        return None, "yolov9k._native is not built; `pip install -e .` in the repository builds it"
    except ImportError as error:
        return None, f"yolov9k._native is built but does not load ({error}); `pip install -e .` rebuilds it"


def available(device: str = "cpu") -> bool:
    """Whether the compiled kernels of `device` ("cpu" or "cuda") can be called here."""
    return not why_missing(device)


def constant(function: Callable[..., _Constant]) -> Callable[..., _Constant]:
    """Let torch.compile call `function` once and keep what it returned.

    `torch.compiler.assume_constant_result` without its import of torch._dynamo, half of the time that a program takes to begin.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def why_missing(device: str = "cpu") -> str:
    """Why the compiled kernels of `device` cannot be called here, with the remedy; empty when they can."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', not {device!r}")
    module, reason = _load()
    if module is None or device == "cpu":
        return reason
    if module.build_info()["cuda"] is None:
        return _NO_CUDA
    return "" if torch.cuda.is_available() else "torch sees no CUDA device"


def build_info() -> dict[str, object]:
    """How the module was compiled: `version`, `compiler`, `cuda` (its version or None), `archs` (the last is PTX).

    Raises RuntimeError where the module is missing.
    """
    return dict(loaded("cpu").build_info())


def check(operator: str, like: Tensor, shapes: Shapes, **dtypes: tuple[torch.dtype, ...]) -> None:
    """Raise ValueError or TypeError for an argument of another shape, dtype, or on another device than `like`."""
    for name, (tensor, shape) in shapes.items():
        expect_shape(tensor, shape, operator, name)
        expect_device(tensor, like, operator, name)
        if wanted := dtypes.get(name.partition("[")[0]):
            expect_dtype(tensor, wanted, operator, name)


def place(operator: str, name: str, tensor: Tensor) -> tuple[int, int]:
    """Address and pitch of a slice of a map. Raises ValueError where a pixel's channels do not lie side by side."""
    pitch = pitch_of(tensor)
    if not pitch:
        raise ValueError(f"{operator}: {name} must be channels-last, or a slice of such a map, got strides {tensor.stride()}")
    return tensor.data_ptr(), pitch


def call(operator: str, device: torch.device, arguments: dict[str, object]) -> None:
    """Run an operator of the module on the host, on torch's number of threads, or on the current stream of a CUDA device."""
    module = loaded(device.type)
    if device.type == "cuda":
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream().cuda_stream
            raise_for(operator, getattr(module, f"{operator}_cuda")(**arguments, stream=stream))
    else:
        raise_for(operator, getattr(module, operator)(**arguments, threads=torch.get_num_threads()))


def loaded(device: str) -> ModuleType:
    """The compiled module, or RuntimeError with the reason why it cannot serve `device`."""
    module = _load()[0]
    if reason := why_missing(device):
        raise RuntimeError(reason)
    assert module is not None
    return module


def raise_for(operator: str, status: tuple[int, str]) -> None:
    code, message = status
    if code:
        raise _ERRORS[code](f"{operator}: {message}")
