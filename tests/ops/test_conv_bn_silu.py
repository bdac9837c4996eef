"""Convolution, BatchNorm and SiLU in one: against the reference and torch's own modules, registration, errors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from tests.backend_checks import BackendChecks
from tests.tiers import BY_DAY, examples
from tests.tolerances import FLOAT64_LOOPS, FUSED_FLOAT32
from yolov9k.ops import conv_bn_silu
from yolov9k.ops.reference.conv_bn_silu import conv_bn_silu as reference

Modules = tuple[nn.Conv2d, nn.BatchNorm2d]


def modules(c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, dtype: torch.dtype = torch.float64, seed: int = 0) -> Modules:
    """A convolution and its BatchNorm, nothing in them left at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
    bn = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
    with torch.no_grad():
        for tensor in (conv.weight, bn.weight, bn.bias, bn.running_mean):
            assert tensor is not None
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        assert bn.running_var is not None
        bn.running_var.copy_(torch.rand(c2, generator=generator) + 0.5)
    return conv.to(dtype), bn.to(dtype)


def random_input(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_reference(x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d, activation: bool = True) -> Tensor:
    mean, var = (None, None) if bn.training else (bn.running_mean, bn.running_var)
    return reference(
        x, conv.weight, bn.weight, bn.bias, mean, var, int(conv.stride[0]), int(conv.padding[0]), conv.groups, bn.eps,
        activation,
    )  # fmt: skip


def by_torch(x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d, activation: bool = True) -> Tensor:
    z = bn(conv(x))
    return F.silu(z) if activation else z


def value_and_gradients(
    function: Callable[..., Tensor], x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d, activation: bool = True
) -> list[Tensor]:
    """The result, then the gradients of x, weight, gamma and beta under a random cotangent."""
    x = x.detach().requires_grad_()
    y = function(x, conv, bn, activation)
    cotangent = random_input(*y.shape, seed=2, dtype=y.dtype)
    gradients = torch.autograd.grad(y, (x, conv.weight, bn.weight, bn.bias), cotangent)
    return [y.detach(), *gradients]


@settings(deadline=None, max_examples=examples(60), derandomize=BY_DAY)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)), st.integers(1, 3), st.integers(1, 3),
    st.sampled_from([1, 2, 4]), st.sampled_from([1, 3]), st.sampled_from([1, 2]), st.booleans(), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_equals_the_reference_in_value_and_gradients(
    shape: tuple[int, int, int], c1: int, c2: int, g: int, k: int, s: int, training: bool, activation: bool, seed: int
) -> None:
    batch, height, width = shape
    assume(not training or batch * -(-height // s) * -(-width // s) > 1)
    conv, bn = modules(c1 * g, c2 * g, k, s, g, seed=seed)
    bn.train(training)
    x = random_input(batch, c1 * g, height, width, seed=seed + 1)
    ours = value_and_gradients(conv_bn_silu, x, conv, bn, activation)
    wanted = value_and_gradients(by_reference, x, conv, bn, activation)
    for found, want in zip(ours, wanted, strict=True):
        torch.testing.assert_close(found, want, **FLOAT64_LOOPS)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [True, False])
def test_reference_and_inference_have_the_numeric_gradient(training: bool, activation: bool) -> None:
    """The operator's training gradient is checked so in test_models."""
    conv, bn = modules(4, 2, 3, 2, 2)
    bn.train(training)
    inputs = [random_input(2, 4, 3, 3).requires_grad_(), conv.weight, bn.weight, bn.bias]
    mean, var = (None, None) if training else (bn.running_mean, bn.running_var)

    def through_reference(*tensors: Tensor) -> Tensor:
        return reference(*tensors, mean, var, 2, 1, 2, 1e-3, activation)

    def through_operator(*tensors: Tensor) -> Tensor:
        return torch.ops.yolov9k.conv_bn_silu(*tensors, mean, var, 2, 1, 2, 1e-3, activation)[0]  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(through_reference, inputs)
    assert training or torch.autograd.gradcheck(through_operator, inputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, FLOAT64_LOOPS), (torch.float32, FUSED_FLOAT32)])
