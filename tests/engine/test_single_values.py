"""A batch of one image of one cell is refused before the first step: BatchNorm has no variance of a single value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.engine_cases import TINY
from yolov9k.common.errors import UserError
from yolov9k.config.command_options import ProfileOptions
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.synthetic import generate
from yolov9k.engine.profile.profiler import run_profile
from yolov9k.engine.train.trainer import Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("single") / "data", train=5, val=1, size=64)


def trainer(data: Path, folder: Path, **changes: Any) -> Trainer:
    (folder / "tiny.yaml").write_text(TINY)
    options: dict[str, Any] = {
        "data": str(data), "cfg": str(folder / "tiny.yaml"), "img": 32, "epochs": 1, "device": "cpu", "workers": 0,
        "project": str(folder / "runs"), "noplots": True, **changes,
    }  # fmt: skip
    return Trainer(TrainOptions(**options), Console(quiet=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 1}, "a batch of 1 image of 32 px"),
        ({"batch": 4}, "a batch of 1 image left over of 5 of 32 px"),
        ({"batch": 1, "img": 64, "multi_scale": True}, "a batch of 1 image of 32 px"),
    ],
)
def test_one_value_a_channel_is_refused(data: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^--img: {message} gives BatchNorm one value a channel; give an --img above 32"):
        trainer(data, tmp_path, **changes)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("changes", [{"batch": 5}, {"batch": 3}, {"batch": 1, "img": 64}, {"batch": 4, "img": 64}])
def test_two_values_train(data: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    trainer(data, tmp_path, **changes).fit()


def test_profile_refuses_it_too(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    with pytest.raises(UserError, match="gives BatchNorm one value a channel"):
        run_profile(
            ProfileOptions(cfg=str(tmp_path / "tiny.yaml"), batch=1, img=32, device="cpu", project=str(tmp_path / "runs"))
        )
    assert not (tmp_path / "runs").exists()
