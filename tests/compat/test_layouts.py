"""Checkpoints of each implementation, as their files name things, against what their own code computed of the same weights."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import yolov9k
from tests.compat import peer_files
from tests.plan_cases import use_plain_kernels
from tests.support import shared
from tests.tolerances import FORWARD, LIBREYOLO
from yolov9k.compat.loading import recognized
from yolov9k.models import DetectionModel, create_model
from yolov9k.models.block import Block
from yolov9k.models.heads.detect import head_name
from yolov9k.models.tables import NAMES

pytestmark = pytest.mark.big


def relative(found: Tensor, wanted: np.ndarray) -> float:
    return float(np.abs(found.detach().numpy() - wanted).max() / np.abs(wanted).max())


def saved(folder: Path, content: dict[str, Any], suffix: str = ".pt") -> Path:
    path = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def exact(model: DetectionModel) -> DetectionModel:
    """The model in float64, each BatchNorm checked to be theirs."""
    assert {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-3}
    return model.double().eval()


def both_ways(model: DetectionModel, patch: pytest.MonkeyPatch) -> list[list[list[Tensor]]]:
    """Raw maps of all branches, by the blocks' definitions and by their plans."""
    x = peer_files.image()
    with torch.no_grad():
        plain = model.branches(x)
        use_plain_kernels(patch)
        for module in model.modules():
            if isinstance(module, Block):
                module.backend = "triton"
        return [plain, model.branches(x)]


CASES = [("published", "yolov9-t"), ("published", "yolov9-c"), ("published", "gelan-t"), ("published", "gelan-c"),
         ("ultralytics", "t"), ("ultralytics", "c"), ("ultralytics", "t-depthwise")]  # fmt: skip


@pytest.mark.parametrize(
    ("peer", "variant"), [pytest.param(*case, marks=pytest.mark.twin) if case[1] == "t-depthwise" else case for case in CASES]
)
def test_numbered_files_equal_theirs(peer: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = exact(yolov9k.load(saved(tmp_path, peer_files.state_dict(peer, variant))))
    name = f"published-{variant.removeprefix('yolov9-')}" if peer == "published" else f"{peer}-{variant}"
    golden = np.load(shared(f"compat/fixtures/{name}.npz"))
    wanted = [golden[key] for key in ("aux_decoded", "main_decoded", "decoded") if key in golden.files]
    for branches in both_ways(model, monkeypatch):
        assert len(branches) == len(wanted)
        for maps, their in zip(branches, wanted, strict=True):
            assert relative(model.decode(maps), their) < FORWARD
    assert model.names == [str(i) for i in range(80)]


@pytest.mark.parametrize("variant", [pytest.param("t", marks=pytest.mark.twin), "c"])
def test_mit_files_equal_theirs(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, peer_files.lightning_content(variant, average=True), ".ckpt")
    model = exact(yolov9k.load(path))
    golden = np.load(shared(f"compat/fixtures/mit-{variant}.npz"))
    for branches in both_ways(model, monkeypatch):
        for branch, name in zip(branches, ("AUX", "Main"), strict=True):
            for i, level in enumerate(branch):
                bins = level[:, :64].unflatten(1, (4, 16)).transpose(1, 2)
                assert relative(bins, golden[f"{name}_{i}_anchor"]) < FORWARD
                assert relative(level[:, 64:], golden[f"{name}_{i}_class"]) < FORWARD
                sides = (bins.softmax(1) * torch.arange(16.0).view(1, 16, 1, 1, 1)).sum(1)
                assert relative(sides, golden[f"{name}_{i}_vector"]) < FORWARD


@pytest.mark.parametrize("variant", [pytest.param("t", marks=pytest.mark.twin), "c"])
def test_libreyolo_files_equal_theirs(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = exact(yolov9k.load(saved(tmp_path, peer_files.libre_content(variant))))
    golden = np.load(shared(f"compat/fixtures/libreyolo-{variant}.npz"))
    assert (model.letterbox, model.names) == ("topleft", peer_files.NAMES)
    for (maps,) in both_ways(model, monkeypatch):
        for i, level in enumerate(maps):
            assert relative(level, golden[f"out_raw_outputs_{i}"]) < LIBREYOLO
        decoded = model.decode(maps)
        center, size = decoded[:, :2], decoded[:, 2:4]
        corners = torch.cat((center - size / 2, center + size / 2, decoded[:, 4:]), 1)
        assert relative(corners, golden["out_predictions"]) < LIBREYOLO


LAYOUTS = [*(("published", name) for name in NAMES), *(("ultralytics", v) for v in ("t", "s", "m", "c", "e", "t-real-8.3.3")),
           *(("mit", v) for v in "tsmc"), *(("libreyolo", v) for v in ("t", "s", "m", "c", "t-aux", "c-aux"))]  # fmt: skip


@pytest.mark.parametrize(("peer", "variant"), LAYOUTS)
def test_the_variant_is_told_by_the_tensors(peer: str, variant: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every layout: the network, its form and head, no tensor lost but those of another auxiliary branch."""
    with torch.device("meta"):
        tensors = {key: torch.empty(shape) for key, shape in peer_files.layout(peer, variant).items()}
    for key, value in tensors.items():
        if "dfl" in key or "anc2vec" in key:
            tensors[key] = torch.arange(16.0).view(value.shape)
    weights = recognized("weights.pt", tensors)
    size = variant[0] if peer != "published" else variant[-1]
    dual = variant.startswith("yolov9") or peer == "mit" or variant == "t-aux"
    assert weights.spec.name == f"{'yolov9' if dual else 'gelan'}-{size}"
    assert weights.family == peer
    groups, tower = (1 if peer == "ultralytics" else 4), ("depthwise" if variant == "t-real-8.3.3" else "plain")
    assert weights.spec.layers[-1].module == head_name(2 if dual else 1, groups, tower)
    with torch.device("meta"):
        own = DetectionModel(weights.spec, weights.num_classes, None, weights.class_widths).state_dict()
    assert {key: value.shape for key, value in weights.state.items()} == {key: value.shape for key, value in own.items()}
    assert ("aux is left out" in capsys.readouterr().err) == (variant == "c-aux")


PREFIXES = {"bare": "", "DistributedDataParallel": "module.", "compiled": "_orig_mod.", "both": "module._orig_mod."}


TWINS = {("bare", ".safetensors"), ("DistributedDataParallel", ".pt"), ("compiled", ".pt"), ("both", ".safetensors")}


@pytest.fixture(scope="module")
def wanted() -> dict[str, Tensor]:
    return create_model("gelan-t", 3).state_dict()


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        pytest.param(*case, marks=pytest.mark.twin) if case in TWINS else case
        for case in itertools.product(PREFIXES, (".pt", ".safetensors"))
    ],
)
def test_plain_tables_of_any_of_them_are_read(wanted: dict[str, Tensor], prefix: str, suffix: str, tmp_path: Path) -> None:
    state = {PREFIXES[prefix] + key: value for key, value in wanted.items()}
    found = yolov9k.load(saved(tmp_path, state, suffix)).state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.twin
def test_half_precision_and_the_average_are_taken(wanted: dict[str, Tensor], tmp_path: Path) -> None:
    average = {key: value.half() if value.is_floating_point() else value for key, value in wanted.items()}
    worse = {key: torch.zeros_like(value) for key, value in average.items()}
    found = yolov9k.load(saved(tmp_path, {"model": worse, "ema": average, "epoch": 3})).state_dict()
    assert all(torch.equal(value, average[key].to(value.dtype)) for key, value in found.items())
    assert found["model.0.conv.weight"].dtype == torch.float32
