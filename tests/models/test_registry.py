"""Blocks and heads declare themselves: one that nobody else knows is built, run, counted, saved and loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

import yolov9k
from yolov9k import create_model
from yolov9k.common.errors import UserError
from yolov9k.models import registry
from yolov9k.models.analysis import step_cost, summary
from yolov9k.models.checkpoints import save
from yolov9k.models.heads.detect import Detect
from yolov9k.models.registry import register_block, register_head


@pytest.fixture
def throwaway() -> Iterator[None]:
    """A block of stride 2 and a head of one branch, known for the time of a test."""

    @register_block("Patchify", pace=lambda args: 2.0)
    class Patchify(nn.Module):
        def __init__(self, c1: int, c2: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(c1, c2, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    @register_head("HalfDetect")
    class HalfDetect(Detect):
        def __init__(self, num_classes: int, channels: Sequence[int], class_widths: Sequence[int] | None = None) -> None:
            super().__init__(num_classes, channels, groups=2, class_widths=class_widths)

    yield
    for name in ("Patchify", "HalfDetect"):
        registry.unregister(name)


def table(tmp_path: Path, head: str = "HalfDetect", block: str = "Patchify") -> Path:
    rows = [[-1, 1, block, [8]] for _ in range(5)]
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"nc": 3, "backbone": rows, "head": [[[2, 3, 4], 1, head, ["nc"]]]}))
    return path


@pytest.mark.usefixtures("throwaway")
def test_a_block_and_a_head_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)  # BatchNorm's fold rounds coordinates of some weights by more than the last place
    model = create_model(table(tmp_path))
    assert model.spec.strides()[:5] == [2, 4, 8, 16, 32]
    assert model.head.task == "detect"
    branches = model.train()(torch.rand(2, 3, 64, 64))
    assert [tuple(level.shape) for level in branches[0]] == [(2, 67, 8, 8), (2, 67, 4, 4), (2, 67, 2, 2)]
    parameters, gflops = summary.cost(model, 64)
    assert parameters == sum(p.numel() for p in model.parameters())
    assert gflops > 0
    assert "Patchify" in {row.module for row in summary.layer_costs(model, 64)}
    assert step_cost.cost_table(model, img_size=64).row_count > 0
    save(tmp_path / "own.pt", model)
    again = yolov9k.load(tmp_path / "own.pt")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x))
        assert torch.equal(model.to_lean()(x), model(x))
        torch.testing.assert_close(model.fuse()(x), model(x))


def test_what_is_not_registered_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"own.yaml: layer 0 Patchify \[8\]: unknown module; known: Conv, .*TripleDDetect"):
        create_model(table(tmp_path, head="DDetect"))


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="a block named 'Conv' is registered already"):
        register_block("Conv")(nn.Identity)
    with pytest.raises(ValueError, match="Conv is no head; heads are Detect, DDetect"):
        registry.find_head("Conv")


def test_no_other_file_knows_a_block_by_name() -> None:
    """The string cases that a new block would have to be added to."""
    folder = Path(yolov9k.__file__).parent / "models"
    names = [name for name in registry._KINDS if name not in ("Conv", "Detect")]  # which are classes that others import
    for file in (
        "spec.py",
        "yaml_spec.py",
        "build.py",
        "yolov9.py",
        "checkpoints.py",
        "analysis/summary.py",
        "analysis/step_cost.py",
    ):
        text = (folder / file).read_text(encoding="utf-8")
        assert [name for name in names if f'"{name}"' in text] == [], file
