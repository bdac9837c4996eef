"""Triton's interpreter nearer to a GPU: it looks through its own language once, not at every launch, and sums by halves."""

from __future__ import annotations

import importlib.util
import inspect
import os
from typing import Any

import numpy as np


def look_once(interpreter: Any) -> None:
    """Let `_patch_builtin`, a fifth of the time, remember which members of a module or class are builtins."""
    builtins: dict[Any, list[str]] = {}
    is_builtin = interpreter.tl.core.is_builtin

    def patch_builtin(package: Any, *rest: Any) -> None:
        if package not in builtins:
            builtins[package] = [name for name, member in inspect.getmembers(package) if is_builtin(member)]
        for name in builtins[package]:
            member = getattr(package, name)
            if is_builtin(member):  # not yet patched by a kernel that calls this one
                interpreter._patch_attr(package, name, member, *rest)

    interpreter._patch_builtin = patch_builtin


def sum_by_halves(interpreter: Any) -> None:
    """Floats are added as a GPU's threads do, in a tree: numpy adds a tile's rows one after another, which rounds far more."""
    plain = interpreter.ReduceOps.sum

    def tree(self: Any, value: Any) -> Any:
        data, axis = value.handle.data, self.axis
        if not np.issubdtype(data.dtype, np.floating) or self.keep_dims:
            return plain(self, value)
        data, axis = (data.reshape(-1), 0) if axis is None else (data, axis)
        while data.shape[axis] > 1:  # always a power of two
            left, right = np.split(data, 2, axis)
            data = left + right
        return self.to_tensor(data.squeeze(axis), value.dtype)

    interpreter.ReduceOps.sum = tree


if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None:
    from triton.runtime import interpreter

    if hasattr(interpreter, "_patch_builtin") and hasattr(interpreter, "_patch_attr"):
        look_once(interpreter)
    if hasattr(interpreter, "ReduceOps") and hasattr(interpreter.ReduceOps, "sum"):
        sum_by_halves(interpreter)
