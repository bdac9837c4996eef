"""Conversions: every kind of file comes back as the model that it was made from, and what cannot be is refused in a table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import yolov9k
from tests.command_line import run
from tests.compat.models import decoded, randomized
from tests.tolerances import LEAN
from yolov9k.common.errors import UserError
from yolov9k.compat import TARGETS, convert
from yolov9k.compat.convert import forecast
from yolov9k.config import flags
from yolov9k.models import DetectionModel
from yolov9k.models.checkpoints import save
from yolov9k.models.heads.detect import head_name
from yolov9k.models.spec import load_spec

pytestmark = pytest.mark.big
NAMES = ["häuser", "tree", "鳥"]


def model(name: str, groups: int = 4, tower: str = "plain", width: int | None = None) -> DetectionModel:
    spec = load_spec(name)
    branches = spec.branches
    made = DetectionModel(spec.with_head(head_name(branches, groups, tower)), 3, NAMES, [width] * branches if width else None)
    return randomized(made)


def image() -> Tensor:
    return torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))


# What is written and read again: target, network, groups, tower, whether the auxiliary branch stays.
PAIRS = [("published", "yolov9-t", 4, True), ("published", "gelan-t", 4, True), ("published", "gelan-t", 1, True),
         ("ultralytics", "yolov9-t", 4, False), ("ultralytics", "gelan-t", 1, True), ("mit", "yolov9-t", 4, True),
         ("mit", "gelan-t", 4, True), ("libreyolo", "yolov9-t", 4, True), ("libreyolo", "gelan-t", 4, True),
         ("lean", "yolov9-t", 4, False), ("lean", "yolov9-t", 1, False), ("safetensors", "yolov9-t", 1, True)]  # fmt: skip
LARGE = [(target, f"{form}-{size}", 4, target in ("published", "safetensors", "mit") or form == "gelan") for target in TARGETS
         for size in "mce" for form in ("yolov9", "gelan") if not (size == "e" and target in ("mit", "libreyolo"))]  # fmt: skip
TWIN = pytest.param("ultralytics", "gelan-t", 4, True, marks=pytest.mark.twin)


@pytest.mark.parametrize(("target", "name", "groups", "whole"), [TWIN, *PAIRS, *LARGE])
def test_what_is_written_comes_back(target: str, name: str, groups: int, whole: bool, tmp_path: Path) -> None:
    given = model(name, groups)
    given.letterbox = "topleft" if target == "libreyolo" else "center"
    path = tmp_path / f"out{TARGETS[target].suffix or '.pt'}"
    convert(given, path, target)
    found = yolov9k.load(path)
    torch.testing.assert_close(decoded(found, image()), decoded(given, image()), rtol=LEAN, atol=LEAN)
    assert found.head.num_branches == (given.head.num_branches if whole else 1)
    assert found.names == (["0", "1", "2"] if target == "mit" else NAMES)
    assert found.letterbox == given.letterbox
    assert (found.head.groups, found.spec.name) == (
        1 if target == "ultralytics" else groups,
        name if whole else f"gelan-{name[-1]}",
    )
    if whole and groups == found.head.groups:
        own = given.state_dict()
        assert all(torch.equal(value, own[key]) for key, value in found.state_dict().items())


@pytest.mark.parametrize(
    ("target", "groups", "tower", "width", "said"),
    [("mit", 1, "plain", None, "box convolutions dense (1 group): its heads have them in 4 groups"),
     ("libreyolo", 1, "plain", None, "box convolutions dense (1 group)"),
     ("published", 4, "depthwise", None, "class tower depthwise: its heads have plain ones alone"),
     ("mit", 4, "plain", 24, "class branch 24 wide: 64 wide there for 3 classes")],
)  # fmt: skip
def test_what_a_file_cannot_hold_is_refused(
    target: str, groups: int, tower: str, width: int | None, said: str, tmp_path: Path
) -> None:
    given, path = model("gelan-t", groups, tower, width), tmp_path / "out.pt"
    with pytest.raises(UserError, match="cannot be written as") as caught:
        convert(given, path, target, "weights.pt")
    assert str(caught.value).startswith(f"weights.pt: cannot be written as {target}; ")
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_fused_weights_and_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="BatchNorm folded into the convolutions"):
        convert(model("gelan-t").fuse(), tmp_path / "out.pt", "mit")
    with pytest.raises(UserError, match=r"--to safetensors writes a .safetensors file; call it out.safetensors"):
        convert(model("gelan-t"), tmp_path / "out.pt", "safetensors")
    with pytest.raises(UserError, match=r"--to lean writes a .pt file; call it holiday.pt"):
        convert(model("gelan-t"), tmp_path / "holiday.jpg", "lean")
    with pytest.raises(UserError, match=r"there is no folder .*nowhere; make it, or choose another"):
        convert(model("gelan-t"), tmp_path / "nowhere" / "out.pt", "published")


def test_folders_and_the_file_itself_are_not_written_over(tmp_path: Path) -> None:
    source = tmp_path / "in.pt"
    convert(model("yolov9-t"), source, "published")
    before = source.read_bytes()
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        convert(model("yolov9-t"), tmp_path, "lean")
    with pytest.raises(UserError, match="is the file that is converted; choose another"):
        convert(model("yolov9-t"), tmp_path / "." / "in.pt", "lean", source)
    assert source.read_bytes() == before


def test_the_command_says_what_becomes_of_each_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "in.pt", model("yolov9-t"))
    assert run("convert", tmp_path / "in.pt", tmp_path / "out.pt", "--to", "ultralytics") == 0
    told = " ".join(capsys.readouterr().out.split())
    for part in ("auxiliary branch", "left out", "dense, zero outside", "written: "):
        assert part in told
    assert (tmp_path / "out.pt").exists()


@pytest.mark.twin
def test_targets_are_those_of_the_flag() -> None:
    assert set(TARGETS) == set(flags.TARGETS)
    assert [row.part for row in forecast(model("yolov9-t"), "lean")] == ["network", "auxiliary branch"]
