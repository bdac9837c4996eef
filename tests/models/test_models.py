"""The ten variants and the loss against the golden fixtures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import fill, golden_weights, shared
from tests.tolerances import FORWARD, LOSS_GRADIENT, LOSS_VALUE, TIED_TOPK
from yolov9k import create_model
from yolov9k.losses import DetectionLoss
from yolov9k.models.analysis.summary import cost
from yolov9k.ops import batched_nms, task_aligned_assign

pytestmark = pytest.mark.big

NAMES = [f"{family}-{size}" for family in ("yolov9", "gelan") for size in "tsmce"]
# The published parameters and GFLOPs of the training, lean and fused forms
SIZES = {
    "t": [(3_717_680, 16.3), (2_442_640, 9.9), (2_407_632, 9.8)],
    "s": [(9_804_512, 39.5), (7_226_208, 26.7), (7_105_888, 26.4)],
    "m": [(32_878_432, 132.1), (20_124_000, 76.8), (19_978_672, 76.3)],
    "c": [(51_182_080, 238.7), (25_498_752, 102.8), (25_288_768, 102.1)],
    "e": [(69_529_664, 244.0), (58_114_432, 191.1), (57_345_920, 188.9)],
}
NMS: dict[str, dict[str, Any]] = {
    "val_multilabel": {"conf_threshold": 0.001, "iou_threshold": 0.7, "multi_label": True},
    "predict": {"conf_threshold": 0.25, "iou_threshold": 0.45, "max_detections": 1000},
    "agnostic": {"conf_threshold": 0.1, "iou_threshold": 0.5, "class_agnostic": True, "max_detections": 100},
    "class_filter": {
        "conf_threshold": 0.05, "iou_threshold": 0.6, "classes": [1, 3], "multi_label": True, "max_detections": 50,
    },
    "nothing": {"conf_threshold": 0.99, "iou_threshold": 0.6},
}  # fmt: skip


def relative(found: torch.Tensor, wanted: np.ndarray) -> float:
    return float(np.abs(found.detach().numpy() - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.twin) if n == "yolov9-t" else n for n in NAMES])
def test_forward_equals_the_published_one(name: str) -> None:
    golden = np.load(shared(f"golden/models/{name}.npz"))
    listed = json.loads(shared(f"golden/models/{name}.json").read_text())
    model = create_model(name)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == listed["state_dict"]
    assert list(model.state_dict()) == list(listed["state_dict"])
    fill(model)
    model.double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    x = torch.from_numpy(golden_weights().image((2, 3, 128, 96), 1234))
    with torch.no_grad():
        for b, branch in enumerate(model.train()(x)):
            for i, level in enumerate(branch):
                assert relative(level, golden[f"train_branch{b}_level{i}"]) < FORWARD
        model.eval()
        branches = model.branches(x)
        for b, branch in enumerate(branches):
            assert relative(model.decode(branch), golden[f"eval_decoded_branch{b}"]) < FORWARD
        wanted = golden[f"eval_decoded_branch{len(branches) - 1}"]
        for twin in (model, model.to_lean(), model.fuse(), model.to_lean().fuse()):
            assert relative(twin(x), wanted) < FORWARD


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_the_published_ones(size: str) -> None:
    model = create_model(f"yolov9-{size}")
    lean = model.to_lean()
    found = [cost(twin) for twin in (model, lean, lean.fuse())]
    assert [(parameters, round(gflops, 1)) for parameters, gflops in found] == SIZES[size]


@pytest.mark.parametrize("size", "tsmc")
def test_lean_is_the_gelan_of_the_same_size(size: str) -> None:
    assert create_model(f"yolov9-{size}").to_lean().spec.layers == create_model(f"gelan-{size}").spec.layers


def test_lean_numbers_of_e() -> None:
    _, number = create_model("yolov9-e").spec.lean()
    assert number == {**{i: i for i in range(29)}, **{i: i - 7 for i in range(36, 49)}, 49: 42}


@pytest.mark.parametrize("case", ["dense", "sparse_empty_image", "tiny_boxes", "crowded", "no_targets"])
def test_loss_equals_the_published_one(case: str) -> None:
    golden = np.load(shared(f"golden/ops/loss_{case}.npz"))
    branches = [
        [torch.from_numpy(golden[f"{branch}_level{i}"]).requires_grad_() for i in range(3)] for branch in ("aux", "main")
    ]
    total, parts = DetectionLoss(int(golden["nc"]))(branches, torch.from_numpy(golden["targets"]))
    # In the crowded case the published top-k fills up with anchors of metric 0, in an arbitrary order (golden/README).
    tolerance = TIED_TOPK if case == "crowded" else LOSS_VALUE
    assert total.item() == pytest.approx(float(golden["dual_loss"]), rel=tolerance)
    wanted = torch.from_numpy(golden["dual_items_box_cls_dfl"])
    torch.testing.assert_close(parts, wanted, rtol=tolerance, atol=1e-9)
    total.backward()
    if case != "crowded":
        for name, branch in zip(("aux", "main"), branches, strict=True):
            for i, level in enumerate(branch):
                gradient = torch.from_numpy(golden[f"dual_grad_{name}_level{i}"])
                assert level.grad is not None
                assert (level.grad - gradient).norm() <= LOSS_GRADIENT * gradient.norm()
    assign = {key[7:]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith("assign_")}
    found = task_aligned_assign(
        assign["pred_scores"], assign["pred_boxes_px"], assign["anchor_points_px"], assign["gt_labels"][..., 0],
        assign["gt_boxes_px"], assign["gt_mask"][..., 0],
    )  # fmt: skip
    torch.testing.assert_close(found.weight, assign["target_scores"].sum(-1), rtol=LOSS_VALUE, atol=LOSS_VALUE)


@pytest.mark.twin
@pytest.mark.parametrize("case", NMS)
def test_nms_equals_the_published_one(case: str) -> None:
    golden = np.load(shared(f"golden/ops/nms_{case}.npz"))
    found = batched_nms(torch.from_numpy(golden["prediction"]), **NMS[case])
    for i, (rows, count) in enumerate(zip(found.detections, found.counts.tolist(), strict=True)):
        wanted = torch.from_numpy(golden[f"detections_image{i}"])
        assert count == len(wanted)
        assert torch.equal(rows[:count], wanted)


def test_conv_bn_silu_has_the_references_gradient() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 4, 5, 5), (6, 2, 3, 3), (6,), (6,))]
    for activation in (True, False):

        def run(*tensors: torch.Tensor, on: bool = activation) -> torch.Tensor:
            return torch.ops.yolov9k.conv_bn_silu(*tensors, None, None, 2, 1, 2, 1e-3, on)[0]

        assert torch.autograd.gradcheck(run, inputs)


def test_dfl_decode_gradient() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(1, 66, n, n, dtype=torch.float64, requires_grad=True) for n in (2, 1)]
    assert torch.autograd.gradcheck(lambda *m: torch.ops.yolov9k.dfl_decode(list(m), [8, 16], 16, "reference"), maps)


def test_nms_never_chooses_nan(tmp_path: Path) -> None:
    prediction = torch.rand(1, 6, 20)
    prediction[0, 0, 3] = prediction[0, 4, 5] = float("nan")
    prediction[0, 2, 7] = float("inf")
    found = batched_nms(prediction, 0.0, 1.0, max_detections=20)
    assert int(found.counts) == 19 - 1
    assert found.detections.isfinite().all()
