"""accelerate on detection heads: which forms are decoded by our operator, and when a head goes on by itself."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.compat.lookalikes import TheirConv, TheirDFL
from tests.tolerances import ACCELERATED
from yolov9k import accelerate
from yolov9k.compat.accelerate import head as heads
from yolov9k.compat.accelerate.swap import Swapped

WIDTHS, CLASSES, BINS = (8, 12, 16), 3, 16


class Projected(nn.Module):
    """The expectation over bins by a buffer of their values."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("values", torch.arange(BINS, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bska,k->bsa", x.unflatten(1, (4, BINS)).softmax(2), self.values)


class TheirHead(nn.Module):
    """Raw maps in training, (decoded, raw maps) in evaluation. branches: of towers; corners: the form of its boxes."""

    reg_max = BINS
    export = False

    def __init__(self, branches: int = 1, corners: bool = False, named: bool = False, dfl: Any = TheirDFL) -> None:
        super().__init__()
        self.nc, self.corners, self.named, self.branches, self.seen = CLASSES, corners, named, branches, 0
        self.stride = torch.tensor([8.0, 16.0, 32.0])
        for branch in range(branches):
            setattr(self, f"boxes{branch}", self._towers(4 * BINS))
            setattr(self, f"scores{branch}", self._towers(CLASSES))
        self.dfl = dfl()

    def _towers(self, c: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Sequential(TheirConv(width, 8, 3), nn.Conv2d(8, c, 1)) for width in WIDTHS)

    def forward(self, x: list[Tensor]) -> Any:
        raw = [self._raw(branch, x[len(WIDTHS) * branch :]) for branch in range(self.branches)]
        if not self.training:
            self.seen += 1
        decoded = [self._decoded(maps) for maps in raw] if not self.training else []
        told = [self._named(maps) for maps in raw] if self.named else raw
        one = self.branches == 1
        if self.training:
            return told[0] if one else told
        y = decoded[0] if one else decoded
        return y if self.export else (y, told[0] if one else told)

    def _raw(self, branch: int, x: list[Tensor]) -> list[Tensor]:
        towers = zip(getattr(self, f"boxes{branch}"), getattr(self, f"scores{branch}"), x, strict=False)
        return [torch.cat((boxes(level), scores(level)), 1) for boxes, scores, level in towers]

    def _named(self, maps: list[Tensor]) -> dict[str, Any]:
        whole = torch.cat([level.flatten(2) for level in maps], 2)
        return {"boxes": whole[:, : 4 * BINS], "scores": whole[:, 4 * BINS :], "feats": maps}

    def _decoded(self, maps: list[Tensor]) -> Tensor:
        whole = torch.cat([level.flatten(2) for level in maps], 2)
        near, far = self.dfl(whole[:, : 4 * BINS]).chunk(2, 1)
        grids = [torch.cartesian_prod(torch.arange(m.shape[2]), torch.arange(m.shape[3])).flip(1).T + 0.5 for m in maps]
        centers = torch.cat(grids, 1).to(whole.dtype)
        scale = torch.cat([s.expand(m[0, 0].numel()) for s, m in zip(self.stride, maps, strict=True)]).to(whole.dtype)
        first, last = (centers - near) * scale, (centers + far) * scale
        boxes = (first, last) if self.corners else ((first + last) / 2, last - first)
        return torch.cat((*boxes, whole[:, 4 * BINS :].sigmoid()), 1)


FORMS: dict[str, dict[str, Any]] = {
    "center and size": {}, "corners": {"corners": True}, "by name": {"named": True}, "two branches": {"branches": 2},
    "two branches of corners": {"branches": 2, "corners": True}, "bins in a buffer": {"dfl": Projected},
}  # fmt: skip


