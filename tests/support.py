"""What several tests share: the folder of what does not belong in the repository, its weights, random samples."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from yolov9k.models import DetectionModel

_ROOT = Path(os.environ.get("YOLOV9K_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared(name: str) -> Path:
    """Path of `name` in the shared folder (``YOLOV9K_SHARED``, default ``../shared``); skips the test where it is absent."""
    path = _ROOT / name
    if not path.exists():
        pytest.skip(f"needs {name} of the shared folder; set YOLOV9K_SHARED to it")
    return path


def golden_weights() -> Any:
    """The fixtures' own module that draws weights (`fill`) and images (`image`)."""
    spec = importlib.util.spec_from_file_location("golden_weights", shared("golden/weights.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill(model: DetectionModel) -> DetectionModel:
    """Give a model the fixtures' weights, which went through float32."""
    draw = golden_weights().fill
    state = {
        key: value if ".dfl" in key else torch.from_numpy(np.asarray(draw(key, tuple(value.shape)))).to(value.dtype)
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model


def wide_tiles(patch: pytest.MonkeyPatch) -> None:
    """Interpreted, a program costs the same whatever its tile: few and large ones."""
    import triton

    from yolov9k.kernels import conv1x1, conv_bn_silu, pool

    patch.setattr(conv_bn_silu, "CHUNK", 4096)
    patch.setattr(conv_bn_silu, "ROWS", 1024)
    patch.setattr(conv_bn_silu, "COLUMNS", 32)
    patch.setattr(pool, "PIXELS", 256)
    patch.setattr(conv1x1, "WEIGHT_CONFIGS", (conv1x1.Config(64, 64, 1024),))
    patch.setattr(conv1x1, "choose", lambda rows, _: conv1x1.Config(min(triton.next_power_of_2(rows), 4096)))


def little_model(folder: Path) -> Path:
    """A YAML of a small model with every kind of block and stride, for tests that ask nothing of the model itself."""
    convs = [[-1, 1, "Conv", [width, 3, 2]] for width in (8, 16)]
    stages = [[-1, 1, "RepNCSPELAN4", [16, 16, 8, 1]], [-1, 1, "ADown", [16]], [-1, 1, "AConv", [24]], [-1, 1, "ADown", [32]]]
    up = [[-1, 1, "SPPELAN", [24, 16]], [-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[-1, 4], 1, "Concat", [1]]]
    head = [*up, [-1, 1, "ELAN1", [24, 16, 8]], [[3, 9, 6], 1, "DDetect", ["nc"]]]
    path = folder / "little.yaml"
    path.write_text(yaml.safe_dump({"nc": 80, "backbone": [*convs, *stages], "head": head}))
    return path


def grid_anchors(size: int) -> Tensor:
    """Anchors [A, 2] of a square image: cell centers of strides 8, 16 and 32, row by row, in pixels."""
    levels = []
    for stride in (8, 16, 32):
        side = torch.arange(size // stride) + 0.5
        rows, columns = torch.meshgrid(side, side, indexing="ij")
        levels.append(torch.stack((columns, rows), -1).reshape(-1, 2) * stride)
    return torch.cat(levels)


def grid_strides(size: int) -> Tensor:
    """The stride in pixels of each of `grid_anchors`, [A]."""
    return torch.cat([torch.full(((size // stride) ** 2,), float(stride)) for stride in (8, 16, 32)])


def assign_case(
    seed: int, images: int, boxes: int, size: int, classes: int, dtype: torch.dtype = torch.float32, spread: float = 8.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Scores, boxes, anchors, gt_labels, gt_boxes, gt_mask of random samples, predictions `spread` pixels off a true box."""
    generator = torch.Generator().manual_seed(seed)
    anchors = grid_anchors(size)
    corner = torch.rand(images, boxes, 2, generator=generator) * size * 0.8
    gt_boxes = torch.cat((corner, corner + 4 + torch.rand(images, boxes, 2, generator=generator) * size / 2), -1)
    mask = torch.rand(images, boxes, generator=generator) < 0.9
    labels = torch.randint(0, classes, (images, boxes), generator=generator)
    noise = torch.randn(images, len(anchors), 4, generator=generator) * spread
    if boxes:
        aim = torch.randint(0, boxes, (images, len(anchors), 1), generator=generator).expand(-1, -1, 4)
        noise = noise + gt_boxes.gather(1, aim)
    scores = torch.rand(images, len(anchors), classes, generator=generator)
    return scores.to(dtype), noise.to(dtype), anchors.to(dtype), labels, gt_boxes.to(dtype), mask


def nms_prediction(
    seed: int, images: int, classes: int, anchors: int, size: float = 200.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """A head's decoded output [images, 4 + classes, anchors]: boxes of 4 to a quarter of `size` pixels, mostly low scores."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(images, 2, anchors, generator=generator) * size
    sides = 4 + torch.rand(images, 2, anchors, generator=generator) * size / 4
    scores = torch.rand(images, classes, anchors, generator=generator) ** 3
    return torch.cat((centers, sides, scores), 1).to(dtype)
