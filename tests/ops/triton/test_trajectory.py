"""The published training trajectory with the fused kernels: no farther from float64 than torch's own runs of the precision."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support import fill, golden_weights, shared, wide_tiles
from tests.tolerances import LOW_PRECISION
from yolov9k import create_model
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine import TrainStep
from yolov9k.losses import DetectionLoss
from yolov9k.losses.detection import pad_targets
from yolov9k.models import DetectionModel

pytest.importorskip("triton")

pytestmark = pytest.mark.interpret

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEEDS = {"yolov9-t": 5000, "gelan-t": 6000}
# Interpreted, a step of yolov9-t takes half a minute: there it runs alone, in float32, for the first step and one on what that
# made of weights, momentum and statistics; on a GPU both networks run all four in both.
STEPS = 4 if DEVICE == "cuda" else 2
CASES = [("yolov9-t", "off"), ("gelan-t", "off"), ("yolov9-t", "bf16"), ("gelan-t", "bf16")]


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """test_end_to_end runs a GPU's tiles."""
    if DEVICE == "cpu":
        wide_tiles(monkeypatch)


def filled(name: str, nudge: int) -> DetectionModel:
    """The fixture's model; `nudge`: a third of its weights moved a unit in the last place up, another third down."""
    model = fill(create_model(name, 3))
    generator = torch.Generator().manual_seed(nudge)
    with torch.no_grad():
        for parameter in model.parameters() if nudge else ():
            way = torch.randint(-1, 2, parameter.shape, generator=generator)
            parameter.copy_(torch.where(way == 0, parameter, parameter.nextafter(way * torch.inf)))
    return model


def run(
    name: str, backend: str, amp: str, dtype: torch.dtype = torch.float32, nudge: int = 0, last: bool = True
) -> tuple[list[float], Tensor]:
    """Loss of each step, and how far the first one moved each weight and running statistic."""
    stored = np.load(shared(f"golden/training/trajectory_{name}.npz"))
    model = filled(name, nudge).to(DEVICE, dtype).train().use(backend)
    step = TrainStep(model, DetectionLoss(3, backend="reference"), TrainRecipe(), amp=amp, channels_last=last)
    before, moved, losses = flat(model), torch.empty(0), list[float]()
    for s in range(STEPS):
        x = torch.from_numpy(golden_weights().image((4, 3, 128, 128), SEEDS[name] + s)).to(DEVICE, dtype)
        boxes, counts = pad_targets(torch.from_numpy(stored[f"step{s}_targets"]).to(DEVICE), 4)
        losses.append(float(step(x, boxes, counts).sum()))
        if s == 0:
            moved = flat(model) - before
    return losses, moved


def flat(model: DetectionModel) -> Tensor:
    return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])


def own_runs(name: str, amp: str) -> Iterator[tuple[list[float], Tensor]]:
    """Torch's, in both layouts, with weights as they are and off by units in the last place."""
    for last in (True, False):
        for nudge in range(2 if amp == "bf16" else 4):
            yield run(name, "reference", amp, nudge=nudge, last=last)


@pytest.mark.parametrize(("name", "amp"), CASES if DEVICE == "cuda" else CASES[:1])
def test_the_published_trajectory_is_within_twice_torchs_own_distance(name: str, amp: str) -> None:
    """A last bit grows a hundredfold a step (test_step), so each step is held to the farthest of torch's runs."""
    exact, moves = run(name, "reference", "off", torch.float64)
    own = list(own_runs(name, amp))
    losses, moved = run(name, "triton", amp)
    assert (moved - moves).norm() <= LOW_PRECISION * max((theirs - moves).norm() for _, theirs in own)
    worst = 0.0
    for s, truth in enumerate(exact):
        worst = max(worst, *(abs(theirs[s] / truth - 1) for theirs, _ in own))  # an error that has come in is carried on
        assert abs(losses[s] / truth - 1) <= LOW_PRECISION * worst, f"step {s}"
