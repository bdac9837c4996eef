"""The compiled kernels of csrc/ seen from torch: arguments checked, outputs allocated, errors raised.

The module is loaded at the first call, never at import: a checkout that was not built imports, and says when asked what
is to be done.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch
from torch import Tensor

_BAD_ARGUMENT = 1  # csrc/status.h


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


def why_missing(device: str = "cpu") -> str:
    """Why the compiled kernels of `device` cannot be called here, with the remedy; empty when they can."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', not {device!r}")
    module, reason = _load()
    if module is None or device == "cpu":
        return reason
    if module.build_info()["cuda"] is None:
        return "yolov9k._native was built without CUDA; put nvcc on PATH or set CUDA_HOME, then `pip install -e .`"
    return "" if torch.cuda.is_available() else "torch sees no CUDA device"


def build_info() -> dict[str, object]:
    """How the module was compiled: `version`, `compiler`, `cuda` (its version or None), `archs` (the last is PTX).

    Raises RuntimeError where the module is missing.
    """
    return dict(_module("cpu").build_info())


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every pair.

    Args:
        a: [N, 4] float32 boxes, corners x1 y1 x2 y2 in pixels; need not be contiguous.
        b: [M, 4] float32, on the device of `a`: CPU or CUDA.

    Returns:
        [N, M] float32. A box whose right or lower edge lies before the other has area 0; two boxes of area 0 give 0;
        a NaN coordinate makes NaN of its row or column. No gradient flows.

    Raises:
        TypeError, ValueError: an argument is no tensor, or has another dtype, shape or device.
        RuntimeError: the compiled module is missing, or the CUDA launch failed.
    """
    _check_boxes("a", a)
    _check_boxes("b", b)
    if a.device != b.device:
        raise ValueError(f"a and b must be on one device, not on {a.device} and {b.device}")
    module = _module(a.device.type)
    a, b = a.detach().contiguous(), b.detach().contiguous()
    out = torch.empty(len(a), len(b), dtype=torch.float32, device=a.device)
    addresses = a.data_ptr(), len(a), b.data_ptr(), len(b), out.data_ptr()
    if a.is_cuda:
        with torch.cuda.device(a.device):
            _raise_for(module.pairwise_iou_cuda(*addresses, torch.cuda.current_stream().cuda_stream))
    else:
        _raise_for(module.pairwise_iou(*addresses))
    return out


def _module(device: str) -> ModuleType:
    """The compiled module, or RuntimeError with the reason why it cannot serve `device`."""
    module = _load()[0]
    if reason := why_missing(device):
        raise RuntimeError(reason)
    assert module is not None
    return module


def _check_boxes(name: str, boxes: Tensor) -> None:
    if not isinstance(boxes, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(boxes).__name__}")
    if boxes.dtype != torch.float32:
        raise TypeError(f"{name} must be float32, not {boxes.dtype}")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} must have the shape [n, 4], not {list(boxes.shape)}")
    if boxes.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name} must be on the CPU or a CUDA device, not on {boxes.device}")


def _raise_for(status: tuple[int, str]) -> None:
    code, message = status
    if code:
        raise (ValueError if code == _BAD_ARGUMENT else RuntimeError)(f"yolov9k._native: {message}")