def test_running_statistics_are_torchs_after_two_steps(dtype: torch.dtype, tolerance: dict[str, float]) -> None:
    conv, bn = modules(3, 5, dtype=dtype)
    twin = copy.deepcopy(bn)
    for seed in (1, 2):
        x = random_input(2, 3, 4, 3, seed=seed, dtype=dtype)
        conv_bn_silu(x, conv, bn)
        by_torch(x, conv, twin)
    assert bn.num_batches_tracked is not None
    assert int(bn.num_batches_tracked) == 2
    torch.testing.assert_close(bn.state_dict(), twin.state_dict(), **tolerance)


def test_inference_leaves_the_statistics_alone() -> None:
    conv, bn = modules(3, 5)
    before = copy.deepcopy(bn.state_dict())
    conv_bn_silu(random_input(2, 3, 4, 4), conv, bn.eval())
    torch.testing.assert_close(bn.state_dict(), before, rtol=0, atol=0)


def test_a_constant_image_keeps_the_running_variance_at_or_above_zero() -> None:
    conv, bn = modules(2, 3, 1, dtype=torch.float32)
    bn.momentum = 1.0
    y = conv_bn_silu(torch.full((2, 2, 4, 4), 7.0), conv, bn)
    assert y.isfinite().all()
    assert bn.running_var is not None
    assert (bn.running_var >= 0).all()
    assert (bn.running_var < bn.eps).all()


def error_to_float64(function: Callable[..., Tensor], x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d) -> list[float]:
    """Largest error of the result and of each gradient against the same inputs in float64."""
    exact = value_and_gradients(by_reference, x.double(), copy.deepcopy(conv).double(), copy.deepcopy(bn).double())
    found = value_and_gradients(function, x, conv, copy.deepcopy(bn))
    return [float((f.double() - e).abs().max()) for f, e in zip(found, exact, strict=True)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mixed", [True, False])
def test_bfloat16_is_as_good_as_torchs_own(training: bool, mixed: bool) -> None:
    """Also with BatchNorm's parameters in float32, as under autocast."""
    conv, bn = modules(8, 8, dtype=torch.bfloat16)
    bn = bn.train(training).to(torch.float32 if mixed else torch.bfloat16)
    x = random_input(3, 8, 9, 7, dtype=torch.bfloat16)
    ours, measure = (error_to_float64(f, x, conv, bn) for f in (conv_bn_silu, by_torch))
    assert all(error <= 2 * own for error, own in zip(ours, measure, strict=True)), (ours, measure)


def test_a_large_mean_costs_no_more_than_in_torch() -> None:
    """By the mean over draws: the convolution's own rounding is most of it."""
    ours, measure = np.zeros(5), np.zeros(5)
    for seed in range(8):
        conv, bn = modules(4, 4, 1, dtype=torch.float32, seed=seed)
        x = random_input(4, 4, 8, 8, seed=seed + 9, dtype=torch.float32) + 1e3
        ours += error_to_float64(conv_bn_silu, x, conv, bn)
        measure += error_to_float64(by_torch, x, conv, bn)
    assert (ours <= 2 * measure).all(), (ours, measure)
    twin = copy.deepcopy(bn)
    conv_bn_silu(x, conv, bn)
    by_torch(x, conv, twin)
    torch.testing.assert_close(bn.state_dict(), twin.state_dict(), **FUSED_FLOAT32)


def test_the_references_statistics_do_not_depend_on_the_layout() -> None:
    """Of 16,384 pixels far from 0; the convolution is exact."""
    conv, bn = modules(2, 2, 1, dtype=torch.float32)
    nn.init.dirac_(conv.weight)
    x = random_input(4, 2, 64, 64, dtype=torch.float32) + 1e3
    flat, last = (by_reference(given, conv, bn.train()) for given in (x, x.to(memory_format=torch.channels_last)))
    assert torch.equal(flat, last)


@pytest.mark.parametrize("value", [-1e30, -1e10, -100.0, -65.0, 65.0, 100.0, 1e10, 1e30])
def test_silu_of_the_largest_values_is_torchs(value: float) -> None:
    conv, bn = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=1e-3).eval()
    nn.init.ones_(conv.weight)
    x = torch.full((1, 1, 2, 2), value)
    for found, wanted in zip(*(value_and_gradients(f, x, conv, bn)[:2] for f in (conv_bn_silu, by_torch)), strict=True):
        torch.testing.assert_close(found, wanted, **FUSED_FLOAT32, check_stride=False)


