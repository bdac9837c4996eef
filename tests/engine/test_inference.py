"""Detection from raw maps, the model made ready for it, and the hand-over to the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support import shared
from tests.tiers import BY_DAY, examples
from tests.tolerances import FUSED
from yolov9k import create_model
from yolov9k.common.host_copy import AsyncHostCopy
from yolov9k.common.timing import Clock
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.config import load_split
from yolov9k.data.loader import make_loader
from yolov9k.engine.inference import detect, exact, inference_form
from yolov9k.models import DetectionModel
from yolov9k.ops import available, batched_nms

CPU = torch.device("cpu")
BACKENDS = ["reference", *(["triton"] if "triton" in available("dfl_candidates") else [])]
GPU = torch.device("cuda") if torch.cuda.is_available() else CPU  # where there is none, Triton's kernels are interpreted
ODD = (float("nan"), float("inf"), float("-inf"))


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    """yolov9-t of three classes whose statistics are those of noise, so that BatchNorm does something."""
    torch.manual_seed(0)
    made = create_model("yolov9-t", 3).train()
    with torch.no_grad():
        for _ in range(3):
            made.branches(torch.rand(4, 3, 64, 64))
    return made.eval()


def random_maps(seed: int, images: int, size: tuple[int, int], odd: int) -> list[Tensor]:
    """Raw maps of three classes, `odd` values of each level no finite number; from two on all bins of a side -infinity."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for level in range(3):
        cells = [max(side >> level, 1) for side in size]
        values = torch.randn(images, 67, *cells, generator=generator) * 3
        if images and odd:
            places = torch.randint(0, values.numel(), (odd,), generator=generator)
            values.view(-1)[places] = torch.tensor(ODD)[torch.randint(0, 3, (odd,), generator=generator)]
            values[0, 16 : 32 if odd > 1 else 17, 0, 0] = float("-inf")
        maps.append(values)
    return maps


def by_full_decode(
    model: DetectionModel, maps: list[Tensor], conf: float, iou: float, multi: bool, most: int
) -> tuple[Tensor, ...]:
    return tuple(batched_nms(model.decode(maps), conf, iou, None, not multi, multi, most))


cases = given(
    st.integers(0, 2**31), st.integers(0, 3), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 4),
    st.sampled_from([0.0, 0.001, 0.5, 0.97, 1.0]), st.booleans(), st.booleans(), st.sampled_from(BACKENDS),
)  # fmt: skip


@pytest.mark.long
@settings(deadline=None, max_examples=examples(25), derandomize=BY_DAY)
@cases
def test_candidates_give_the_detections_of_the_full_decode(
    seed: int, images: int, size: tuple[int, int], odd: int, conf: float, multi: bool, last: bool, backend: str
) -> None:
    """Bit by bit, whatever is in the maps; and the images whose decode is not finite are known without it."""
    device = GPU if backend == "triton" else CPU
    model = HEAD.to(device).use(backend)
    maps = [level.to(device) for level in random_maps(seed, images, size, odd)]
    maps = [level.contiguous(memory_format=torch.channels_last) for level in maps] if last else maps
    wanted = by_full_decode(model, maps, conf, 0.6, multi, 30)
    found = detect(model, maps, conf, 0.6, multi_label=multi, agnostic=not multi, max_det=30)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert torch.equal(model.nonfinite(maps), ~model.decode(maps).isfinite().flatten(1).all(1))


HEAD = create_model("gelan-t", 3)  # its head alone is used


