"""Flat storage and settings for the optimizer step."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from tests.tolerances import SGD_FLOAT32
from yolov9k.ops.sgd_ema import SCALE, STATE, Settings, sgd_ema

SETTINGS = Settings((0.1, 0.02, 0.03), (0.0, 5e-3, 0.0), 0.9, 10.0, 0.99, 20.0)


class Flat:
    """What one step takes: random values in three groups and some that only the average follows."""

    def __init__(
        self, seed: int, sizes: list[int], rest: int, dtype: torch.dtype = torch.float64, low: torch.dtype | None = None
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        trained, total = self.ends[-1], self.ends[-1] + rest
        self.values, self.ema = (torch.randn(total, generator=generator).to(dtype) for _ in range(2))
        self.grads = torch.randn(trained, generator=generator).to(dtype)
        self.momentum = torch.zeros(trained, dtype=dtype)
        self.low = None if low is None else torch.zeros(trained, dtype=low)
        self.state = torch.zeros(STATE, dtype=dtype)
        self.state[SCALE] = 1.0

    def to(self, device: str) -> Flat:
        """All of it on `device`."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def step(self, told: Settings = SETTINGS, backend: str = "reference") -> None:
        """One step of the operator."""
        told_there = torch.tensor(told.values(), dtype=self.values.dtype, device=self.values.device)
        sgd_ema(
            self.values, self.grads, self.momentum, self.ema, self.low, told_there, self.ends, self.state, backend
        )  # fmt: skip


def assert_as_defined(flat: Flat, backend: str, told: Settings = SETTINGS) -> None:
    """One step of a backend and one of the definition from the same state; they agree in all they leave."""
    other = copy.deepcopy(flat)
    flat.step(told, backend)
    other.step(told)
    for name in ("values", "grads", "momentum", "ema", "state"):
        torch.testing.assert_close(getattr(flat, name), getattr(other, name), **SGD_FLOAT32, equal_nan=True)
    if flat.low is not None:
        assert torch.equal(flat.low.float(), flat.values[: flat.ends[-1]].to(flat.low.dtype).float())


def assert_bad_gradient_is_skipped(flat: Flat, backend: str, bad: float) -> None:
    """A step with one gradient `bad` changes nothing but the state, and zeroes the gradient."""
    told = SETTINGS._replace(backoff=0.5)
    flat.step(told, backend)
    kept = copy.deepcopy(flat)
    flat.grads[1500] = bad
    flat.step(told, backend)
    for name in ("values", "momentum", "ema", "low"):
        assert torch.equal(getattr(flat, name), getattr(kept, name)), name
    assert not flat.grads.any()
    assert not flat.state[0].isfinite()
    assert flat.state[1:].tolist() == [1.0, 1.0, 0.5, 0.0]
