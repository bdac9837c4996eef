"""Plans of blocks: equal to the blocks' definition in float64, forward, backward and in what they leave behind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.plain_kernels import PlainKernels
from tests.tolerances import FLOAT64_LOOPS
from yolov9k.models import blocks
from yolov9k.models.planned import Block
from yolov9k.ops import planned as operator

BLOCKS: dict[str, Callable[[], Block]] = {
    "Conv 3x3 stride 2": lambda: blocks.Conv(4, 6, 3, 2),
    "Conv 1x1": lambda: blocks.Conv(4, 6),
    "Conv in groups, no activation": lambda: blocks.Conv(4, 6, 3, g=2, act=False),
    "RepConvN": lambda: blocks.RepConvN(4, 6),
    "RepNBottleneck": lambda: blocks.RepNBottleneck(4, 4),
    "RepNBottleneck without shortcut": lambda: blocks.RepNBottleneck(4, 6),
    "RepNCSP": lambda: blocks.RepNCSP(4, 6, 2),
    "RepNCSP without bottlenecks": lambda: blocks.RepNCSP(4, 6, 0),
    "ELAN1": lambda: blocks.ELAN1(4, 6, 8, 4),
    "RepNCSPELAN4": lambda: blocks.RepNCSPELAN4(4, 6, 8, 4, 2),
    "AConv": lambda: blocks.AConv(4, 6),
    "ADown": lambda: blocks.ADown(4, 6),
    "SPPELAN": lambda: blocks.SPPELAN(4, 6, 4),
}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plans run with plain torch's kernels, whatever the dtype."""
    monkeypatch.setattr(operator, "_kernels", PlainKernels())
    monkeypatch.setattr(Block, "_serves", lambda self, x: self.backend == "triton" and self.prepare(x.shape[1]) is not None)
    monkeypatch.setattr("yolov9k.ops.plan_forward.STATISTICS", torch.float64)
    yield


def randomised(make: Callable[[], Block], training: bool, seed: int = 0) -> Block:
    torch.manual_seed(seed)
    block = make().double().train(training)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return block


def results(block: Block, x: Tensor, backend: str) -> list[Tensor]:
    """Output, gradients of everything, buffers; of copies."""
    block, x = copy.deepcopy(block), x.clone().requires_grad_()
    for module in block.modules():
        if isinstance(module, Block):
            module.backend = backend
    y = block(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=y.dtype))
    grads = [parameter.grad for parameter in block.parameters()]
    return [tensor for tensor in (y.detach(), x.grad, *grads, *block.buffers()) if tensor is not None]


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_plan_equals_its_block(name: str, training: bool) -> None:
    block = randomised(BLOCKS[name], training)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    wanted, found = results(block, x, "reference"), results(block, x, "triton")
    assert len(wanted) == len(found)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, **FLOAT64_LOOPS)
