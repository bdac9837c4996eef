"""Activation checkpointing: part of a network keeps its inputs alone, and is computed again in the backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def recomputed(function: Callable[..., Any], modules: Sequence[nn.Module], *inputs: Any) -> Any:
    """function(*inputs), whose intermediate tensors are let go and computed again when the backward asks for them.

    modules: all that `function` runs. Random numbers are not repeated: nothing in the network draws any, and asking for the
    generator's state would make the host wait.
    """
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if not torch.compiler.is_compiling():  # a compiled graph recomputes values, never writes to buffers
        options["context_fn"] = lambda: (nullcontext(), untouched_statistics(modules))
    return checkpoint(function, *inputs, **options)


@contextmanager
def untouched_statistics(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Give every BatchNorm that trains throw-away buffers meanwhile: a batch that is seen again must not count twice.

    Whoever updates the statistics, torch's module, an operator or a plan's kernel, reaches them by the module's names, so
    that none of them has to know. The throw-away values start as whatever lies in memory; training reads none of them.
    """
    norms = [m for part in modules for m in part.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.training]
    kept = [(norm, name, norm._buffers[name]) for norm in norms for name in _STATISTICS if norm._buffers.get(name) is not None]
    try:
        for norm, name, buffer in kept:
            assert buffer is not None
            norm._buffers[name] = torch.empty_like(buffer)
        yield
    finally:
        for norm, name, buffer in kept:
            norm._buffers[name] = buffer
