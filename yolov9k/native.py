"""The compiled kernels of csrc/ seen from torch: outputs and scratch allocated, addresses passed, errors raised.

The module is loaded at the first call, never at import: a checkout that was not built imports, and says when asked what
is to be done. Shapes, dtypes and devices are checked here, since an address tells none of them; lengths and what indices
point at by the module itself.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolov9k.common.checks import expect, expect_device, expect_dtype, expect_shape

_Constant = TypeVar("_Constant")
_ERRORS = {1: ValueError, 2: RuntimeError, 3: MemoryError}  # csrc/status.h
_Shapes = dict[str, tuple[Tensor, tuple[int | None, ...]]]
_INT64, _FLOAT32, _UINT8 = (torch.int64,), (torch.float32,), (torch.uint8,)
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # csrc/task_aligned_assign.h
_NO_CUDA = (
    "yolov9k._native was built without CUDA: no nvcc was found, or YOLOV9K_CUDA=0; put nvcc on PATH, set CUDA_HOME, or set "
    "YOLOV9K_CUDA=pip to take the compiler from PyPI, then `pip install -e .`"
)


@functools.cache
def _load() -> tuple[ModuleType | None, str]:
    """The compiled module, or None and the reason; asked once a process."""
    try:
        return importlib.import_module("yolov9k._native"), ""
    except ModuleNotFoundError:
        return None, "yolov9k._native is not built; `pip install -e .` in the repository builds it"
    except ImportError as error:
        return None, f"yolov9k._native is built but does not load ({error}); `pip install -e .` rebuilds it"


def available(device: str = "cpu") -> bool:
    """Whether the compiled kernels of `device` ("cpu" or "cuda") can be called here."""
    return not why_missing(device)


def constant(function: Callable[..., _Constant]) -> Callable[..., _Constant]:
    """Let torch.compile call `function` once and keep what it returned.

    `torch.compiler.assume_constant_result` without its import of torch._dynamo, half of the time that a program takes to begin.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def why_missing(device: str = "cpu") -> str:
    """Why the compiled kernels of `device` cannot be called here, with the remedy; empty when they can."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', not {device!r}")
    module, reason = _load()
    if module is None or device == "cpu":
        return reason
    if module.build_info()["cuda"] is None:
        return _NO_CUDA
    return "" if torch.cuda.is_available() else "torch sees no CUDA device"


def build_info() -> dict[str, object]:
    """How the module was compiled: `version`, `compiler`, `cuda` (its version or None), `archs` (the last is PTX).

    Raises RuntimeError where the module is missing.
    """
    return dict(_module("cpu").build_info())


def task_aligned_assign(
    scores: Tensor, boxes: Tensor, anchors: Tensor, gt_labels: Tensor, gt_boxes: Tensor, gt_mask: Tensor,
    topk: int, alpha: float, beta: float, logits: bool, mask_conflicts: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Assignment of anchors to boxes; arguments and results as in `yolov9k.ops.task_aligned_assign`.

    scores: float32, bfloat16 or float16, any strides. Returns gt_index int64 [B, A], weight float32 [B, A] and the sum of
    weights [B]. Raises ValueError or TypeError naming the argument, ValueError for a length beyond the kernels' limits,
    RuntimeError when a launch failed.
    """
    op = "task_aligned_assign"
    expect_shape(scores, (None, None, None), op, "scores")
    expect_shape(gt_boxes, (len(scores), None, 4), op, "gt_boxes")
    (images, count, classes), gt_count = scores.shape, gt_boxes.shape[1]
    rows = (images, gt_count)
    _check(op, scores, {
        "scores": (scores, scores.shape), "boxes": (boxes, (images, count, 4)), "anchors": (anchors, (count, 2)),
        "gt_labels": (gt_labels, rows), "gt_boxes": (gt_boxes, gt_boxes.shape), "gt_mask": (gt_mask, rows),
    }, scores=tuple(_DTYPES))  # fmt: skip
    boxes, anchors, gt_boxes = (tensor.detach().float().contiguous() for tensor in (boxes, anchors, gt_boxes))
    labels, mask = gt_labels.long().contiguous(), (gt_mask != 0).contiguous()
    gt_index = scores.new_empty((images, count), dtype=torch.int64)
    weight = scores.new_empty((images, count), dtype=torch.float32)
    weight_sum = scores.new_zeros(images, dtype=torch.float32)
    arguments: dict[str, object] = {
        "scores": scores.data_ptr(), "dtype": _DTYPES[scores.dtype], "logits": logits,
        **dict(zip(("stride_image", "stride_anchor", "stride_class"), scores.stride(), strict=True)),
        "boxes": boxes.data_ptr(), "anchors": anchors.data_ptr(), "labels": labels.data_ptr(),
        "gt_boxes": gt_boxes.data_ptr(), "gt_mask": mask.data_ptr(),
        "images": images, "count": count, "gt_count": gt_count, "classes": classes,
        "topk": min(topk, max(count, 1)), "alpha": alpha, "beta": beta, "mask_conflicts": mask_conflicts,
        "gt_index": gt_index.data_ptr(), "weight": weight.data_ptr(), "weight_sum": weight_sum.data_ptr(),
    }  # fmt: skip
    on_device = scores.is_cuda
    claims = scores.new_zeros((images, count) if on_device else 0, dtype=torch.int64)
    best = scores.new_zeros((2, images, gt_count) if on_device else (2, 0), dtype=torch.int32)
    pointers = {"claims": claims.data_ptr(), "best_metric": best[0].data_ptr(), "best_overlap": best[1].data_ptr()}
    _call("task_aligned_assign", scores.device, arguments | pointers)
    return gt_index, weight, weight_sum