def test_autocast_gives_its_dtype_and_float32_gradients() -> None:
    conv, bn = modules(4, 6, dtype=torch.float32)
    x = random_input(2, 4, 5, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = value_and_gradients(conv_bn_silu, x, conv, copy.deepcopy(bn))
        wanted = value_and_gradients(by_torch, x, conv, copy.deepcopy(bn))
    assert [tensor.dtype for tensor in found] == [torch.bfloat16, *[torch.float32] * 4]
    exact = value_and_gradients(by_reference, x, conv, bn)
    for ours, own, want in zip(found, wanted, exact, strict=True):
        assert (ours - want).abs().max() <= 2 * (own - want).abs().max()


@pytest.mark.parametrize("training", [True, False])
def test_layout_changes_nothing_but_the_layout(training: bool) -> None:
    conv, bn = modules(4, 6, 3, 2)
    bn.train(training)
    x = random_input(2, 4, 6, 5)
    wanted = value_and_gradients(conv_bn_silu, x, conv, bn)
    last = x.contiguous(memory_format=torch.channels_last)
    layouts = (last, x.transpose(2, 3).contiguous().transpose(2, 3), torch.stack((x, x), -1)[..., 0])
    assert not any(layout.is_contiguous() for layout in layouts)
    for layout in layouts:
        for found, want in zip(value_and_gradients(conv_bn_silu, layout, conv, bn), wanted, strict=True):
            torch.testing.assert_close(found, want, **FLOAT64_LOOPS)
    assert conv_bn_silu(last, conv, bn).is_contiguous(memory_format=torch.channels_last)


def test_an_expanded_cotangent_is_served() -> None:
    """`sum` hands back one number, expanded with stride 0."""
    conv, bn = modules(4, 6)
    x, twin = random_input(2, 4, 5, 5).requires_grad_(), random_input(2, 4, 5, 5).requires_grad_()
    conv_bn_silu(x, conv, bn).sum().backward()
    by_reference(twin, conv, bn).sum().backward()
    torch.testing.assert_close(x.grad, twin.grad, **FLOAT64_LOOPS)


def test_a_image_that_needs_no_gradient_gets_none() -> None:
    conv, bn = modules(3, 4)
    x = random_input(2, 3, 5, 5)
    wanted = value_and_gradients(conv_bn_silu, x, conv, bn)
    cotangent = random_input(*wanted[0].shape, seed=2)
    conv_bn_silu(x, conv, bn).backward(cotangent)
    assert x.grad is None
    for parameter, want in zip((conv.weight, bn.weight, bn.bias), wanted[2:], strict=True):
        torch.testing.assert_close(parameter.grad, want, **FLOAT64_LOOPS)


def test_no_gradient_is_kept_where_none_is_asked_for() -> None:
    conv, bn = modules(3, 4)
    with torch.no_grad():
        assert not conv_bn_silu(random_input(2, 3, 5, 5), conv, bn).requires_grad


@pytest.mark.parametrize("activation", [True, False])
def test_a_second_derivative_is_refused_and_not_wrong(activation: bool) -> None:
    conv, bn = modules(3, 4)
    x = random_input(2, 3, 5, 5).requires_grad_()
    y = conv_bn_silu(x, conv, bn, activation)
    with pytest.raises(RuntimeError, match="conv_bn_silu: has no second derivative"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)


def test_an_empty_batch_passes_in_inference_with_gradients_of_zero() -> None:
    conv, bn = modules(3, 4, 3, 2)
    y, grad_x, *gradients = value_and_gradients(conv_bn_silu, random_input(0, 3, 8, 6), conv, bn.eval())
    assert (y.shape, grad_x.shape) == ((0, 4, 4, 3), (0, 3, 8, 6))
    assert all(not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (0, 3, 8, 8), (1, 3, 2, 2)])
def test_training_on_one_value_a_channel_is_refused(shape: tuple[int, ...]) -> None:
    conv, bn = modules(3, 4, 3, 2)
    before = copy.deepcopy(bn.state_dict())
    with pytest.raises(ValueError, match="conv_bn_silu: training needs more than one value per channel, got"):
        conv_bn_silu(random_input(*shape), conv, bn)
    torch.testing.assert_close(bn.state_dict(), before, rtol=0, atol=0)


