"""Makes every read of a tensor on the host an error, on any device: what a step does on a CPU it does on a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Results whose shape or value depends on data: a GPU would be waited for.
OPERATORS = {
    "_local_scalar_dense", "nonzero", "nonzero_static", "masked_select", "is_nonzero", "equal", "unique_consecutive",
    "_unique2", "unique_dim", "bincount", "histc", "repeat_interleave", "allclose", "_assert_async",
}  # fmt: skip
# Methods and functions that give Python values or host memory, or bring them to the device and wait for it.
CALLS = {
    "item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__", "__array__",
    "is_nonzero", "new_tensor", "nonzero", "masked_select",
}  # fmt: skip


class HostRead(AssertionError):
    """Something asked the device."""


class _Operators(TorchDispatchMode):
    def __init__(self, excused: set[CodeType]) -> None:
        super().__init__()
        self.excused = excused

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        masks = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1] if index is not None
        )
        if (name in OPERATORS or masks) and not _excused(self.excused):
            raise HostRead(f"{func} {'with a mask ' if masks else ''}is waited for")
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, excused: set[CodeType]) -> None:
        super().__init__()
        self.excused = excused

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        sends = func in (torch.tensor, torch.as_tensor) and (kwargs or {}).get("device") is not None
        if (name in CALLS or sends) and not _excused(self.excused):
            raise HostRead(f"{name} is waited for")
        return func(*args, **(kwargs or {}))


def _excused(functions: set[CodeType]) -> bool:
    """Whether one of these functions asks, or Triton's interpreter, which stands in for the device."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code in functions or "/triton/" in frame.f_code.co_filename:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


@contextmanager
def forbidden_host_reads(*excused: Callable[..., Any]) -> Iterator[None]:
    """Raises HostRead where a tensor's values come to the host meanwhile, except below the functions `excused`."""
    codes = {function.__code__ for function in excused}
    with _Calls(codes), _Operators(codes):
        yield
