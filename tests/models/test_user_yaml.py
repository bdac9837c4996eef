"""Models from a user's YAML file of the published format: what it may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.yaml_cases import BACKBONE, NECK, S_BACKBONE, S_HEADS, Write
from tests.tiers import slow_case
from yolov9k import create_model
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine.train.setup import make_criterion
from yolov9k.models import DetectionModel
from yolov9k.models.blocks import Conv, RepConvN
from yolov9k.models.spec import ModelSpec, load_spec
from yolov9k.models.tables import NAMES


def widths(model: DetectionModel) -> list[int]:
    """Output widths of the plain convolutions among the layers."""
    return [layer.conv.out_channels for layer in model.model if isinstance(layer, Conv)]


def test_classes_come_from_the_file_unless_given(write: Write) -> None:
    path = write()
    assert create_model(path).num_classes == 3
    assert create_model(path, 5).eval()(torch.rand(1, 3, 64, 64)).shape == (1, 4 + 5, 84)
    assert create_model(write(nc=None)).num_classes == 80
    assert create_model("gelan-t").num_classes == 80


@pytest.mark.parametrize(
    ("multiple", "expected"), [(1.0, [8, 16, 32]), (0.5, [8, 8, 16]), (1.1, [16, 24, 40]), (0.01, [8] * 3)]
)
def test_width_multiple_rounds_up_to_eights(write: Write, multiple: float, expected: list[int]) -> None:
    model = create_model(write(width_multiple=multiple))
    assert widths(model) == expected
    assert model.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 7, 84)


def test_width_multiple_leaves_inner_widths_and_upsampling_alone(write: Write) -> None:
    layers = load_spec(write(width_multiple=0.5)).layers
    assert layers[2].args == (8.0, 16, 8, 1)
    assert layers[7].args == (None, 2, "nearest")
    assert layers[8].args == (1,)
    sized = [*NECK[:1], [-1, 1, "nn.Upsample", [4]], *NECK[2:], [[3, 9, 6], 1, "DDetect", ["nc"]]]
    assert load_spec(write(width_multiple=0.5, head=sized)).layers[7].args == (4,)


@pytest.mark.parametrize(
    ("number", "multiple", "expected"), [(3, 1.0, 3), (3, 0.33, 1), (3, 0.67, 2), (1, 3.0, 1), (4, 0.01, 1)]
)
def test_depth_multiple_scales_repeats_above_one(write: Write, number: int, multiple: float, expected: int) -> None:
    rows = [*BACKBONE[:2], [-1, number, "Conv", [24, 3]], *BACKBONE[3:]]
    layer = create_model(write(backbone=rows, depth_multiple=multiple)).model[2]
    chain = list(layer) if isinstance(layer, nn.Sequential) else [layer]
    assert [(c.conv.in_channels, c.conv.out_channels) for c in chain] == [(16, 24), (24, 24), (24, 24)][:expected]


@pytest.mark.parametrize(
    ("text", "kind", "slope"),
    [
        ("nn.ReLU()", nn.ReLU, None),
        ("torch.nn.LeakyReLU(0.1)", nn.LeakyReLU, 0.1),
        ("LeakyReLU(negative_slope=0.2, inplace=True)", nn.LeakyReLU, 0.2),
        ("nn.SiLU(inplace=True)", nn.SiLU, None),
        ("nn.Hardswish", nn.Hardswish, None),
    ],
)
def test_activation_is_replaced_everywhere(write: Write, text: str, kind: type[nn.Module], slope: float | None) -> None:
    model = create_model(write(activation=text))
    inner = {id(m.conv1) for m in model.modules() if isinstance(m, RepConvN)}
    inner |= {id(m.conv2) for m in model.modules() if isinstance(m, RepConvN)}
    acts = [m.act for m in model.modules() if isinstance(m, (Conv, RepConvN)) and id(m) not in inner]
    assert len(acts) > 20
    assert {type(act) for act in acts} == {kind}
    assert {getattr(act, "negative_slope", None) for act in acts} == {slope}
    total, _ = make_criterion(model, TrainRecipe())(model.train()(torch.rand(2, 3, 64, 64)), torch.zeros(0, 6))
    total.backward()
    assert model.model[0].conv.weight.grad.isfinite().all()


def test_a_variants_name_with_yaml_is_the_variant_where_no_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_spec("gelan-t.yaml") == load_spec("gelan-t")


def written_out(spec: ModelSpec) -> dict[str, Any]:
    """A plan as a user's file may have it: relative numbers for the layer before, None as text."""
    rows = []
    for i, layer in enumerate(spec.layers):
        sources = [-1 if s == i - 1 else s for s in layer.sources]
        args = ["None" if arg is None else arg for arg in layer.args]
        rows.append([sources if len(sources) > 1 else sources[0], layer.repeats, layer.module, args])
    return {"nc": spec.num_classes, "depth_multiple": 1.0, "width_multiple": 1.0, "backbone": rows[:9], "head": rows[9:]}


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_can_be_written_as_a_file(write: Write, name: str) -> None:
    spec = load_spec(name)
    found = load_spec(write(**written_out(spec)))
    assert (found.layers, found.activation, found.num_classes) == (spec.layers, "SiLU", 80)


@pytest.mark.parametrize(("name", "branches"), [("yolov9-s", 2), slow_case("gelan-s", 1)])
def test_a_file_with_the_layers_of_s_gives_its_tensors(write: Write, name: str, branches: int) -> None:
    """Widths twice those of s, halved by the multiple; an ELAN's inner widths are not scaled."""
    path = write(backbone=S_BACKBONE, head=S_HEADS[name], width_multiple=0.5, nc=80)
    shapes = []
    for source in (path, name):
        with torch.device("meta"):
            model = create_model(source)
        shapes.append({key: tuple(value.shape) for key, value in model.state_dict().items()})
    assert list(shapes[0].items()) == list(shapes[1].items())
    assert f"model.{len(S_BACKBONE) + len(S_HEADS[name]) - 1}.dfl{branches if branches > 1 else ''}.conv.weight" in shapes[0]


def test_keys_are_the_layers_numbers_and_the_blocks_names(write: Write) -> None:
    rows = [*BACKBONE[:2], [-1, 2, "Conv", [24, 3]], *BACKBONE[3:]]
    keys = list(create_model(write(backbone=rows)).state_dict())
    assert keys[:2] == ["model.0.conv.weight", "model.0.bn.weight"]
    assert [key for key in keys if key.startswith("model.2.") and "conv" in key] == [
        "model.2.0.conv.weight", "model.2.1.conv.weight"
    ]  # fmt: skip
    assert [key for key in keys if key.startswith("model.9.") and "conv" in key] == [
        f"model.9.cv{i}.conv.weight" for i in (1, 2, 3, 4)
    ]
    assert not any(key.startswith(("model.7.", "model.8.")) for key in keys)
    assert {key.split(".")[2] for key in keys if key.startswith("model.10.")} == {"cv2", "cv3", "dfl"}


def test_a_layer_that_nothing_reads_does_not_run_but_stays_in_the_plan(write: Write) -> None:
    """A single branch has nothing to drop: numbers, and with them a checkpoint's keys, stay."""
    path = write(head=[*NECK, [2, 1, "Conv", [8]], [[3, 9, 6], 1, "DDetect", ["nc"]]])
    model = create_model(path).eval()
    model.model[10].forward = None  # type: ignore[assignment]
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 7, 84)
    assert len(model.to_lean().spec.layers) == len(model.spec.layers)
