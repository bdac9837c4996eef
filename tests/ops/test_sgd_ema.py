"""The optimizer step over flat storage: equal to torch's SGD, gradient clip, GradScaler and the moving average."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.backend_checks import BackendChecks
from tests.sgd_cases import SETTINGS, Flat, assert_as_defined, assert_bad_gradient_is_skipped
from tests.tiers import BY_DAY, examples
from tests.tolerances import STEP_BY_HAND
from yolov9k import native
from yolov9k.ops.sgd_ema import NORM, SCALE, SKIPPED, TRACKER, UPDATES, Settings, sgd_ema


def by_torch(flat: Flat, told: Settings, grads: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Values, average and last norm after torch's own SGD, clip and lerp over `grads`, one a step."""
    starts = [0, *flat.ends]
    parts = [flat.values[a:b].clone().requires_grad_() for a, b in zip(starts, flat.ends, strict=False)]
    rest, average = flat.values[flat.ends[-1] :].clone(), flat.ema.clone()
    groups = [{"params": [p], "lr": lr, "weight_decay": d} for p, lr, d in zip(parts, told.lr, told.decay, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=told.momentum, nesterov=told.momentum > 0)
    norm = torch.zeros(())
    for count, grad in enumerate(grads, 1):
        for part, start, end in zip(parts, starts, flat.ends, strict=False):
            part.grad = grad[start:end].clone()
        norm = torch.nn.utils.clip_grad_norm_(parts, told.clip_norm)
        optimizer.step()
        decay = told.ema_decay * (1 - math.exp(-count / told.ema_tau))
        average.lerp_(torch.cat([*(p.detach() for p in parts), rest]), 1 - decay)
    return torch.cat([*(p.detach() for p in parts), rest]), average, norm


SIZES = st.lists(st.integers(0, 40), min_size=3, max_size=3)


@settings(deadline=None, max_examples=examples(60), derandomize=BY_DAY)
@given(
    st.integers(0, 2**31), SIZES, st.integers(0, 20), st.integers(1, 4), st.sampled_from([0.01, 1.0, 10.0, math.inf]),
    st.sampled_from([0.0, 0.5, 0.937]),
)  # fmt: skip
def test_steps_are_those_of_torch(seed: int, sizes: list[int], rest: int, steps: int, clip: float, momentum: float) -> None:
    flat = Flat(seed, sizes, rest)
    told = SETTINGS._replace(clip_norm=clip, momentum=momentum)
    generator = torch.Generator().manual_seed(seed + 1)
    grads = [torch.randn(flat.ends[-1], generator=generator, dtype=torch.float64) for _ in range(steps)]
    values, average, norm = by_torch(flat, told, grads)
    for grad in grads:
        flat.grads.copy_(grad)
        flat.step(told)
    torch.testing.assert_close(flat.values, values, **STEP_BY_HAND)
    torch.testing.assert_close(flat.ema, average, **STEP_BY_HAND)
    torch.testing.assert_close(flat.state[NORM], norm.double(), **STEP_BY_HAND)
    assert flat.state[UPDATES] == steps
    assert not flat.grads.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_but_the_count(bad: float) -> None:
    flat = Flat(1, [5, 6, 7], 3, low=torch.bfloat16)
    flat.step()
    kept = [t.clone() for t in (flat.values, flat.momentum, flat.ema, flat.low)]
    flat.grads[7] = bad
    flat.step()
    for now, before in zip((flat.values, flat.momentum, flat.ema, flat.low), kept, strict=True):
        assert torch.equal(now, before)
    assert flat.state[SKIPPED] == 1
    assert flat.state[UPDATES] == 1
    assert not flat.state[NORM].isfinite()
    assert not flat.grads.any()


def test_the_loss_scale_moves_as_a_grad_scaler_does() -> None:
    """Growth after three finite steps, half after one that is not; clip and step see the gradient unscaled."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    flat = Flat(2, [1, 0, 0], 0, torch.float32)
    flat.values.zero_()
    flat.state[SCALE] = 8.0
    told = Settings((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), 0.0, growth=2.0, backoff=0.5, interval=3)
    for gradient in (1.0, 1.0, math.inf, 1.0, 1.0, 1.0, 1.0, math.nan, 2.0):
        flat.grads.fill_(gradient * float(flat.state[SCALE]))
        scaler.scale(weight.sum() * gradient).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        flat.step(told)
        assert flat.state[SCALE] == scaler.get_scale()
        assert flat.state[TRACKER] == scaler.state_dict()["_growth_tracker"]
        assert flat.values[0] == weight[0]


def test_the_loss_scale_never_grows_past_a_float() -> None:
    flat = Flat(3, [4, 0, 0], 0, torch.float32)
    flat.state[SCALE] = 2.0**127
    flat.step(SETTINGS._replace(growth=2.0, interval=1))
    assert flat.state[SCALE] == 2.0**127


def test_the_low_copy_is_the_rounded_value() -> None:
    flat = Flat(4, [9, 9, 9], 5, torch.float32, torch.bfloat16)
    flat.step()
    assert flat.low is not None
    assert torch.equal(flat.low, flat.values[:27].bfloat16())


def test_settings_are_read_when_the_step_runs() -> None:
    """A captured graph replays the same call: only what stands in the tensor may decide."""
    flat, other = Flat(5, [4, 4, 4], 2), Flat(5, [4, 4, 4], 2)
    told = torch.tensor(SETTINGS.values(), dtype=torch.float64)
    arguments = (flat.values, flat.grads, flat.momentum, flat.ema, None, told, flat.ends, flat.state)
    sgd_ema(*arguments)
    other.step()
    told[:3] = 0.5
    for each in (flat, other):
        each.grads.fill_(0.25)
    sgd_ema(*arguments)
    other.step(SETTINGS._replace(lr=(0.5, 0.5, 0.5)))
    assert torch.equal(flat.values, other.values)


def test_nothing_to_train_is_a_step_too() -> None:
    flat = Flat(6, [0, 0, 0], 4)
    before = flat.values.clone()
    flat.step()
    assert torch.equal(flat.values, before)
    assert flat.state[UPDATES] == 1


def test_the_registration_is_sound() -> None:
    flat = Flat(7, [5, 6, 7], 3, torch.float32, torch.bfloat16)
    told = torch.tensor(SETTINGS.values())
    torch.library.opcheck(
        torch.ops.yolov9k.sgd_ema.default,
        (flat.values, flat.grads, flat.momentum, flat.ema, flat.low, told, flat.ends, flat.state, "reference"),
    )


def test_a_step_compiles() -> None:
    flat, other = Flat(8, [5, 6, 7], 3), Flat(8, [5, 6, 7], 3)
    torch.compile(flat.step, fullgraph=True, backend="aot_eager")()
    other.step()
    assert torch.equal(flat.values, other.values)
    assert torch.equal(flat.ema, other.ema)


WRONG = {
    "values": ({"values": torch.zeros(30, dtype=torch.int64)}, TypeError, "values must be of a floating-point dtype"),
    "shape": ({"values": torch.zeros(5, 6)}, ValueError, "values must have"),
    "ends": ({"group_ends": [3, 2, 27]}, ValueError, "group_ends must be rising"),
    "past": ({"group_ends": [3, 4, 31]}, ValueError, "group_ends must be rising from 0 to at most 30"),
    "two": ({"group_ends": [3, 27]}, ValueError, "group_ends must be 3 values"),
    "momentum": ({"momentum": torch.zeros(26)}, ValueError, "momentum must have"),
    "grads": ({"grads": torch.zeros(27).double()}, ValueError, "grads must be of dtype torch.float32"),
    "stride": ({"grads": torch.zeros(54)[::2]}, ValueError, "grads must be contiguous"),
    "learns": ({"values": torch.zeros(30, requires_grad=True)}, ValueError, "values must be without requires_grad"),
    "settings": ({"settings": torch.zeros(13)}, ValueError, "settings must have"),
    "state": ({"state": torch.zeros(4)}, ValueError, "state must have"),
    "low": ({"low": torch.zeros(27, dtype=torch.int32)}, TypeError, "low must be of a floating-point dtype"),
    "device": ({"ema": torch.zeros(30, device="meta")}, ValueError, "ema must"),
    "backend": ({"backend": "cuda"}, RuntimeError, "sgd_ema: backend .cuda. is not implemented"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named(case: str) -> None:
    changed, kind, message = WRONG[case]
    flat = Flat(9, [9, 9, 9], 3, torch.float32)
    told = torch.tensor(SETTINGS.values())
    right = {
        "values": flat.values, "grads": flat.grads, "momentum": flat.momentum, "ema": flat.ema, "low": None,
        "settings": told, "group_ends": flat.ends, "state": flat.state, "backend": "reference",
    }  # fmt: skip
    before = flat.values.clone()
    with pytest.raises(kind, match=message):
        sgd_ema(**(right | changed))
    assert torch.equal(flat.values, before)


@pytest.mark.parametrize("backend", ["triton", "cpu"])
def test_the_kernels_take_float32_alone(backend: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match="sgd_ema"):
        Flat(10, [4, 4, 4], 0).step(backend=backend)


def test_a_copy_that_the_compiled_step_does_not_write_is_refused_by_name_and_left_to_the_definition() -> None:
    with pytest.raises(TypeError, match="sgd_ema: low must be"):
        Flat(11, [4, 4, 4], 0, torch.float32, torch.float16).step(backend="cpu")
    flat = Flat(11, [4, 4, 4], 0, torch.float32, torch.float16)
    flat.step(backend="auto")
    assert flat.low is not None
    assert torch.equal(flat.low, flat.values.half())


needs_native = pytest.mark.skipif(not native.available(), reason=native.why_missing() or "built")


@needs_native
@settings(deadline=None, max_examples=examples(25), derandomize=BY_DAY)
@given(
    st.integers(0, 2**31), st.lists(st.sampled_from([0, 1, 15, 64, 70_000]), min_size=3, max_size=3),
    st.sampled_from([0, 3, 1100]), st.sampled_from([0.01, 10.0, math.inf]), st.sampled_from([0.0, 0.937]),
    st.sampled_from([None, torch.bfloat16, torch.float32]), st.sampled_from([1.0, 1024.0]),
)  # fmt: skip
def test_the_compiled_step_is_the_definition(
    seed: int, sizes: list[int], rest: int, clip: float, momentum: float, low: torch.dtype | None, scale: float
) -> None:
    flat = Flat(seed, sizes, rest, torch.float32, low)
    flat.state[SCALE] = scale
    told = SETTINGS._replace(clip_norm=clip, momentum=momentum, growth=2.0, backoff=0.5, interval=2)
    generator = torch.Generator().manual_seed(seed + 1)
    for _ in range(3):
        flat.grads.copy_(torch.randn(flat.ends[-1], generator=generator) * scale)
        assert_as_defined(flat, "cpu", told)


@needs_native
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_compiled_step_skips_a_gradient_that_is_not_finite(bad: float) -> None:
    assert_bad_gradient_is_skipped(Flat(12, [900, 70_000, 70], 33, torch.float32, torch.bfloat16), "cpu", bad)


@needs_native
def test_the_compiled_steps_norm_is_exact_at_the_size_of_a_model_and_on_any_number_of_threads() -> None:
    """Four million values: a sum kept in float32 would lose four digits."""
    flat = Flat(13, [1_000, 4_000_000, 1_000], 100, torch.float32)
    flat.grads += 1.0
    exact = float(flat.grads.double().norm())
    other, threads = copy.deepcopy(flat), torch.get_num_threads()
    flat.step(backend="cpu")
    assert flat.state[NORM] == torch.tensor(exact)
    try:
        torch.set_num_threads(threads + 1)
        other.step(backend="cpu")
    finally:
        torch.set_num_threads(threads)
    for name in ("values", "momentum", "ema", "state"):
        assert torch.equal(getattr(flat, name), getattr(other, name)), name


class TestBackends(BackendChecks):
    operator = "sgd_ema"

    def call(self, backend: str) -> Tensor:
        values, grads, momentum, ema = torch.ones(4, 3)
        sgd_ema(values, grads, momentum, ema, None, torch.ones(14), [1, 2, 3], torch.ones(5), backend=backend)
        return values
