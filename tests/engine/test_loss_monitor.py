"""What a run watches: means of the losses, and where a step stops being finite."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from tests.engine_cases import BOXES, COUNTS, TINY, random_images
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.config import load_split
from yolov9k.data.loader import Batch, make_loader
from yolov9k.data.synthetic import generate
from yolov9k.engine import TrainStep
from yolov9k.engine.train.loss_monitor import LossMonitor, find_nonfinite
from yolov9k.engine.train.prefetch import prefetch
from yolov9k.engine.train.trainer import Trainer
from yolov9k.losses import DetectionLoss
from yolov9k.models import DetectionModel

RECORDS: Any = [SimpleNamespace(path=Path(f"{i}.jpg")) for i in range(8)]


def batch(images: Tensor, indices: tuple[int, ...] = (3, 5)) -> Batch:
    return Batch(images, BOXES, COUNTS, list(indices), torch.ones(2), torch.zeros(2, 2))


def watch(model: DetectionModel, limit: int = 3, **changes: Any) -> LossMonitor:
    return LossMonitor(TrainStep(model, DetectionLoss(2), TrainRecipe(), "eager", **changes), RECORDS, limit, Path("last.pt"))


def do(watch: LossMonitor, images: Tensor) -> Tensor:
    given = batch(images)
    parts = watch.step(given.images, given.boxes.to(images.dtype), given.counts)
    watch.add(parts, given)
    return parts


def test_means_are_those_of_the_finite_steps(tiny: DetectionModel, capsys: pytest.CaptureFixture[str]) -> None:
    seen = watch(tiny)
    assert all(map(math.isnan, seen.means.values()))
    parts = [do(seen, random_images(0)), do(seen, random_images(1) * math.nan), do(seen, random_images(2))]
    seen.finish()
    wanted = ((parts[0].float() + parts[2].float()) / 2).tolist()
    assert list(seen.means) == ["box", "cls", "dfl"]
    assert list(seen.means.values()) == pytest.approx(wanted)
    assert seen.consecutive == 0
    printed = capsys.readouterr().err
    assert "the loss is not finite at iteration 2 (images 3.jpg, 5.jpg); the step is skipped" in printed
    assert printed.count("not finite") == 1
    seen.start()
    assert all(map(math.isnan, seen.means.values()))


def test_a_loss_that_is_exactly_zero_in_all_of_an_epoch_is_told_once(
    tiny: DetectionModel, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, nothing = watch(tiny), torch.zeros(3)
    for parts in (torch.tensor([0.0, 0.5, 0.0]), nothing):
        seen.add(parts, batch(random_images(0)))
    seen.finish()
    printed = capsys.readouterr().err
    assert "the box and dfl loss was exactly 0 in all 2 steps of an epoch: nothing is learned" in printed
    seen.start()
    seen.add(nothing, batch(random_images(0)))
    seen.finish()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("validation", "told"),
    [({"box": 3.6, "cls": 3194.7, "dfl": 37.9}, True), ({"box": 9.0, "cls": 20.0, "dfl": 2.0}, False),
     ({"box": math.nan, "cls": 2.0, "dfl": 2.0}, False), (None, False)],
)  # fmt: skip
def test_a_validation_far_above_training_is_told_once(
    validation: dict[str, float] | None, told: bool, tiny: DetectionModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in the demonstration's third epoch: 3,195 with running statistics, 2.4 with the batch's own."""
    seen, training = watch(tiny), {"box": 3.4, "cls": 3.2, "dfl": 2.9}
    for _ in range(2):
        seen.compare(training, validation)
    printed = capsys.readouterr().err
    assert printed.count("validation's loss is far above training's") == told
    if told:
        assert "(class 3195 against 3.2)" in " ".join(printed.split())
    assert "box 3.6" not in printed


