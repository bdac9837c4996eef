"""accelerate_training: what trains and evaluates another implementation's model runs by our operators too."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from torch import nn

from yolov9k.common.errors import UserError
from yolov9k.compat.accelerate import nms
from yolov9k.compat.accelerate.assigner import AcceleratedAssigner, options_of
from yolov9k.compat.accelerate.criterion import AcceleratedLoss, loss_options
from yolov9k.compat.accelerate.matcher import AcceleratedMatcher, factory, matcher_of
from yolov9k.compat.accelerate.matcher import agrees as matches
from yolov9k.compat.accelerate.model import Acceleration, accelerate_module
from yolov9k.compat.accelerate.step import NoStep, OptimizerStep, step_of
from yolov9k.compat.accelerate.swap import Swapped, unswap

# Where objects keep what they train with; a lazy `criterion` is made by the model itself.
_PARTS = (
    "model", "module", "net", "network", "ema", "criterion", "compute_loss", "loss_fn", "loss", "assigner", "assigner2",
    "matcher", "one2many", "one2one", "validator", "predictor", "trainer", "head",
    "_loss_fn",
)  # fmt: skip
_READY = ("on_train_start", "on_val_start", "on_predict_start")  # when a trainer, a validator, a predictor has its parts


def accelerate_training(*parts: Any, backend: str = "auto") -> Acceleration:
    """Let our operators run what they can of a training by another implementation, in place.

    parts: a trainer, a model, a loss, an assigner, a validator, or a module that holds `non_max_suppression`: whatever is at
    hand. Of each, what it holds is looked through: networks are accelerated as by `accelerate`; assigners, with the settings
    that they have, and suppression are replaced where ours gives the same results on drawn samples; so is a trainer's
    `optimizer_step` with its average, for which the weights move into flat storage. A trainer or a model with callbacks is
    looked through when its training starts, when all is there.

    Returns what was replaced and left; what is accelerated already stays so. As a context manager it undoes everything at the
    end. Raises UserError where nothing is found to replace, with the reasons, nor a callback to wait for.
    """
    found = Acceleration()
    for part in parts:
        waits = _wait(part, found, backend)
        _accelerate_parts(part, found, backend)
        if _is_accelerated(part):
            continue
        if not waits and not found.replaced:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(found.left.items())[:5])
            raise UserError(f"accelerate_training: found nothing to accelerate in {type(part).__name__}{why and f' ({why})'}")
    return found


def _is_accelerated(root: Any) -> bool:
    """Whether some of it runs by our operators."""
    parts = [part for _, part in _reachable(root)]
    modules = [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]
    steps = any(isinstance(getattr(part, "optimizer_step", None), OptimizerStep) for part in parts)
    functions = (getattr(owner, name) for part in parts if isinstance(part, ModuleType) for owner, name in nms.places(part))
    return steps or any(isinstance(p, Swapped) for p in (*parts, *modules)) or any(hasattr(f, "original") for f in functions)


def _wait(part: Any, found: Acceleration, backend: str) -> bool:
    """Have a trainer's own parts looked through when it has made them."""
    callbacks: Any = getattr(part, "callbacks", None)
    events = [event for event in _READY if event in callbacks] if isinstance(callbacks, dict) else []

    def start(holder: Any) -> None:
        _accelerate_parts(holder, found, backend)

    for event in events:
        callbacks[event].append(start)
        found.on_restore(functools.partial(callbacks[event].remove, start))
    return bool(events)


def _accelerate_parts(root: Any, found: Acceleration, backend: str) -> None:
    for path, part in _reachable(root):
        name = path or type(part).__name__
        if isinstance(part, Swapped) or found.has_seen(part):
            continue
        if all(hasattr(part, setting) for setting in ("topk", "alpha", "beta")):
            _accelerate_assigner(name, part, found)
        elif all(hasattr(part, setting) for setting in ("assigner", "hyp", "reg_max", "nc")):
            _accelerate_loss(name, part, found)
        elif isinstance(part, nn.Module):
            accelerate_module(part, found, backend, f"{path}." if path else "")
        if not isinstance(part, nn.Module) and hasattr(part, "matcher"):
            _accelerate_matcher(name, part, found)
        if isinstance(part, ModuleType) or hasattr(part, "postprocess"):
            _accelerate_suppression(name, part, found)
        if all(getattr(part, setting, None) is not None for setting in ("optimizer_step", "optimizer", "ema", "model")):
            _accelerate_step(name, part, found)


