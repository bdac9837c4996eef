"""Activation checkpointing by stage: same outputs, gradients and statistics, and less that is kept."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.plain_kernels import PlainKernels
from tests.plan_cases import use_plain_kernels
from tests.support import little_model
from tests.tolerances import FLOAT64_LOOPS
from yolov9k.models import DetectionModel, create_model
from yolov9k.models.recompute import recomputed, untouched_statistics
from yolov9k.models.spec import load_spec
from yolov9k.models.tables import IMAGE, NAMES

pytestmark = pytest.mark.compile


def results(model: DetectionModel, x: Tensor, steps: int = 1) -> list[Tensor]:
    """Maps, gradients of the last step and the state afterwards; of a copy."""
    model = copy.deepcopy(model)
    maps: list[Tensor] = []
    for _ in range(steps):
        model.zero_grad()
        maps = [level for branch in model(x) for level in branch]
        torch.autograd.backward(maps, [torch.linspace(-1, 1, m.numel(), dtype=m.dtype).view(m.shape) for m in maps])
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(grads) == sum(p.requires_grad for p in model.parameters())
    return [level.detach() for level in maps] + grads + list(model.buffers())


def same(found: list[Tensor], wanted: list[Tensor]) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, **FLOAT64_LOOPS)


def network(name: str, backend: str = "auto") -> tuple[DetectionModel, Tensor]:
    torch.manual_seed(0)
    return create_model(name, 3).double().train().use(backend), torch.rand(2, 3, 64, 64, dtype=torch.float64)


@pytest.mark.parametrize("main_only", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_stages_are_all_layers_in_order_and_name_what_crosses(name: str, main_only: bool) -> None:
    spec = load_spec(name)
    stages = spec.stages(main_only)
    head = spec.main_sources() if main_only else spec.layers[-1].sources
    layers = [n for stage in stages for n in stage.layers]
    assert layers == sorted(spec.needed(head))
    known = {IMAGE}
    for stage in stages:
        assert set(stage.reads) <= known
        inside = {*stage.reads, *stage.layers}
        assert all(set(spec.layers[n].sources) <= inside for n in stage.layers)
        known |= set(stage.gives)
    assert set(head) <= known
    assert [spec.strides()[source] for source in head] == [8, 16, 32] * (len(head) // 3)


def test_parts_of_yolov9_t() -> None:
    names = [stage.name for stage in load_spec("yolov9-t").stages()]
    assert names[:5] == ["backbone 2", "backbone 4", "backbone 8", "backbone 16", "backbone 32"]
    assert names[5:9] == ["neck 16", "neck 8", "neck 16", "neck 32"]
    assert names[9:] == ["auxiliary 32", "auxiliary 16", "auxiliary 8"]


@pytest.mark.parametrize("name", ["yolov9-t", "yolov9-c"])
def test_maps_gradients_and_statistics_are_the_same(name: str) -> None:
    model, x = network(name)
    same(results(copy.deepcopy(model).checkpoint_stages(), x), results(model, x))


def test_so_they_are_over_two_steps_and_with_frozen_parts() -> None:
    model, x = network("yolov9-t")
    model.model[4].requires_grad_(False)
    model.model[6].eval()
    same(results(copy.deepcopy(model).checkpoint_stages(), x, 2), results(model, x, 2))


def test_planned_blocks_recompute_by_their_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    use_plain_kernels(monkeypatch)
    model, x = network("yolov9-t", "triton")
    merges: list[bool] = []
    merge = PlainKernels.merge
    monkeypatch.setattr(PlainKernels, "merge", lambda *a: (merges.append(True), merge(*a))[1])
    wanted, once = results(model, x), len(merges)
    same(results(copy.deepcopy(model).checkpoint_stages(), x), wanted)
    assert once > 200
    assert len(merges) > 2.5 * once  # all but the head's are computed twice


def kept(model: DetectionModel, x: Tensor) -> int:
    """Bytes that the backward holds after a forward."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        maps = model(x)
    assert maps
    return sum(storages.values())


@pytest.mark.twin
def test_less_is_kept() -> None:
    model, x = network("yolov9-t")
    assert kept(copy.deepcopy(model).checkpoint_stages(), x) < 0.4 * kept(model, x)


def test_without_gradients_and_in_evaluation_nothing_is_recomputed() -> None:
    model, x = network("gelan-t")
    twin = copy.deepcopy(model).checkpoint_stages()
    with torch.no_grad():
        same([m for b in twin(x) for m in b], [m for b in model(x) for m in b])
    torch.testing.assert_close(twin.eval()(x), model.eval()(x), **FLOAT64_LOOPS)
    assert copy.deepcopy(twin).checkpointed
    assert not twin.checkpoint_stages(False).checkpointed


def test_torchs_own_batch_norm_counts_a_batch_once() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.BatchNorm2d(4, affine=False)).double()
    twin, x = copy.deepcopy(net), torch.rand(2, 3, 6, 6, dtype=torch.float64)
    net(x).square().sum().backward()
    recomputed(twin, [twin], x).square().sum().backward()
    same(list(twin.state_dict().values()), list(net.state_dict().values()))
    same([p.grad for p in twin.parameters()], [p.grad for p in net.parameters()])  # type: ignore[misc]
    assert int(twin[1].num_batches_tracked) == 1


def test_statistics_come_back_after_an_error_and_stay_readable_in_evaluation() -> None:
    trains, frozen = nn.BatchNorm2d(2), nn.BatchNorm2d(2).eval()
    without = nn.BatchNorm2d(2, track_running_stats=False)
    before = [norm.running_mean for norm in (trains, frozen)]
    with pytest.raises(ZeroDivisionError), untouched_statistics([trains, frozen, without]):  # noqa: PT012
        assert trains.running_mean is not before[0]
        assert frozen.running_mean is before[1]
        raise ZeroDivisionError
    assert [norm.running_mean for norm in (trains, frozen)] == before


def test_compiles_with_the_same_gradients(tmp_path: Path) -> None:
    model, x = network(str(little_model(tmp_path)))
    wanted = results(model, x)
    twin = copy.deepcopy(model).checkpoint_stages()
    compiled = torch.compile(twin, backend="aot_eager")
    maps = [level for branch in compiled(x) for level in branch]
    torch.autograd.backward(maps, [torch.linspace(-1, 1, m.numel(), dtype=m.dtype).view(m.shape) for m in maps])
    grads = [parameter.grad for parameter in twin.parameters() if parameter.grad is not None]
    same([level.detach() for level in maps] + grads + list(twin.buffers()), wanted)
