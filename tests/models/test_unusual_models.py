"""Models that no published table has: every head, and auxiliary parts woven into the main one, lean and fused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.models.yaml_cases import BACKBONE, NECK, Row, Write
from tests.tiers import slow_case
from tests.tolerances import FUSED, LEAN
from yolov9k import create_model
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine.train.setup import make_criterion
from yolov9k.models import DetectionModel
from yolov9k.models.heads.detect import head_name


def randomized(model: DetectionModel) -> DetectionModel:
    """Running statistics and biases away from their start, so that folding and dropping could go wrong."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                assert tensor is not None
                tensor.data.uniform_(-0.3, 0.3, generator=generator)
            for tensor in (module.running_var, module.weight):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


# Branches, groups of the box convolutions and class tower of each head
HEADS = {
    "DDetect": (1, 4, "plain"), "Detect": (1, 1, "plain"), "DualDDetect": (2, 4, "plain"), "DualDetect": (2, 1, "plain"),
    "TripleDDetect": (3, 4, "plain"), "TripleDetect": (3, 1, "plain"), "DepthwiseDetect": (1, 1, "depthwise"),
    "DualDepthwiseDDetect": (2, 4, "depthwise"),
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains_with_the_loss(write: Write, head: str) -> None:
    """Auxiliary branches straight from the backbone and, the third, one convolution further."""
    branches_wanted, groups, tower = HEADS[head]
    assert head_name(branches_wanted, groups, tower) == head
    torch.manual_seed(0)
    extra = [[3, 1, "Conv", [8]], [4, 1, "Conv", [16]], [5, 1, "Conv", [24]]]
    sources = [*[10, 11, 12, 3, 4, 5][6 - 3 * (branches_wanted - 1) :], 3, 9, 6]
    model = create_model(write(head=[*NECK, *extra, [sources, 1, head, ["nc"]]])).train()
    branches = model(torch.rand(2, 3, 64, 64))
    assert [[tuple(level.shape) for level in branch] for branch in branches] == [
        [(2, 67, 8, 8), (2, 67, 4, 4), (2, 67, 2, 2)]
    ] * branches_wanted
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.6], [1, 2, 0.3, 0.6, 0.2, 0.2]])
    total, parts = make_criterion(model, TrainRecipe())(branches, targets)
    total.backward()
    assert float(parts.min()) > 0
    silent = [name for name, p in model.model[-1].named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []
    assert model.head.towers(0)[0][0][1].conv.groups == groups
    depthwise = [m for m in model.head.towers(0)[1].modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels]
    assert len(depthwise) == (6 if tower == "depthwise" else 0)


# Main branch 3, 9, 6 unless said; auxiliary layers before, between and after, fed by the image, by each other, by
# CBLinear, and by layers of the main branch. Each: rows of the backbone and head, and the numbers that must go.
UNUSUAL: dict[str, tuple[list[Row], list[Row], set[int]]] = {
    "before the backbone": (
        [
            [-1, 1, "Silence", []],
            [0, 1, "Conv", [8, 3, 2]],
            [-1, 2, "Conv", [8, 3, 2]],
            [-1, 1, "AConv", [8]],
            [0, 1, "Conv", [8, 3, 2]],
            [-1, 1, "Conv", [8, 3, 2]],
            [-1, 1, "ADown", [16]],
            [-1, 1, "ADown", [16]],
            [-1, 1, "ADown", [16]],
        ],
        [[[2, 3, 8, 6, 7, 8], 1, "DualDDetect", ["nc"]]],
        {0, 1, 2, 3},
    ),
    "woven in": (
        [
            [-1, 1, "Conv", [8, 3, 2]],
            [-2, 1, "Conv", [8, 3, 4]],
            [0, 1, "Conv", [16, 3, 2]],
            [1, 1, "AConv", [16]],
            [2, 1, "AConv", [16]],
            [3, 1, "Conv", [16, 3, 2]],
            [4, 1, "AConv", [16]],
            [[5, 6], 1, "Concat", [1]],
            [6, 1, "AConv", [16]],
            [[8, 8], 1, "Concat", [1]],
        ],
        [[[3, 7, 9, 4, 6, 8], 1, "DualDetect", ["nc"]]],
        {1, 3, 5, 7, 9},
    ),
    "through CBLinear, pass-through read by both": (
        [[-1, 1, "Silence", []], *BACKBONE],
        [
            [4, 1, "CBLinear", [[8]]],
            [6, 1, "CBLinear", [[8, 16]]],
            [0, 1, "Conv", [8, 3, 8]],
            [[7, 8, -1], 1, "CBFuse", [[0, 0]]],
            [-1, 1, "Conv", [16, 3, 2]],
            [[8, -1], 1, "CBFuse", [[1]]],
            [-1, 1, "Conv", [16, 3, 2]],
            [[10, 12, 13, 4, 5, 6], 1, "DualDDetect", ["nc"]],
        ],
        {0, 7, 8, 9, 10, 11, 12, 13},
    ),
    "three branches that share layers, one unread layer": (
        BACKBONE,
        [
            *NECK,
            [3, 1, "Conv", [16]],
            [9, 1, "ELAN1", [16, 16, 8]],
            [2, 1, "Conv", [8]],
            [[10, 4, 5, 3, 11, 6, 3, 9, 6], 1, "TripleDDetect", ["nc"]],
        ],
        {10, 11, 12},
    ),
    "a pass-through that the main branch reads twice stays": (
        [
            [-1, 1, "Silence", []],
            [0, 1, "Conv", [8, 3, 8]],
            [0, 1, "Conv", [8, 3, 8]],
            [[1, 2], 1, "Concat", [1]],
            [-1, 1, "Conv", [16, 3, 2]],
            [-1, 1, "Conv", [16, 3, 2]],
        ],
        [[3, 1, "Conv", [8]], [[6, 4, 5, 3, 4, 5], 1, "DualDepthwiseDetect", ["nc"]]],
        {6},
    ),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_lean_drops_what_the_main_branch_does_not_read_and_nothing_else(write: Write, case: str) -> None:
    torch.manual_seed(1)
    backbone, head, gone = UNUSUAL[case]
    model = randomized(create_model(write(backbone=backbone, head=head)))
    lean = model.to_lean()
    kept = [layer.module for i, layer in enumerate(model.spec.layers[:-1]) if i not in gone]
    assert [layer.module for layer in lean.spec.layers[:-1]] == kept
    assert lean.head.num_branches == 1
    x = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        wanted = model.decode(model.branches(x)[-1])
        assert torch.equal(model(x), wanted)
        torch.testing.assert_close(lean(x), wanted, rtol=LEAN, atol=LEAN)
    assert lean.num_classes == 3
    assert lean.to_lean().spec == lean.spec


LEAKY = "nn.LeakyReLU(0.1)"


@pytest.mark.parametrize(
    ("case", "activation"),
    [
        *((case, None) for case in UNUSUAL),
        *(slow_case(case, LEAKY) if case != "woven in" else (case, LEAKY) for case in UNUSUAL),
    ],
)
def test_fused_equals_unfused(write: Write, case: str, activation: str | None) -> None:
    torch.manual_seed(2)
    backbone, head, _ = UNUSUAL[case]
    model = randomized(create_model(write(backbone=backbone, head=head, activation=activation))).double()
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(x)
        for twin in (model.fuse(), model.to_lean().fuse(), model.fuse().to_lean()):
            assert not any(isinstance(module, nn.BatchNorm2d) for module in twin.modules())
            torch.testing.assert_close(twin(x), wanted, rtol=FUSED, atol=FUSED)