def test_a_validation_loss_of_exactly_zero_is_told_once(tiny: DetectionModel, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a collapse by lr0 10, where training's losses stay above 0."""
    seen, training = watch(tiny), {"box": 3.4, "cls": 3.2, "dfl": 0.0}
    for _ in range(2):
        seen.compare(training, {"box": 0.0, "cls": 1.0, "dfl": 0.0})
    printed = " ".join(capsys.readouterr().err.split())
    assert printed.count("validation's box loss is exactly 0") == 1


@pytest.mark.parametrize("parts", [[0.1, 0.0, 0.2], [1e-30, 1e-30, 1e-30]])
def test_a_loss_that_the_recipe_leaves_out_or_that_is_small_is_not_told(
    tiny: DetectionModel, parts: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = TrainRecipe().override("test", cls=0)
    seen = LossMonitor(TrainStep(tiny, DetectionLoss(2), recipe, "eager"), RECORDS, 3, Path("last.pt"))
    seen.add(torch.tensor(parts), batch(random_images(0)))
    seen.finish()
    seen.start()
    seen.finish()  # an epoch without a step
    assert capsys.readouterr().err == ""


def test_too_many_consecutive_end_the_run_with_the_images_and_the_place(tiny: DetectionModel) -> None:
    seen = watch(tiny, limit=2)
    do(seen, random_images(0) * math.nan)
    do(seen, random_images(0))
    do(seen, random_images(0) * math.nan)
    with pytest.raises(UserError) as caught:
        do(seen, random_images(0) * math.nan)
    message = str(caught.value)
    assert message.startswith("the loss was not finite for 2 consecutive iterations; the images are not finite; ")
    assert "images 3.jpg, 5.jpg; lower lr0 (0.01) or train with --amp off; last.pt is the last good state" in message
    assert "\n" not in message


def test_a_gradient_that_is_not_finite_is_told_from_a_loss(tiny: DetectionModel) -> None:
    """The loss is finite, its gradient is made to overflow on the way."""
    tiny.model[3].conv.weight.register_hook(lambda grad: grad * math.inf)  # type: ignore[union-attr]
    seen = watch(tiny, limit=1)
    with pytest.raises(UserError, match="the gradient was not finite for 1 consecutive iterations"):
        do(seen, random_images(0))
    assert seen.step.skipped == 1


def test_fp16_may_look_for_its_loss_scale(tiny: DetectionModel, capsys: pytest.CaptureFixture[str]) -> None:
    """The first scale overflows in half precision until it has been halved often enough; that is no error."""
    seen = watch(tiny.float(), limit=1, amp="fp16")
    seen.step.state[3] = 2.0**40
    do(seen, random_images(0).float())
    assert seen.skipped == seen.step.skipped == 1
    assert capsys.readouterr().err == ""
    seen.step.state[3] = 0.5  # a scale below 1 is past settling
    tiny.model[3].conv.weight.register_hook(lambda grad: grad * math.inf)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="gradient was not finite"):
        do(seen, random_images(0).float())


def fault(step: TrainStep, images: Tensor) -> str:
    return find_nonfinite(step, images, BOXES.to(images.dtype), COUNTS)


def test_the_fault_is_found(tiny: DetectionModel) -> None:
    step = TrainStep(tiny, DetectionLoss(2), TrainRecipe(), "eager")
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    assert fault(step, random_images(0)) == "done anew, the last batch is finite"
    assert fault(step, random_images(0) * math.inf) == "the images are not finite"
    with torch.no_grad():
        tiny.model[2].bn.weight.fill_(1e308)  # type: ignore[union-attr]
    assert fault(step, random_images(0)).startswith("model.2") and fault(step, random_images(0)).endswith(  # noqa: PT018
        "is the first layer whose output is not finite"
    )
    with torch.no_grad():
        tiny.model[2].bn.weight.copy_(before["model.2.bn.weight"])
        tiny.model[1].bn.running_mean[0] = math.nan  # type: ignore[index,union-attr]
    assert fault(step, random_images(0)) == "the model's model.1.bn.running_mean is not finite"
    with torch.no_grad():
        tiny.model[1].bn.running_mean.copy_(before["model.1.bn.running_mean"])  # type: ignore[union-attr]
    assert all(torch.equal(value, before[key]) for key, value in tiny.state_dict().items())  # looking changes nothing


def test_running_statistics_survive_a_broken_batch(tiny: DetectionModel) -> None:
    step = TrainStep(tiny, DetectionLoss(2), TrainRecipe(), "eager")
    step(random_images(0), BOXES.double(), COUNTS)
    before = {key: value.clone() for key, value in tiny.state_dict().items() if "running" in key}
    step(random_images(1) * math.nan, BOXES.double(), COUNTS)
    assert all(torch.equal(tiny.state_dict()[key], value) for key, value in before.items())
    assert step(random_images(2), BOXES.double(), COUNTS).isfinite().all()
    assert all(value.isfinite().all() for value in step.ema.state_dict().values())


@pytest.mark.parametrize("where", ["worker", "cpu"])
def test_every_batch_is_fed_once_in_order(where: str, tmp_path: Path) -> None:
    data = generate(tmp_path / "data", train=6, val=2, size=64)
    split = load_split(str(data), "train")
    options = {"img_size": 64, "batch": 4, "augment": True, "workers": 0}
    loaders = [make_loader(split, TrainRecipe(), augment_on=on, **options) for on in ("worker", where)]
    wanted, fed = list(loaders[0]), list(prefetch(loaders[1], torch.device("cpu")))
    assert [batch.indices for batch in fed] == [batch.indices for batch in wanted]
    for one, other in zip(fed, wanted, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.boxes, other.boxes)


def test_a_run_tells_of_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of losses that are 0 in training, and of validation's, which then are far above."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    data = generate(tmp_path / "data", train=4, val=2, size=64)
    options = {"img": 64, "batch": 2, "epochs": 1, "workers": 0, "device": "cpu", "noplots": True}
    run = Trainer(
        TrainOptions(data=str(data), cfg=str(tmp_path / "tiny.yaml"), project=str(tmp_path / "runs"), **options),
        Console(quiet=True),
    )
    step = run._do
    run._do = lambda batch: 0 * step(batch)  # type: ignore[method-assign]
    run.fit()
    printed = capsys.readouterr().err
    assert "the box and class and dfl loss was exactly 0 in all 2 steps of an epoch" in printed
    assert "validation's loss is far above training's" in printed
