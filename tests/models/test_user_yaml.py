"""Models from a user's YAML file of the published format: what it may say, and the one line that each error gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from tests.tolerances import FUSED, LEAN
from yolov9k import create_model
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine.train.trainer import make_criterion
from yolov9k.models import YOLOv9
from yolov9k.models.blocks import Conv, RepConvN
from yolov9k.models.spec import ModelSpec, load_spec
from yolov9k.models.tables import NAMES

Row = list[Any]
# Layers 3, 4, 5 have strides 8, 16, 32; 9 and 10 fuse them.
BACKBONE: list[Row] = [
    [-1, 1, "Conv", [8, 3, 2]],
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "RepNCSPELAN4", [16, 16, 8, 1]],
    [-1, 1, "ADown", [16]],
    [-1, 1, "AConv", [24]],
    [-1, 1, "Conv", [32, 3, 2]],
]
NECK: list[Row] = [
    [-1, 1, "SPPELAN", [32, 16]],
    [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
    [[-1, 4], 1, "Concat", [1]],
    [-1, 1, "ELAN1", [24, 16, 8]],
]
# The layers of yolov9-s, widths doubled.
S_BACKBONE: list[Row] = [
    [-1, 1, "Conv", [64, 3, 2]],
    [-1, 1, "Conv", [128, 3, 2]],
    [-1, 1, "ELAN1", [128, 64, 32]],
    [-1, 1, "AConv", [256]],
    [-1, 1, "RepNCSPELAN4", [256, 128, 64, 3]],
    [-1, 1, "AConv", [384]],
    [-1, 1, "RepNCSPELAN4", [384, 192, 96, 3]],
    [-1, 1, "AConv", [512]],
    [-1, 1, "RepNCSPELAN4", [512, 256, 128, 3]],
]


def s_top_down(first: int) -> list[Row]:
    return [
        [first, 1, "SPPELAN", [512, 128]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 6], 1, "Concat", [1]],
        [-1, 1, "RepNCSPELAN4", [384, 192, 96, 3]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 4], 1, "Concat", [1]],
        [-1, 1, "RepNCSPELAN4", [256, 128, 64, 3]],
    ]


S_NECK: list[Row] = [
    *s_top_down(-1),
    [-1, 1, "AConv", [192]],
    [[-1, 12], 1, "Concat", [1]],
    [-1, 1, "RepNCSPELAN4", [384, 192, 96, 3]],
    [-1, 1, "AConv", [256]],
    [[-1, 9], 1, "Concat", [1]],
    [-1, 1, "RepNCSPELAN4", [512, 256, 128, 3]],
]
S_HEADS: dict[str, list[Row]] = {
    "gelan-s": [*S_NECK, [[15, 18, 21], 1, "DDetect", ["nc"]]],
    "yolov9-s": [*S_NECK, *s_top_down(8), [[28, 25, 22, 15, 18, 21], 1, "DualDDetect", ["nc"]]],
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a model file: the small one above with a single branch, but for the keys given."""

    def written(**changes: Any) -> Path:
        table = {"nc": 3, "backbone": BACKBONE, "head": [*NECK, [[3, 9, 6], 1, "DDetect", ["nc"]]], **changes}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in table.items() if value is not None}))
        return path

    return written


