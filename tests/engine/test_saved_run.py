"""What a run is resumed from is held against itself and against the data, and only one process goes on with it."""

from __future__ import annotations

import copy
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.engine_cases import TINY
from tests.tiers import slow_case
from yolov9k.common.errors import UserError
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.synthetic import generate
from yolov9k.engine.train.run_dir import make_run_directory
from yolov9k.engine.train.trainer import Trainer


@pytest.fixture(scope="module")
def began(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and a run of one epoch, begun beside the data by a relative path."""
    folder = tmp_path_factory.mktemp("saved")
    generate(folder / "data", train=6, val=2, size=64)
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "data")
        options = TrainOptions(
            data="data.yaml", cfg="../tiny.yaml", img=64, batch=4, epochs=1, device="cpu", workers=0, project="../runs",
            close_mosaic=0, noplots=True,
        )  # fmt: skip
        Trainer(options, Console(quiet=True)).fit()
    (folder / "tiny.yaml").unlink()  # the model is in last.pt
    return folder


def copy_of(began: Path, place: Path) -> Path:
    """A copy of it, whose run has the copy's data."""
    copied = place / "copy"
    shutil.copytree(began, copied)
    change(copied, lambda content: content["options"].update(data=str(copied / "data" / "data.yaml")))
    return copied


@pytest.fixture
def folder(began: Path, tmp_path: Path) -> Path:
    return copy_of(began, tmp_path)


def last(folder: Path) -> Path:
    return folder / "runs" / "exp" / "weights" / "last.pt"


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(last(folder), weights_only=True)
    how(content)
    torch.save(content, last(folder))


def resume(folder: Path, **changes: Any) -> Trainer:
    return Trainer.resume(last(folder), console=Console(quiet=True), **{"epochs": 2, **changes})


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        resume(folder)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def first_momentum(content: dict[str, Any]) -> str:
    return next(iter(content["step"]["momentum"]))


def every(name: str, alter: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], object]:
    """What alters each tensor of a state."""

    def change(content: dict[str, Any]) -> None:
        held = content["step"][name] if name == "momentum" else content[name]
        held.update({key: alter(value) for key, value in held.items()})

    return change


KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "NaN": lambda value: value * float("nan") if value.is_floating_point() else value,
    "integers": lambda value: value.int(),
    "truths": lambda value: value.bool(),
}
ALTERED: dict[str, Callable[[dict[str, Any]], object]] = {
    **{f"no {key}": lambda content, key=key: content.pop(key) for key in (
        "spec", "names", "num_classes", "class_widths", "fused", "model", "ema", "step", "epoch", "best", "best_epoch", "hyp",
        "options")},
    **{f"{key} none": lambda content, key=key: content.update({key: None}) for key in (
        "spec", "names", "num_classes", "model", "ema", "step", "epoch", "best", "best_epoch", "hyp",
        "options", "means", "data", "batches_done")},
    "epoch a text": lambda content: content.update(epoch="1"),
    "epoch below zero": lambda content: content.update(epoch=-1),
    "epoch a fraction": lambda content: content.update(epoch=0.5),
    "epoch a bool": lambda content: content.update(epoch=True),
    "best not a number": lambda content: content.update(best=float("nan")),
    "best beyond 1": lambda content: content.update(best=1.01),
    "best below 0": lambda content: content.update(best=-0.5),
    "best that is true": lambda content: content.update(best=True),
    "no best of a later epoch": lambda content: content.update(best=-1.0, best_epoch=1, epoch=1),
    "names numbers": lambda content: content.update(names=[1, 2, 3, 4]),
    "names fewer": lambda content: content["names"].pop(),
    "no classes": lambda content: content.update(num_classes=0),
    "another number of classes": lambda content: content.update(num_classes=3),
    "a weight of another shape": lambda content: content["model"].update({"model.0.conv.weight": torch.zeros(1)}),
    "a weight fewer": lambda content: content["model"].pop("model.0.conv.weight"),
    "a weight more": lambda content: content["model"].update(another=torch.zeros(1)),
    "a weight that is text": lambda content: content["model"].update({"model.0.conv.weight": "heavy"}),
    "an average of another shape": lambda content: content["ema"].update({"model.0.conv.weight": torch.zeros(1)}),
    "a momentum fewer": lambda content: content["step"]["momentum"].pop(first_momentum(content)),
    "a momentum of another shape": lambda content: content["step"]["momentum"].update({first_momentum(content): torch.ones(1)}),
    "a complex momentum": lambda content: content["step"]["momentum"].update(
        {first_momentum(content): content["step"]["momentum"][first_momentum(content)].to(torch.complex64)}),
    "more batches done than there are": lambda content: content.update(batches_done=content["batches"] + 1),
    "a best epoch to come": lambda content: content.update(best_epoch=content["epoch"] + 1),
    **{f"{name} of {kind}": every(name, alter) for name in ("model", "ema", "momentum") for kind, alter in KINDS.items()},
    "no state": lambda content: content["step"].pop("state"),
    "a shorter state": lambda content: content["step"].update(state=torch.zeros(2)),
    "no iteration": lambda content: content["step"].pop("iteration"),
    "an iteration that is text": lambda content: content["step"].update(iteration="7"),
    "gradients that are not there": lambda content: content["step"].update(waiting=1),
    "a rate fewer": lambda content: content["hyp"].pop("lr0"),
    "a rate that is text": lambda content: content["hyp"].update(lr0="fast"),
    "a rate out of range": lambda content: content["hyp"].update(lr0=-1.0),
    "an unknown rate": lambda content: content["hyp"].update(lr7=0.1),
    "an option of another kind": lambda content: content["options"].update(img="large"),
    "an option out of range": lambda content: content["options"].update(batch=-4),
    "frozen layers that are text": lambda content: content["options"].update(freeze="all"),
    "sums of text": lambda content: content.update(means=(["a"], 1)),
    "data of text": lambda content: content.update(data={"train": "many"}),
    "layers in a text": lambda content: content["spec"].update(layers="conv"),
    "an unknown layer": lambda content: content["spec"]["layers"][0].__setitem__(1, "Cnov"),
}  # fmt: skip


