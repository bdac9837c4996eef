"""A key that stands twice is refused with its line: which of the two counts is another tool's choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data_cases import BOX, write_yolo
from yolov9k.common.errors import UserError
from yolov9k.common.text import read_json, read_yaml
from yolov9k.config.recipe import load_recipe
from yolov9k.data.config import load_split


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 2\n", ":3: not a YAML file (key 'a' stands twice, first in line 1)"),
        ("names: {0: cat, 1: dog, 1: bird}\n", ":1: not a YAML file (key 1 stands twice, first in line 1)"),
        ("x:\n- {p: 1}\n- p: 1\n  q:\n    'r': 1\n    r: 2\n", ":6: not a YAML file (key 'r' stands twice, first in line 5)"),
        ("1: a\n0x1: b\n", ":2: not a YAML file (key 1 stands twice"),
        ("1: a\n1.0: b\n", ":2: not a YAML file (key 1.0 stands twice"),
        ("yes: a\nTrue: b\n", ":2: not a YAML file (key True stands twice"),
        ("? a\n: 1\n? a\n: 2\n", ":3: not a YAML file (key 'a' stands twice"),
        ("&k a: 1\n*k : 2\n", ":1: not a YAML file (key 'a' stands twice"),  # an alias has no line of its own
    ],
)
def test_yaml(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}{words}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("base: &b {x: 1, y: 2}\nmore: {<<: *b, x: 3}\n", {"base": {"x": 1, "y": 2}, "more": {"x": 3, "y": 2}}),
        ("a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: [*a, *b], x: 3}\nd: *b\n", None),
        ("a: {x: 1}\nb: {x: 1}\n'1': p\n1: q\n", None),
        ("- a\n- a\n", ["a", "a"]),
    ],
)
def test_what_is_put_together_by_merges_is_no_repeat(tmp_path: Path, text: str, content: Any) -> None:
    (tmp_path / "x.yaml").write_text(text)
    read = read_yaml(tmp_path / "x.yaml")
    assert content is None or read == content


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "c": 0, "a": 1}}]'])
def test_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json: not valid JSON \(key 'a' stands twice in \{"):
        read_json(tmp_path / "x.json")


def test_every_yaml_and_json_that_a_user_hands_over(tmp_path: Path) -> None:
    data = write_yolo(tmp_path, {"a": BOX})
    data.write_text("train: images\nval: images\nval: images\nnames: [x]\n")
    recipe, table = tmp_path / "h.yaml", tmp_path / "m.yaml"
    recipe.write_text("lr0: 0.01\nmosaic: 0.0\nlr0: 0.1\n")
    table.write_text("nc: 2\nnc: 3\nbackbone: []\nhead: []\n")
    coco = tmp_path / "c.json"
    coco.write_text(json.dumps({"images": [], "categories": [{"id": 1, "name": "x"}]})[:-1] + ', "images": []}')
    from yolov9k.models.spec import load_spec

    reads = [(load_split, (data, "train")), (load_recipe, (recipe,)), (load_spec, (str(table),)), (load_split, (coco, "train"))]
    for read, arguments in reads:
        with pytest.raises(UserError, match="stands twice"):
            read(*arguments)  # type: ignore[operator]
