"""The modes of the training step give one trajectory. What records CUDA graphs is proven with a recorder that repeats calls."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.engine_cases import BOXES, COUNTS, random_images
from tests.tolerances import STEP_BY_HAND
from yolov9k.common.device import NotRecorded, Recording
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine import TrainStep
from yolov9k.engine.train.cuda_graphs import FIRST_CAPACITY, WARM_UP, Graphs, capacity
from yolov9k.engine.train.schedule import Schedule
from yolov9k.losses import DetectionLoss
from yolov9k.models import DetectionModel

pytestmark = pytest.mark.compile

HYP = TrainRecipe(nominal_batch=4, warmup_epochs=0.0)
Case = tuple[Tensor, Tensor, Tensor]


class Repeater:
    """Does again what was recorded, on the tensors it was recorded with, and like a graph does nothing while it records."""

    def __init__(self) -> None:
        self.runs = self.recordings = self.replays = 0

    def run(self, step: Callable[[], Tensor]) -> Tensor:
        self.runs += 1
        return step()

    def record(self, step: Callable[[], Tensor]) -> Recording:
        self.recordings += 1
        result = torch.zeros(3, dtype=torch.float64)

        def replay() -> None:
            self.replays += 1
            result.copy_(step())

        return Recording(replay, result)


def batches(count: int, sizes: tuple[int, ...] = (64,), crowd: dict[int, int] | None = None) -> list[Case]:
    """Batches of images of `sizes` in turn; `crowd` gives a batch so many boxes an image."""
    made = []
    for i in range(count):
        side = sizes[i % len(sizes)]
        generator = torch.Generator().manual_seed(i)
        boxes = BOXES.double()
        if crowd and i in crowd:
            boxes = torch.rand(2, crowd[i], 5, generator=generator).double() * 0.5 + 0.25
            boxes[..., 0] = 1
        counts = COUNTS if boxes is BOXES else torch.full((2,), boxes.shape[1])
        made.append((torch.rand(2, 3, side, side, generator=generator).double(), boxes, counts))
    return made


def build(model: DetectionModel, mode: str = "eager", log: Callable[[str], object] = print) -> TrainStep:
    model = copy.deepcopy(model)
    return TrainStep(model, DetectionLoss(2), HYP, mode, batch=2, schedule=Schedule(HYP, 2, 100, 10), log=log)


def recorded(model: DetectionModel, log: Callable[[str], object] = print) -> tuple[TrainStep, Repeater]:
    step, recorder = build(model, log=log), Repeater()
    step._graphs, step.mode = Graphs(recorder, log), "captured"
    return step, recorder


def assert_same(one: TrainStep, other: TrainStep, exact: bool = True) -> None:
    for mine, theirs in ((one.model, other.model), (one.ema, other.ema)):
        for key, value in theirs.state_dict().items():
            tolerance = {"rtol": 0.0, "atol": 0.0} if exact else STEP_BY_HAND
            torch.testing.assert_close(mine.state_dict()[key], value, **tolerance, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.long
@pytest.mark.twin
def test_recorded_steps_are_the_eager_ones(tiny: DetectionModel) -> None:
    """Two steps to an update; two sizes of image; a crowd that outgrows the boxes' room, and fewer boxes after it."""
    lines: list[str] = []
    eager, (captured, recorder) = build(tiny), recorded(tiny, lines.append)
    work = batches(24, sizes=(64, 64, 96, 96), crowd={14: FIRST_CAPACITY + 1, 18: 3})
    for case in work:
        assert torch.equal(eager(*case), captured(*case))
    assert_same(captured, eager)
    kinds = 2 * 2  # accumulation or update, by size
    assert recorder.runs == kinds * WARM_UP
    assert recorder.replays == len(work) - recorder.runs
    assert recorder.recordings == 2 * kinds  # before and after the crowd
    assert [line for line in lines if "room for 64 in place of 32" in line]
    assert sum(line.startswith("recording the training step") for line in lines) == recorder.recordings


