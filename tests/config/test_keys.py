"""Options by any of their names: ours, key=value, and those of other implementations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiers import BY_DAY, examples
from yolov9k.common.errors import UserError
from yolov9k.config import COMMANDS, PredictOptions, TrainOptions, ValOptions, option_fields, options_from
from yolov9k.config.keys import known_keys, own_keys, resolve, unknown
from yolov9k.config.peers import MEANINGS, NAMES, Absent, Alias, Idle
from yolov9k.config.recipe import load_recipe

LISTED = [
    (peer, command, key) for peer, commands in NAMES.items() for command, keys in commands.items() for key in keys.split()
]


def meanings(kind: type) -> list[tuple[str, str]]:
    return [
        (command, key) for command, known in MEANINGS.items() for key, meaning in known.items() if isinstance(meaning, kind)
    ]


def test_every_name_of_the_others_means_something() -> None:
    assert len(LISTED) > 300
    assert [name for name in LISTED if name[2].replace("-", "_") not in known_keys(name[1])] == []


def test_every_meaning_belongs_to_a_name_of_the_others() -> None:
    named = {(command, key) for _, command, key in LISTED}
    ours = {("profile", "model"), *((command, "mode") for command in MEANINGS)}
    common = {key for key in MEANINGS["train"] if all(key in MEANINGS[command] for command in ("val", "predict"))}
    assert {(c, k) for c, known in MEANINGS.items() for k in known if (c, k) not in named and k not in common} <= ours


@pytest.mark.parametrize(("command", "key"), meanings(Absent))
def test_what_is_absent_is_refused_with_advice_unless_nothing_is_asked(command: str, key: str) -> None:
    with pytest.raises(UserError, match=f"^--{key}: not taken over; ."):
        resolve(command, f"--{key}", "3")
    assert resolve(command, key, "False") == resolve(command, key, "0") == []


@pytest.mark.parametrize(("command", "key"), meanings(Idle))
def test_what_has_no_effect_is_told(command: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert resolve(command, key, "7") == []
    assert " has no effect: " in capsys.readouterr().err
    assert resolve(command, key, "false") == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("command", "key"), meanings(Alias))
def test_aliases_lead_to_options_that_are_there(command: str, key: str) -> None:
    alias = known_keys(command)[key]
    assert isinstance(alias, Alias)
    for value, meant in alias.values.items():
        for field, text in resolve(command, key, value):
            assert meant is not None
            own_keys(command)[field].parse(text)


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ({"imgsz": 320, "epochs": 3, "batch": 8, "device": "cpu"}, {"img": 320, "epochs": 3, "batch": 8, "device": "cpu"}),
        ({"model": "yolov9-t", "pretrained": "a.pt"}, {"cfg": "yolov9-t", "weights": "a.pt"}),
        ({"model": Path("runs/best.pt")}, {"weights": "runs/best.pt"}),
        ({"freeze": 10, "classes": None, "val": False, "plots": False}, {"freeze": (10,), "noval": True, "noplots": True}),
        ({"freeze": [0, 1], "rect": True, "cache": True}, {"freeze": (0, 1), "rect": True, "cache": "ram"}),
        ({"cache": False, "resume": False, "exist_ok": False, "single_cls": True}, {"single_cls": True}),
        ({"amp": False, "cos_lr": True, "save_period": 5}, {"amp": "off", "lr_curve": "cosine", "save_period": 5}),
        ({"amp": True, "val": True, "optimizer": "auto", "compile": False}, {}),
        ({"lr0": 0.02, "nbs": 32, "mosaic": 0}, {"override": ("lr0=0.02", "nominal_batch=32", "mosaic=0")}),
        ({"override": ["lr0=1"], "lrf": 0.1}, {"override": ("lr0=1", "lrf=0.1")}),
        ({"imgsz": [640, 640], "batch": -1, "patience": 5}, {"batch": 0, "patience": 5}),
        ({"task.epoch": 7, "image_size": (96, 96), "lucky_number": 3}, {"epochs": 7, "img": 96, "seed": 3}),
        ({"batch_size": 4, "img-size": "64", "min_lr_ratio": 0.5}, {"batch": 4, "img": 64, "override": ("lrf=0.5",)}),
        ({"device": [0, 1], "name": None}, {"device": "0,1"}),
    ],
    ids=str,
)
def test_options_of_a_call(values: dict[str, Any], changes: dict[str, Any]) -> None:
    made = options_from("train", {"data": "d", **values})
    assert made == TrainOptions("d", **changes)
    assert made.given >= {"data", *changes}


def test_options_of_other_calls() -> None:
    made = options_from("predict", {"source": "x", "model": "m.pt", "conf": 0.5, "classes": [0, "a, b"], "half": True})
    assert made == PredictOptions("x", "m.pt", conf=0.5, classes=(0, "a, b"), amp="fp16")
    made = options_from("val", {"data": "d", "model": "m.pt", "split": "test", "half": False, "save_json": True})
    assert made == ValOptions("d", "m.pt", task="test", amp="off", save_json=True)
    with pytest.raises(UserError, match=r"^weights: must be given$"):
        options_from("val", {"data": "d"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "No such option: epoch. Did you mean 'epochs'?"),
        ({"imgs": 3}, "No such option: imgs. Did you mean 'img"),
        ({"zzzzz": 3}, "No such option: zzzzz"),
        ({"rect": 3}, "rect 3: expected true or false"),
        ({"imgsz": [640, 480]}, "imgsz 640 480: give one size, of the long side"),
        ({"epochs": "many"}, "--epochs many: expected a whole number"),
        ({"cutmix": 0.5}, "cutmix: not taken over; "),
        ({"task": "segment"}, "task segment: expected one of detect"),
        ({"copy_paste_mode": "mixup"}, "copy_paste_mode mixup: expected one of flip"),
    ],
    ids=str,
)
def test_a_call_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        options_from("train", {"data": "d", **values})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["lr0"], "--override lr0: expected KEY=VALUE, such as lr0=0.02"),
        (["lr=1"], "--override: unknown hyper-parameter 'lr'; did you mean 'lr"),
        (["lr0=x"], "--override: lr0 is 'x', expected a number"),
        (["mosaic=2"], "--override: mosaic is 2, expected float from 0 to 1"),
    ],
)
def test_overrides_are_checked(pairs: list[str], message: str) -> None:
    recipe = load_recipe().overridden(["lr0=0.5", "tal_topk= 13"])
    assert (recipe.lr0, recipe.tal_topk) == (0.5, 13)
    with pytest.raises(UserError) as caught:
        load_recipe().overridden(pairs)
    assert str(caught.value).startswith(message)


@settings(deadline=None, max_examples=examples(100), derandomize=BY_DAY)
@given(
    st.sampled_from(sorted(COMMANDS)).flatmap(lambda c: st.tuples(st.just(c), st.sampled_from(sorted(known_keys(c))))),
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.lists(st.integers(), max_size=3)),
)
def test_any_value_is_taken_or_refused_in_one_line(name: tuple[str, str], value: Any) -> None:
    command, key = name
    needed = {f.name: "x" for f in option_fields(COMMANDS[command]) if f.option.path}
    said = ""
    try:
        options_from(command, {**needed, key: value}).check()
    except UserError as error:
        said = str(error)
    assert "\n" not in said.strip()


def test_the_likeliest_name_in_the_form_that_was_given() -> None:
    assert unknown("--exists-ok", "train") == "No such option: --exists-ok. Did you mean '--exist-ok'?"
    assert unknown("exists_ok", "train") == "No such option: exists_ok. Did you mean 'exist_ok'?"
    assert unknown("--qqqq", "train") == "No such option: --qqqq"
