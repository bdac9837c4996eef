"""Plans of blocks: equal to the blocks' definition in float64, forward, backward and in what they leave behind."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_map_only

from tests.plan_cases import as_triton, randomized, use_plain_kernels
from tests.support import little_model
from tests.tiers import BY_DAY, examples
from tests.tolerances import FLOAT64_LOOPS
from yolov9k.models import blocks, create_model
from yolov9k.models.analysis.step_cost import step_cost
from yolov9k.models.block import Block
from yolov9k.ops.plan import planned as operator
from yolov9k.ops.plan.ir import ConvLayer, ConvSpec, Planner, Slice

BLOCKS: dict[str, Callable[[], Block]] = {
    "Conv 3x3 stride 2": lambda: blocks.Conv(4, 6, 3, 2),
    "Conv 1x1": lambda: blocks.Conv(4, 6),
    "Conv in groups, no activation": lambda: blocks.Conv(4, 6, 3, g=2, act=False),
    "Conv depthwise": lambda: blocks.Conv(4, 4, 3, g=4),
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
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    use_plain_kernels(monkeypatch)


def results(block: Block, x: Tensor, backend: str) -> list[Tensor]:
    """Output, gradients of everything, buffers; of copies."""
    block, x = copy.deepcopy(block), x.detach().requires_grad_()
    block = as_triton(block) if backend == "triton" else block
    y = block(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=y.dtype))
    grads = [parameter.grad for parameter in block.parameters()]
    return [tensor for tensor in (y.detach(), x.grad, *grads, *block.buffers()) if tensor is not None]


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_plan_equals_its_block(name: str, training: bool) -> None:
    block = randomized(BLOCKS[name], training)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    wanted, found = results(block, x, "reference"), results(block, x, "triton")
    assert len(wanted) == len(found)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, **FLOAT64_LOOPS)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("name", ["RepNBottleneck", "ADown"])
def test_plans_have_the_numeric_gradient(name: str) -> None:
    """Away from kinks: max_pool's ties have measure zero."""
    block = as_triton(randomized(BLOCKS[name], training=True))
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: block(x), (x, *block.parameters()), atol=1e-6, nondet_tol=0.0)


