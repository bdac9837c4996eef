"""Command lines of other implementations: words, key=value and flags of several values become a command line of ours."""

from __future__ import annotations

import itertools
from contextlib import nullcontext, suppress

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from tests.command_line import run
from yolov9k.cli import app
from yolov9k.cli.spelling import as_ours
from yolov9k.common.errors import UserError
from yolov9k.config.keys import known_keys
from yolov9k.config.option import LIST_SEPARATOR
from yolov9k.config.peers import NAMES, Absent
from yolov9k.engine.train.schedule import CURVES


@pytest.mark.parametrize("command", ["train", "val", "predict"])
def test_every_published_flag_is_answered(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    known = {name for option in typer.main.get_command(app).commands[command].params for name in option.opts}  # type: ignore[attr-defined]
    for key in NAMES["the published scripts"][command].split():
        for flag in {f"--{key}", f"--{key.replace('_', '-')}"}:
            refused = isinstance(known_keys(command)[key], Absent)
            with pytest.raises(UserError, match=f"^{flag}: not taken over; ") if refused else nullcontext():
                assert {part for part in as_ours([command, flag, "2"]) if part.startswith("--")} <= known, flag
    capsys.readouterr()


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("train_dual --data d --cfg c", "train --data d --cfg c"),
        ("train.py --data d", "train --data d"),
        ("train_triple.py --img 640 640", "train --img 640"),
        ("val_dual.py --task test", "val --task test"),
        ("detect_dual.py --source x --weights a.pt", "predict --source x --weights a.pt"),
        ("detect --source x", "predict --source x"),
        ("detect train data=d model=yolov9-t imgsz=320 epochs=3", "train --data d --cfg yolov9-t --imgsz 320 --epochs 3"),
        ("detect val model=a.pt data=d", "val --weights a.pt --data d"),
        ("task=detect mode=predict model=a.pt source=x", "predict --weights a.pt --source x"),
        ("mode=train task=detect data=d", "train --data d"),
        ("predict source=x model=a.pt half save=False", "predict --source x --weights a.pt --amp fp16 --nosave"),
        ("predict source=a=b.jpg --weights m=1.pt", "predict --source a=b.jpg --weights m=1.pt"),
        ("task=inference name=x task.data.source=y +quiet=False", "predict --name x --source y"),
        ("task=validation dataset=d weight=a.pt", "val --data d --weights a.pt"),
        ("val data=d weights=w split=test task=detect", "val --data d --weights w --task test"),
        ("val data=d weights=w task=test", "val --data d --weights w --task test"),
        ("train lr0=0.02 --momentum 0.9 rect=True exist_ok=False", "train --override lr0=0.02|momentum=0.9 --rect"),
        ("train --override lr0=1 mosaic=0", "train --override lr0=1|mosaic=0"),
        ("train --no-amp --no-val --no-rect", "train --amp off --noval"),
        ("train cache=True resume=True", "train --cache ram --resume latest"),
        ("train --cache disk --resume r/last.pt", "train --cache disk --resume r/last.pt"),
        ("train --cache data=d", "train --cache ram --data d"),
        ("train --freeze 0 1 2 --img 64 --flat-cos-lr", "train --freeze 0|1|2 --img 64 --lr-curve flat-cosine"),
        ("train freeze=[0,1]", "train --freeze 0|1"),
        ("train --batch -1 --img -3", "train --batch -1 --img -3"),
        ("train mode=compiled", "train --mode compiled"),
        ("predict --classes 0 cat --conf 0.5", "predict --classes 0|cat --conf 0.5"),
        ("predict --classes 0 2 conf=0.5", "predict --classes 0|2 --conf 0.5"),
        ("predict --vid-stride 1 --show", "predict --vid-stride 1 --view-img"),
        ("info --img 64 yolov9-t", "info yolov9-t --img 64"),
        ("info model=yolov9-t imgsz=64", "info yolov9-t --imgsz 64"),
        ("info a=b.pt", "info a=b.pt"),
        ("data check d --strict", "data check d --strict"),
        ("version", "--version"),
        ("help", "--help"),
        ("checks", "info"),
        ("train --help", "train --help"),
    ],
)
def test_forms_of_a_command_line(given: str, ours: str) -> None:
    wanted = ours.replace("|", LIST_SEPARATOR).split(" ")
    assert as_ours(given.split()) == wanted
    assert as_ours(wanted) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("trian --data d", "No such command 'trian'. Did you mean 'train'? see 'yolov9k --help'"),
        ("Predict", "No such command 'Predict'. Did you mean 'predict'? see 'yolov9k --help'"),
        ("segment train", "segment: yolov9k detects objects; leave the word out, or give 'detect'"),
        ("train data=d epoch=3", "No such option: epoch. Did you mean 'epochs'? see 'yolov9k train --help'"),
        ("train --epoch 3", "No such option: --epoch. Did you mean '--epochs'? see 'yolov9k train --help'"),
        ("train --no-bogus", "No such option: --no-bogus; see 'yolov9k train --help'"),
        ("info imgs=3 yolov9-t", "Got unexpected extra argument(s) (yolov9-t); see 'yolov9k info --help'"),
        ("predict --img 640 320", "--img 640 320: give one size, of the long side"),
        ("val --weights a.pt b.pt", "--weights a.pt b.pt: ensembles are not taken over; give one checkpoint"),
        ("train --rect=3", "--rect 3: expected true or false"),
        ("train data=d --epochs", "--epochs: no value; see 'yolov9k train --help'"),
        ("predict source=x model=a.pt line_width", "Got unexpected extra argument(s) (line_width); see 'yolov9k predict"),
        ("predict source=x model=a.pt --line-width", "--line-width: no value; see 'yolov9k predict --help'"),
        ("predict source=x model=a.pt line_width=0", "line_width 0: expected a number from 1 to 100"),
        ("train data=d model=yolov9-t imgsz=0", "imgsz 0: expected at least 1"),
    ],
)
def test_what_is_mistyped_gets_a_suggestion(given: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*given.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    "given", [["--classes"], ["--classes", "--nosave"], ["--classes", ""], ["--classes="], ["--classes", " "]]
)
def test_a_list_without_values_is_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", "--source", "x", "--weights", "w.pt", *given) == 2
    assert "error: --classes: no value; give one or several, such as --classes 0 2" in capsys.readouterr().err
    assert run("train", "--data", "x", "--cfg", "yolov9-t", "--freeze") == 2
    assert "error: --freeze: no value" in capsys.readouterr().err


