"""Whether a view computes what the module computes: both run on the same input, in float64, and are compared in full."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from yolov9k.compat.accelerate.views import Guess, NoView

# float64 in another order of sums. Another eps, slope or order of parts moves results by 1e-4 and more.
TOLERANCE = 1e-8
_SIZE = (4, 5)  # no square, and odd: paddings show


def agrees(module: nn.Module, guess: Guess) -> bool:
    """Whether the guess gives module's results, running statistics and gradients, in training and evaluation.

    Both are copies on the CPU in float64 with weights drawn anew, so that nothing of the live module moves, and no weight that
    happens to be 0 or 1 hides a difference.
    """
    shape = (2, guess.width, 20) if guess.kind == "DFL" else (2, guess.width, *_SIZE)
    x = drawn(*shape)
    try:
        theirs = redraw(bare_copy(module))
        ours = copy.deepcopy(theirs)
        view = guess.make(ours)
        found = [(_run(theirs, theirs, x, mode), _run(view, ours, x, mode)) for mode in (False, True)]
    except (NoView, RuntimeError, TypeError, ValueError, AttributeError, IndexError, AssertionError):
        return False
    return all(close(*pair) for pair in found)


def bare_copy(module: nn.Module) -> nn.Module:
    """A copy on the CPU in float64, without hooks, which are not to be called for this."""
    twin = copy.deepcopy(module)
    for part in twin.modules():
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            getattr(part, name).clear()
    return twin.to(device="cpu", dtype=torch.float64).requires_grad_(True)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    """Normal random numbers in float64, always the same."""
    return torch.randn(shape, generator=_generator(), dtype=torch.float64)


@torch.no_grad()
def redraw(module: nn.Module) -> nn.Module:
    """Give a module other weights and statistics, always the same."""
    generator = _generator()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not tensor.is_floating_point():
            continue
        values = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        if name.endswith("running_var"):
            values = values.square() + 0.5
        tensor.copy_(values / max(values[0].numel(), 1) ** 0.5 if values.dim() > 1 else values)
    return module


def _run(run: nn.Module, owner: nn.Module, x: Tensor, training: bool) -> Any:
    """Output in one mode; in training also what became of the statistics, and the gradients. owner: has the tensors."""
    owner.train(training)
    owner.zero_grad()
    x = x.clone().requires_grad_(training)
    with torch.set_grad_enabled(training):
        y = run(x)
        if not training:
            return y
        outputs = y if isinstance(y, tuple) else (y,)
        torch.autograd.backward([(part * drawn(*part.shape)).sum() for part in outputs])
    grads = {name: parameter.grad for name, parameter in owner.named_parameters()}
    return {"y": outputs, "x": x.grad, **grads, **dict(owner.named_buffers())}


def close(a: Any, b: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether two results are of one structure, and their tensors alike to a share of their own size."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape:
            return False
        a, b = a.detach().double(), b.detach().double()
        size = max(float(a.abs().max()), 1.0) if a.numel() else 1.0
        return bool(((a - b).abs() <= tolerance * size).all())
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key], tolerance) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(close(x, y, tolerance) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)