def test_what_makes_an_image_broken() -> None:
    """NaN anywhere, +infinity or nothing but -infinity among a side's bins; an infinite class logit is a sure answer."""
    HEAD.to(CPU)
    spoilt: list[tuple[Callable[[Tensor], object], bool]] = [
        (lambda level: None, False),
        (lambda level: level[5, 0, 0].fill_(ODD[0]), True),
        (lambda level: level[5, 0, 0].fill_(ODD[1]), True),
        (lambda level: level[5, 0, 0].fill_(ODD[2]), False),
        (lambda level: level[48:64, 0, 0].fill_(ODD[2]), True),
        (lambda level: level[66, 0, 0].fill_(ODD[0]), True),
        (lambda level: level[66, 0, 0].fill_(ODD[1]), False),
        (lambda level: level[66, 0, 0].fill_(ODD[2]), False),
    ]
    for level in range(3):
        maps = random_maps(1, len(spoilt), (4, 8), 0)
        for image, (spoil, _) in enumerate(spoilt):
            spoil(maps[level][image])
        assert HEAD.nonfinite(maps).tolist() == [broken for _, broken in spoilt]


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_real_images_have_the_detections_of_the_full_decode(
    model: DetectionModel, backend: str, amp: torch.dtype | None
) -> None:
    split = load_split(shared("data/bccd"), "val")
    loader = make_loader(split, TrainRecipe(), img_size=96, batch=3, augment=False, rect=True, workers=0)
    ready = inference_form(model, CPU)
    images = next(iter(loader)).images
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp is not None):
        maps = exact(ready.branches(images.float() / 255)[-1])
    if backend == "triton":
        ready, maps = ready.to(GPU), [level.to(GPU) for level in maps]
    ready.head.backend = backend
    conf = float(maps[1][:, 64:].sigmoid().quantile(0.9))  # an untrained model's scores: a tenth are candidates
    wanted = by_full_decode(ready, maps, conf, 0.7, True, 100)
    found = detect(ready, maps, conf, 0.7, multi_label=True, max_det=100)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert found.counts.min() > 0


@pytest.mark.parametrize("lean", [False, True])
def test_the_form_for_inference_gives_the_models_maps(model: DetectionModel, lean: bool) -> None:
    double = create_model("yolov9-t", 3).double()
    double.load_state_dict(model.state_dict())
    double.train()
    before = {key: value.clone() for key, value in double.state_dict().items()}
    ready = inference_form(double, CPU, lean=lean)
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        found, wanted = ready.branches(x), double.eval().branches(x)
    assert len(found) == (1 if lean else 2)
    for branch, maps in zip(reversed(found), reversed(wanted), strict=False):
        for level, other in zip(branch, maps, strict=True):
            torch.testing.assert_close(level, other, rtol=FUSED, atol=FUSED)
    assert all(torch.equal(value, before[key]) for key, value in double.state_dict().items())
    assert all(p.requires_grad == (".dfl" not in name) for name, p in double.named_parameters())


@pytest.mark.parametrize(("slots", "lag"), [(None, 0), (0, 0), (1, 1), (2, 2)])
def test_hand_over_keeps_the_order_and_lags_by_its_slots(slots: int | None, lag: int) -> None:
    taken: list[tuple[int, float]] = []
    host_copy = AsyncHostCopy(lambda item, first, second: taken.append((item, float(first + second))), CPU, slots)
    for number in range(5):
        host_copy.give(number, torch.tensor(float(number)), torch.tensor(10.0))
        assert len(taken) == max(number + 1 - lag, 0)
    host_copy.finish()
    assert taken == [(number, number + 10.0) for number in range(5)]
    host_copy.finish()
    assert len(taken) == 5


def test_what_the_host_raises_comes_out() -> None:
    def fail(_: object, tensor: Tensor) -> None:
        raise ValueError(f"item {int(tensor)}")

    host_copy = AsyncHostCopy(fail, CPU, slots=1)
    host_copy.give(None, torch.tensor(7))
    with pytest.raises(ValueError, match="item 7"):
        host_copy.finish()


def test_clock_adds_up_phases() -> None:
    clock = Clock(CPU)

    def phases() -> Iterator[None]:
        for name in ("inference", "inference", "postprocess"):
            with clock.phase(name):
                yield

    assert sum(1 for _ in phases()) == 3
    speed = clock.speed(2)
    assert speed.preprocess == 0
    assert speed.inference > 0
    assert speed.total == speed.inference + speed.postprocess
    assert clock.speed(4).inference == speed.inference / 2
