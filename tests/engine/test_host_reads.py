"""The training step asks the device for nothing; and the test that says so can fail."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.engine_cases import BOXES, COUNTS, random_images
from tests.host_reads import HostRead, forbidden_host_reads
from tests.support import wide_tiles
from yolov9k import create_model
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine import TrainStep
from yolov9k.engine.train.schedule import Schedule
from yolov9k.losses import DetectionLoss
from yolov9k.models import DetectionModel

pytestmark = pytest.mark.interpret

X = torch.arange(4.0)


@pytest.mark.twin
@pytest.mark.parametrize(
    "read",
    [
        lambda: X.sum().item(), lambda: bool(X.any()), lambda: float(X[0]), lambda: X.tolist(), lambda: X.numpy(),
        lambda: X.cpu(), lambda: X.nonzero(), lambda: X[X > 1], lambda: X.masked_select(X > 1), lambda: X.unique(),
        lambda: torch.equal(X, X), lambda: torch.tensor([1.0], device="cpu"), lambda: X.new_tensor([1.0]),
        lambda: X.clone().__setitem__(X > 1, X[:2]), lambda: torch.bincount(X.long()), lambda: [1, 2][X.long()[1]],
        lambda: X.repeat_interleave(X.long()), lambda: f"{X.sum():.1f}", lambda: torch.where(X > 1),
    ],
)  # fmt: skip
def test_reads_are_noticed(read: Callable[[], object]) -> None:
    with pytest.raises(HostRead), forbidden_host_reads():
        read()


def test_who_is_excused_may_read() -> None:
    def read() -> float:
        return X.sum().item()

    with forbidden_host_reads(read):
        assert read() == 6
    with pytest.raises(HostRead), forbidden_host_reads(test_reads_are_noticed):
        read()


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_step_reads_nothing(
    tiny: DetectionModel, amp: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Two accumulation steps and an update, in plain torch and with the kernels that a GPU runs."""
    if backend == "triton":
        pytest.importorskip("triton")
        if os.environ.get("TRITON_INTERPRET") != "1":
            pytest.skip("Triton serves tensors of the processor in its interpreter alone; test_gpu forbids reads there")
        wide_tiles(monkeypatch)
    recipe = TrainRecipe(nominal_batch=4, warmup_epochs=0.0)
    model = tiny.float().use(backend)
    schedule = Schedule(recipe, 2, 10, 10)
    step = TrainStep(model, DetectionLoss(2, backend=backend), recipe, "eager", batch=2, schedule=schedule, amp=amp)
    step(random_images(0).float(), BOXES, COUNTS)  # plans are made, settings are told
    step(random_images(1).float(), BOXES, COUNTS)
    with forbidden_host_reads():
        for seed in (2, 3):
            parts = step((random_images(seed) * 255).byte(), BOXES, COUNTS)
    assert parts.isfinite().all()
    assert step.updates + step.skipped == 2  # fp16's loss scale may be found too large


@pytest.mark.parametrize("name", ["yolov9-t", "gelan-t"])
def test_a_whole_models_step_reads_nothing(name: str) -> None:
    model = create_model(name, 3).train()
    step = TrainStep(model, DetectionLoss(3), TrainRecipe(), "eager", amp="bf16")
    with forbidden_host_reads():
        step(torch.rand(2, 3, 64, 64), BOXES, COUNTS)
        step(torch.rand(2, 3, 64, 64) * math.nan, torch.zeros(2, 0, 5), torch.zeros(2, dtype=torch.int64))
    assert (step.updates, step.skipped) == (1, 1)


@pytest.mark.twin
def test_a_step_that_reads_is_caught(tiny: DetectionModel) -> None:
    """As the step would be if its gradient's norm were looked at."""

    class Reading(DetectionLoss):
        def backward(self, branches: object, targets: object, scale: Tensor | None = None) -> Tensor:
            parts = super().backward(branches, targets, scale)  # type: ignore[arg-type]
            return parts if parts.isfinite().all() else torch.zeros_like(parts)

    step = TrainStep(tiny, Reading(2), TrainRecipe(), "eager")
    with pytest.raises(HostRead), forbidden_host_reads():
        step(random_images(0), BOXES.double(), COUNTS)
