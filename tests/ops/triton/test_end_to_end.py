"""All of yolov9-t with the fused kernels and a GPU's tiles: as close to float64 as torch's own float32. Interpreted, one
step takes a minute; steps of the published trajectory are in test_trajectory, with larger tiles."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tests.tolerances import END_TO_END
from yolov9k.losses import DetectionLoss
from yolov9k.models import DetectionModel, create_model

pytest.importorskip("triton")

pytestmark = pytest.mark.interpret

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS, LEARNING_RATE = (4 if DEVICE == "cuda" else 1), 0.01


def train(model: DetectionModel, backend: str, dtype: torch.dtype) -> tuple[list[float], list[Tensor], DetectionModel]:
    """Losses of the steps, the first step's maps and gradients, and the model as it came out."""
    model = copy.deepcopy(model).to(DEVICE, dtype).train().use(backend)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, 0.9, nesterov=True)
    generator = torch.Generator().manual_seed(1)
    losses, first = list[float](), list[Tensor]()
    for step in range(STEPS):
        image = torch.rand(2, 3, 64, 64, generator=generator).to(DEVICE, dtype)
        targets = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.3], [1, 2, 0.3, 0.6, 0.5, 0.5]], device=DEVICE, dtype=dtype)
        branches = model(image)
        loss, _ = DetectionLoss(3, backend="reference")(branches, targets)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            first = [level.detach() for branch in branches for level in branch]
            first += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        losses.append(loss.item())
    return losses, first, model


def distance(found: list[Tensor], exact: list[Tensor]) -> float:
    """Euclidean, relative, over all tensors."""
    apart = sum(float((a.double() - b).square().sum()) for a, b in zip(found, exact, strict=True))
    return (apart / sum(float(b.square().sum()) for b in exact)) ** 0.5


def test_fused_kernels_are_as_exact_as_torch() -> None:
    torch.manual_seed(0)
    model = create_model("yolov9-t", 3)
    exact_losses, exact, _ = train(model, "reference", torch.float64)
    own_losses, own, twin = train(model, "reference", torch.float32)
    losses, found, trained = train(model, "triton", torch.float32)
    maps = 6
    for part in (slice(0, maps), slice(maps, None)):
        assert distance(found[part], exact[part]) <= END_TO_END * distance(own[part], exact[part])
    worst = distance(own[:maps], exact[:maps])  # a sum's own error may be 0 by chance
    for mine, theirs, truth in zip(losses, own_losses, exact_losses, strict=True):
        worst = max(worst, abs(theirs / truth - 1))  # an error that has come in is carried on
        assert abs(mine / truth - 1) <= END_TO_END * worst
    assert trained.state_dict().keys() == twin.state_dict().keys()
    for a, b in zip(trained.state_dict().values(), twin.state_dict().values(), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert int(trained.state_dict()["model.0.bn.num_batches_tracked"]) == STEPS


def test_the_fused_model_is_as_exact_as_torchs() -> None:
    torch.manual_seed(0)
    model = create_model("yolov9-t", 3).to_lean().fuse().to(DEVICE)
    image = torch.rand(1, 3, 64, 64, device=DEVICE)
    exact = copy.deepcopy(model).double()(image.double())
    own, found = model.use("reference")(image), model.use("triton")(image)
    assert distance([found], [exact]) <= END_TO_END * distance([own], [exact])