@pytest.fixture(scope="module")
def refused(began: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A copy that refusals leave as it is, for many of them, and what its last.pt holds."""
    copied = copy_of(began, tmp_path_factory.mktemp("refused"))
    return copied, torch.load(last(copied), weights_only=True)


OTHERS_STAND_FOR = {
    "model of integers",
    "model of truths",
    "ema of NaN",
    "ema of truths",
    "momentum of NaN",
    "momentum of integers",
}


@pytest.mark.parametrize("name", [slow_case(name) if name in OTHERS_STAND_FOR else name for name in ALTERED])
def test_an_altered_checkpoint_is_refused_in_one_line(refused: tuple[Path, dict[str, Any]], name: str) -> None:
    folder, content = refused[0], copy.deepcopy(refused[1])
    ALTERED[name](content)
    torch.save(content, last(folder))
    before = (folder / "runs" / "exp" / "results.csv").read_bytes()
    message = refusal(folder)
    assert "last.pt" in message or "batch" in message
    assert (folder / "runs" / "exp" / "results.csv").read_bytes() == before


HEAD = b"epoch,time"
DAMAGED = {
    "binary": b"\x00\xff\xfe" * 50,
    "another table": b"a,b\n1,2\n",
    "an epoch that is text": None,
    "cells missing": None,
    "cells that are text": None,
    "a folder": None,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_results_are_refused_in_one_line(folder: Path, kind: str) -> None:
    path = folder / "runs" / "exp" / "results.csv"
    header, row = path.read_bytes().splitlines()
    cells = row.split(b",")
    lines = {
        "an epoch that is text": b",".join([b"one", *cells[1:]]), "cells missing": b"0,1",
        "cells that are text": b",".join([*cells[:2], b"low", *cells[3:]]),
    }  # fmt: skip
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    else:
        path.write_bytes(DAMAGED[kind] or b"\r\n".join((header, row, lines[kind], b"")))
    message = refusal(folder)
    assert message.startswith(f"{path.resolve()}")
    if kind in lines:
        assert message.startswith(f"{path.resolve()}:3: damaged (not an epoch's numbers); mend the line, or move the file away")


def test_a_last_line_that_was_cut_short_is_written_anew(folder: Path) -> None:
    path = folder / "runs" / "exp" / "results.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + b"1,0.5,0.")
    resume(folder)
    assert path.read_bytes() == whole


def test_the_data_is_found_from_elsewhere(began: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resume(began).options.data == str(began / "data" / "data.yaml")


def test_data_that_moved_and_where_it_runs_may_be_given_anew(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(folder / "data", tmp_path / "moved")
    assert "not found" in refusal(folder)
    moved = tmp_path / "moved" / "data.yaml"
    moved.write_text(moved.read_text().replace(str(folder / "data"), str(tmp_path / "moved")))
    run = resume(folder, data=str(moved), workers=1, cache="ram", device="cpu", mode="eager")
    assert (run.options.data, run.options.workers, run.options.cache) == (str(moved), 1, "ram")
    assert "changed" not in capsys.readouterr().err
    run.fit()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[square, circle, triangle, star]", r"class 0 is 'circle' in the run and 'square' in .* \(4 and 4 classes\)"),
        ("[circle, square, triangle, star, moon]", r"class 4 is 'none' in the run and 'moon' in .* \(4 and 5 classes\)"),
        ("[circle, square, triangle]", r"class 3 is 'star' in the run and 'none' in .* \(4 and 3 classes\)"),
    ],
)
def test_other_classes_are_refused_before_the_first_step(folder: Path, names: str, message: str) -> None:
    data = folder / "data" / "data.yaml"
    data.write_text(f"{data.read_text().split('names:')[0]}names: {names}\n")
    before = last(folder).read_bytes()
    with pytest.raises(UserError, match=message):
        resume(folder)
    assert last(folder).read_bytes() == before


def test_images_that_are_gone_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted((folder / "data" / "images" / "train").iterdir())[:3]:
        path.unlink()
    resume(folder)
    said = capsys.readouterr().err
    assert "has changed since the run was begun; train: 3 images where there were 6" in said
    assert "val" not in said.split("train:")[1]


def test_labels_that_changed_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = next((folder / "data" / "labels" / "val").glob("*.txt"))
    labels.write_text("".join(f"0 {line.split(maxsplit=1)[1]}\n" for line in labels.read_text().splitlines()[::-1]))
    resume(folder)
    assert "has changed since the run was begun; val: other files or boxes" in capsys.readouterr().err


def test_half_an_epoch_of_other_data_begins_anew(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder, lambda content: content.update(batches_done=1))
    assert (resume(folder).batches_done, resume(folder).step.iteration) == (1, 3)
    for path in sorted((folder / "data" / "images" / "train").iterdir())[:3]:
        path.unlink()
    run = resume(folder)
    assert (run.batches_done, run.step.iteration) == (0, 1)
    assert "an epoch has 1 batches in place of 2; it begins anew" in capsys.readouterr().err


def test_only_one_goes_on_with_a_run(folder: Path) -> None:
    run = resume(folder)
    assert refusal(folder).endswith("another process is training in it; wait for its end, or choose another --name")
    del run
    resume(folder)


def test_what_a_killed_run_left_is_swept(folder: Path) -> None:
    directory = last(folder).parents[1]
    left = [directory / name for name in ("weights/.last.pt.ab12_x9z", "weights/.epoch5.pt.ab12_x9z", ".opt.yaml.q")]
    kept = [directory / "weights" / "notes.txt", directory / ".hidden"]
    for path in (*left, *kept):
        path.write_text("x")
    resume(folder)
    assert [path for path in left if path.exists()] == []
    assert all(path.exists() for path in kept)


def test_a_checkpoint_that_left_its_run_is_not_resumed(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "downloads" / "last.pt"
    moved.parent.mkdir()
    shutil.copy(last(folder), moved)
    with pytest.raises(UserError, match=r"does not lie in a run directory; resume from RUN/weights/last\.pt"):
        Trainer.resume(moved)
    assert list(moved.parent.iterdir()) == [moved]


def test_runs_that_begin_together_get_directories_of_their_own(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def make(_: int) -> list[str]:
        together.wait()
        return [make_run_directory(tmp_path, "exp").name for _ in range(10)]

    with ThreadPoolExecutor(8) as pool:
        made = [name for names in pool.map(make, range(8)) for name in names]
    assert sorted(made) == sorted(["exp", *(f"exp{number}" for number in range(2, 81))])


def test_runs_that_find_no_directory_at_once_get_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, make = threading.Barrier(2, timeout=30), Path.mkdir

    def meet(path: Path, *values: Any, **options: Any) -> None:
        if path.name == "exp":
            both.wait()
        make(path, *values, **options)

    monkeypatch.setattr(Path, "mkdir", meet)
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda _: make_run_directory(tmp_path, "exp").name, range(2))
        assert sorted(made) == ["exp", "exp2"]


def test_a_name_in_a_folder_is_numbered_too(tmp_path: Path) -> None:
    assert [make_run_directory(tmp_path, "a/b").name for _ in range(3)] == ["b", "b2", "b3"]