def batched_nms(
    prediction: Tensor, conf_threshold: float, iou_threshold: float, classes: Sequence[int] | None,
    class_agnostic: bool, multi_label: bool, max_detections: int, lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Detections and counts; arguments and results as in `yolov9k.ops.batched_nms`.

    prediction: float32, bfloat16 or float16, any strides. Raises ValueError or TypeError naming the argument, ValueError for
    a length beyond the kernels' limits, RuntimeError when a launch failed.
    """
    op = "batched_nms"
    expect_shape(prediction, (None, None, None), op, "prediction")
    images, rows, count = prediction.shape
    expect(rows >= 5, op, "prediction", "at least 5 rows high", list(prediction.shape))
    expect(max_detections >= 1, op, "max_detections", "at least 1", max_detections)
    shapes: _Shapes = {"prediction": (prediction, prediction.shape)}
    if lengths is not None:
        shapes["lengths"] = (lengths, (images,))
    _check(op, prediction, shapes, prediction=tuple(_DTYPES))
    if 1 not in prediction.stride()[1:]:
        prediction = prediction.contiguous()
    lengths = None if lengths is None else lengths.long().contiguous()
    detections = prediction.new_zeros((images, max_detections, 6), dtype=torch.float32)
    counts = prediction.new_zeros(images, dtype=torch.int64)
    arguments: dict[str, object] = {
        "prediction": prediction.data_ptr(), "dtype": _DTYPES[prediction.dtype],
        **dict(zip(("stride_image", "stride_row", "stride_anchor"), prediction.stride(), strict=True)),
        "images": images, "classes": rows - 4, "count": count, "conf_threshold": conf_threshold,
        "iou_threshold": iou_threshold, "class_agnostic": class_agnostic, "multi_label": multi_label,
        "wanted": None if classes is None else list(classes), "max_detections": max_detections,
        "lengths": 0 if lengths is None else lengths.data_ptr(),
        "detections": detections.data_ptr(), "counts": counts.data_ptr(),
    }  # fmt: skip
    module = _module(prediction.device.type)
    padded = module.padded_candidates(rows - 4, count, multi_label) if prediction.is_cuda else 0
    sizes = {"state": module.nms_scratch["state"] // 4, "histogram": module.nms_scratch["bins"], "keys": 2 * padded}
    scratch = {
        name: prediction.new_zeros((images, size) if prediction.is_cuda else 0, dtype=torch.int32)
        for name, size in sizes.items()
    }
    _call("batched_nms", prediction.device, arguments | {name: t.data_ptr() for name, t in scratch.items()})
    return detections, counts


def bn_statistics(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(biased variance + eps) by channel, float64 [C], of z [B, C, H, W] on the CPU.

    z: float32 or bfloat16, channels-last. Sums are kept in double and do not depend on the number of threads. Raises
    ValueError or TypeError naming the argument.
    """
    arguments = _bn_map("bn_statistics", z)
    mean, invstd = (torch.empty(z.shape[1], dtype=torch.float64) for _ in range(2))
    outputs = {"mean": mean.data_ptr(), "invstd": invstd.data_ptr()}
    _call("bn_statistics", z.device, {**arguments, "eps": eps, **outputs})
    return mean, invstd


def bn_silu(z: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, invstd: Tensor, activation: bool) -> Tensor:
    """SiLU((z - mean) * invstd * gamma + beta), or that without SiLU, as z [B, C, H, W], on the CPU.

    z: float32 or bfloat16, channels-last. The vectors [C]: any floating dtype, mean and invstd are read in float64. Raises
    ValueError or TypeError naming the argument.
    """
    arguments = _bn_map("bn_silu", z)
    held = _bn_vectors("bn_silu", z, gamma=gamma, beta=beta, mean=mean, invstd=invstd)
    y = torch.empty_like(z)
    vectors = {name: vector.data_ptr() for name, vector in held.items()}
    _call("bn_silu", z.device, {**arguments, **vectors, "activation": activation, "y": y.data_ptr()})
    return y


def bn_silu_backward(
    grad: Tensor, z: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, invstd: Tensor, activation: bool, training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z (as z), gamma and beta (float32 [C]) from that of `bn_silu`'s result; arguments as there.

    grad: as z, in any layout. training: whether mean and invstd are z's own, through which the gradient goes too.
    """
    op = "bn_silu_backward"
    arguments = _bn_map(op, z)
    held = _bn_vectors(op, z, gamma=gamma, beta=beta, mean=mean, invstd=invstd)
    _check(op, z, {"grad": (grad, z.shape)}, grad=(z.dtype,))
    grad = grad.contiguous(memory_format=torch.channels_last)
    grad_z = torch.empty_like(z)
    grad_gamma, grad_beta = (torch.empty(z.shape[1], dtype=torch.float32) for _ in range(2))
    outputs = {"grad_z": grad_z.data_ptr(), "grad_gamma": grad_gamma.data_ptr(), "grad_beta": grad_beta.data_ptr()}
    form = {"activation": activation, "training": training, "grad": grad.data_ptr()}
    vectors = {name: vector.data_ptr() for name, vector in held.items()}
    _call(op, z.device, {**arguments, **vectors, **form, **outputs})
    return grad_z, grad_gamma, grad_beta


def _bn_map(operator: str, z: Tensor) -> dict[str, object]:
    """What the compiled functions are told of a map. Raises ValueError or TypeError for one that they cannot read."""
    _check(operator, torch.empty(0), {"z": (z, (None,) * 4)}, z=(torch.float32, torch.bfloat16))
    expect(z.is_contiguous(memory_format=torch.channels_last), operator, "z", "channels-last", f"strides {z.stride()}")
    batch, channels, height, width = z.shape
    expect(z.numel() > 0, operator, "z", "not empty", list(z.shape))
    return {"z": z.data_ptr(), "dtype": _DTYPES[z.dtype], "rows": batch * height * width, "channels": channels}


def _bn_vectors(operator: str, z: Tensor, **vectors: Tensor) -> dict[str, Tensor]:
    """gamma and beta in float32, mean and invstd in float64. Raises ValueError for another length or device."""
    _check(operator, z, {name: (vector, (z.shape[1],)) for name, vector in vectors.items()})
    dtypes = (torch.float32, torch.float32, torch.float64, torch.float64)
    return {name: vector.detach().to(dtype).contiguous() for (name, vector), dtype in zip(vectors.items(), dtypes, strict=True)}


def augment(
    pixels: Sequence[Tensor], layers: Tensor, ranges: Tensor, matrices: Tensor, mix_weights: Tensor, hsv_gains: Tensor,
    height: int, width: int, dtype: torch.dtype, channels_last: bool,
) -> Tensor:  # fmt: skip
    """Images [B, 3, height, width]; arguments as in `yolov9k.ops.augment`, on the CPU; pixels are read where they lie.

    Raises ValueError or TypeError naming the argument, ValueError where layers or ranges reach beyond what is there.
    """
    op = "augment"
    expect_shape(ranges, (None, 2, 2), op, "ranges")
    batch = len(ranges)
    shapes: _Shapes = {
        "layers": (layers, (None, 8)), "ranges": (ranges, (batch, 2, 2)), "matrices": (matrices, (batch, 2, 3, 3)),
        "mix_weights": (mix_weights, (batch,)), "hsv_gains": (hsv_gains, (batch, 3)),
    }  # fmt: skip
    host = torch.empty(0)
    if not all(part.dtype == torch.uint8 and part.dim() == 1 and part.device == host.device for part in pixels):
        shapes |= {f"pixels[{i}]": (part, (None,)) for i, part in enumerate(pixels)}
    kinds = {"layers": _INT64, "ranges": _INT64, "matrices": _FLOAT32, "mix_weights": _FLOAT32, "hsv_gains": _FLOAT32}
    _check(op, host, shapes, pixels=_UINT8, **kinds)
    expect(min(height, width) >= 1, op, "size", "at least 1 x 1", (height, width))
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.empty((len(ranges), 3, height, width), dtype=dtype, memory_format=memory_format)
    tables = {"layers": layers, "ranges": ranges, "matrices": matrices, "mix_weights": mix_weights, "hsv_gains": hsv_gains}
    held = {name: tensor.contiguous() for name, tensor in {**tables, "levels": _levels(dtype)}.items()}
    sources = [part.contiguous() for part in pixels]
    arguments: dict[str, object] = {
        **{name: tensor.data_ptr() for name, tensor in held.items()},
        "sources": [part.data_ptr() for part in sources], "source_counts": [part.numel() for part in sources],
        "layer_count": len(layers), "images": len(ranges), "height": height, "width": width,
        "output": images.data_ptr(), "element": images.element_size(),
        **dict(zip(("stride_image", "stride_channel", "stride_row", "stride_pixel"), images.stride(), strict=True)),
    }  # fmt: skip
    _call("augment", images.device, arguments)
    return images


@functools.cache
def _levels(dtype: torch.dtype) -> Tensor:
    """What each 8-bit value becomes: itself, or its 255th."""
    levels = torch.arange(256, dtype=torch.uint8)
    return levels if dtype == torch.uint8 else (levels.float() / 255).to(dtype)


def augment_boxes(
    points: Tensor, ends: Tensor, classes: Tensor, min_area_ratio: Tensor, ranges: Tensor, matrices: Tensor,
    height: int, width: int, capacity: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Boxes [B, capacity, 5] and counts [B]; arguments as in `yolov9k.ops.augment_boxes`, on the CPU.

    Raises ValueError or TypeError naming the argument, ValueError where ranges or ends reach beyond what is there, or a sample
    keeps more than capacity.
    """
    expect_shape(ranges, (None, 2, 2), "augment_boxes", "ranges")
    expect_shape(ends, (None,), "augment_boxes", "ends")
    batch, objects = len(ranges), len(ends)
    _check("augment_boxes", torch.empty(0), {
        "points": (points, (None, 2)), "ends": (ends, (objects,)), "classes": (classes, (objects,)),
        "min_area_ratio": (min_area_ratio, (objects,)), "ranges": (ranges, (batch, 2, 2)),
        "matrices": (matrices, (batch, 2, 3, 3)),
    }, points=_FLOAT32, ends=_INT64, classes=_INT64, min_area_ratio=_FLOAT32, ranges=_INT64, matrices=_FLOAT32)  # fmt: skip
    expect(capacity >= 0, "augment_boxes", "capacity", "at least 0", capacity)
    tables = {
        "points": points, "ends": ends, "classes": classes, "min_area_ratio": min_area_ratio, "ranges": ranges,
        "matrices": matrices,
    }  # fmt: skip
    held = {name: tensor.contiguous() for name, tensor in tables.items()}
    boxes, counts = points.new_zeros((len(ranges), capacity, 5)), ranges.new_zeros(len(ranges))
    arguments: dict[str, object] = {
        **{name: tensor.data_ptr() for name, tensor in held.items()},
        "point_count": len(points), "objects": len(ends), "images": len(ranges), "height": height, "width": width,
        "capacity": capacity, "boxes": boxes.data_ptr(), "counts": counts.data_ptr(),
    }  # fmt: skip
    _call("augment_boxes", points.device, arguments)
    return boxes, counts


def clip_outlines(
    points: NDArray[np.float32], lengths: NDArray[np.int64], width: float, height: float
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """What is left of outlines within 0..width x 0..height: points [q, 2], lengths [n] and hulls [n, 4], zeros for no point.

    points float32 [p, 2] and lengths int64 [n] as in `yolov9k.ops.augment_boxes.clip_outlines`. Raises ValueError for other
    shapes and for lengths beyond points, TypeError for lengths that are no integers.
    """
    check_outlines(points, lengths)
    points, lengths = np.ascontiguousarray(points, np.float32), np.ascontiguousarray(lengths, np.int64)
    left_lengths, boxes = np.empty_like(lengths), np.empty((len(lengths), 4), np.float32)
    room = 2 * len(points) + 8  # enough for all but the most jagged
    while True:
        left = np.empty((room, 2), np.float32)
        _raise_for("clip_outlines", _module("cpu").clip_outlines(
            points=points.ctypes.data, lengths=lengths.ctypes.data, point_count=len(points), objects=len(lengths), room=room,
            width=width, height=height, left=left.ctypes.data, left_lengths=left_lengths.ctypes.data, boxes=boxes.ctypes.data,
        ))  # fmt: skip
        count = int(left_lengths.sum())
        if count <= room:
            return left[:count], left_lengths, boxes
        room = count


def check_outlines(points: NDArray[np.float32], lengths: NDArray[np.int64]) -> None:
    """Raise ValueError unless points are [p, 2] and lengths [n], TypeError for lengths that are no integers."""
    op, (points_shape, lengths_shape) = "clip_outlines", (np.shape(points), np.shape(lengths))
    expect(len(points_shape) == 2 and points_shape[1] == 2, op, "points", "of shape [*, 2]", list(points_shape))
    expect(len(lengths_shape) == 1, op, "lengths", "of shape [*]", list(lengths_shape))
    if (kind := np.asarray(lengths).dtype).kind not in "iu" and len(lengths):
        raise TypeError(f"{op}: lengths must be integers, got {kind}")


def _check(operator: str, like: Tensor, shapes: _Shapes, **dtypes: tuple[torch.dtype, ...]) -> None:
    """Raise ValueError or TypeError for an argument of another shape, dtype, or on another device than `like`."""
    for name, (tensor, shape) in shapes.items():
        expect_shape(tensor, shape, operator, name)
        expect_device(tensor, like, operator, name)
        if wanted := dtypes.get(name.partition("[")[0]):
            expect_dtype(tensor, wanted, operator, name)


def _call(operator: str, device: torch.device, arguments: dict[str, object]) -> None:
    """Run an operator of the module on the host, on torch's number of threads, or on the current stream of a CUDA device."""
    module = _module(device.type)
    if device.type == "cuda":
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream().cuda_stream
            _raise_for(operator, getattr(module, f"{operator}_cuda")(**arguments, stream=stream))
    else:
        _raise_for(operator, getattr(module, operator)(**arguments, threads=torch.get_num_threads()))


def _module(device: str) -> ModuleType:
    """The compiled module, or RuntimeError with the reason why it cannot serve `device`."""
    module = _load()[0]
    if reason := why_missing(device):
        raise RuntimeError(reason)
    assert module is not None
    return module


def _raise_for(operator: str, status: tuple[int, str]) -> None:
    code, message = status
    if code:
        raise _ERRORS[code](f"{operator}: {message}")