CONV, BN = modules(4, 6, dtype=torch.float32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.ones(2, 4, 5, 5).int()}, TypeError, "x must be of a floating-point dtype, got torch.int32"),
        ({"x": torch.ones(2, 4, 5, 5).double()}, TypeError, "x must be torch.float32 as conv.weight, got torch.float64"),
        ({"x": torch.ones(2, 5, 5, 5)}, ValueError, r"x must have shape \[\*, 4, \*, \*\], got \[2, 5, 5, 5\]"),
        ({"x": torch.ones(4, 5, 5)}, ValueError, r"x must have shape .* got \[4, 5, 5\]"),
        ({"conv": nn.Conv2d(4, 6, 3)}, ValueError, "conv must be square, zero-padded, without bias or dilation, got Conv2d"),
        ({"conv": nn.Conv2d(4, 6, 3, dilation=2, bias=False)}, ValueError, "conv must be square"),
        ({"conv": nn.Conv2d(4, 6, 3, stride=(1, 2), bias=False)}, ValueError, "conv must be square"),
        ({"conv": nn.Conv2d(4, 6, 3, padding=(0, 1), bias=False)}, ValueError, "conv must be square"),
        ({"conv": nn.Conv2d(4, 6, 3, padding="same", bias=False)}, ValueError, "conv must be square"),
        ({"conv": nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=False)}, ValueError, "conv must be square"),
        ({"bn": nn.BatchNorm2d(5)}, ValueError, r"bn must be 6 channels wide, got BatchNorm2d\(5"),
        ({"bn": nn.BatchNorm2d(6, affine=False)}, ValueError, "bn must be affine, with running statistics and a momentum, got"),
        ({"bn": nn.BatchNorm2d(6, track_running_stats=False)}, ValueError, "bn must be affine, with running statistics"),
        ({"bn": nn.BatchNorm2d(6, momentum=None)}, ValueError, "bn must be affine, with running statistics and a momentum"),
        ({"backend": "tpu"}, ValueError, "backend must be one of auto"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"conv_bn_silu: {message}"):
        conv_bn_silu(**{"x": torch.ones(2, 4, 5, 5), "conv": CONV, "bn": BN, **changes})


@pytest.mark.parametrize("training", [True, False])
def test_the_registration_is_sound(training: bool) -> None:
    conv, bn = modules(4, 6, 3, 2, 2, dtype=torch.float32)
    statistics = (None, None) if training else (bn.running_mean, bn.running_var)
    x = random_input(2, 4, 5, 6, dtype=torch.float32)
    options = (*statistics, 2, 1, 2, 1e-3, True)
    forward = (x.clone().requires_grad_(), conv.weight, bn.weight, bn.bias, *options)
    torch.library.opcheck(torch.ops.yolov9k.conv_bn_silu.default, forward)
    with torch.no_grad():
        y, z, mean, invstd = torch.ops.yolov9k.conv_bn_silu(*forward)
        backward = (torch.ones_like(y), x, conv.weight.detach(), z, bn.weight.detach(), bn.bias.detach(), mean, invstd)
        for needs_grad_x in (True, False):
            torch.library.opcheck(
                torch.ops.yolov9k.conv_bn_silu_backward.default, (*backward, *options, needs_grad_x),
                test_utils=("test_schema", "test_faketensor"),
            )  # fmt: skip


def test_fake_tensors_have_the_real_ones_form() -> None:
    conv, bn = modules(4, 6, 3, 2, dtype=torch.float32)
    x = random_input(2, 4, 7, 5, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    real = conv_bn_silu(x, conv, bn)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = conv_bn_silu(mode.from_tensor(x), conv, bn.eval())
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("training", [True, False])
def test_compiles_into_one_graph_with_the_same_results(training: bool) -> None:
    conv, bn = modules(4, 6, 3, 2)
    bn.train(training)
    twin = copy.deepcopy(bn)
    x = random_input(2, 4, 5, 6)
    torch._dynamo.reset()
    compiled = torch.compile(conv_bn_silu, backend="aot_eager", fullgraph=True)
    found, wanted = value_and_gradients(compiled, x, conv, bn), value_and_gradients(conv_bn_silu, x, conv, twin)
    for ours, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, want, **FLOAT64_LOOPS)
    torch.testing.assert_close(bn.state_dict(), twin.state_dict(), **FLOAT64_LOOPS)


class TestBackends(BackendChecks):
    operator = "conv_bn_silu"

    def call(self, backend: str) -> Tensor:
        return conv_bn_silu(torch.zeros(2, 3, 4, 4), nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), backend=backend)
