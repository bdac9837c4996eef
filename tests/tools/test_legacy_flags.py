"""Command lines of the published scripts: each flag works, is reported to have no effect, or is refused with advice."""

from __future__ import annotations

import itertools

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from tests.command_line import run
from yolov9k.cli import app
from yolov9k.cli.legacy import _ABSENT, _IDLE, published_style
from yolov9k.common.errors import UserError
from yolov9k.engine.train.schedule import CURVES

COMMON = "--weights --data --imgsz --img --img-size --device --project --name --exist-ok"
DETECTING = "--conf-thres --iou-thres --max-det --half --dnn --augment --save-txt --save-conf"
FLAGS = {
    "train": f"""{COMMON} --batch-size --batch --cfg --hyp --epochs --rect --resume --nosave --noval --noautoanchor --noplots
        --evolve --bucket --cache --image-weights --multi-scale --single-cls --optimizer --sync-bn --workers --quad --cos-lr
        --flat-cos-lr --fixed-lr --label-smoothing --patience --freeze --save-period --seed --local_rank --min-items
        --close-mosaic --entity --upload_dataset --bbox_interval --artifact_alias""",
    "val": f"""{COMMON} {DETECTING} --batch-size --batch --conf --iou --task --workers --single-cls --verbose --save-hybrid
        --save-json --min-items""",
    "predict": f"""{COMMON} {DETECTING} --source --view-img --save-crop --nosave --classes --agnostic-nms --visualize --update
        --line-thickness --hide-labels --hide-conf --vid-stride""",
}  # the argument parsers of the published scripts


@pytest.mark.parametrize("command", FLAGS)
def test_every_published_flag_is_answered(command: str) -> None:
    known = {name for option in typer.main.get_command(app).commands[command].params for name in option.opts}  # type: ignore[attr-defined]
    for flag in FLAGS[command].split():
        if flag in _ABSENT[command]:
            with pytest.raises(UserError, match=f"^{flag}: not taken over from the published scripts; "):
                published_style([command, flag, "2"])
        elif flag not in _IDLE[command]:
            assert {part for part in published_style([command, flag]) if part.startswith("--")} <= known, flag
    assert not known & (set(_ABSENT[command]) | set(_IDLE[command]))


@pytest.mark.parametrize(("command", "flag"), [(command, flag) for command, flags in _IDLE.items() for flag in flags])
def test_an_idle_flag_goes_with_its_value(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = ["7"] * _IDLE[command][flag][0]
    joined = [f"{flag}=7"] if values else []
    assert published_style([command, flag, *values, "--img", "64", *joined]) == [command, "--img", "64"]
    assert capsys.readouterr().err.count(f"{flag} has no effect: ") == 1 + len(joined)


def test_several_values_of_a_flag_that_has_one() -> None:
    ours = ["predict", "--img", "640", "--weights", "a.pt", "--source", "x"]
    assert published_style(["detect", "--img", "640", "640", "--weights", "a.pt", "--source", "x", "--vid-stride", "1"]) == ours
    assert published_style(ours) == ours
    assert published_style(["train", "--img", "-3", "--weights", ""]) == ["train", "--img", "-3", "--weights", ""]
    assert published_style(["info", "--img", "64", "yolov9-t"]) == ["info", "--img", "64", "yolov9-t"]
    with pytest.raises(UserError, match="--img 640 320: give one size, of the long side"):
        published_style(["predict", "--img", "640", "320"])
    with pytest.raises(UserError, match=r"--weights a\.pt b\.pt: ensembles are not taken over; give one checkpoint"):
        published_style(["val", "--weights", "a.pt", "b.pt"])
    with pytest.raises(UserError, match="--vid-stride: not taken over"):
        published_style(["predict", "--vid-stride", "2"])


@pytest.mark.parametrize(
    "given", [["--classes"], ["--classes", "--nosave"], ["--classes", ""], ["--classes="], ["--classes", " "]]
)
def test_a_list_without_values_is_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", "--source", "x", "--weights", "w.pt", *given) == 2
    assert "error: --classes: no value; give one or several, such as --classes 0 2" in capsys.readouterr().err
    assert run("train", "--data", "x", "--cfg", "yolov9-t", "--freeze") == 2
    assert "error: --freeze: no value" in capsys.readouterr().err


def test_the_published_forms_are_understood() -> None:
    given = ["train", "--resume", "--cache", "--freeze", "0", "1", "2", "--img", "64", "--flat-cos-lr"]
    ours = ["train", "--resume", "latest", "--cache", "ram", "--freeze", "0,1,2", "--img", "64", "--lr-curve", "flat-cosine"]
    assert published_style(given) == ours
    assert published_style(ours) == ours
    given = ["predict", "--classes", "0", "cat", "--resume", "runs/last.pt", "--cache", "disk"]
    assert published_style(given) == ["predict", "--classes", "0,cat", "--resume", "runs/last.pt", "--cache", "disk"]
    assert published_style(["train", "--cache"]) == ["train", "--cache", "ram"]
    assert published_style([]) == []


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