def _accelerate_assigner(name: str, part: Any, found: Acceleration) -> None:
    options = options_of(part)
    if options is None:
        found.left[name] = f"{type(part).__name__}: assigns otherwise than ours"
        return
    methods: dict[str, Callable[..., Any]] = {}
    found.swap(name, "assigner", part, AcceleratedAssigner, methods, options=options[0], results=options[1])


def _accelerate_matcher(name: str, loss: Any, found: Acceleration) -> None:
    """The matcher of a loss, and those that it makes later on: it has one for each size of images."""
    theirs = matcher_of(loss)
    if isinstance(theirs, Swapped):
        return
    if not matches(theirs):
        found.left[f"{name}.matcher"] = f"{type(theirs).__name__}: matches otherwise than ours"
        return
    if place := factory(loss, theirs):
        owner, attribute, ours = place
        found.patch(f"{owner.__name__}.{attribute}", "assigner", owner, attribute, ours)
        found.on_restore(lambda: unswap(getattr(loss, "matcher", None)))  # the last that was made meanwhile
    if getattr(loss, "matcher", None) is not None:
        found.swap(f"{name}.matcher", "assigner", theirs, AcceleratedMatcher, {})


def _accelerate_loss(name: str, part: Any, found: Acceleration) -> None:
    """A loss that ours equals is replaced whole; of another one the assigner alone, when its turn comes."""
    options = loss_options(part)
    if options is None:
        found.left[name] = f"{type(part).__name__}: another loss than ours"
    else:
        found.swap(name, "loss", part, AcceleratedLoss, {}, options=options)


def _accelerate_suppression(name: str, part: Any, found: Acceleration) -> None:
    for owner, attribute in nms.places(part):
        theirs = getattr(owner, attribute)
        if hasattr(theirs, "original"):
            continue
        if nms.agrees(theirs):
            found.patch(f"{owner.__name__}.{attribute}", "suppression", owner, attribute, nms.replacement(theirs))
        else:
            found.left[f"{owner.__name__}.{attribute}"] = "suppresses otherwise than ours"


def _accelerate_step(name: str, trainer: Any, found: Acceleration) -> None:
    if isinstance(trainer.optimizer_step, OptimizerStep):
        return
    try:
        trainer.optimizer_step = step_of(trainer)
    except NoStep as error:
        found.left[f"{name}.optimizer_step"] = str(error)
        return
    found.on_restore(functools.partial(delattr, trainer, "optimizer_step"))
    found.replaced[f"{name}.optimizer_step"] = "optimizer step"


def _reachable(root: Any) -> Iterator[tuple[str, Any]]:
    """The object and what it keeps under the names of `_PARTS`, with the path to each, each object once."""
    seen: set[int] = set()
    waiting = [("", root)]
    while waiting:
        path, part = waiting.pop(0)
        if part is None or isinstance(part, (str, int, float, dict, list, tuple, type)) or id(part) in seen:
            continue
        seen.add(id(part))
        yield path, part
        if isinstance(part, ModuleType):
            continue
        _make_criterion(part)
        waiting += [(f"{path}.{name}".lstrip("."), getattr(part, name, None)) for name in _PARTS]


def _make_criterion(part: Any) -> None:
    """Models that make their loss when it is first asked for make it now."""
    make = getattr(part, "init_criterion", None)
    if callable(make) and getattr(part, "criterion", None) is None:
        part.criterion = make()
    make = getattr(part, "_get_loss_fn", None)
    if callable(make) and getattr(part, "_loss_fn", None) is None and isinstance(part, nn.Module):
        make(next(part.parameters()).device)
