"""accelerate on models of others' making: what is recognized, what stays as it was, what may happen to a model afterwards."""

from __future__ import annotations

import ast
import copy
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import yolov9k
from tests.compat.lookalikes import BLOCKS, Stranger, TheirConv, TheirELAN, TheirModel, TheirSPP
from tests.tolerances import ACCELERATED
from yolov9k.common.errors import UserError
from yolov9k.compat.accelerate import Acceleration
from yolov9k.compat.accelerate import accelerate as accelerate_by
from yolov9k.compat.accelerate.swap import Swapped
from yolov9k.ops import available

BACKEND = "cpu" if "cpu" in available("conv_bn_silu") else "reference"


def accelerate(model: Any) -> Acceleration:
    """With blocks that run here too, which "auto" leaves to their own code on a CPU."""
    return accelerate_by(model, backend=BACKEND)


def drawn(model: nn.Module, seed: int = 0) -> Any:
    """Weights and statistics that hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return model


def image(channels: int = 3, size: int = 64) -> Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(1))


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, statistics and gradients of a training step."""
    model.train().zero_grad()
    y = model(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"y": y.detach(), **grads, **{f"buffer {n}": b.clone() for n, b in model.named_buffers()}}


def assert_alike(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        scale = max(float(tensor.double().norm()), 1e-3)
        assert float((found[name] - tensor).double().norm()) <= ACCELERATED * scale, name


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_is_recognized_and_computes_the_same(kind: str) -> None:
    theirs = drawn(BLOCKS[kind]())
    ours = copy.deepcopy(theirs)
    report = accelerate(ours)
    assert report.replaced[""] == kind.split()[0]
    assert report.left == {}
    if kind == "DFL":
        x = image(64, 5).flatten(2)
        torch.testing.assert_close(ours(x), theirs(x))
        return
    channels = next(m for m in theirs.modules() if isinstance(m, nn.Conv2d)).in_channels * (2 if kind == "ADown" else 1)
    x = image(channels, 12)
    assert_alike(step(ours, x), step(theirs, x))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=ACCELERATED, atol=ACCELERATED)


def test_what_is_none_of_ours_is_left_and_named() -> None:
    report = accelerate(model := TheirModel())
    kinds = set(report.replaced.values())
    assert kinds == {"Conv", "RepConv", "Bottleneck", "CSP", "ELAN", "AConv", "ADown", "SPPELAN", "DFL"}
    assert report.left.keys() == {"", "model.6", "model.7"}
    assert report.left["model.6"] == "Stranger: no block of ours; parts of it were replaced"
    assert type(model.model[6]) is Stranger
    assert report.replaced["model.6.cv1"] == "Conv"
    assert "left model.7: Conv2d" in str(report)
    assert "replaced 1 x SPPELAN" in str(report)


@pytest.mark.parametrize(
    "module",
    [TheirSPP(16, 16, 8, k=3), nn.Sequential(TheirConv(4, 4)), TheirConv(4, 4).conv, nn.Linear(4, 4),
     nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.SiLU())],
    ids=["another pool", "a chain", "a convolution", "another layer", "a chain of torch's own"],
)  # fmt: skip
def test_near_misses_are_no_blocks(module: nn.Module) -> None:
    assert "" not in accelerate(module).replaced


def test_nothing_of_the_model_moves() -> None:
    model = drawn(TheirModel())
    seen: list[str] = []
    model.model[1].register_forward_hook(lambda *_: seen.append("block"))
    model.model[1].cv2.bn.register_forward_hook(lambda *_: seen.append("inner"))
    before = {key: (tensor.data_ptr(), tensor.clone()) for key, tensor in model.state_dict(keep_vars=True).items()}
    drawn_before = torch.get_rng_state()
    accelerate(model)
    assert seen == []  # the probe calls nobody's hooks
    assert torch.equal(torch.get_rng_state(), drawn_before)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[key].data_ptr() == place and torch.equal(after[key], value) for key, (place, value) in before.items())
    assert all(parameter.requires_grad for parameter in model.model.parameters())
    assert model.training
    assert isinstance(model.model[0], TheirConv)
    assert type(model.model[0]).__name__ == "TheirConv"
    model(image())
    assert seen == ["inner", "block"]


