"""Class names, paths and names of runs that look like markup, from the command line."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from tests.command_line import run
from tests.data_cases import write_image
from tests.support import little_model

pytestmark = pytest.mark.e2e
SMALL = ("--img", 64, "--workers", 0, "--device", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose names, folders and classes are all markup to someone."""
    root = tmp_path_factory.mktemp("[bold]data$$")
    for number in range(3):
        write_image(root / "images" / f"[red]{number}.jpg", 64, 64)
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"[red]{number}.txt").write_text(f"{number} 0.5 0.5 0.4 0.4\n")
    (root / "data.yaml").write_text("train: images\nval: images\nnames: ['[/x]a$$', '_car [front]', '猫 $x^{$']\n", "utf-8")
    options = ("--cfg", little_model(root), "--data", root / "data.yaml", "--batch", 3, "--epochs", 1)
    assert run("train", *options, *SMALL, "--project", root, "--name", "x[/b]y") == 0
    return root


def test_training_draws_every_plot(trained: Path) -> None:
    for name in ("results", "labels", "confusion_matrix", "train_batch0", "val_batch0_labels"):
        assert cv2.imread(str(trained / "x[/b]y" / f"{name}.png")) is not None, name


@pytest.mark.twin
def test_data_check_shows_names_as_they_stand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "images" / "[b]0.jpg")
    (tmp_path / "data.yaml").write_text("train: images\nnames: ['[/x]a', 'car [front]', ':car:']\n")
    assert run("data", "check", tmp_path / "data.yaml") == 0
    printed = capsys.readouterr().out
    for name in ("[/x]a", "car [front]", ":car:", "[b]0.jpg"):
        assert name in printed


def test_val_and_predict_show_names_as_they_stand(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = trained / "x[/b]y" / "weights" / "last.pt"
    capsys.readouterr()
    assert (
        run("val", "--weights", weights, "--data", trained / "data.yaml", *SMALL, "--project", trained, "--name", "[red]v") == 0
    )
    printed = capsys.readouterr().out
    assert "[/x]a$$" in printed
    assert f"run: {trained}/[red]v" in printed
    options = ("--img", 64, "--conf", 0, "--max-det", 3, "--project", trained, "--name", "[red]p")
    assert run("predict", "--weights", weights, "--source", trained / "images" / "[red]0.jpg", *options) == 0
    assert f"run: {trained}/[red]p" in capsys.readouterr().out


def test_a_plot_that_fails_does_not_end_the_run(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the way of each image: nothing can be written there."""
    folder = trained / "again"
    for name in ("results", "labels", "confusion_matrix", "PR_curve", "train_batch0", "val_batch0_labels"):
        (folder / f"{name}.png").mkdir(parents=True)
    options = ("--cfg", trained / "little.yaml", "--data", trained / "data.yaml", "--batch", 3, "--epochs", 1)
    assert run("train", *options, *SMALL, "--project", trained, "--name", "again", "--exist-ok") == 0
    captured = capsys.readouterr()
    assert captured.err.count("an image of the run is not drawn") >= 4
    assert "AP75" in captured.out