@pytest.mark.twin
def test_steps_are_warmed_up_on_what_is_recorded() -> None:
    """Another number of boxes may be another variant of a Triton kernel, and CUDA loads none while it records."""
    seen: dict[str, set[tuple[int, ...]]] = {"run": set(), "record": set()}

    class Watching(Repeater):
        how = ""

        def run(self, step: Callable[[], Tensor]) -> Tensor:
            self.how = "run"
            return super().run(step)

        def record(self, step: Callable[[], Tensor]) -> Recording:
            recording, self.how = super().record(step), "record"
            return recording

    recorder = Watching()
    graphs = Graphs(recorder, print)

    def step(images: Tensor, boxes: Tensor, counts: Tensor) -> Tensor:
        seen[recorder.how].add((*images.shape, *boxes.shape, *counts.shape))
        return torch.zeros(3, dtype=torch.float64)

    for case in batches(2 * (WARM_UP + 2), sizes=(64, 96), crowd={1: 3, 2: 7}):
        graphs("update", step, *case)
    assert recorder.recordings == 2
    assert seen["run"] == seen["record"]


@pytest.mark.twin
def test_results_of_earlier_steps_stay(tiny: DetectionModel) -> None:
    """What a caller keeps is not overwritten by the next replay."""
    captured, _ = recorded(tiny)
    parts = [captured(*case) for case in batches(10)]
    kept = [part.clone() for part in parts]
    captured(*batches(11)[-1])
    assert all(map(torch.equal, parts, kept))


@pytest.mark.twin
def test_a_step_that_cannot_be_recorded_runs_eagerly_and_says_why(tiny: DetectionModel) -> None:
    class Refusing(Repeater):
        def record(self, step: Callable[[], Tensor]) -> Recording:
            raise NotRecorded("operation not permitted when stream is capturing")

    lines: list[str] = []
    eager, captured = build(tiny), build(tiny, log=lines.append)
    captured._graphs, captured.mode = Graphs(Refusing(), lines.append), "captured"
    for case in batches(8):
        eager(*case)
        captured(*case)
    assert_same(captured, eager)
    assert captured.mode == "eager"
    assert "cannot be recorded and runs eagerly: operation not permitted" in lines[-1]


def test_the_compiled_step_is_the_eager_one(tiny: DetectionModel) -> None:
    eager, compiled = build(tiny), build(tiny, "compiled")
    for case in batches(4, crowd={1: 3}):
        torch.testing.assert_close(compiled(*case), eager(*case), **STEP_BY_HAND)
    assert_same(compiled, eager, exact=False)
    assert compiled.mode == "compiled"


@pytest.mark.twin
@pytest.mark.parametrize(("boxes", "room"), [(0, 32), (1, 32), (32, 32), (33, 64), (64, 64), (65, 128), (1000, 1024)])
def test_room_is_a_power_of_two(boxes: int, room: int) -> None:
    assert capacity(boxes) == room


@pytest.mark.twin
def test_modes_that_cannot_be_are_refused(tiny: DetectionModel) -> None:
    assert build(tiny, "auto").mode == "eager"
    with pytest.raises(UserError, match="--mode fast: expected one of auto, eager, captured, compiled"):
        build(tiny, "fast")
    with pytest.raises(UserError, match="--mode captured: CUDA graphs need a GPU, the model is on cpu"):
        build(tiny, "captured")
    if torch.cuda.is_available():
        assert build(tiny.cuda(), "auto").mode == "captured"


@pytest.mark.twin
def test_a_batch_that_does_not_fit_is_named(tiny: DetectionModel) -> None:
    step = build(tiny)
    x = random_images(0)
    with pytest.raises(ValueError, match=r"TrainStep: targets must have shape \[2, \*, 5\], got \[2, 1, 6\]"):
        step(x, torch.zeros(2, 1, 6), COUNTS)
    with pytest.raises(ValueError, match=r"TrainStep: counts must have shape \[2\], got \[3\]"):
        step(x, BOXES, torch.zeros(3))
    with pytest.raises(ValueError, match="TrainStep: images must be on cpu, got meta"):
        step(x.to("meta"), BOXES, COUNTS)
    assert (step.iteration, step.waiting) == (0, 0)


@pytest.mark.twin
def test_a_run_goes_on_from_its_state(tiny: DetectionModel) -> None:
    """Model, average and state brought into a fresh step: as if it had never stopped."""
    straight, first = build(tiny), build(tiny)
    work = batches(8)
    for case in work[:4]:
        straight(*case)
        first(*case)
    second = build(tiny)
    second.model.load_state_dict(first.model.state_dict())
    second.ema.load_state_dict(first.ema.state_dict())
    second.load_state_dict(first.state_dict())
    for case in work[4:]:
        assert torch.equal(straight(*case), second(*case))
    assert_same(second, straight)
    with pytest.raises(ValueError, match="another model"):
        build(tiny).load_state_dict({**first.state_dict(), "momentum": {}})
