"""A second task trains, resumes, validates and predicts; no file but its own knows of it."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from torch import Tensor

from tests.tasks.tiny_task import Accuracy, Entropy, LargestTask
from yolov9k import load
from yolov9k.config.command_options import ProfileOptions
from yolov9k.config.recipe import TrainRecipe
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.config import load_split
from yolov9k.data.loader import make_loader
from yolov9k.data.synthetic import generate
from yolov9k.engine import TrainStep
from yolov9k.engine.evaluate.validator import print_metrics, validate
from yolov9k.engine.predict.predictor import Predictor
from yolov9k.engine.predict.writers import predict_to_folder
from yolov9k.engine.profile.profiler import run_profile
from yolov9k.engine.train.batch_choice import pick_batch
from yolov9k.engine.train.loss_monitor import find_nonfinite
from yolov9k.engine.train.setup import make_criterion
from yolov9k.engine.train.trainer import Trainer
from yolov9k.models.checkpoints import read
from yolov9k.tasks import DetectTask, register, task_of


class Unbounded(Entropy):
    """Its second loss is infinite."""

    def __call__(self, branches: Any, targets: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        total, parts = super().__call__(branches, targets)
        return total, parts * torch.tensor([1.0, torch.inf])


ROWS = [[-1, 1, "Conv", [8, 3, 2]] for _ in range(5)]
TABLE = {"nc": 4, "backbone": ROWS, "head": [[[2, 3, 4], 1, "LargestClass", ["nc"]]]}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """data.yaml, the run's directory, and what was printed, of two epochs of which the second is a resumed run's.

    The first epoch is printed as on a terminal, with the progress bar; the second as into a file.
    """
    folder = tmp_path_factory.mktemp("tiny-task")
    data = generate(folder / "data", train=12, val=8, size=64)
    (folder / "own.yaml").write_text(yaml.safe_dump(TABLE))
    (folder / "recipe.yaml").write_text("mosaic: 0\nmixup: 0\nwarmup_epochs: 0\nnominal_batch: 4\n")
    options = TrainOptions(
        data=str(data), cfg=str(folder / "own.yaml"), img=64, batch=4, epochs=1, hyp=str(folder / "recipe.yaml"),
        device="cpu", workers=0, project=str(folder / "runs"), close_mosaic=0,
    )  # fmt: skip
    printed = io.StringIO()
    console = Console(file=printed, width=200, force_terminal=False)
    first = Trainer(options, Console(file=printed, width=200, force_terminal=True, color_system=None))
    first.fit()
    Trainer.resume(first.directory / "weights" / "last.pt", console=console, epochs=2).fit()
    return data, first.directory, printed.getvalue()


def test_results_have_its_names_alone(trained: tuple[Path, Path, str]) -> None:
    with (trained[1] / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [f"{split}/{name}_loss" for split in ("train", "val") for name in ("entropy", "size")]
    assert list(rows[0]) == [
        "epoch", "time", *losses[:2], "metrics/accuracy", *losses[2:], "lr/pg0", "images_per_s", "memory_gb"
    ]  # fmt: skip
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(float(row[name]) > 0 for row in rows for name in losses)
    assert (trained[1] / "results.png").stat().st_size > 1000
    assert not (trained[1] / "confusion_matrix.png").exists()
    assert (trained[1] / "accuracy.txt").exists()


def test_lines_have_its_labels_alone(trained: tuple[Path, Path, str]) -> None:
    assert re.search(r"epoch 2/2  entropy \d\.\d{3}  logit size 0\.\d{3}  accuracy \d\.\d{3}  ", trained[2])
    assert re.search(r"loss: entropy \d\.\d{4}, logit size 0\.\d{4}", trained[2])
    assert not re.search(r"\b(box|dfl|AP50)\b", trained[2])


def test_the_progress_bar_has_its_labels(trained: tuple[Path, Path, str]) -> None:
    assert re.search(r"epoch 1/1 .*3/3 .*entropy \d\.\d{3} logit size 0\.\d{3}  \d", trained[2])


def test_a_loss_that_is_not_finite_is_reported_by_its_names(trained: tuple[Path, Path, str]) -> None:
    model = load(trained[1] / "weights" / "best.pt").train()
    step = TrainStep(model, Unbounded(), TrainRecipe(), "eager")
    boxes, counts = torch.zeros(2, 1, 6), torch.ones(2, dtype=torch.int64)
    place = find_nonfinite(step, torch.rand(2, 3, 64, 64), boxes, counts)
    assert re.fullmatch(r"every layer is finite, the loss is not: entropy \d\.\d{3}, logit size inf", place)


def test_the_best_is_that_of_its_fitness(trained: tuple[Path, Path, str]) -> None:
    with (trained[1] / "results.csv").open(newline="") as file:
        best = max(float(row["metrics/accuracy"]) for row in csv.DictReader(file))
    assert read(trained[1] / "weights" / "best.pt")["best"] == pytest.approx(best)


def test_validation(trained: tuple[Path, Path, str], tmp_path: Path) -> None:
    data, directory, _ = trained
    model, split = load(directory / "weights" / "best.pt"), load_split(data, "val")
    assert type(task_of(model)) is LargestTask
    loader = make_loader(split, None, img_size=64, batch=4, augment=False, rect=True, workers=0)  # type: ignore[arg-type]
    result = validate(
        model, loader, split=split, plots_dir=tmp_path, save_json=tmp_path / "answers.json", progress=False
    )  # fmt: skip
    assert isinstance(result.metrics, Accuracy)
    assert 0 <= result.metrics.accuracy <= 1
    assert result.losses is None
    assert {path.name for path in tmp_path.iterdir()} == {"accuracy.txt", "first_batch.txt", "answers.json"}
    stream = io.StringIO()
    print_metrics(result, Console(file=stream))
    assert stream.getvalue().startswith(f"accuracy {result.metrics.accuracy:.4f}")


def test_prediction(trained: tuple[Path, Path, str], tmp_path: Path) -> None:
    data, directory, _ = trained
    predictor = Predictor(directory / "weights" / "best.pt", 64, device="cpu")
    summary = predict_to_folder(
        predictor, data.parent / "images" / "val", tmp_path, save_txt=True, save_json=True, progress=False
    )
    assert summary.images == 8
    assert sum(summary.counts.values()) == 8
    assert set(summary.counts) <= {"circle", "square", "triangle", "star"}
    assert len(list((tmp_path / "labels").glob("*.txt"))) == 8
    assert (tmp_path / "predictions.json").exists()


def test_the_batch_that_fits_is_found_and_a_step_is_profiled(trained: tuple[Path, Path, str], tmp_path: Path) -> None:
    """Both draw batches of their own: their targets are the task's."""
    model, recipe = load(trained[1] / "weights" / "best.pt").train(), TrainRecipe(nominal_batch=4)
    choice = pick_batch(model, make_criterion(model, recipe), recipe, 64, torch.device("cpu"))
    assert choice.batch == 4
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(TABLE))
    options = ProfileOptions(str(tmp_path / "own.yaml"), 2, 64, 4, "cpu", steps=1, project=str(tmp_path))
    report = run_profile(options, Console(file=io.StringIO()))
    assert report.parts["backward"] > 0


def test_a_step_wants_its_targets(trained: tuple[Path, Path, str]) -> None:
    rows, model = torch.rand(2, 3, 6), load(trained[1] / "weights" / "best.pt").train()
    step = TrainStep(model, Entropy(), TrainRecipe(), "eager")
    assert step(torch.rand(2, 3, 64, 64), rows, torch.ones(2, dtype=torch.int64)).shape == (2,)
    with pytest.raises(ValueError, match=r"TrainStep: targets must have shape \[2, \*, 6\], got \[2, 3, 5\]"):
        step(torch.rand(2, 3, 64, 64), rows[..., :5], torch.ones(2, dtype=torch.int64))


def test_no_other_file_knows_it() -> None:
    mentions = [path for path in (ROOT / "yolov9k").rglob("*.py") if "LargestClass" in path.read_text(encoding="utf-8")]
    assert mentions == []


def test_a_name_is_one_tasks() -> None:
    class Other(DetectTask):
        name = "largest"

    with pytest.raises(ValueError, match="a task named 'largest' is registered already: LargestTask"):
        register(Other())
    assert type(register(LargestTask())) is LargestTask
