"""Every function of the compiled module with sound arguments, and with one tensor of another shape or device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.augment_cases import augment_case, boxes_case
from tests.support import assign_case, grid_strides, nms_prediction
from yolov9k import native, ops
from yolov9k.kernels._operands import Deferred, Running
from yolov9k.ops.sgd_ema import SETTINGS, STATE

Arguments = dict[str, Any]


def sound() -> dict[str, tuple[Callable[..., Any], Arguments]]:
    """Each public function and arguments that it takes."""
    names = ("scores", "boxes", "anchors", "gt_labels", "gt_boxes", "gt_mask")
    assign = dict(zip(names, assign_case(1, 3, 9, 64, 2), strict=True), limits=grid_strides(64) * 2)
    scalars = {"topk": 10, "alpha": 0.5, "beta": 6.0, "logits": False, "mask_conflicts": False}
    nms = {"prediction": nms_prediction(1, 3, 2, 40), "lengths": torch.tensor([40, 3, 0])}
    thresholds = {"conf_threshold": 0.1, "iou_threshold": 0.5, "classes": None, "class_agnostic": False, "multi_label": True}
    *tables, (height, width) = augment_case(2, 3, "turned", size=(19, 33))
    images = dict(zip(("pixels", "layers", "ranges", "matrices", "mix_weights", "hsv_gains"), tables, strict=True))
    images["pixels"] = [images["pixels"]]
    size = {"height": height, "width": width}
    *tables, (height, width) = boxes_case(2, 3)
    objects = dict(
        zip(("points", "ends", "classes", "min_area_ratio", "ranges", "matrices"), tables, strict=True),
        height=height, width=width, capacity=20,
    )  # fmt: skip
    outlines = {"points": np.ones((8, 2), np.float32), "lengths": np.array([3, 5]), "width": 32, "height": 32}
    z = torch.randn(2, 6, 5, 7).contiguous(memory_format=torch.channels_last)
    norm = [torch.rand(6, dtype=dtype) + 0.5 for dtype in (*[torch.float32] * 2, *[torch.float64] * 2)]
    maps = {"z": [z, z + 1], "norms": [norm, norm]}
    grads = [torch.randn(2, 6, 5, 7).contiguous(memory_format=torch.channels_last) for _ in range(3)]
    wide = {"x": torch.randn(2, 16, 5, 7).contiguous(memory_format=torch.channels_last), "weight": torch.randn(16, 8, 3, 3)}
    given = torch.randn(2, 16, 5, 7).contiguous(memory_format=torch.channels_last)
    return {
        "bn_statistics": (native.bn_statistics, {"z": z}),
        "bn_settle": (settle, {"mean": torch.rand(6).double(), "spread": torch.rand(6).double(), **vectors(6)}),
        "bn_silu": (native.bn_silu, {**maps, "activation": True, "y": torch.empty_like(z), "residual": z.clone()}),
        "bn_apply_table": (native.bn_apply_table, {"z": z, "table": [*torch.rand(4, 6).double()], "y": torch.empty_like(z)}),
        "bn_silu_backward_reduce": (
            native.bn_silu_backward_reduce,
            {"grads": grads, **maps, "activation": True, "out": torch.empty_like(z)},
        ),
        "bn_silu_backward_apply": (
            native.bn_silu_backward_apply,
            {"grad": grads[0], **maps, "sums": torch.rand(3, 6).double(), "total": 70, "out": grads[1:]},
        ),
        "conv3x3": (native.conv3x3, {**wide, "groups": 2}),
        "conv3x3_input_gradient": (native.conv3x3_input_gradient, {"grad": given, "weight": wide["weight"], "groups": 2}),
        "conv3x3_weight_gradient": (native.conv3x3_weight_gradient, {"grad": given, **wide, "groups": 2}),
        "task_aligned_assign": (native.task_aligned_assign, {**assign, **scalars}),
        "batched_nms": (native.batched_nms, {**nms, **thresholds, "max_detections": 20}),
        "augment": (native.augment, {**images, **size, "dtype": torch.uint8, "channels_last": False}),
        "augment_boxes": (native.augment_boxes, objects),
        "loss_predictions": (native.loss_predictions, raw_maps()),
        "detection_loss": (native.detection_loss, {**raw_maps(), **assignment()}),
        "sgd_ema": (native.sgd_ema, optimizer_step()),
        "clip_outlines": (native.clip_outlines, outlines),
    }


def vectors(width: int) -> Arguments:
    """What a batch's statistics move, and what they are written to."""
    names = ("running_mean", "running_var", "gamma", "beta")
    return {
        **{name: torch.rand(width) for name in names},
        "found": torch.empty(2, width, dtype=torch.float64),
        "table": torch.empty(4, width, dtype=torch.float64),
    }


def settle(
    mean: Tensor, spread: Tensor, running_mean: Tensor, running_var: Tensor, gamma: Tensor, beta: Tensor, found: Tensor,
    table: Tensor,
) -> None:  # fmt: skip
    """`native.bn_settle` with tensors alone."""
    running = Running(running_mean, running_var, torch.zeros((), dtype=torch.int64), 0.03)
    native.bn_settle(mean, spread, 70, 1e-3, found, running, Deferred(gamma, beta, table, True))


def raw_maps() -> Arguments:
    """Two levels of two images, three classes."""
    maps = [torch.randn(2, 4 * 4 + 3, side, side) for side in (8, 4)]
    return {"maps": maps, "strides": [8, 16], "reg_max": 4}