def test_a_copy_is_accelerated_and_on_its_own() -> None:
    accelerate(model := drawn(TheirModel()))
    x = image()
    model.eval()(x)
    twin = copy.deepcopy(model)
    assert isinstance(twin.model[1], Swapped)
    assert torch.equal(twin(x), model(x))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert not torch.equal(twin(x), model(x))


def test_a_pickle_opens_where_this_package_is_absent(tmp_path: Any) -> None:
    accelerate(model := drawn(TheirModel()).eval())
    wanted = model(image())
    torch.save(model, tmp_path / "model.pt")
    assert b"yolov9k" not in b"".join(_records(tmp_path / "model.pt"))
    opened = torch.load(tmp_path / "model.pt", weights_only=False)
    assert type(opened.model[1]) is TheirELAN
    torch.testing.assert_close(opened(image()), wanted, rtol=ACCELERATED, atol=ACCELERATED)
    assert isinstance(model.model[1], Swapped)


def _records(path: Any) -> list[bytes]:
    with zipfile.ZipFile(path) as file:
        return [file.read(name) for name in file.namelist() if name.endswith(".pkl")]


def test_it_can_be_undone() -> None:
    model = TheirModel()
    with accelerate(model) as report:
        assert isinstance(model.model[0], Swapped)
        assert len(report.replaced) > 20
    assert not any(isinstance(module, Swapped) for module in model.modules())
    assert all("yolov9k" not in key for module in model.modules() for key in module.__dict__)


def test_asked_for_twice_it_replaces_nothing_more() -> None:
    accelerate(model := TheirModel())
    assert accelerate(model).replaced == {}


def test_their_fuse_is_obeyed() -> None:
    accelerate(model := drawn(TheirModel()).eval())
    x = image()
    wanted = model(x)
    for module in model.modules():
        if isinstance(module, TheirConv):
            module.fold()
    torch.testing.assert_close(model(x), wanted, rtol=ACCELERATED, atol=ACCELERATED)
    again = copy.deepcopy(model)
    torch.testing.assert_close(again(x), wanted, rtol=ACCELERATED, atol=ACCELERATED)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    opened = torch.load(buffer, weights_only=False)
    torch.testing.assert_close(opened(x), wanted, rtol=ACCELERATED, atol=ACCELERATED)


def test_a_hook_inside_a_block_is_called() -> None:
    accelerate(model := TheirModel())
    seen: list[tuple[int, ...]] = []
    model.model[3].cv2[0].conv1.conv.register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape)))
    model(image())
    assert len(seen) == 1


def test_parts_may_be_exchanged_afterwards() -> None:
    accelerate(model := drawn(TheirModel()).eval())
    x = image()
    before = model(x)
    model.model[0].bn = drawn(nn.BatchNorm2d(8, eps=1e-3), seed=5).eval()
    assert not torch.equal(model(x), before)
    model.model[0].act = nn.Tanh()
    changed = model(x)
    with accelerate(model) as report:
        assert report.replaced == {}
    for module in model.modules():
        if isinstance(module, Swapped):
            assert module.original.__module__ == "tests.compat.lookalikes"
    assert changed.isfinite().all()


def test_an_object_that_holds_a_model_will_do() -> None:
    class Holder:
        model = TheirModel()

    assert yolov9k.accelerate(Holder()).replaced.keys() == accelerate(TheirModel()).replaced.keys()
    for wrong in (3, "yolov9-c.pt", None, object()):
        with pytest.raises(UserError, match="expected a torch module or an object whose"):
            accelerate(wrong)


def test_on_a_cpu_modules_keep_their_own_code_unless_asked() -> None:
    accelerate_by(model := drawn(TheirModel()).eval())
    with torch.profiler.profile() as trace:
        model(image())
    assert not any("yolov9k" in event.name for event in trace.events())
    accelerate(other := drawn(TheirModel()).eval())
    with torch.profiler.profile() as trace:
        other(image())
    assert any("yolov9k::planned" in event.name for event in trace.events())


def test_a_trace_holds_torchs_operators_alone() -> None:
    accelerate(model := drawn(TheirModel()).eval())
    traced = torch.jit.trace(model, image(), check_trace=False)
    assert "yolov9k" not in str(traced.inlined_graph)


def test_no_peer_is_imported() -> None:
    """Objects are recognized by structure: the package names no other implementation's module."""
    peers = {"ultralytics", "libreyolo", "yolo", "models", "utils", "lightning", "torchvision"}
    for path in Path(yolov9k.__file__).parent.glob("compat/accelerate/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not peers & {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in peers
