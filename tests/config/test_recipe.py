"""Hyper-parameters: published files are read as they are, presets load, and each error is one line that names the file."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiers import BY_DAY, examples
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import PRESETS, TrainRecipe, load_recipe

# Every key of a published file, with values that are not our defaults.
PUBLISHED = {
    "lr0": 0.02, "lrf": 0.1, "momentum": 0.9, "weight_decay": 0.001, "warmup_epochs": 2.0, "warmup_momentum": 0.7,
    "warmup_bias_lr": 0.2, "box": 5.0, "cls": 0.4, "cls_pw": 1.5, "obj": 0.3, "obj_pw": 1.2, "dfl": 1.1, "iou_t": 0.3,
    "anchor_t": 4.0, "fl_gamma": 0.0, "hsv_h": 0.01, "hsv_s": 0.6, "hsv_v": 0.3, "degrees": 5.0, "translate": 0.2,
    "scale": 0.5, "shear": 2.0, "perspective": 0.001, "flipud": 0.1, "fliplr": 0.4, "mosaic": 0.9, "mixup": 0.1,
    "copy_paste": 0.2,
}  # fmt: skip
WITHOUT_EFFECT = {"obj", "obj_pw", "iou_t", "anchor_t", "fl_gamma"}


def write(folder: Path, text: str) -> Path:
    path = folder / "hyp.yaml"
    path.write_text(text)
    return path


def fault(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_published_file_is_read_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asdict(load_recipe(write(tmp_path, yaml.safe_dump(PUBLISHED))))
    taken = {key: value for key, value in PUBLISHED.items() if key not in WITHOUT_EFFECT}
    assert {key: found[key] for key in taken} == taken
    assert {key: found[key] for key in found.keys() - taken} == {
        key: value for key, value in asdict(TrainRecipe()).items() if key not in taken
    }
    assert capsys.readouterr().err == ""


def test_a_key_that_asks_for_what_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "fl_gamma: 1.5\nanchors: 3\n")
    assert load_recipe(path) == TrainRecipe()
    assert f"{path}: fl_gamma=1.5 has no effect" in " ".join(capsys.readouterr().err.split())


def test_keys_left_out_keep_the_papers_values(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "box: 1")) == TrainRecipe(box=1.0)
    assert load_recipe() == load_recipe("default") == TrainRecipe()
    assert (TrainRecipe().box, TrainRecipe().cls, TrainRecipe().dfl, TrainRecipe().auxiliary) == (7.5, 0.5, 1.5, 0.25)


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("lr0: 1e-3", "lr0", 0.001),
        ("weight_decay: '5e-4'", "weight_decay", 0.0005),
        ("tal_topk: '13'", "tal_topk", 13),
        ("nominal_batch: 32.0", "nominal_batch", 32),
        ("\ufeffmixup: 1", "mixup", 1.0),
    ],
)
def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path, text: str, key: str, expected: float) -> None:
    value = getattr(load_recipe(write(tmp_path, text)), key)
    assert value == expected
    assert type(value) is type(getattr(TrainRecipe(), key))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr: 0.1", "unknown hyper-parameter 'lr'; did you mean 'lr"),
        ("mosiac: 0.1", "did you mean 'mosaic'?"),
        ("zzzzz: 0.1", "unknown hyper-parameter 'zzzzz'; known keys: lr0, lrf"),
        ("5: 0.1", "unknown hyper-parameter '5'"),
        ("lr0: -0.1", "lr0 is -0.1, expected float from 1e-09 to 10"),
        ("lr0: 0", "lr0 is 0, expected"),
        ("box: -1", "box is -1"),
        ("box: .nan", "box is nan"),
        ("box: .inf", "box is inf"),
        ("box: 'nan'", "box is nan"),
        ("warmup_iterations: .inf", "warmup_iterations is inf, expected int"),
        ("box: heavy", "box is 'heavy', expected a number"),
        ("box: [1, 2]", "box is [1, 2], expected a number"),
        ("box: {a: 1}", "box is {'a': 1}, expected a number"),
        ("box:", "box is None, expected a number"),
        ("box: true", "box is True, expected"),
        (f"box: {10**400}", "is no int: longer than 100 digits"),
        ("mosaic: 1.5", "mosaic is 1.5, expected float from 0 to 1"),
        ("tal_topk: 2.5", "tal_topk is 2.5, expected int from 1 to 1000"),
        ("tal_topk: 0", "tal_topk is 0"),
        ("momentum: 1.01", "momentum is 1.01"),
        ("- box", "expected 'key: value' lines, found list"),
        ("", "expected 'key: value' lines, found NoneType"),
        ("box", "expected 'key: value' lines, found str"),
        ("box: [1\nlr0: 2", "not a YAML file (while parsing a flow sequence"),
    ],
)
def test_a_fault_is_one_line_with_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    assert words in fault(write(tmp_path, text))


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "no such file or preset; presets are default, " in fault(tmp_path / "gone.yaml")
    assert "no such file or preset" in fault(tmp_path)
    path = tmp_path / "bytes.yaml"
    path.write_bytes(b"\xff\xfe\x00box: 1")
    assert "not a YAML file" in fault(path)


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_loads_and_changes_just_what_it_states(name: str) -> None:
    stated = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    assert asdict(load_recipe(name)) == {**asdict(TrainRecipe()), **stated}
    assert load_recipe(name) != TrainRecipe()


def test_override_is_checked_as_a_file_is() -> None:
    assert TrainRecipe().override(label_smoothing="0.1", tal_topk=5) == TrainRecipe(label_smoothing=0.1, tal_topk=5)
    assert TrainRecipe().override() == TrainRecipe()
    with pytest.raises(UserError, match=r"override: label_smoothing is 1, expected float from 0 to 0\.999"):
        TrainRecipe().override(label_smoothing=1)
    with pytest.raises(UserError, match="override: unknown hyper-parameter 'labelsmoothing'; did you mean 'label_smoothing'"):
        TrainRecipe().override(labelsmoothing=0.1)


KEYS = [field.name for field in fields(TrainRecipe)]


@settings(deadline=None, max_examples=examples(200), derandomize=BY_DAY)
@given(
    st.sampled_from(KEYS),
    st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), st.text(max_size=5), st.lists(st.integers(), max_size=2)),
)
def test_any_value_is_taken_as_a_finite_number_or_refused(key: str, value: Any) -> None:
    try:
        taken = getattr(TrainRecipe().override(**{key: value}), key)
    except UserError:
        return
    assert math.isfinite(taken)
    assert taken == float(value)
    assert not isinstance(value, bool)