def assignment() -> Arguments:
    """Of the 80 anchors of `raw_maps` to two boxes an image."""
    index = torch.arange(160).view(2, 80) % 3 - 1
    boxes = torch.tensor([[4.0, 4, 40, 36], [20, 10, 60, 60]]).expand(2, 2, 4).contiguous()
    sums = {"gt_index": index, "weight": torch.rand(2, 80), "weight_sum": torch.rand(2) + 3}
    return {**sums, "labels": torch.tensor([[0, 2], [1, 1]]), "gt_boxes": boxes, "factors": torch.ones(3)}


def optimizer_step() -> Arguments:
    """Six values in three groups."""
    tensors = {name: torch.zeros(6) for name in ("values", "grads", "momentum", "ema", "low")}
    return {**tensors, "settings": torch.ones(SETTINGS), "group_ends": [2, 4, 6], "state": torch.ones(STATE)}


def public() -> dict[str, tuple[Callable[..., Any], Arguments]]:
    """Each operator and arguments that it takes."""
    levels = raw_maps()
    truth = {"gt_labels": torch.zeros(2, 3), "gt_boxes": torch.rand(2, 3, 4) * 60, "counts": torch.tensor([3, 1])}
    convolution = {"x": torch.randn(2, 4, 8, 8), "weight": torch.randn(6, 4, 3, 3), "bias": torch.randn(6)}
    places = {"out": torch.zeros(2, 6, 8, 8), "residual": torch.zeros(2, 6, 8, 8)}
    native_ones = {
        name: {key: value for key, value in arguments.items() if key not in ("height", "width")}
        for name, (_, arguments) in sound().items()
    }
    for name, size in (("augment", (19, 33)), ("augment_boxes", (48, 64))):
        native_ones[name]["size"] = size
    native_ones["task_aligned_assign"]["strides"] = native_ones["task_aligned_assign"].pop("limits")
    native_ones["clip_outlines"] |= {"width": 32, "height": 32}
    calls = {name: getattr(ops, name) for name in native_ones if hasattr(ops, name)}
    return {name: (call, native_ones[name]) for name, call in calls.items()} | {
        "dfl_decode": (ops.dfl_decode, levels),
        "dfl_candidates": (ops.dfl_candidates, levels),
        "detection_loss": (ops.detection_loss, {**levels, **truth}),
        "conv_silu": (ops.conv_silu, {**convolution, **places, "stride": 1, "padding": 1}),
    }


def reshaped(value: Any) -> Iterator[Any]:
    """A tensor with a dimension more, fewer, or with an extent more, fewer or none."""
    array = np.asarray(value)
    found = [array[None], array.reshape(-1)[:1].reshape(()), array.reshape(-1)] + [
        np.moveaxis(changed, 0, axis)
        for axis in range(array.ndim)
        for whole in [np.moveaxis(array, axis, 0)]
        for changed in (whole[:-1], whole[:0], np.concatenate([whole, whole[:1]]))
    ]
    for one in found:
        if one.shape != array.shape:
            yield one if isinstance(value, np.ndarray) else torch.from_numpy(np.ascontiguousarray(one).reshape(one.shape))


def altered(arguments: Arguments) -> Iterator[tuple[str, Arguments]]:
    """The name of one tensor, and the arguments with another in its place."""
    for name, value in arguments.items():
        if isinstance(value, list):
            for _, inner in altered({"one": value[0]}):
                yield name, {**arguments, name: [*value, inner["one"]]}
        elif isinstance(value, Tensor | np.ndarray):
            for other in reshaped(value):
                yield name, {**arguments, name: other}
        if isinstance(value, Tensor):
            yield name, {**arguments, name: value.to("meta")}


def run_all() -> int:
    """Call every function with everything: what is taken reads within its arrays, what is not raises. Returns the calls."""
    calls = 0
    for call, arguments in sound().values():
        for _, given in [("", arguments), *altered(arguments)]:
            calls += 1
            try:
                call(**given)
            except (ValueError, TypeError):
                continue
    return calls


def hostile(generator: np.random.Generator) -> Iterator[tuple[str, Arguments]]:
    """A function's name and its sound arguments with some numbers replaced: NaN, infinities, huge ones, indices anywhere."""
    floats = np.array([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-45, 0.0, -1.0, 2.0**31, 1e9])
    whole = np.array([-(2**63), 2**63 - 1, -1, 0, 1, 2**31, 2**32, -(2**31), 7, 40])
    for name, (_, arguments) in sound().items():
        given = dict(arguments)
        for key, value in arguments.items():
            if isinstance(value, Tensor | np.ndarray) and generator.random() < 0.5:
                array = np.array(value)
                choices = floats if array.dtype.kind == "f" else whole
                mask = generator.random(array.shape) < generator.choice([0.05, 0.5])
                with np.errstate(over="ignore"):
                    array = np.where(mask, generator.choice(choices, array.shape).astype(array.dtype), array)
                given[key] = torch.from_numpy(array) if isinstance(value, Tensor) else array
        yield name, given


def run_hostile(seeds: int) -> int:
    """Call every function with hostile numbers from so many seeds; errors that name an argument are as it should be."""
    calls = 0
    for seed in range(seeds):
        for name, given in hostile(np.random.default_rng(seed)):
            calls += 1
            try:
                sound()[name][0](**given)
            except ValueError:
                continue
    return calls