def randomized(model: YOLOv9) -> YOLOv9:
    """Running statistics and biases away from their start, so that folding and dropping could go wrong."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                assert tensor is not None
                tensor.data.uniform_(-0.3, 0.3, generator=generator)
            for tensor in (module.running_var, module.weight):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def fault(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        create_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:")  # a line may follow
    assert "\n" not in message
    return message


def widths(model: YOLOv9) -> list[int]:
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
    message = fault(write(activation=text.format(str(trace))))
    assert "activation" in message
    assert "known: SiLU, ReLU" in message
    assert not trace.exists()


def test_an_activation_that_is_no_text_is_refused(write: Write) -> None:
    assert "activation 3 is unknown" in fault(write(activation=3))


def with_row(index: int, row: Any) -> dict[str, Any]:
    return {"backbone": [*BACKBONE[:index], row, *BACKBONE[index + 1 :]]}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([-1, 1, "Convv", [24, 3]], "layer 3 Convv [24, 3]: unknown module; known: Conv, "),
        ([-5, 1, "Conv", [24, 3]], "layer 3 Conv reads -5, expected layers before it"),
        ([3, 1, "Conv", [24, 3]], "layer 3 Conv reads 3,"),
        ([[2, 99], 1, "Concat", [1]], "layer 3 Concat reads [2, 99],"),
        (["x", 1, "Conv", [24, 3]], "layer 3 Conv reads x,"),
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
        ([-1, 0, "Conv", [24, 3]], "layer 3 Conv has the number 0, expected 1 or more"),
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
    ],
)
def test_a_faulty_layer_is_one_line_with_file_and_layer(write: Write, row: Any, words: str) -> None:
    assert words in fault(write(**with_row(3, row)))


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
    ],
)
def test_a_faulty_file_is_one_line(write: Write, changes: dict[str, Any], words: str) -> None:
    assert words in fault(write(**changes))


def test_what_is_no_model_file_at_all(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert "cannot be read (No such file or directory)" in fault(path)
    for text, words in (("- 1\n", "needs the lists"), ("", "needs the lists"), ("a: [1\nb: 2", "not a YAML file (")):
        path.write_text(text)
        assert words in fault(path)
    path.write_bytes(b"\xff\xfe\x00backbone")
    assert "not a YAML file" in fault(path)
    path.unlink()
    path.mkdir()
    assert "cannot be read (Is a directory)" in fault(path)
    with pytest.raises(UserError, match=r"model yolov9-x: unknown; give a \.yaml file or one of yolov9-t"):
        create_model("yolov9-x")


def test_a_variants_name_with_yaml_is_the_variant_where_no_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_spec("gelan-t.yaml") == load_spec("gelan-t")


HEADS = {"DDetect": 1, "Detect": 1, "DualDDetect": 2, "DualDetect": 2, "TripleDDetect": 3, "TripleDetect": 3}


@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains_with_the_loss(write: Write, head: str) -> None:
    """Auxiliary branches straight from the backbone and, the third, one convolution further."""
    torch.manual_seed(0)
    extra = [[3, 1, "Conv", [8]], [4, 1, "Conv", [16]], [5, 1, "Conv", [24]]]
    sources = [*[10, 11, 12, 3, 4, 5][6 - 3 * (HEADS[head] - 1) :], 3, 9, 6]
    model = create_model(write(head=[*NECK, *extra, [sources, 1, head, ["nc"]]])).train()
    branches = model(torch.rand(2, 3, 64, 64))
    assert [[tuple(level.shape) for level in branch] for branch in branches] == [
        [(2, 67, 8, 8), (2, 67, 4, 4), (2, 67, 2, 2)]
    ] * HEADS[head]
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.6], [1, 2, 0.3, 0.6, 0.2, 0.2]])
    total, parts = make_criterion(model, TrainRecipe())(branches, targets)
    total.backward()
    assert float(parts.min()) > 0
    silent = [name for name, p in model.model[-1].named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []
    groups = 4 if "DD" in head else 1
    assert model.head.towers(0)[0][0][1].conv.groups == groups


# Main branch 3, 9, 6 unless said; auxiliary layers before, between and after, fed by the image, by each other, by
# CBLinear, and by layers of the main branch. Each: rows of the backbone and head, and the numbers that must go.
UNUSUAL: dict[str, tuple[list[Row], list[Row], set[int]]] = {
    "before the backbone": (
        [
            [-1, 1, "Silence", []],
            [0, 1, "Conv", [8, 3, 2]],
            [-1, 2, "Conv", [8, 3, 2]],
            [-1, 1, "AConv", [8]],
            [0, 1, "Conv", [8, 3, 2]],
            [-1, 1, "Conv", [8, 3, 2]],
            [-1, 1, "ADown", [16]],
            [-1, 1, "ADown", [16]],
            [-1, 1, "ADown", [16]],
        ],
        [[[2, 3, 8, 6, 7, 8], 1, "DualDDetect", ["nc"]]],
        {0, 1, 2, 3},
    ),
    "woven in": (
        [
            [-1, 1, "Conv", [8, 3, 2]],
            [-2, 1, "Conv", [8, 3, 4]],
            [0, 1, "Conv", [16, 3, 2]],
            [1, 1, "AConv", [16]],
            [2, 1, "AConv", [16]],
            [3, 1, "Conv", [16, 3, 2]],
            [4, 1, "AConv", [16]],
            [[5, 6], 1, "Concat", [1]],
            [6, 1, "AConv", [16]],
            [[8, 8], 1, "Concat", [1]],
        ],
        [[[3, 7, 9, 4, 6, 8], 1, "DualDetect", ["nc"]]],
        {1, 3, 5, 7, 9},
    ),
    "through CBLinear, pass-through read by both": (
        [[-1, 1, "Silence", []], *BACKBONE],
        [
            [4, 1, "CBLinear", [[8]]],
            [6, 1, "CBLinear", [[8, 16]]],
            [0, 1, "Conv", [8, 3, 8]],
            [[7, 8, -1], 1, "CBFuse", [[0, 0]]],
            [-1, 1, "Conv", [16, 3, 2]],
            [[8, -1], 1, "CBFuse", [[1]]],
            [-1, 1, "Conv", [16, 3, 2]],
            [[10, 12, 13, 4, 5, 6], 1, "DualDDetect", ["nc"]],
        ],
        {0, 7, 8, 9, 10, 11, 12, 13},
    ),
    "three branches that share layers, one unread layer": (
        BACKBONE,
        [
            *NECK,
            [3, 1, "Conv", [16]],
            [9, 1, "ELAN1", [16, 16, 8]],
            [2, 1, "Conv", [8]],
            [[10, 4, 5, 3, 11, 6, 3, 9, 6], 1, "TripleDDetect", ["nc"]],
        ],
        {10, 11, 12},
    ),
    "a pass-through that the main branch reads twice stays": (
        [
            [-1, 1, "Silence", []],
            [0, 1, "Conv", [8, 3, 8]],
            [0, 1, "Conv", [8, 3, 8]],
            [[1, 2], 1, "Concat", [1]],
            [-1, 1, "Conv", [16, 3, 2]],
            [-1, 1, "Conv", [16, 3, 2]],
        ],
        [[3, 1, "Conv", [8]], [[6, 4, 5, 3, 4, 5], 1, "DualDDetect", ["nc"]]],
        {6},
    ),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_lean_drops_what_the_main_branch_does_not_read_and_nothing_else(write: Write, case: str) -> None:
    torch.manual_seed(1)
    backbone, head, gone = UNUSUAL[case]
    model = randomized(create_model(write(backbone=backbone, head=head)))
    lean = model.to_lean()
    kept = [layer.module for i, layer in enumerate(model.spec.layers[:-1]) if i not in gone]
    assert [layer.module for layer in lean.spec.layers[:-1]] == kept
    assert lean.head.num_branches == 1
    x = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        wanted = model.decode(model.branches(x)[-1])
        assert torch.equal(model(x), wanted)
        torch.testing.assert_close(lean(x), wanted, rtol=LEAN, atol=LEAN)
    assert lean.num_classes == 3
    assert lean.to_lean().spec == lean.spec


@pytest.mark.parametrize("activation", [None, "nn.LeakyReLU(0.1)"])
@pytest.mark.parametrize("case", UNUSUAL)
def test_fused_equals_unfused(write: Write, case: str, activation: str | None) -> None:
    torch.manual_seed(2)
    backbone, head, _ = UNUSUAL[case]
    model = randomized(create_model(write(backbone=backbone, head=head, activation=activation))).double()
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(x)
        for twin in (model.fuse(), model.to_lean().fuse(), model.fuse().to_lean()):
            assert not any(isinstance(module, nn.BatchNorm2d) for module in twin.modules())
            torch.testing.assert_close(twin(x), wanted, rtol=FUSED, atol=FUSED)


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


@pytest.mark.parametrize(("name", "branches"), [("yolov9-s", 2), ("gelan-s", 1)])
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