def features(branches: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    sizes = zip(WIDTHS * branches, (8, 4, 2) * branches, strict=True)
    return [torch.randn(2, width, size, size + 1, generator=generator) for width, size in sizes]


def made(form: str = "center and size") -> Any:
    torch.manual_seed(0)
    return TheirHead(**FORMS[form]).eval()


def tensors(y: Any) -> list[Tensor]:
    if isinstance(y, Tensor):
        return [y]
    return [tensor for part in (y.values() if isinstance(y, dict) else y) for tensor in tensors(part)]


def assert_same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    assert len(tensors(found)) == len(tensors(wanted))
    for a, b in zip(tensors(found), tensors(wanted), strict=True):
        assert a.shape == b.shape
        assert float((a - b).detach().abs().max()) <= ACCELERATED * float(b.detach().abs().max())


@pytest.mark.parametrize("form", FORMS)
def test_a_head_is_decoded_by_our_operator(form: str) -> None:
    head = made(form)
    x = features(head.branches)
    wanted, seen = head(list(x)), head.seen
    with accelerate(head, backend="reference") as report:
        assert report.replaced[""] == "head decode"
        assert all("cv" not in name for name in report.replaced)
        assert_same(head(list(x)), wanted)
        assert head.seen == seen  # its own evaluation did not run
        assert not head.training
        for twin in (copy.deepcopy(head), copy.deepcopy(head).to(torch.float32)):
            assert isinstance(twin, Swapped)
            assert_same(twin(list(x)), wanted)
        assert type(pickle.loads(pickle.dumps(head))) is TheirHead
        head.train()
        assert_same(head(list(x)), made(form).train()(list(x)))
    assert type(head) is TheirHead


def test_its_gradient_is_the_heads() -> None:
    heads_, sums = (made(), made()), []
    accelerate(heads_[1], backend="reference")
    for head in heads_:
        y, _ = head(features())
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        sums.append([p.grad for p in head.parameters() if p.grad is not None])
    assert_same(sums[1], sums[0])


@pytest.mark.parametrize("change", ["stride", "bins", "switch", "double", "strides written"])
def test_a_head_that_changes_afterwards_is_obeyed(change: str) -> None:
    head, plain = made(), made()
    accelerate(head, backend="reference")
    x = features()
    head(list(x))
    for model in (head, plain):
        if change == "stride":
            model.stride = torch.tensor([4.0, 8.0, 16.0])
        elif change == "strides written":
            model.stride.mul_(0.5)
        elif change == "bins":
            model.dfl.load_state_dict({"conv.weight": model.dfl.conv.weight * 2})
        elif change == "switch":
            model.export = True
        else:
            model.double()
    x = [level.double() for level in x] if change == "double" else x
    assert_same(head(list(x)), plain(list(x)))


class Angled(TheirHead):
    """Has one more output in evaluation than ours."""

    def _decoded(self, maps: list[Tensor]) -> Tensor:
        y = super()._decoded(maps)
        return torch.cat((y, y[:, :1]), 1)


def test_other_heads_are_left() -> None:
    unbuilt, halves, scaled = made(), made(), made()
    unbuilt.stride = torch.zeros(3)
    halves.stride = torch.tensor([8.0, 16.0, 4.5])
    scaled.dfl.conv.weight.data.mul_(2)
    for head in (unbuilt, halves, scaled, Angled().eval()):
        report = accelerate(head, backend="reference")
        assert "head decode" not in report.replaced.values()
        assert report.left[""].endswith("no block of ours; parts of it were replaced")


def test_the_towers_own_convolutions_are_listed() -> None:
    report = accelerate(made(), backend="reference")
    assert {"boxes0.0.1", "scores0.2.1"} <= report.left.keys()
    assert "" not in report.left


def test_on_a_cpu_a_head_decodes_by_itself_unless_told() -> None:
    head = made()
    accelerate(head)
    before = head.seen
    head(features())
    assert head.seen == before + 1


def test_hooks_see_what_the_head_gives() -> None:
    head, seen = made(), []
    accelerate(head, backend="reference")
    head.register_forward_hook(lambda module, given, y: seen.append(y[0].shape))
    y, _ = head(features())
    assert seen == [y.shape]
    assert y.shape == (2, 4 + CLASSES, 8 * 9 + 4 * 5 + 2 * 3)


def test_exports_hold_the_heads_own_operators() -> None:
    head = made()
    accelerate(head, backend="reference")
    program = torch.export.export(head, (features(),), strict=False)
    assert not any("yolov9k" in str(node.target) for node in program.graph.nodes)


class TheirMapDFL(nn.Module):
    """The logits as [B, bins, 4, h, w], and their expectation by a convolution over the bins."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(BINS, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data = torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = x.unflatten(1, (4, BINS)).transpose(1, 2)
        return logits, self.conv(logits.softmax(1))[:, 0]


@pytest.mark.parametrize("size", [(3, 4), (1, 1)])
def test_the_integral_over_bins_of_maps_is_recognized(size: tuple[int, int]) -> None:
    dfl, plain = TheirMapDFL(), TheirMapDFL()
    assert accelerate(dfl, backend="reference").replaced == {"": "DFL of maps"}
    x = torch.randn(2, 4 * BINS, *size, generator=torch.Generator().manual_seed(5))
    for a, b in zip(dfl(x), plain(x), strict=True):
        torch.testing.assert_close(a, b)


def test_raw_maps_of_another_form_are_the_heads_business() -> None:
    assert heads._branches({"one2many": {}, "one2one": {}}) is None
    assert heads._branches([torch.zeros(1), "a"]) is None
    assert heads._branches([[torch.zeros(1)], []]) is None
