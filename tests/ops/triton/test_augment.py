"""The Triton kernel of augment against its reference: the same bits, on a GPU or in the interpreter."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.augment_cases import KINDS, AugmentCase, augment_case, matrix, table
from tests.support import shared
from tests.tiers import drawn
from tests.triton_cases import DEVICE, assert_captured_alike, moved, needs_gpu
from yolov9k.ops import augment
from yolov9k.ops.augment import DTYPES

pytest.importorskip("triton")

pytestmark = pytest.mark.interpret

seeds = st.integers(0, 2**31)


def assert_same(case: AugmentCase, **options: Any) -> Tensor:
    """Not within a level but equal, in bytes and in layout, whatever the dtype; the images."""
    found, wanted = augment(*moved(case), **options, backend="triton"), augment(*case, **options, backend="reference")
    assert found.stride() == wanted.stride()
    assert torch.equal(found.cpu(), wanted)
    return wanted


@drawn(
    8, 25,
    seeds, st.integers(0, 2), st.sampled_from(KINDS), st.integers(0, 5), st.integers(1, 21), st.integers(1, 21),
    st.sampled_from(DTYPES), st.booleans(),
)  # fmt: skip
def test_images_have_the_bytes_of_the_reference(
    seed: int, images: int, kind: str, most: int, height: int, width: int, dtype: torch.dtype, channels_last: bool
) -> None:
    assert_same(augment_case(seed, images, kind, most, (height, width)), dtype=dtype, channels_last=channels_last)


def real_crops(side: int) -> list[np.ndarray]:
    """Crops of both images of the demonstration set at several places."""
    files = sorted(shared("data/coco-demo/images").glob("*.jpg"))
    images = [cv2.imread(str(file)) for file in files[:2]]
    places = [(image, y, x) for image in images for y, x in ((60, 90), (140, 200), (200, 40))]
    return [np.ascontiguousarray(image[y : y + side, x : x + side]) for image, y, x in places]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "channels_last"), [(torch.uint8, False), (torch.bfloat16, True)])
def test_a_mosaic_of_images_with_everything_on_it(kind: str, dtype: torch.dtype, channels_last: bool) -> None:
    """Four tiles and a pasted object, mixed with a letterboxed image, recolored: no pixel differs, borders neither."""
    side, rng = 40, np.random.default_rng(KINDS.index(kind))
    crops = real_crops(side)
    y, x = np.mgrid[:side, :side] - side / 2
    oval = ((x / 17) ** 2 + (y / 12) ** 2 < 1).astype(np.uint8)
    pixels = np.concatenate([*(crop.reshape(-1) for crop in crops), oval.reshape(-1)])
    area, center = side * side, (37, 43)
    corners = [(0, 0), (1, 0), (0, 1), (1, 1)]
    tiles = [[3 * area * i, side, side, center[0] - side * (1 - a), center[1] - side * (1 - b), -1]
             for i, (a, b) in enumerate(corners)]  # fmt: skip
    layers = [*tiles, [12 * area, side, side, 25, 21, 18 * area], [15 * area, side, side, 0, 3, -1]]
    views = np.stack([matrix(rng, kind, side), matrix(rng, "still", side)])[None]
    case = AugmentCase(
        torch.from_numpy(pixels), table(layers), torch.tensor([[[0, 5], [5, 6]]]),
        torch.from_numpy(views.astype(np.float32)), torch.tensor([0.6]), torch.tensor([[1.01, 0.6, 1.3]]), (side + 5, side),
    )  # fmt: skip
    assert assert_same(case, dtype=dtype, channels_last=channels_last).float().std() > 0


def one(image: np.ndarray, view: Tensor | None = None, hsv_gains: tuple[float, ...] = (1, 1, 1)) -> AugmentCase:
    """One opaque image uint8 BGR [h, w, 3] at the origin, all of it seen through a matrix."""
    height, width = image.shape[:2]
    return AugmentCase(
        torch.from_numpy(image.reshape(-1).copy()), table([[0, height, width, 0, 0, -1]]),
        torch.tensor([[[0, 1], [1, 1]]]), (torch.eye(3) if view is None else view).expand(1, 2, 3, 3).contiguous(),
        torch.ones(1), torch.tensor([hsv_gains]).float(), (height, width),
    )  # fmt: skip


def test_every_value_and_every_spread_is_recolored_alike() -> None:
    """Quotients of float32 stand for whole ones: over every divisor that there is."""
    level = np.arange(256)
    ramps = [(level, 0 * level, level // 2), (level // 3, level, 0 * level), (255 - level, level // 5, 0 * level + 255)]
    image = np.stack([np.stack(ramp, -1) for ramp in ramps]).astype(np.uint8).reshape(32, -1, 3)
    for hsv_gains in ((1.0, 1.0, 0.99999), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0), (1.013, 0.4, 1.37), (math.nan, -1.0, 9.0)):
        assert_same(one(image, hsv_gains=hsv_gains))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_level_is_stored_alike(dtype: torch.dtype) -> None:
    image = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(8, 32, 3)
    for channels_last in (True, False):
        assert len(assert_same(one(image), dtype=dtype, channels_last=channels_last).unique()) == 256


def test_a_layer_counts_as_soon_as_it_is_touched() -> None:
    """Shifts by the whole image and a pixel more and less: layers are skipped for a program's pixels as a whole."""
    image = np.random.default_rng(1).integers(0, 100, (5, 8, 3)).astype(np.uint8)
    seen = []
    for axis, side in ((0, 8), (1, 5)):
        for shift in (-side - 0.5, -side, 0.5 - side, side - 1, side - 0.5, side):
            view = torch.eye(3)
            view[axis, 2] = shift
            seen.append(bool((assert_same(one(image, view)) != 114).any()))
    assert seen == [False, False, True, True, True, False] * 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, 1e30, -1e30, 2.0**19, 1e-40])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
