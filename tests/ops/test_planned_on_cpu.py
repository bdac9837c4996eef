"""Plans on a CPU, by matrix products and compiled passes: equal to the blocks' definition in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_map_only

from tests.plan_cases import randomized
from tests.tiers import BY_DAY, examples
from tests.tolerances import PLAN_BFLOAT16, PLAN_FLOAT32
from yolov9k import create_model, native
from yolov9k.models import blocks
from yolov9k.models.block import Block
from yolov9k.ops.plan import planned as operator

pytestmark = pytest.mark.skipif(not native.available(), reason=native.why_missing() or "built")
BLOCKS: dict[str, Callable[[], Block]] = {
    "Conv 3x3": lambda: blocks.Conv(16, 24, 3),
    "Conv 3x3 stride 2": lambda: blocks.Conv(16, 6, 3, 2),
    "Conv 1x1": lambda: blocks.Conv(16, 6),
    "Conv in groups, no activation": lambda: blocks.Conv(16, 32, 3, g=2, act=False),
    "Conv depthwise": lambda: blocks.Conv(16, 16, 3, g=16),
    "RepConvN": lambda: blocks.RepConvN(16, 8),
    "RepNBottleneck": lambda: blocks.RepNBottleneck(16, 16),
    "RepNCSP": lambda: blocks.RepNCSP(16, 6, 2),
    "RepNCSP without bottlenecks": lambda: blocks.RepNCSP(16, 6, 0),
    "ELAN1": lambda: blocks.ELAN1(16, 6, 16, 8),
    "RepNCSPELAN4": lambda: blocks.RepNCSPELAN4(16, 12, 32, 16, 1),
    "AConv": lambda: blocks.AConv(16, 6),
    "ADown": lambda: blocks.ADown(16, 12),
    "SPPELAN": lambda: blocks.SPPELAN(16, 6, 4),
}


def run_by(block: Block, backend: str, x: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output, gradients of everything, buffers; of copies in a dtype."""
    block, x = copy.deepcopy(block).to(dtype), x.to(dtype, copy=True).requires_grad_()
    for module in block.modules():
        if isinstance(module, Block):
            module.backend = backend
    y = block(x)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(9))
    y.backward(grad.to(dtype))
    assert x.grad is not None
    grads = {f"gradient of {name}": p.grad for name, p in block.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "gradient of x": x.grad, **grads, **dict(block.named_buffers())}


def assert_equal_parts(block: Block, x: Tensor, dtype: torch.dtype, tolerance: float) -> None:
    """Each result's error as a part of its largest value; what is zero but for rounding, as a part of what it is a sum of."""
    wanted, found = run_by(block, "reference", x, torch.float64), run_by(block, "cpu", x, dtype)
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        assert found[name].dtype == (dtype if value.is_floating_point() else value.dtype), name
        error = float((found[name].double() - value).abs().max())
        assert error <= tolerance * max(1.0, float(value.abs().max())), f"{name}: {error:.1e}"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_plan_equals_its_block(name: str, training: bool) -> None:
    block = randomized(BLOCKS[name], training)
    assert_equal_parts(block, torch.randn(2, 16, 9, 7), torch.float32, PLAN_FLOAT32)


@pytest.mark.parametrize("name", ["Conv 1x1", "RepConvN", "RepNCSPELAN4", "ADown"])
def test_bfloat16(name: str) -> None:
    block = randomized(BLOCKS[name], False)
    assert_equal_parts(block, torch.randn(2, 16, 9, 7), torch.bfloat16, PLAN_BFLOAT16)