@settings(deadline=None, max_examples=examples(30), derandomize=BY_DAY)
@given(
    st.sampled_from(sorted(BLOCKS)), st.integers(1, 3), st.integers(2, 6), st.integers(2, 6), st.booleans(), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_any_size_batch_and_layout(
    name: str, batch: int, height: int, width: int, last: bool, strided: bool, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_plain_kernels(patch)
        block = randomized(BLOCKS[name], True, seed)
        x = torch.randn(batch, 4, height, width * (1 + strided), dtype=torch.float64)
        x = (x.contiguous(memory_format=torch.channels_last) if last else x)[..., :: 1 + strided]
        smallest = batch * math.prod((size - ("Down" in name or "AConv" in name) + 1) // 2 for size in (height, width))
        assume(smallest > 1)
        for a, b in zip(results(block, x, "triton"), results(block, x, "reference"), strict=True):
            torch.testing.assert_close(a, b, **FLOAT64_LOOPS)


@pytest.mark.usefixtures("plain")
def test_a_frozen_input_gets_no_gradient_and_parameters_theirs() -> None:
    block = as_triton(randomized(BLOCKS["RepNCSPELAN4"], True))
    block(torch.randn(2, 4, 4, 4, dtype=torch.float64)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.shape == parameter.shape for parameter in block.parameters())


@pytest.mark.usefixtures("plain")
def test_a_second_derivative_is_refused() -> None:
    block = as_triton(randomized(BLOCKS["Conv 1x1"], True))
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(block(x).sum(), x, create_graph=True)


@pytest.mark.usefixtures("plain")
def test_one_value_a_channel_is_refused_in_training_as_torch_does() -> None:
    for name in ("Conv 1x1", "Conv 3x3 stride 2"):
        with pytest.raises(ValueError, match="more than one value per channel"):
            as_triton(randomized(BLOCKS[name], True))(torch.randn(1, 4, 1, 1, dtype=torch.float64))
        as_triton(randomized(BLOCKS[name], False))(torch.randn(1, 4, 1, 1, dtype=torch.float64))


def test_a_map_of_another_dtype_than_the_weights_is_refused() -> None:
    with pytest.raises(TypeError, match=r"x must be torch.float32 as conv.weight, got torch.bfloat16"):
        as_triton(blocks.Conv(4, 6))(torch.randn(2, 4, 4, 4).bfloat16())


@pytest.mark.usefixtures("plain")
def test_the_registration_is_sound() -> None:
    block = as_triton(randomized(BLOCKS["RepNCSP"], True))
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    calls: list[tuple[object, ...]] = []
    real = operator.planned
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yolov9k.models.block.planned", lambda *a: (calls.append(a), real(*a))[1])
        y = block(x)
    assert y.requires_grad
    (x, parameters, running, name, training, group) = calls[0][:6]
    forward = getattr(torch.ops.yolov9k, f"planned_{name.rpartition('_')[2]}").default
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(forward, (x, parameters, running, name, training, group, "triton"), test_utils=tests)
    with torch.no_grad():
        y, *saved = forward(x, parameters, running, name, training, group, "triton")
    for needs_x in (True, False):
        operands = (torch.randn_like(y), x.detach(), [p.detach() for p in parameters], saved)
        call = (*operands, name, training, group, "triton", needs_x)
        backward = torch.ops.yolov9k.planned_backward.default
        torch.library.opcheck(backward, call, test_utils=tests[:2])  # the third refuses gradients that are rows of one tensor
        with FakeTensorMode() as mode:
            fakes = backward(*tree_map_only(torch.Tensor, mode.from_tensor, call))
        for mine, fake in zip(backward(*call), fakes, strict=True):
            assert (mine.shape, mine.stride(), mine.dtype) == (fake.shape, fake.stride(), fake.dtype)


def calls_of(block: Block, x: Tensor, function: str) -> list[tuple[object, ...]]:
    """What `block` calls an operator with."""
    calls: list[tuple[object, ...]] = []
    real = getattr(operator, function)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"yolov9k.models.block.{function}", lambda *a: (calls.append(a), real(*a))[1])
        block(x)
    return calls


@pytest.mark.usefixtures("plain")
def test_the_registration_of_fused_plans_is_sound() -> None:
    block = as_triton(randomized(BLOCKS["RepNCSP"], False))
    for module in list(block.modules()):
        if isinstance(module, (blocks.RepConvN, blocks.Conv)):
            module.fuse()
    with torch.no_grad():
        (call,) = calls_of(block, torch.randn(2, 4, 3, 3, dtype=torch.float64), "planned_fused")
    torch.library.opcheck(torch.ops.yolov9k.planned_fused.default, call)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("name", BLOCKS)
def test_no_two_gradients_share_memory(name: str) -> None:
    """Gradient clipping and optimizers work in place: what is scaled must not be scaled again as another's."""
    block = as_triton(randomized(BLOCKS[name], True))
    block(torch.randn(2, 4, 7, 6, dtype=torch.float64)).square().sum().backward()
    grads = [parameter.grad for parameter in block.parameters() if parameter.grad is not None]
    wanted = [grad * 0.5 for grad in grads]
    for grad in grads:
        grad.mul_(0.5)
    assert all(torch.equal(grad, want) for grad, want in zip(grads, wanted, strict=True))


@pytest.mark.usefixtures("plain")
def test_gradients_of_parts_of_the_input_that_come_on_different_ways() -> None:
    """One half of x is pooled, its gradient written into its place; the other half's comes from a convolution."""
    p = Planner(4, fused=False)
    both = p.map(5)
    p.pool("avg_pool", Slice(0, 0, 2), 2, into=both.part(0, 2))
    p.conv(Slice(0, 2, 4), ConvSpec(ConvLayer("conv", 3, 1e-3, 0.03), 2, 1, 0, 1, True), both.part(2, 5))
    name = operator.register_plan(p.finish(both))
    torch.manual_seed(0)
    x, weight, gamma, beta = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 4, 5, 4), (3, 2, 2, 2), (3,), (3,))
    )
    running = [torch.zeros(3).double(), torch.ones(3).double(), torch.tensor(0)]
    y = operator.planned(x, [weight, gamma, beta], running, name, True)
    z = nn.functional.batch_norm(nn.functional.conv2d(x[:, 2:], weight), None, None, gamma, beta, True, 0.0, 1e-3)
    wanted = torch.cat((nn.functional.avg_pool2d(x[:, :2], 2, 1), nn.functional.silu(z)), 1)
    grad = torch.randn_like(wanted)
    torch.testing.assert_close(y, wanted, **FLOAT64_LOOPS)
    for found, want in zip(*(torch.autograd.grad(value, (x, weight, gamma, beta), grad) for value in (y, wanted)), strict=True):
        torch.testing.assert_close(found, want, **FLOAT64_LOOPS)