@given(st.lists(st.text(max_size=8), max_size=5))
def test_any_command_line_is_taken_or_refused(given: list[str]) -> None:
    for first in ([], ["train"], ["predict"], ["info"]):
        with suppress(UserError):
            assert all(isinstance(word, str) for word in as_ours([*first, *given]))


@given(epochs=st.integers(1, 500), name=st.sampled_from(sorted(CURVES)))
def test_learning_rates_fall_and_never_below_the_last(epochs: int, name: str) -> None:
    left = [CURVES[name](epoch, epochs) for epoch in range(epochs)]
    assert left[0] == 1
    assert all(1 >= before >= after >= 0 for before, after in itertools.pairwise(left))


@pytest.mark.parametrize(
    ("name", "epochs", "left"),
    [
        ("linear", 4, [1, 0.75, 0.5, 0.25]),
        ("cosine", 4, [1, 0.853553, 0.5, 0.146447]),
        ("flat-cosine", 8, [1, 1, 1, 1, 1, 0.853553, 0.5, 0.146447]),
        ("flat-cosine", 5, [1, 1, 1, 0.5, 0]),  # an odd number ends at the last rate
        ("constant", 3, [1, 1, 1]),
    ],
)
def test_learning_rate_curves_are_the_published_ones(name: str, epochs: int, left: list[float]) -> None:
    assert [CURVES[name](epoch, epochs) for epoch in range(epochs)] == pytest.approx(left, abs=1e-6)