@settings(deadline=None, max_examples=examples(40), derandomize=BY_DAY)
@given(
    st.sampled_from(sorted(BLOCKS)), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.booleans(), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_any_size_batch_and_layout(
    name: str, batch: int, height: int, width: int, last: bool, strided: bool, seed: int
) -> None:
    block = randomized(BLOCKS[name], True, seed)
    x = torch.randn(batch, 16, height, width * (1 + strided))
    x = (x.contiguous(memory_format=torch.channels_last) if last else x)[..., :: 1 + strided]
    assume(batch * math.prod((size - ("Down" in name or "AConv" in name) + 1) // 2 for size in (height, width)) > 5)
    assert_equal_parts(block, x, torch.float32, PLAN_FLOAT32 * 10)  # of so few values statistics amplify rounding


def test_a_network_takes_plans_and_one_operator_a_block() -> None:
    model, seen = create_model("gelan-t", 3).train(), []
    real = operator.planned
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yolov9k.models.block.planned", lambda *a: (seen.append(a[-1]), real(*a))[1])
        model(torch.rand(1, 3, 64, 64))
    assert set(seen) == {"cpu"}
    assert len(seen) < sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) / 3


@pytest.mark.parametrize("name", BLOCKS)
def test_no_two_gradients_share_memory(name: str) -> None:
    found = run_by(randomized(BLOCKS[name], True), "cpu", torch.randn(2, 16, 7, 6), torch.float32)
    grads = [value for key, value in found.items() if key.startswith("gradient")]
    places = {grad.untyped_storage().data_ptr() for grad in grads}
    for grad in grads:
        grad.zero_()
    assert len(places) == len(grads) or all(not grad.any() for grad in grads)
    twice = [g for g in grads if sum(g.data_ptr() == other.data_ptr() for other in grads) > 1]
    assert not twice


def test_the_number_of_threads_changes_no_bit_between_convolutions() -> None:
    """Of a block without 1x1 convolutions, whose products are a library's."""
    block, x, before, found = randomized(BLOCKS["Conv 3x3"], True), torch.randn(3, 16, 33, 31), torch.get_num_threads(), []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found.append(run_by(block, "cpu", x, torch.float32))
    torch.set_num_threads(before)
    if native.conv3x3_serves():
        assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in found[0])


def test_the_registration_is_sound() -> None:
    block = randomized(BLOCKS["RepNCSP"], True).float()
    x = torch.randn(2, 16, 5, 5, requires_grad=True)
    calls: list[tuple[object, ...]] = []
    real = operator.planned
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yolov9k.models.block.planned", lambda *a: (calls.append(a), real(*a))[1])
        block(x)
    (call,) = calls
    forward = getattr(torch.ops.yolov9k, f"planned_{str(call[3]).rpartition('_')[2]}").default
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(forward, call, test_utils=tests)
    with torch.no_grad():
        y, *saved = forward(*call)
    parameters = [p.detach() for p in call[1]]  # type: ignore[attr-defined]
    arguments = (torch.randn_like(y), x.detach(), parameters, saved, *call[3:], True)
    backward = torch.ops.yolov9k.planned_backward.default
    with FakeTensorMode() as mode:
        fakes = backward(*tree_map_only(torch.Tensor, mode.from_tensor, arguments))
    for mine, fake in zip(backward(*arguments), fakes, strict=True):
        assert (mine.shape, mine.stride(), mine.dtype) == (fake.shape, fake.stride(), fake.dtype)


def test_float16_is_left_to_plain_torch() -> None:
    block = blocks.Conv(16, 8).half().eval()
    assert block.kernels_for(torch.zeros(1, 16, 4, 4, dtype=torch.float16)) == "reference"
    with torch.autocast("cpu", torch.float16):
        assert blocks.Conv(16, 8).kernels_for(torch.zeros(1, 16, 4, 4)) == "reference"


def test_a_part_that_is_watched_or_has_another_mode_runs_by_its_modules() -> None:
    """Hooks see what they ask for, and BatchNorms that were frozen one by one stay so."""
    block, x, seen = blocks.RepNCSP(16, 8, 1).train(), torch.randn(1, 16, 4, 4), []
    assert block.kernels_for(x) == "cpu"
    handle = block.m[0].cv2.register_forward_hook(lambda *_: seen.append(1))
    block(x)
    handle.remove()
    assert seen
    assert block.kernels_for(x) == "cpu"
    norm = block.cv2.bn
    assert norm is not None
    norm.eval()
    before = int(norm.num_batches_tracked)  # type: ignore[arg-type]
    assert block.kernels_for(x) == "reference"
    block(x)
    assert int(norm.num_batches_tracked) == before  # type: ignore[arg-type]


def test_one_value_a_channel_is_refused_in_training_as_torch_does() -> None:
    for name in ("Conv 1x1", "Conv 3x3"):
        with pytest.raises(ValueError, match="more than one value per channel"):
            randomized(BLOCKS[name], True).float()(torch.randn(1, 16, 1, 1))


def test_a_second_derivative_is_refused() -> None:
    x = torch.randn(2, 16, 4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(blocks.Conv(16, 8)(x).sum(), x, create_graph=True)
