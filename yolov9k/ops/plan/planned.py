"""A planned block as one operator: forward, backward, shapes alone, and what it costs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from yolov9k.kernels._operands import pitch_of
from yolov9k.ops.library import define, differentiate
from yolov9k.ops.plan.backward import Backward
from yolov9k.ops.plan.forward import Forward, saved_count
from yolov9k.ops.plan.fused import Fused
from yolov9k.ops.plan.host import HostKernels
from yolov9k.ops.plan.ir import Plan
from yolov9k.ops.plan.launches import CountingKernels, Kernels

_PLANS: dict[str, Plan] = {}  # by what names them in an operator's arguments
_NAMES: dict[Plan, str] = {}
_counting: Kernels | None = None  # for blocks that run on shapes alone
_kernels: Kernels | None = None  # for all others, whatever their backend, where `launching` has said so
BACKENDS: dict[str, Callable[[], Kernels]] = {"triton": Kernels, "cpu": HostKernels}


def register_plan(plan: Plan) -> str:
    """The name by which `planned` knows a plan; the same plan has the same name in every process."""
    name = _NAMES.get(plan)
    if name is None:
        count = saved_count(plan)
        name = _NAMES[plan] = f"{hashlib.sha256(repr(plan).encode()).hexdigest()[:16]}_{count}"
        _PLANS[name] = plan
        _define(count)
    return name


@contextlib.contextmanager
def launching(kernels: Kernels, on_shapes: bool = False) -> Iterator[None]:
    """Planned blocks launch by `kernels` meanwhile, those that run on shapes alone (meta or fake tensors) or all others."""
    global _kernels, _counting
    before = _kernels, _counting
    _kernels, _counting = (_kernels, kernels) if on_shapes else (kernels, _counting)
    try:
        yield
    finally:
        _kernels, _counting = before


@contextlib.contextmanager
def counting() -> Iterator[CountingKernels]:
    """Count launches and bytes of all planned blocks that run on shapes alone meanwhile."""
    counted = CountingKernels()
    with launching(counted, on_shapes=True):
        yield counted


def planned(
    x: Tensor, parameters: Sequence[Tensor], running: Sequence[Tensor], name: str, training: bool, group: str = "",
    backend: str = "triton",
) -> Tensor:  # fmt: skip
    """Run a registered plan with the kernels of a backend, "triton" or "cpu".

    x [B, C, H, W], floating; parameters: weight, gamma, beta of each layer; running: mean, variance, number of batches of
    each, moved in training. group: name of the process group that shares statistics, empty for none. Returns
    [B, C', H', W'] in x's dtype, channels-last. Differentiable once. Raises ValueError for a training batch of one value
    a channel.
    """
    run = getattr(torch.ops.yolov9k, f"planned_{name.rpartition('_')[2]}")
    return run(x, list(parameters), list(running), name, training, group, backend)[0]  # type: ignore[no-any-return]


def _run(
    kernels: Kernels,
    x: Tensor,
    parameters: list[Tensor],
    running: list[Tensor],
    name: str,
    training: bool,
    group: str,
    backend: str,
) -> tuple[Tensor, ...]:
    x = x if pitch_of(x) else x.contiguous(memory_format=torch.channels_last)
    run = Forward(_PLANS[name], kernels, x, parameters, training, group)
    y = run.run(running)
    return y, *run.saved()


def _run_backward(
    kernels: Kernels, grad: Tensor, x: Tensor, parameters: list[Tensor], saved: list[Tensor], name: str, training: bool,
    group: str, backend: str, needs_x: bool,
) -> list[Tensor]:  # fmt: skip
    x, grad = (t if pitch_of(t) else t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    return Backward(_PLANS[name], kernels, x, parameters, saved, training, group, needs_x).run(grad)


def planned_fused(x: Tensor, parameters: Sequence[Tensor], name: str, backend: str = "triton") -> Tensor:
    """Run a registered fused plan: inference alone.

    x [B, C, H, W], floating; parameters: weight and bias of each layer. Returns [B, C', H', W'] in x's dtype, channels-last.
    """
    return torch.ops.yolov9k.planned_fused(x, list(parameters), name, backend)  # type: ignore[no-any-return]


def _run_fused(kernels: Kernels, x: Tensor, parameters: list[Tensor], name: str, backend: str) -> Tensor:
    return Fused(_PLANS[name], kernels, x.contiguous(memory_format=torch.channels_last), parameters).run()


def _fused(x: Tensor, parameters: list[Tensor], name: str, backend: str) -> Tensor:
    return _run_fused(_real(backend), x, parameters, name, backend)


def _fake_fused(*arguments: Any) -> Tensor:
    return _run_fused(_shapes(arguments[-1]), *arguments)


def _no_gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    raise RuntimeError("conv_silu: a fused model has no gradient; train the model that it was made from")


@functools.cache
def _define(count: int) -> None:
    """The operator for plans that save `count` tensors: one that writes to an input must not return a list (torch.compile)."""
    saved = "".join(f", Tensor s{i}" for i in range(count))
    define(
        f"planned_{count}(Tensor x, Tensor[] parameters, Tensor(a!)[] running, str plan, bool training, str group, "
        f"str backend) -> (Tensor y{saved})",
        _forward,
        _fake_forward,
    )
    differentiate(f"planned_{count}", _differentiate, _save, mutates=True)


@functools.cache
def _of(backend: str) -> Kernels:
    return BACKENDS[backend]()


def _real(backend: str) -> Kernels:
    return _kernels or _of(backend)


def _shapes(backend: str) -> Kernels:
    return _counting or CountingKernels(_real(backend))


def _forward(*arguments: Any) -> tuple[Tensor, ...]:
    return _run(_real(arguments[-1]), *arguments)


def _fake_forward(*arguments: Any) -> tuple[Tensor, ...]:
    return _run(_shapes(arguments[-1]), *arguments)


def _backward(*arguments: Any) -> list[Tensor]:
    return _run_backward(_real(arguments[-2]), *arguments)


def _fake_backward(*arguments: Any) -> list[Tensor]:
    return _run_backward(_shapes(arguments[-2]), *arguments)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, parameters, running, *ctx.form = inputs
    ctx.layers = len(running)
    ctx.save_for_backward(x, *parameters, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    count = ctx.layers
    if grad is None:
        return None, [None] * count, [None] * count, *(None,) * 4
    if torch.is_grad_enabled():  # autograd would stop at the backward's own operator, and be wrong
        raise RuntimeError("conv_bn_silu: has no second derivative; use the reference for create_graph=True")
    x, *rest = ctx.saved_tensors
    needs_x = ctx.needs_input_grad[0]
    grads = torch.ops.yolov9k.planned_backward(grad, x, rest[:count], rest[count:], *ctx.form, needs_x)
    return grads[0] if needs_x else None, grads[1:], [None] * count, *(None,) * 4


define(
    "planned_backward(Tensor grad, Tensor x, Tensor[] parameters, Tensor[] saved, str plan, bool training, str group, "
    "str backend, bool needs_x) -> Tensor[]",
    _backward,
    _fake_backward,
)
define("planned_fused(Tensor x, Tensor[] parameters, str plan, str backend) -> Tensor", _fused, _fake_fused)
differentiate("planned_fused", _no_gradient)
