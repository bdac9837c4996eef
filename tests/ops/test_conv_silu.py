"""Convolution, bias, SiLU and residual of inference: definition, registration, choice of a variant, cuDNN's, errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.backend_checks import BackendChecks
from tests.tiers import BY_DAY, examples
from tests.tolerances import FLOAT64_LOOPS, PRODUCT
from yolov9k.ops import conv_silu, cudnn
from yolov9k.ops.reference.conv_silu import conv_silu as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ("reference", "triton")


def draw(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def case(c1: int, c2: int, kernel: int, groups: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """x [2, c1, 5, 6], weight, bias."""
    weight = draw((c2, c1 // groups, kernel, kernel), 1, dtype) / (c1 // groups * kernel**2) ** 0.5
    return draw((2, c1, 5, 6), 0, dtype).contiguous(memory_format=torch.channels_last), weight, draw((c2,), 2, dtype)


def by_hand(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    """SiLU of the windows' products with the weights, a group and a window's place at a time."""
    kernel, (height, width) = weight.shape[2], x.shape[2:]
    padded = F.pad(x, [padding] * 4)
    rows, columns = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
    parts = []
    for values, filters in zip(padded.chunk(groups, 1), weight.chunk(groups), strict=True):
        total = torch.zeros(len(x), len(filters), rows, columns, dtype=x.dtype, device=x.device)
        for i in range(kernel):
            for j in range(kernel):
                tap = values[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride][:, :, :rows, :columns]
                total += (tap[:, None] * filters[None, :, :, i, j, None, None]).sum(2)
        parts.append(total)
    z = torch.cat(parts, 1) + bias[:, None, None]
    return z / (1 + (-z).exp())


@settings(deadline=None, max_examples=examples(30), derandomize=BY_DAY)
@given(st.sampled_from([1, 3]), st.sampled_from([1, 2]), st.sampled_from([1, 2, 4]), st.integers(0, 2), st.booleans())
def test_the_reference_is_the_definition(kernel: int, stride: int, groups: int, padding: int, added: bool) -> None:
    x, weight, bias = case(8, 12, kernel, groups, torch.float64)
    wanted = by_hand(x, weight, bias, stride, padding, groups)
    residual = draw(tuple(wanted.shape), 3, torch.float64) if added else None
    found = conv_silu(x, weight, bias, stride, padding, groups, residual=residual)
    torch.testing.assert_close(found, wanted + residual if residual is not None else wanted, **FLOAT64_LOOPS)
    plain = conv_silu(x, weight, bias, stride, padding, groups, activation=False)
    torch.testing.assert_close(plain / (1 + (-plain).exp()), wanted, **FLOAT64_LOOPS)


def test_on_a_processor_it_is_bit_for_bit_what_the_modules_do() -> None:
    x, weight, bias = (tensor.cpu() for tensor in case(8, 12, 3, 4))
    for value in (x, x.contiguous()):
        assert torch.equal(conv_silu(value, weight, bias, 1, 1, 4), F.silu(F.conv2d(value, weight, bias, 1, 1, 1, 4)))


def test_the_reference_has_gradients() -> None:
    leaves = [tensor.requires_grad_() for tensor in case(2, 2, 3, 1, torch.float64)]
    assert torch.autograd.gradcheck(lambda x, weight, bias: reference(x[:1], weight, bias, 2, 1, 1, True), leaves)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", [1, 3])
def test_every_backend_writes_into_a_slice_of_channels(backend: str, kernel: int) -> None:
    """Its neighbors stay as they were."""
    x, weight, bias = case(8, 12, kernel, 1)
    wide = torch.full((2, 20, 5, 6), 7.0, device=DEVICE).contiguous(memory_format=torch.channels_last)
    residual = draw((2, 12, 5, 6), 4)
    out = wide[:, 4:16]
    for extra in (None, residual):
        assert conv_silu(x, weight, bias, 1, kernel // 2, out=out, residual=extra, backend=backend) is out
        wanted = reference(x, weight, bias, 1, kernel // 2, 1, True, extra)
        torch.testing.assert_close(out, wanted, **PRODUCT[torch.float32])
        assert (wide[:, :4] == 7).all()
        assert (wide[:, 16:] == 7).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 1), (3, 4)])
def test_the_kernel_in_low_precision_is_as_good_as_torchs_own(dtype: torch.dtype, kernel: int, groups: int) -> None:
    """Against float64 of the same inputs: torch rounds the convolution before SiLU, the kernel does not."""
    x, weight, bias = case(16, 24, kernel, groups, dtype)
    exact = reference(x.double(), weight.double(), bias.double(), 1, kernel // 2, groups, True)
    own = (reference(x, weight, bias, 1, kernel // 2, groups, True).double() - exact).abs()
    ours = (conv_silu(x, weight, bias, 1, kernel // 2, groups, backend="triton").double() - exact).abs()
    if DEVICE == "cuda":  # the interpreter cuts off where a GPU rounds
        assert ours.max() <= 2 * own.max()
    assert ours.mean() <= 2 * own.mean()


def test_an_empty_batch_gives_an_empty_map() -> None:
    _, weight, bias = case(8, 12, 3, 1)
    for backend in BACKENDS:
        assert conv_silu(torch.empty(0, 8, 5, 6, device=DEVICE), weight, bias, 2, 1, backend=backend).shape == (0, 12, 3, 3)


def test_the_registration_is_sound() -> None:
    x, weight, bias = case(8, 12, 3, 1)
    options = (1, 1, 1, True, draw((2, 12, 5, 6), 4))
    torch.library.opcheck(torch.ops.yolov9k.conv_silu.default, (x, weight, bias, *options))
    out = torch.empty(2, 12, 5, 6, device=DEVICE).contiguous(memory_format=torch.channels_last)
    for backend in BACKENDS:
        torch.library.opcheck(torch.ops.yolov9k.conv_silu_out.default, (x, weight, bias, *options, out, backend))

    def network(x: Tensor) -> Tensor:
        return conv_silu(x * 2, weight, bias, 1, 1, backend="triton") + 1

    with torch.no_grad():
        assert torch.equal(torch.compile(network, backend="aot_eager", fullgraph=True)(x), network(x))


def test_the_fastest_way_is_measured_once_a_shape_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole choice on any machine: torch's way against every tile, the residual read and written in place."""
    pytest.importorskip("triton")
    monkeypatch.setenv("YOLOV9K_CACHE", str(tmp_path))
    monkeypatch.setattr(sys.modules["yolov9k.ops.conv_silu"], "_chosen", {})
    x, weight, bias = case(8, 12, 3, 1)
    run = torch.ops.yolov9k.conv_silu_out
    for value in (x, x.clone(), x[:1]):
        out = draw((len(value), 12, 5, 6), 4).contiguous(memory_format=torch.channels_last)
        wanted = reference(value, weight, bias, 1, 1, 1, True, out)
        run(value, weight, bias, 1, 1, 1, True, out, out, "auto")  # out is its own residual: measuring must not add to it
        torch.testing.assert_close(out, wanted, **PRODUCT[torch.float32])
    chosen = json.loads((tmp_path / "tuning.json").read_text())
    assert len(chosen) == 2
    assert all(name == "torch" or name.startswith("triton ") or name == "cudnn" for name in chosen.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_captured_graph_runs_what_was_measured_before_it() -> None:
    x, weight, bias = case(64, 64, 3, 1, torch.bfloat16)
    out = conv_silu(x, weight, bias, 1, 1)
    wanted, graph = out.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        conv_silu(x, weight, bias, 1, 1, out=out)
        never_seen = conv_silu(x[:1], weight, bias, 1, 1)
    out.zero_()
    graph.replay()
    assert torch.equal(out, wanted)
    torch.testing.assert_close(never_seen, wanted[:1], **PRODUCT[torch.bfloat16])


def _arguments(**changes: Any) -> dict[str, Any]:
    x, weight, bias = case(8, 12, 3, 1)
    return {"x": x, "weight": weight, "bias": bias, "stride": 1, "padding": 1} | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.zeros(1, 8, 5, 6).int()}, TypeError, "x must be of a floating-point dtype"),
        ({"x": torch.zeros(8, 5, 6)}, ValueError, "x must have shape"),
        ({"x": torch.zeros(1, 8, 1, 6), "padding": 0}, ValueError, "x must be no smaller than the kernel of 3"),
        ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ({"groups": 3}, ValueError, "groups must be a divisor of 8 channels, got 3"),
        ({"weight": torch.zeros(12, 8, 3, 1)}, ValueError, r"weight must have shape \[\*, 8, 1, 1\], got \[12, 8, 3, 1\]"),
        ({"bias": torch.zeros(3)}, ValueError, r"bias must have shape \[12\]"),
        ({"bias": torch.zeros(12).bfloat16()}, TypeError, "bias must be torch.float32 as x, got torch.bfloat16"),
        ({"residual": torch.zeros(2, 12, 5, 5)}, ValueError, r"residual must have shape \[2, 12, 5, 6\]"),
        ({"out": torch.zeros(2, 12, 5, 6, device="meta")}, ValueError, "out must be on"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    there = {name: value.to(DEVICE) for name, value in changes.items() if isinstance(value, Tensor) and not value.is_meta}
    with pytest.raises(error, match=f"conv_silu: {message}"):
        conv_silu(**_arguments(**changes | there))


def test_a_gradient_is_refused_by_name() -> None:
    arguments = _arguments()
    for name in ("x", "weight", "bias"):
        leaf = arguments[name].clone().requires_grad_()
        with pytest.raises(RuntimeError, match=f"conv_silu: {name} requires a gradient, and inference has none"):
            conv_silu(**arguments | {name: leaf})
        with torch.no_grad():
            conv_silu(**arguments | {name: leaf})


def test_cudnns_fusion_runs_or_says_why_not() -> None:
    answer = cudnn.probe()
    assert set(answer) == {"frontend", "backend", "reason", "bfloat16", "float16"}
    assert "\n" not in cudnn.describe()
    assert cudnn.why_missing(torch.float32) == "it computes in bfloat16 and float16, got torch.float32"
    for dtype in (torch.bfloat16, torch.float16):
        x, weight, bias = case(64, 64, 3, 1, dtype)
        if reason := cudnn.why_missing(dtype) if DEVICE == "cuda" else "it takes tensors on cuda, got cpu":
            with pytest.raises(RuntimeError) as raised:
                conv_silu(x, weight, bias, 1, 1, backend="cudnn")
            assert str(raised.value) == f"conv_silu: backend 'cudnn' is not here: {reason}"
        else:
            residual = draw((2, 64, 5, 6), 3, dtype).contiguous(memory_format=torch.channels_last)
            for extra in (None, residual):
                found = conv_silu(x, weight, bias, 1, 1, residual=extra, backend="cudnn")
                torch.testing.assert_close(found, reference(x, weight, bias, 1, 1, 1, True, extra), **PRODUCT[dtype])


def test_a_frontend_that_cannot_be_used_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed without cuDNN beside it: its import raises."""

    def broken(name: str) -> None:
        raise OSError("libcudnn.so: cannot open\nshared object file")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("importlib.import_module", broken)
    reason = "libcudnn.so: cannot open shared object file"
    assert cudnn._load.__wrapped__() == (None, f"nvidia-cudnn-frontend cannot be used: {reason}")


class TestBackends(BackendChecks):
    operator = "conv_silu"

    def call(self, backend: str) -> Tensor:
        return conv_silu(torch.zeros(2, 3, 4, 4), torch.zeros(4, 3, 3, 3), torch.ones(4), 1, 1, backend=backend)