def test_views_of_nowhere(value: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3)).astype(np.uint8)
    for place in (0, 2, 4, 5, 6, 8):
        view = torch.eye(3)
        view.view(-1)[place] = value
        assert_same(one(image, view))
    assert (assert_same(one(image, torch.full((3, 3), math.nan))) == 114).all()


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.5, 1.5, -1.0, 1 - 2**-17, math.nan])
def test_mix_weights_of_every_kind(weight: float) -> None:
    case = augment_case(11, images=1, kind="upright", most=3, size=(6, 9))
    assert_same(case._replace(mix_weights=torch.tensor([weight])))


def test_layers_without_pixels_and_samples_without_layers() -> None:
    bare = augment_case(1, images=2, most=0, size=(3, 4))
    assert (assert_same(bare._replace(hsv_gains=torch.ones(2, 3))) == 114).all()
    flat = table([[0, 0, 5, 0, 0, -1], [0, 3, 0, 0, 0, -1]])
    assert_same(bare._replace(layers=flat, ranges=torch.tensor([[[0, 2], [0, 0]]] * 2)))
    assert assert_same(augment_case(0, images=0)).shape == (0, 3, 23, 37)


def test_strides_change_nothing() -> None:
    case = augment_case(4, images=2, size=(5, 6))
    strange = case._replace(
        layers=case.layers.T.contiguous().T, matrices=case.matrices.transpose(0, 1).contiguous().transpose(0, 1),
        hsv_gains=case.hsv_gains.repeat(1, 2)[:, :3], pixels=case.pixels.repeat_interleave(2)[::2],
    )  # fmt: skip
    assert torch.equal(assert_same(strange), augment(*case, backend="reference"))


def test_what_reaches_beyond_is_refused_where_it_can_be_read() -> None:
    if DEVICE != "cpu":
        pytest.skip("nothing is read on a device")
    case = one(np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="augment: layers must be"):
        augment(*case._replace(pixels=case.pixels[:-1]), backend="triton")


def test_the_registration_compiles() -> None:
    case = moved(augment_case(5, images=1, size=(4, 5)))

    def run(pixels: Tensor) -> Tensor:
        return augment(pixels, *case[1:], torch.bfloat16, channels_last=True, backend="triton")

    found, wanted = torch.compile(run, fullgraph=True, backend="aot_eager")(case.pixels), run(case.pixels)
    assert torch.equal(found, wanted)
    assert found.stride() == wanted.stride()


@needs_gpu
def test_captured_in_a_graph_without_a_synchronization() -> None:
    case = moved(augment_case(7, images=3, size=(64, 96)))
    assert_captured_alike(lambda: (augment(*case, torch.bfloat16, channels_last=True, backend="triton"),))
