"""Starting a training from weights of another form, head or number of classes: what is trained stays, what is not is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import yolov9k
from tests.compat.models import decoded, randomized
from tests.tiers import slow_case
from tests.tolerances import LEAN
from yolov9k.common.errors import UserError
from yolov9k.compat import load_weights
from yolov9k.models import DetectionModel, create_model
from yolov9k.models.checkpoints import save
from yolov9k.models.heads.detect import head_name
from yolov9k.models.spec import load_spec


@pytest.mark.parametrize("plain", [False, slow_case(True)])
@pytest.mark.parametrize("size", ["t", pytest.param("c", marks=pytest.mark.big), pytest.param("e", marks=pytest.mark.big)])
def test_lean_and_dual_forms_keep_the_trained_head(
    size: str, plain: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Layers of c are shifted by one; files of ours and plain tables alike."""
    x = torch.rand(1, 3, 64, 64)
    dual = randomized(create_model(f"yolov9-{size}", 3))
    path = tmp_path / "dual.pt"
    torch.save(dual.state_dict(), path) if plain else save(path, dual)
    lean = create_model(f"gelan-{size}", 3)
    assert load_weights(lean, path) == []
    torch.testing.assert_close(decoded(lean, x), decoded(dual, x), rtol=LEAN, atol=LEAN)
    head = len(dual.spec.layers) - 1
    first = {"t": 22, "c": 23, "e": 29}[size]
    assert f"left out, as the model has no place for it: model.{first}, " in " ".join(capsys.readouterr().err.split())

    path = tmp_path / "lean.pt"
    torch.save(lean.state_dict(), path) if plain else save(path, lean)
    again = create_model(f"yolov9-{size}", 3)
    fresh = load_weights(again, path)
    torch.testing.assert_close(decoded(again, x), decoded(dual, x), rtol=LEAN, atol=LEAN)
    auxiliary = {key for key in again.state_dict() if key.startswith(f"model.{head}.cv2.")}
    assert auxiliary < set(fresh)
    assert not [key for key in fresh if key.startswith((f"model.{head}.cv4.", f"model.{head}.cv5.", "model.1."))]
    assert "which start with fresh weights" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize(("groups", "tower"), [(1, "plain"), (1, "depthwise")])
def test_the_head_takes_the_form_that_it_has_in_the_file(
    groups: int, tower: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = load_spec("gelan-t").with_head(head_name(1, groups, tower))
    given = randomized(DetectionModel(spec, 3, class_widths=[24]))
    torch.save(given.state_dict(), tmp_path / "dense.pt")
    x = torch.rand(1, 3, 64, 64)
    for name in ("gelan-t", "yolov9-t"):
        model = create_model(name, 3)
        load_weights(model, tmp_path / "dense.pt")
        torch.testing.assert_close(decoded(model, x), decoded(given, x), rtol=LEAN, atol=LEAN)
        assert (model.head.groups, model.head.class_tower) == (groups, tower)
        assert model.spec.layers[-1].module == head_name(model.head.num_branches, groups, tower)
        save(tmp_path / "again.pt", model)
        assert torch.equal(decoded(yolov9k.load(tmp_path / "again.pt"), x), decoded(model, x))
        assert f"box convolutions of {groups} groups and {tower} class towers" in capsys.readouterr().err


def test_layers_of_another_number_of_classes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(create_model("gelan-t", 5).state_dict(), tmp_path / "five.pt")
    fresh = load_weights(create_model("gelan-t", 3), tmp_path / "five.pt")
    assert len(fresh) == 6
    told = capsys.readouterr().err
    assert "left out, as it is of another shape in the model" in " ".join(told.split())
    assert "model.22.cv3.0.2, model.22.cv3.1.2, model.22.cv3.2.2" in " ".join(told.split())


def test_a_fused_file_is_nothing_to_train_from(tmp_path: Path) -> None:
    save(tmp_path / "fused.pt", create_model("gelan-t", 3).fuse())
    with pytest.raises(UserError, match="is fused for inference, without BatchNorm; train from the weights"):
        load_weights(create_model("gelan-t", 3), tmp_path / "fused.pt")
