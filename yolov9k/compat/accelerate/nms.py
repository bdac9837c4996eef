"""Suppression of other implementations, run by our operator where it is asked for what ours does."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from yolov9k.ops import batched_nms

NAME = "non_max_suppression"
_KNOWN = {"prediction", "conf_thres", "iou_thres", "classes", "agnostic", "multi_label", "max_det"}
_CLOSE = 1e-3  # pixels, of corners reckoned from centers in float32


def replacement(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the same signature: our operator, or `theirs` where another argument than those it has is in use."""
    signature = inspect.signature(theirs)

    def non_max_suppression(*arguments: Any, **named: Any) -> Any:
        given = signature.bind(*arguments, **named).arguments
        others = {key: value for key, value in given.items() if key not in _KNOWN}
        classes = others.pop("nc", 0)
        prediction = given.get("prediction")
        prediction = prediction[0] if isinstance(prediction, (list, tuple)) else prediction
        if not _fits(prediction, classes) or any(not _is_default(signature, *item) for item in others.items()):
            return theirs(*arguments, **named)
        return _suppressed(prediction, {**_defaults(signature), **given})

    non_max_suppression.original = theirs  # type: ignore[attr-defined]
    return non_max_suppression


def _suppressed(prediction: Any, options: dict[str, Any]) -> list[Tensor]:
    found = batched_nms(
        prediction, options["conf_thres"], options["iou_thres"], options.get("classes"), bool(options.get("agnostic", False)),
        bool(options.get("multi_label", False)) and prediction.shape[1] > 5, int(options.get("max_det", 300)),
    )  # fmt: skip
    counts = found.counts.tolist()
    return [rows[:count].to(prediction.dtype) for rows, count in zip(found.detections, counts, strict=True)]


def _fits(prediction: Any, classes: int) -> bool:
    """Whether this is [B, 4 + nc, A] without rows for masks or angles, not yet suppressed."""
    if not isinstance(prediction, Tensor) or prediction.dim() != 3 or not prediction.is_floating_point():
        return False
    return prediction.shape[1] > 4 and classes in (0, None, prediction.shape[1] - 4) and prediction.shape[2] != 6


def _is_default(signature: inspect.Signature, name: str, value: Any) -> bool:
    """Whether an argument that ours does not have says nothing."""
    if name in ("max_time_img", "max_nms", "max_wh", "in_place"):  # limits that an exact operator does not need
        return value == signature.parameters[name].default or name in ("max_time_img", "in_place")
    return value is None or (isinstance(value, (bool, int, tuple, list)) and not value)


def _defaults(signature: inspect.Signature) -> dict[str, Any]:
    return {name: p.default for name, p in signature.parameters.items() if p.default is not inspect.Parameter.empty}


def agrees(theirs: Callable[..., Any]) -> bool:
    """Whether a function gives what our operator gives, of one label a box and of several, over all classes and within each."""
    if not {"prediction", "conf_thres", "iou_thres"} <= set(inspect.signature(theirs).parameters):
        return False
    generator = torch.Generator().manual_seed(0)
    center, sides = torch.rand(2, 2, 300, generator=generator) * 200, torch.rand(2, 2, 300, generator=generator) * 60 + 4
    scores = (torch.randperm(1800, generator=generator) + 1) / 1801  # no ties, which have an order in ours alone
    prediction = torch.cat((center, sides, scores.view(2, 3, 300)), 1)
    ours = replacement(theirs)
    for options in ({}, {"multi_label": True}, {"agnostic": True, "classes": [0, 2]}, {"max_det": 7}):
        try:
            wanted = theirs(prediction.clone(), 0.3, 0.6, **options)
            found = ours(prediction, 0.3, 0.6, **options)
        except (TypeError, ValueError, RuntimeError, AttributeError):
            return False
        if not all(a.shape == b.shape and torch.allclose(a, b, atol=_CLOSE) for a, b in zip(found, wanted, strict=True)):
            return False
    return True


def places(holder: Any) -> Iterator[tuple[Any, str]]:
    """Where a validator, a predictor or a module of functions finds its suppression: owner and name of each place."""
    if isinstance(holder, ModuleType):
        modules = [holder]
    else:
        classes = [c for c in type(holder).__mro__ if c is not object]
        modules = [sys.modules[c.__module__] for c in classes if c.__module__ in sys.modules]
    seen = set[int]()
    for module in modules:
        for owner in (module, *(value for value in vars(module).values() if isinstance(value, ModuleType))):
            if id(owner) not in seen and callable(vars(owner).get(NAME)):
                seen.add(id(owner))
                yield owner, NAME
