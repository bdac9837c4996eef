"""Errors in a user's model file: each is one line that names the file, the layer and the value."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from tests.models.yaml_cases import BACKBONE, NECK, Write
from yolov9k import create_model, load
from yolov9k.common.errors import UserError


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        create_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:")  # a line may follow
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "text",
    [
        "nn.SiLU(__import__('pathlib').Path({!r}).touch())",
        "__import__('pathlib').Path({!r}).touch()",
        "nn.SiLU() if open({!r}, 'w') else nn.ReLU()",
        "nn.LeakyReLU(**{{'negative_slope': open({!r}, 'w')}})",
        "nn.ReLU(); open({!r}, 'w')",
        "nn.Linear(1, 1)",
        "nn.ReLU(1, 2, 3, 4)",
        "((((",
        "",
        "\0",
    ],
)
def test_activation_that_is_more_than_a_name_is_refused_and_never_executed(write: Write, tmp_path: Path, text: str) -> None:
    trace = tmp_path / "executed"
    message = error_of(write(activation=text.format(str(trace))))
    assert "activation" in message
    assert "known: SiLU, ReLU" in message
    assert not trace.exists()


def test_an_activation_that_is_no_text_is_refused(write: Write) -> None:
    assert "activation 3 is unknown" in error_of(write(activation=3))


def with_row(index: int, row: Any) -> dict[str, Any]:
    return {"backbone": [*BACKBONE[:index], row, *BACKBONE[index + 1 :]]}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([-1, 1, "Convv", [24, 3]], "layer 3 Convv [24, 3]: unknown module; known: Conv, "),
        ([-5, 1, "Conv", [24, 3]], "layer 3 Conv reads -5, expected layers before it"),
        ([3, 1, "Conv", [24, 3]], "layer 3 Conv reads 3,"),
        ([[2, 99], 1, "Concat", [1]], "layer 3 Concat reads [2, 99],"),
        (["x", 1, "Conv", [24, 3]], "layer 3 Conv reads 'x',"),
        (["\n", 1, "Conv", [24, 3]], "layer 3 Conv reads '\\n', expected layers before it"),
        ([-1, 1, "Conv", [24, math.inf]], "layer 3 Conv has the argument inf, expected at most "),
        ([-1, 1, "Conv", [24, math.nan]], "layer 3 Conv has the argument nan, expected at most "),
        ([[], 1, "Concat", [1]], "layer 3 Concat reads [],"),
        ([-1, 1, "ADown", []], "layer 3 ADown []: missing a required argument: 'c2'"),
        ([-1, 1, "ADown", [16, 3, 2]], "layer 3 ADown [16, 3, 2]: too many positional arguments"),
        ([-1, 1, "RepNCSPELAN4", [16, 16]], "layer 3 RepNCSPELAN4 [16, 16]: missing a required argument: 'c4'"),
        ([-1, 1, "nn.Upsample", [1, 2, 3, 4, 5, 6, 7]], "layer 3 nn.Upsample"),
        ([-1, 1, "Conv", ["wide", 3]], "layer 3 Conv ['wide', 3]: "),
        ([-1, 1, "Conv", [-8, 3]], "layer 3 Conv [-8, 3]: width is -8"),
        ([-1, 1, "Conv", [0, 3]], "width is 0"),
        ([-1, 1, "RepConvN", [16, 5]], "RepConvN: kernel must be 3, got 5"),
        ([-1, 1, "Conv", [24, 3, 2, 1, 7]], "layer 3 Conv [24, 3, 2, 1, 7]: "),
        ([-1, 0, "Conv", [24, 3]], "layer 3 Conv has the number 0, expected 1 to 1000"),
        ([-1, "two", "Conv", [24, 3]], "has the number 'two'"),
        ([-1, 2, "nn.Upsample", ["None", 2, "nearest"]], "is asked for 2 times, expected once"),
        ([-1, 1, "Conv"], "layer 3 is [-1, 1, 'Conv'], expected [from, number, module, args]"),
        ([-1, 1, ["Conv"], [24]], "expected [from, number, module, args]"),
        ("Conv", "layer 3 is 'Conv', expected"),
        ([[1, 2], 1, "Conv", [24]], "layer 3 Conv [24]: reads 2 layers, expected one"),
        ([-1, 1, "Concat", [1]], "layer 3 Concat [1]: reads 1 layers, expected several"),
        ([[0, 2], 1, "Concat", [1]], "layer 3 Concat [1] cannot take what layers [0, 2] give: "),
        ([-1, 1, "nn.Upsample", ["None", 2, "sharp"]], "layer 3 nn.Upsample [None, 2, 'sharp'] cannot take"),
        ([-1, 1, "CBLinear", [[16]]], "layer 4 AConv [24]: reads a CBLinear layer, which CBFuse alone can"),
        ([[1, 2], 1, "CBFuse", [[0]]], "adds widths [16] to 16, expected CBLinear layers' outputs"),
        ([[1, 2], 1, "CBFuse", [0]], "expected an index for each"),
        ([-1, 1, "DDetect", ["nc"]], "layer 3 DDetect ['nc'], expected it last"),
        ([-1, 1, "ADown", [16], 5], "expected [from, number, module, args]"),
        ([-1, 1, "Conv", [16, 3]], "reads maps of strides [4, "),
        ([-1, 10**9, "Conv", [16, 3]], "layer 3 Conv has the number 1000000000, expected 1 to 1000"),
        ([-1, 10**99, "Conv", [16, 3]], "has the number 1000000"),
        ([-1, 1, "RepNCSPELAN4", [16, 16, 8, 10**9]], "layer 3 RepNCSPELAN4 [16, 16, 8, 1000000000]: more than 5,000 modules"),
        ([-1, 1, "Conv", [10**9, 3]], "weights"),
        ([-1, 1, "Conv", [16, 10**6]], "weights"),
        ([-1, 1, "Conv", [10**60, 3]], "has the argument 1000000"),
        ([-1, 1, "Conv", [16, 3, float("inf")]], "layer 3 Conv has the argument inf"),
        ([-1, 1, "nn.Upsample", ["None", 10**5, "nearest"]], "the result would be of shape ["),
        ([-1, 1, "x" * 1000, []], "layer 3 is a 'xxx"),
        ([-1, 1, "a\nb", []], "layer 3 is a 'a\\nb', expected a module's name"),
        ([[-1] * 1000, 1, "Conv", ["x" * 1000] * 1000], "layer 3 Conv ['xxx"),
    ],
)
def test_a_wrong_layer_is_one_line_with_file_and_layer(write: Write, row: Any, words: str) -> None:
    assert words in error_of(write(**with_row(3, row)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": None}, "needs the lists 'backbone' and 'head'"),
        ({"head": "DDetect"}, "needs the lists 'backbone' and 'head'"),
        ({"backbone": [], "head": []}, "there are no layers"),
        ({"head": NECK}, "the last layer is ELAN1, expected one of Detect, DDetect"),
        ({"head": [*NECK, [[3, 9, 6], 1, "DDetect", [80]]]}, "layer 10 DDetect [80], expected it last and with [nc] alone"),
        ({"head": [*NECK, [[3, 9], 1, "DDetect", ["nc"]]]}, "1 branches of 3 levels, got 2 inputs"),
        ({"head": [*NECK, [[3, 9, 6], 1, "DualDDetect", ["nc"]]]}, "2 branches of 3 levels, got 3 inputs"),
        ({"head": [*NECK, [[6, 9, 3], 1, "DDetect", ["nc"]]]}, "layer 10 DDetect reads maps of strides [32, 16, 8]"),
        ({"nc": 0}, "nc is 0"),
        ({"nc": "three"}, "nc is 'three'"),
        ({"nc": True}, "nc is True"),
        ({"width_multiple": "wide"}, "width_multiple is 'wide', expected a number above 0"),
        ({"depth_multiple": 0}, "depth_multiple is 0"),
        ({"depth_multiple": float("nan")}, "depth_multiple is nan"),
        ({"width_multipel": 0.5}, "unknown key 'width_multipel'; did you mean 'width_multiple'?"),
        ({"zzz": 1}, "unknown key 'zzz'; known are nc,"),
        ({"nc": 30_000_000}, "nc is 30000000, expected a number of classes from 1 to 100,000"),
        ({"nc": 10**50}, "nc is 1000000"),
        ({"x" * 10**5: 1}, "unknown key 'xxx"),
        ({"activation": "x" * 10**5}, "activation 'xxx"),
        ({"backbone": BACKBONE * 400}, "2,405 layers, expected at most 2,000"),
    ],
)
def test_a_wrong_file_is_one_line(write: Write, changes: dict[str, Any], words: str) -> None:
    assert words in error_of(write(**changes))


def test_what_is_no_model_file_at_all(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert "cannot be read (No such file or directory)" in error_of(path)
    for text, words in (("- 1\n", "needs the lists"), ("", "needs the lists"), ("a: [1\nb: 2", "not a YAML file (")):
        path.write_text(text)
        assert words in error_of(path)
    path.write_bytes(b"\xff\xfe\x00backbone")
    assert "not a YAML file" in error_of(path)
    path.unlink()
    path.mkdir()
    assert "cannot be read (Is a directory)" in error_of(path)
    with pytest.raises(UserError, match=r"model yolov9-x: unknown; give a \.yaml file or one of yolov9-t"):
        create_model("yolov9-x")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("yolov9c", "yolov9-c"),
        ("v9-c", "yolov9-c"),
        ("YOLOv9-C", "yolov9-c"),
        ("yolo9-t", "yolov9-t"),
        ("LibreYOLO9s", "yolov9-s"),
        ("yolov9_m", "yolov9-m"),
        ("gelan_e", "gelan-e"),
        ("yollov9-t", "yolov9-t"),
        ("yolov8-n", ""),
        ("yolov9-x", ""),
        ("c", ""),
    ],
)
def test_mistyped_names_of_models(name: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = f"did you mean '{meant}'?" if meant else "give a .yaml file or one of "
    with pytest.raises(UserError, match="^" + re.escape(f"model {name}: unknown; {wanted}")):
        create_model(name)
    wanted = f"no such file; did you mean '{meant}'?" if meant else "cannot be read (No such file"
    with pytest.raises(UserError, match="^" + re.escape(f"{name}.yaml: {wanted}")):
        create_model(f"{name}.yaml")
    wanted = f"; 'yolov9k download {meant}' fetches published weights" if meant else ""
    with pytest.raises(UserError, match=re.escape(f"no such checkpoint{wanted}") + "$"):
        load(f"weights/{name}.pt")