@pytest.mark.compile
@pytest.mark.usefixtures("plain")
def test_a_model_of_planned_blocks_compiles_whole(tmp_path: Path) -> None:
    """One graph, from the image to the raw maps, and gradients as in eager mode."""
    torch.manual_seed(0)
    model = create_model(little_model(tmp_path), 2).double().train().use("triton")
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    twin = copy.deepcopy(model)
    model(image)  # plans are made before
    model.load_state_dict(twin.state_dict())
    for module in (torch.compile(model, fullgraph=True, backend="aot_eager"), twin):
        sum(level.square().sum() for branch in module(image) for level in branch).backward()
    torch.testing.assert_close(dict(model.state_dict()), dict(twin.state_dict()))
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("name", ["RepNCSPELAN4", "ADown"])
def test_compiles_whole(name: str) -> None:
    """One graph, gradients and running statistics as in eager mode."""
    block = as_triton(randomized(BLOCKS[name], True))
    twin, x = copy.deepcopy(block), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    block.prepare(4)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    for module in (compiled, twin):
        module(x).square().sum().backward()
    torch.testing.assert_close(dict(block.state_dict()), dict(twin.state_dict()))
    for mine, other in zip(block.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_a_block_with_another_activation_or_half_fused_has_no_plan() -> None:
    strange, half = blocks.RepNCSP(4, 6), blocks.RepNCSP(4, 6)
    strange.cv1.act = nn.ReLU()
    half.cv1.fuse()
    assert strange.prepare(4) is None
    assert half.prepare(4) is None


class Gate(Block):
    """Without a plan of its own."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1 = blocks.Conv(c1, c2)

    def forward_reference(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        return y * y.mean((2, 3), keepdim=True).sigmoid()


class Shifted(blocks.ADown):
    """Its parent's plan is not its own."""

    def forward_reference(self, x: Tensor) -> Tensor:
        return super().forward_reference(x) + 1


def outer() -> Block:
    """A block whose plan would need that of a part that has none."""
    block = blocks.ELAN1(4, 6, 8, 4)
    block.cv2 = Gate(4, 4)
    return block


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("make", [lambda: Gate(4, 6), lambda: Shifted(4, 6), outer], ids=["none", "parent's", "part"])
def test_a_block_without_a_plan_runs_its_definition(make: Callable[[], Block]) -> None:
    """Its parts that have plans run theirs."""
    block = randomized(make, True)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    for found, wanted in zip(results(block, x, "triton"), results(block, x, "reference"), strict=True):
        torch.testing.assert_close(found, wanted, **FLOAT64_LOOPS)
    assert block.prepare(4) is None
    assert blocks.Conv(4, 6).prepare(4) is not None


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("name", BLOCKS)
def test_a_fused_blocks_plan_equals_it_and_the_plan_from_before_is_forgotten(name: str) -> None:
    block = randomized(BLOCKS[name], False)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        wanted = block.forward_reference(x)
        as_triton(block)
        torch.testing.assert_close(block(x), wanted, **FLOAT64_LOOPS)
        for kind in (blocks.RepConvN, blocks.Conv):
            for module in list(block.modules()):
                if isinstance(module, kind):
                    module.fuse()
        torch.testing.assert_close(block(x), wanted, **FLOAT64_LOOPS)
    assert block.__dict__["_prepared"][0].fused


@pytest.mark.usefixtures("plain")
def test_a_fused_block_has_no_gradient() -> None:
    block = as_triton(randomized(BLOCKS["Conv 1x1"], False))
    block.fuse()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="a fused model has no gradient"):
        block(x).sum().backward()


# Launches and bytes of a training step's network at batch 16, 640 px, in bfloat16. A copy that creeps in changes them.
COUNTS = {
    "yolov9-t": {"forward": (992, 5_346_105_888), "backward": (1508, 10_107_728_160)},
    "yolov9-c": {"forward": (828, 26_105_902_016), "backward": (1311, 51_727_932_352)},
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_steps_launches_and_bytes_are_those_that_were_counted(name: str) -> None:
    found = {
        part: (sum(cost.launches.values()), sum(cost.bytes.values())) for part, cost in step_cost(create_model(name)).items()
    }
    assert found == COUNTS[name]


# README's: launches and gigabytes of a step on torch's own operators.
TORCHS = {"yolov9-t": (5753, 29.0), "yolov9-c": (4694, 149.5)}


@pytest.mark.long
@pytest.mark.parametrize("name", COUNTS)
def test_planned_blocks_move_less_than_six_tenths_of_torchs_bytes_and_copy_nothing(name: str) -> None:
    model = create_model(name)
    planned, torchs = step_cost(model), step_cost(model, backend="reference")
    launches, moved = (sum(sum(getattr(cost, what).values()) for cost in torchs.values()) for what in ("launches", "bytes"))
    assert (launches, round(moved / 1e9, 1)) == TORCHS[name]
    for part in ("forward", "backward"):
        assert sum(planned[part].bytes.values()) < 0.61 * sum(torchs[part].bytes.values())
        assert sum(planned[part].launches.values()) < sum(torchs[part].launches.values())
        # ELAN1 of the small models alone: its 3x3 convolutions, torch's, read halves of the concatenation.
        assert planned[part].launches["copy"] == (2 if name == "yolov9-t" else 0)
    assert planned["forward"].launches["cat"] < 14  # the neck's concatenations, and siblings' weights
