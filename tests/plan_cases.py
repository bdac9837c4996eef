"""Blocks as plans, with kernels in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.plain_kernels import PlainKernels
from yolov9k.models.block import Block
from yolov9k.ops.plan import planned as operator


def use_plain_kernels(patch: pytest.MonkeyPatch) -> None:
    """Plans run with plain torch's kernels, whatever the dtype."""
    patch.setattr(operator, "_kernels", PlainKernels())
    patch.setattr("yolov9k.models.block.choose", lambda _, backend, *__: backend)


def as_triton(block: Block) -> Block:
    for module in block.modules():
        if isinstance(module, Block):
            module.backend = "triton"
    return block


def randomized(make: Callable[[], Block], training: bool, seed: int = 0) -> Block:
    torch.manual_seed(seed)
    block = make().double().train(training)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return block
