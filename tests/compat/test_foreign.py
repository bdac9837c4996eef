"""Files of other networks, and damaged ones of YOLOv9: one line that says what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import yolov9k
from yolov9k.common.errors import UserError
from yolov9k.compat.pickled import named, write_pickle
from yolov9k.models import create_model

NUMBER = torch.ones(4, 4, 1, 1)


def fault(folder: Path, content: Any) -> str:
    path = folder / "weights.pt"
    write_pickle(path, content)
    with pytest.raises(UserError) as caught:
        yolov9k.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 600
    return message.removeprefix(f"{path}: ")


def keys(*names: str) -> dict[str, Tensor]:
    return {name: NUMBER.clone() for name in names}


def ultralytics(*classes: str) -> dict[str, Any]:
    """A file of Ultralytics' whose model has blocks of these classes and a convolution."""
    places = {name: "head" if name == "v10Detect" else "block" for name in classes}
    blocks = [named(f"ultralytics.nn.modules.{place}.{name}", {"cv1": nn.Conv2d(4, 4, 1)}) for name, place in places.items()]
    layers = nn.Sequential(*blocks)
    model = named("ultralytics.nn.tasks.DetectionModel", {"model": layers}, names={0: "a"}, yaml={"nc": 1})
    return {"model": model, "ema": None, "date": "2026-01-01", "version": "8.4.0"}


V8 = keys("model.2.m.0.cv1.conv.weight", "model.22.cv2.0.2.weight", "model.22.cv3.0.2.weight", "model.22.cv2.0.1.conv.weight")
FOREIGN: dict[str, tuple[Any, str]] = {
    "YOLOv8": (ultralytics("Conv", "C2f", "SPPF", "Detect"), "is YOLOv8 (it has C2f), none of what is read here"),
    "YOLOv8, plain": (V8, "is YOLOv8 (C2f blocks), none of what is read here; give weights of a YOLOv9 or GELAN detector"),
    "YOLO11": (ultralytics("Conv", "C3k2", "C2PSA", "Detect"), "is YOLO11 or YOLO26 (it has C3k2)"),
    "YOLO12": (ultralytics("Conv", "A2C2f", "C3k2", "Detect"), "is YOLO12 (it has A2C2f)"),
    "YOLOv10": (ultralytics("Conv", "C2f", "v10Detect"), "is YOLOv10 (it has v10Detect)"),
    "YOLOv5": (ultralytics("Conv", "C3", "Detect"), "is YOLOv5 (it has C3)"),
    "a pose model": (ultralytics("Conv", "C2f", "Pose"), "is a pose model (it has Pose)"),
    "RT-DETR": (ultralytics("HGBlock", "RTDETRDecoder"), "is RT-DETR (it has RTDETRDecoder)"),
    "a segmentation of GELAN": (ultralytics("RepNCSPELAN4", "Segment"), "is a segmentation model (it has Segment)"),
    "a classifier of Ultralytics": (ultralytics("Conv", "C2f", "Classify"), "is an image classifier (it has Classify)"),
    "ResNet": (keys("conv1.weight", "layer1.0.conv1.weight", "fc.weight", "fc.bias"), "is an image classifier"),
    "EfficientNet": (keys("features.0.0.weight", "classifier.1.weight"), "is an image classifier"),
    "Faster R-CNN": (keys("backbone.body.conv1.weight", "rpn.head.conv.0.0.weight"), "is a Faster R-CNN"),
    "DETR": (keys("transformer.encoder.layers.0.linear1.weight", "class_embed.weight"), "is a DETR"),
    "YOLOX": (keys("backbone.backbone.stem.conv.conv.weight", "head.cls_preds.0.weight"), "is YOLOX"),
    "LibreYOLO's others": ({"model": keys("a.weight"), "model_family": "rfdetr", "size": "n"}, "is LibreYOLO's rfdetr"),
    "LibreYOLO's pose": ({"model": keys("a.b"), "model_family": "yolo9", "task": "pose"}, "is LibreYOLO's yolo9 for the task"),
    "nothing known": (
        keys("alpha.weight", "beta.weight"),
        "no known network has its 2 tensors (alpha.weight, beta.weight ...)",
    ),
    "no tensors": ({"epoch": 3, "optimizer": None}, "holds no weights; give a checkpoint of a trained model"),
    "a stripped optimizer": ({"optimizer": {"state": {0: NUMBER}}}, "holds no weights"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_another_network_is_named(case: str, tmp_path: Path) -> None:
    content, wanted = FOREIGN[case]
    assert fault(tmp_path, content).startswith(wanted)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return create_model("gelan-t", 3).state_dict()


def without(state: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(start)}


@pytest.mark.long
def test_damaged_files_of_ours_say_what_is_wrong(state: dict[str, Tensor], tmp_path: Path) -> None:
    assert "does not fit gelan-t, 0 keys of another shape and 6 missing" in fault(tmp_path, without(state, "model.1."))
    assert "model.40.weight: unknown to the model" in fault(tmp_path, {**state, "model.40.weight": NUMBER})
    key = "model.4.cv1.bn.weight"
    assert f"1 of {len(state)} tensors hold NaN or infinity, the first is {key}" in fault(
        tmp_path, {**state, key: state[key] * float("nan")}
    )
    assert f"{key}: file [7], model [64]" in fault(tmp_path, {**state, key: torch.ones(7)})
    assert "no known network has its" in fault(tmp_path, without(state, "model.22.cv3.1"))
    bins = {**state, "model.22.dfl.conv.weight": torch.ones(1, 16, 1, 1)}
    assert "dfl.conv.weight is not 0 to 15" in fault(tmp_path, bins)
    wide = {key: value[..., :0] if key.startswith("model.22.cv2.1.2") else value for key, value in state.items()}
    assert "does not fit gelan-t" in fault(tmp_path, wide)


def test_strides_of_another_head_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    layers = create_model("gelan-t", 3).model
    model = named("models.yolo.DetectionModel", {"model": nn.Sequential(*layers)}, stride=torch.tensor([4.0, 8.0, 16.0]))
    assert "its strides are [4.0, 8.0, 16.0], expected [8, 16, 32]" in fault(tmp_path, {"model": model})


def test_another_batchnorm_is_refused(tmp_path: Path) -> None:
    layers = create_model("gelan-t", 3).model
    layers[0].bn.eps = 1e-5
    model = named("models.yolo.DetectionModel", {"model": nn.Sequential(*layers)})
    assert "its BatchNorm has eps [0.001, 1e-05], expected 0.001" in fault(tmp_path, {"model": model})
