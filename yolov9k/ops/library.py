"""Registration of operators with torch.library, under the namespace `yolov9k`; names for a profiler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._library.autograd import Info, make_autograd_impl
from torch.profiler import record_function

_library = torch.library.Library("yolov9k", "FRAGMENT")  # type: ignore[no-untyped-call]
_DEVICES = ("CPU", "CUDA", "MPS", "XPU")  # the last two run the reference


def label(name: str) -> AbstractContextManager[Any]:
    """The name of a part of the training step in the trace of a profiler that looks on; otherwise nothing."""
    if torch.compiler.is_compiling() or not torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
        return nullcontext()
    return record_function(name)


def define(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any] | None = None) -> None:
    """Register an operator that torch.compile, export and CUDA graphs see as one node.

    kernel runs it on every device; fake gives its results' shapes. Without fake the operator is a composite: it decomposes
    into the differentiable torch operators of its kernel. (`Library.define` costs a call a third of `custom_op`.)
    """
    name = schema[: schema.index("(")]
    _library.define(schema)  # type: ignore[no-untyped-call]
    if fake is None:
        _library.impl(name, kernel, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]
        return
    for device in _DEVICES:
        _library.impl(name, kernel, device)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"yolov9k::{name}", fake, lib=_library)


def differentiate(
    name: str, backward: Callable[..., Any], save: Callable[..., Any] | None = None, mutates: bool = False
) -> None:
    """Give an operator its gradient: backward(ctx, *grads), and save(ctx, inputs, output) what it needs.

    mutates: the operator writes to inputs that have no gradient, which torch's own registration refuses out of hand.
    """
    if not mutates:
        torch.library.register_autograd(f"yolov9k::{name}", backward, setup_context=save, lib=_library)
        return
    kernel = make_autograd_impl(getattr(torch.ops.yolov9k, name).default, Info(backward, save))
    _library.impl(name, kernel, "Autograd", with_keyset=True)  # type: ignore[no-untyped-call]
