"""Modules of another implementation that run as ours: which path a call takes, and what is left in the original's hands."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from yolov9k.common.device import is_cpu
from yolov9k.compat.accelerate.swap import STATE, Swapped
from yolov9k.compat.accelerate.views import Bins, Make, NoView
from yolov9k.models.block import Block
from yolov9k.models.blocks import Conv

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
FORWARDS = ("forward", "forward_fuse")  # methods that implementations run a module by


class View(NamedTuple):
    """A block of ours over a module's parts. links: (owner, name, part) as they were when it was made."""

    block: Block | None
    links: tuple[tuple[nn.Module, str, nn.Module], ...]
    is_fused: bool

    def holds(self) -> bool:
        """Whether every part is still where it was."""
        return all(owner._modules.get(name) is part for owner, name, part in self.links)

    def is_plain(self) -> bool:
        """Whether nobody asked to see or to change what happens inside."""
        for _, _, part in self.links:
            if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
                return False
            own = part.__dict__.get("forward")
            if own is not None and getattr(own, "__self__", None) is not part:
                return False
        return True


class AcceleratedModule(Swapped):
    """A module that runs by our kernels where they serve, else by its own code, over parts that are accelerated themselves."""

    make_view: Make
    backend = "auto"

    def _accelerated(self, x: Any) -> Block | None:
        """What runs x, None for the module's own code."""
        if not isinstance(x, torch.Tensor) or x.dtype == torch.float64:
            return None  # float64 is nobody's kernel
        if self.backend == "auto" and is_cpu(x.device):
            return None  # torch's own convolution and BatchNorm in their usual layout were measured to be faster
        if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
            return None  # files for other runtimes know torch's operators alone
        view = view_of(self)
        block = view.block
        if block is None:
            return None
        if not torch.compiler.is_compiling() and not view.is_plain():
            return None
        if view.is_fused and (torch.is_grad_enabled() or is_cpu(x.device)):
            return None  # folded weights have no gradient by our kernels; on a CPU torch's own convolution is all there is
        return block if isinstance(block, (Conv, Bins)) or (_one_mode(block) and block.kernels_for(x) != "reference") else None


def view_of(module: Any) -> View:
    """The module's view, made anew where parts were exchanged, by the implementation's own `fuse` for one."""
    view = module.__dict__.get(STATE)
    if view is None or not (torch.compiler.is_compiling() or view.holds()):
        view = module.__dict__[STATE] = _made(module)
    return view  # type: ignore[no-any-return]


def _made(module: Any) -> View:
    links = tuple((owner, name, part) for owner in module.modules() for name, part in owner.named_children())
    try:
        block = type(module).make_view(module)
    except NoView:
        return View(None, links, False)
    for part in block.modules():
        if isinstance(part, Block):
            part.backend = module.backend
    return View(block, links, any(form for form in block._forms()))


def _one_mode(block: Block) -> bool:
    """Whether all BatchNorms train or none does: a plan has one mode."""
    return len({part.training for part in block.modules() if isinstance(part, nn.modules.batchnorm._NormBase)}) <= 1


def _method(name: str) -> Any:
    def run(self: Any, *args: Any, **options: Any) -> Any:
        block = self._accelerated(args[0]) if len(args) == 1 and not options else None
        if block is None:
            return getattr(super(Swapped, self), name)(*args, **options)
        return block.forward(args[0])

    run.__name__ = run.__qualname__ = name
    return run


def methods_of(original: type) -> dict[str, Any]:
    """What replaces the original's methods of these names."""
    return {name: _method(name) for name in FORWARDS if hasattr(original, name)}
