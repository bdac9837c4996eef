"""An address tells no shape: what is not as it must be never reaches the compiled code, whichever way it is called."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.native_cases import altered, public, sound
from yolov9k import native
from yolov9k.ops.augment_boxes import clip_outlines

FUNCTIONS = sorted(sound())
FREE = {
    "dfl_decode": ["maps"],
    "dfl_candidates": ["maps"],
    "detection_loss": ["maps"],
    "sgd_ema": ["values", "ema"],
    "conv_silu": ["x"],
    "task_aligned_assign": ["scores"],
    "batched_nms": ["prediction"],
    "augment": ["pixels", "layers"],
    "augment_boxes": ["points"],
    "clip_outlines": ["points", "lengths"],
    "loss_predictions": ["maps"],
    "bn_statistics": ["z"],
    "bn_settle": [],
    "bn_silu": [],
    "bn_apply_table": [],
    "bn_silu_backward_reduce": [],
    "bn_silu_backward_apply": [],
    "conv3x3": ["x"],
    "conv3x3_input_gradient": ["grad"],
    "conv3x3_weight_gradient": [],
}
needs_native = pytest.mark.skipif(not native.available(), reason=native.why_missing() or "built")


def is_free(name: str, argument: str, sound: Any, other: Any) -> bool:
    """Whether another tensor differs in extents alone, and nothing beside it says how many there are."""
    sound, other = (value[-1] if isinstance(value, list) else value for value in (sound, other))
    here = str(getattr(other, "device", "cpu")) == "cpu"
    return argument in FREE[name] and here and np.ndim(sound) == np.ndim(other)


@needs_native
@pytest.mark.parametrize("name", FUNCTIONS)
def test_sound_arguments_are_taken(name: str) -> None:
    call, arguments = sound()[name]
    call(**arguments)


@needs_native
@pytest.mark.parametrize("name", FUNCTIONS)
def test_another_shape_or_device_is_refused_by_name(name: str) -> None:
    call, arguments = sound()[name]
    number = 0
    for argument, given in altered(arguments):
        if is_free(name, argument, arguments[argument], given[argument]):
            continue
        number += 1
        with pytest.raises((ValueError, TypeError), match=f"^{name}: "):
            call(**given)
    assert number > 3


@pytest.mark.parametrize("name", sorted(public()))
def test_operators_refuse_another_shape_or_device_by_name(name: str) -> None:
    call, arguments = public()[name]
    call(**arguments)
    for argument, given in altered(arguments):
        if is_free(name, argument, arguments[argument], given[argument]):
            continue
        with pytest.raises((ValueError, TypeError), match=f"^{name}: "):
            call(**given)


@needs_native
@pytest.mark.parametrize(
    ("name", "argument", "dtype"),
    [("bn_statistics", "z", torch.float16), ("bn_apply_table", "z", torch.float64),
     ("bn_apply_table", "y", torch.bfloat16), ("bn_silu_backward_apply", "grad", torch.int64),
     ("conv3x3", "x", torch.bfloat16), ("conv3x3", "weight", torch.float64), ("detection_loss", "gt_index", torch.int32),
     ("detection_loss", "weight", torch.float64), ("detection_loss", "labels", torch.int32),
     ("detection_loss", "gt_boxes", torch.float64), ("detection_loss", "factors", torch.float16),
     ("sgd_ema", "values", torch.float64), ("sgd_ema", "low", torch.float16), ("sgd_ema", "state", torch.float64),
     ("task_aligned_assign", "scores", torch.float64), ("task_aligned_assign", "scores", torch.int64),
     ("batched_nms", "prediction", torch.float64), ("batched_nms", "prediction", torch.uint8),
     ("augment", "layers", torch.int32), ("augment", "ranges", torch.int32), ("augment", "matrices", torch.float64),
     ("augment", "mix_weights", torch.float16), ("augment", "hsv_gains", torch.float64),
     ("augment_boxes", "points", torch.float64), ("augment_boxes", "ends", torch.int32),
     ("augment_boxes", "classes", torch.int32), ("augment_boxes", "min_area_ratio", torch.float16),
     ("augment_boxes", "ranges", torch.int32), ("augment_boxes", "matrices", torch.float64)],
)  # fmt: skip
def test_another_dtype_is_refused_by_name(name: str, argument: str, dtype: torch.dtype) -> None:
    call, arguments = sound()[name]
    with pytest.raises(TypeError, match=f"^{name}: {argument} must be of dtype "):
        call(**{**arguments, argument: arguments[argument].to(dtype)})


@needs_native
def test_images_of_another_dtype_are_refused_by_name() -> None:
    call, arguments = sound()["augment"]
    with pytest.raises(TypeError, match=r"^augment: pixels\[1\] must be of dtype torch\.uint8"):
        call(**{**arguments, "pixels": [*arguments["pixels"], torch.zeros(4)]})


@needs_native
@pytest.mark.parametrize(
    ("name", "change"),
    [("batched_nms", {"max_detections": 0}), ("batched_nms", {"max_detections": -1}), ("augment", {"height": 0}),
     ("augment", {"width": -3}), ("augment", {"height": 2**15 + 1}), ("augment_boxes", {"capacity": -1}),
     ("augment_boxes", {"height": 0}), ("task_aligned_assign", {"topk": 0}), ("task_aligned_assign", {"topk": -1})],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(name: str, change: dict[str, int]) -> None:
    call, arguments = sound()[name]
    with pytest.raises((ValueError, MemoryError), match=f"^{name}: "):
        call(**{**arguments, **change})


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_native)])
@pytest.mark.parametrize(
    ("points", "lengths", "error"),
    [(np.zeros((8, 1), np.float32), np.array([8]), ValueError), (np.zeros(7, np.float32), np.array([7]), ValueError),
     (np.zeros((4, 3), np.float32), np.array([4]), ValueError), (np.zeros((2, 2, 2), np.float32), np.array([2]), ValueError),
     (np.float32(1), np.array([1]), ValueError), (np.zeros((4, 2), np.float32), np.array([[4]]), ValueError),
     (np.zeros((4, 2), np.float32), np.int64(4), ValueError), (np.zeros((4, 2), np.float32), np.array([2.5]), TypeError),
     (np.zeros((4, 2), np.float32), np.array([5]), ValueError), (np.zeros((4, 2), np.float32), np.array([-1, 5]), ValueError),
     (np.zeros((4, 2), np.float32), np.array([2**62] * 4), ValueError)],
)  # fmt: skip
def test_outlines_of_another_shape_are_refused(points: Any, lengths: Any, error: type[Exception], backend: str) -> None:
    """Points that are not [p, 2] were read beyond their end."""
    with pytest.raises(error, match=r"^clip_outlines: "):
        clip_outlines(points, lengths, 32, 32, backend=backend)
    if backend == "cpu":
        with pytest.raises(error, match=r"^clip_outlines: "):
            native.clip_outlines(points, lengths, 32, 32)


@needs_native
def test_registered_operators_refuse_it_too() -> None:
    """What torch.compile and export call goes past the checks of `yolov9k.ops`."""
    prediction = sound()["batched_nms"][1]["prediction"]
    with pytest.raises(ValueError, match=r"^batched_nms: prediction must have shape"):
        torch.ops.yolov9k.batched_nms(prediction[0], 0.1, 0.5, None, False, True, 20, "cpu")
    arguments = [*sound()["augment_boxes"][1].values()]
    with pytest.raises(ValueError, match=r"^augment_boxes: ends must have shape"):
        torch.ops.yolov9k.augment_boxes(*[arguments[0], arguments[1][None], *arguments[2:]], "cpu")
