"""augment: the reference against the definition written as loops and against OpenCV, every backend against the reference."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tests.augment_cases import KINDS, AugmentCase, augment_case, table
from tests.backend_checks import BackendChecks
from tests.tiers import BY_DAY, examples, slow_case
from tests.tolerances import HSV_LEVELS
from yolov9k.ops import augment, available
from yolov9k.ops.reference import augment as reference

SLOW = () if torch.cuda.is_available() else ("triton",)  # its interpreter has tests of its own, in small
BACKENDS = [name for name in available("augment") if name not in ("reference", *SLOW)]
UNIT = 1 << 15
seeds = st.integers(0, 2**31)


def canvas(case: AugmentCase, layers: list[list[int]], x: int, y: int) -> list[int]:
    """The color at a whole pixel of the canvas."""
    for start, height, width, left, top, mask, stride, mask_stride in reversed(layers):
        inside = 0 <= x - left < width and 0 <= y - top < height
        if inside and (mask < 0 or case.pixels[mask + (y - top) * mask_stride + x - left]):
            first = start + (y - top) * stride + 3 * (x - left)
            return case.pixels[first : first + 3].tolist()  # type: ignore[no-any-return]
    return [114] * 3


def seen(case: AugmentCase, sample: int, view: int, x: int, y: int) -> list[int]:
    """One pixel of a view, told as it is defined."""
    first, last = case.ranges[sample, view].tolist()
    m = case.matrices[sample, view].numpy()
    with np.errstate(all="ignore"):
        u, v, w = (row[0] * np.float32(x) + (row[1] * np.float32(y) + row[2]) for row in m)
        places = [math.floor(np.float32(np.clip(p / w, -(2.0**19), 2.0**19)) * 2048 + 0.5) for p in (u, v)]
    (column, right), (row, below) = (divmod(p, 2048) for p in places)
    total = [0, 0, 0]
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = (right if dx else 2048 - right) * (below if dy else 2048 - below)
        color = canvas(case, case.layers[first:last].tolist(), column + dx, row + dy)
        total = [t + weight * c for t, c in zip(total, color, strict=True)]
    return [(t + 2**21) >> 22 for t in total]


@settings(deadline=None, max_examples=examples(25), derandomize=BY_DAY)
@given(seeds, st.sampled_from(KINDS))
def test_reference_is_the_definition(seed: int, kind: str) -> None:
    case = augment_case(seed, images=2, kind=kind, size=(5, 7))._replace(hsv_gains=torch.ones(2, 3))
    found = augment(*case, backend="reference")
    for sample, weight in enumerate((case.mix_weights.double() * UNIT + 0.5).floor().int().tolist()):
        for y in range(5):
            for x in range(7):
                one, two = (seen(case, sample, view, x, y) for view in (0, 1))
                mixed = [(a * weight + b * (UNIT - weight) + UNIT // 2) >> 15 for a, b in zip(one, two, strict=True)]
                assert found[sample, :, y, x].tolist() == mixed[::-1]


def assert_same(case: AugmentCase, **options: Any) -> None:
    """Every backend gives the bytes of the reference."""
    wanted = augment(*case, **options, backend="reference")
    for backend in BACKENDS:
        device = "cpu" if backend == "cpu" or not torch.cuda.is_available() else "cuda"
        *tensors, size = case
        found = augment(*(tensor.to(device) for tensor in tensors), size, **options, backend=backend)
        assert found.stride() == wanted.stride()
        assert torch.equal(found.cpu(), wanted)


@settings(deadline=None, max_examples=examples(80), derandomize=BY_DAY)
@given(
    seeds, st.integers(0, 3), st.sampled_from(KINDS), st.integers(0, 6), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from([torch.uint8, torch.float32, torch.bfloat16, torch.float16]), st.booleans(),
)  # fmt: skip
def test_backends_equal_the_reference(
    seed: int, images: int, kind: str, most: int, height: int, width: int, dtype: torch.dtype, channels_last: bool
) -> None:
    case = augment_case(seed, images, kind, most, (height, width))
    assert_same(case, dtype=dtype, channels_last=channels_last)


def one(
    image: np.ndarray, matrix: Tensor | None = None, hsv_gains: tuple[float, ...] = (1, 1, 1), **options: Any
) -> np.ndarray:
    """One opaque image at the origin, uint8 BGR [h, w, 3], seen through a matrix; the same form."""
    height, width = image.shape[:2]
    view = torch.eye(3) if matrix is None else matrix
    case = AugmentCase(
        torch.from_numpy(image.reshape(-1).copy()), table([[0, height, width, 0, 0, -1]]),
        torch.tensor([[[0, 1], [1, 1]]]), view.expand(1, 2, 3, 3).contiguous(), torch.ones(1),
        torch.tensor([hsv_gains]).float(),
        options.pop("size", (height, width)),
    )  # fmt: skip
    assert_same(case)
    return np.asarray(augment(*case, **options)[0].numpy()[::-1].transpose(1, 2, 0))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_colors_are_opencvs_within_a_level() -> None:
    """Every hue, saturation and value, by random gains: tables of 256 levels between OpenCV's two conversions."""
    rng = np.random.default_rng(0)
    for _ in range(8):
        hsv_gains = 1 + rng.uniform(-1, 1, 3)
        image = noise(300, 200, int(rng.integers(1000)))
        tables = [np.arange(256) * math.floor(gain * UNIT + 0.5) // UNIT for gain in np.float32(hsv_gains).tolist()]
        tables = [tables[0] % 180, tables[1].clip(0, 255), tables[2].clip(0, 255)]
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        turned = [table.astype(np.uint8)[hsv[..., i]] for i, table in enumerate(tables)]
        wanted = cv2.cvtColor(np.stack(turned, -1), cv2.COLOR_HSV2BGR)
        assert np.abs(one(image, hsv_gains=tuple(hsv_gains)).astype(int) - wanted).max() <= HSV_LEVELS


@pytest.mark.parametrize("every", [17, slow_case(3)])
def test_colors_become_opencvs_hsv_to_the_bit(every: int) -> None:
    blue, green, red = np.meshgrid(np.arange(256), np.arange(256), np.arange(0, 256, every), indexing="ij")
    image = np.stack([blue, green, red], -1).reshape(-1, 1, 3).astype(np.uint8)
    found = torch.stack(reference.to_hsv(torch.from_numpy(image.astype(np.int64))), -1)
    assert np.array_equal(found.numpy(), cv2.cvtColor(image, cv2.COLOR_BGR2HSV))


def test_every_hue_is_rounded_to_the_exact_value() -> None:
    """In all backends: products are divided by a multiplication there. By fractions, over every product there is."""
    hue, grid = torch.arange(180), torch.arange(256)
    h, s, v = (t.reshape(-1) for t in torch.meshgrid(hue, grid, grid[::5], indexing="ij"))
    found = reference.from_hsv(h, s, v)
    assert torch.equal(found[:, 2][h < 30], v[h < 30])  # between red and yellow red is the value
    assert torch.equal(found.amin(1), v - (v * s + 127) // 255)
    wanted = cv2.cvtColor(torch.stack((h, s, v), -1)[:, None].byte().numpy(), cv2.COLOR_HSV2BGR)[:, 0].astype(int)
    assert np.abs(found.numpy() - wanted).max() <= HSV_LEVELS


def test_gains_of_one_change_no_color_and_others_reach_every_one() -> None:
    image = noise(40, 50)
    assert np.array_equal(one(image), image)
    colors = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3, indexing="ij"), -1).reshape(52, -1, 3).astype(np.uint8)
    for hsv_gains in ((1, 1, 0.99999), (1.0001, 1, 1), (0, 0, 0), (2, 2, 2), (1.013, 0.4, 1.37)):
        one(colors, hsv_gains=hsv_gains)  # compares the backends
    assert not one(image, hsv_gains=(1, 1, 0)).any()
    assert np.array_equal(one(image, hsv_gains=(9, -1, 2)), one(image, hsv_gains=(2, 0, 2)))  # cut off


def test_a_still_view_is_the_image_in_rgb_and_gray_lies_around_it() -> None:
    image = noise(20, 30)
    found = one(image, size=(24, 33))
    assert np.array_equal(found[:20, :30], image)
    assert (found[20:] == 114).all()
    assert (found[:, 30:] == 114).all()


def test_a_half_pixel_blends_neighbors_and_the_border_with_gray() -> None:
    image = np.array([[[0, 0, 0], [100, 100, 100]]], np.uint8)
    shift = torch.tensor([[1.0, 0, -0.5], [0, 1, 0], [0, 0, 1]])
    assert one(image, shift, size=(1, 4))[0, :, 0].tolist() == [57, 50, 107, 114]


@settings(deadline=None, max_examples=examples(30), derandomize=BY_DAY)
@given(seeds)
def test_bilinear_is_the_exact_one_rounded(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, (u, v) = noise(9, 9, seed), rng.uniform(1, 7, 2)
    found = one(image, torch.tensor([[1, 0, u], [0, 1, v], [0, 0, 1]]).float(), size=(1, 1))[0, 0]
    (x, fx), (y, fy) = ((int(c), c - int(c)) for c in (u, v))
    around = image[y : y + 2, x : x + 2].astype(float)
    exact = np.einsum("y,x,yxc->c", [1 - fy, fy], [1 - fx, fx], around)
    assert np.abs(found - exact).max() <= 0.5 + 2 * 255 / 4096  # rounded once; half a 2048th of a pixel each way


def test_masks_and_order_decide_what_is_seen() -> None:
    layers = table([[0, 1, 2, 0, 0, -1], [6, 1, 2, 0, 0, 12], [14, 1, 1, 1, 0, -1]])
    pixels = torch.tensor([1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 0, 7, 5, 5, 5], dtype=torch.uint8)
    still, ones = torch.eye(3).expand(1, 2, 3, 3), torch.ones(1, 3)
    for last, seen in ((1, [1, 2]), (2, [1, 4]), (3, [1, 5])):
        case = AugmentCase(pixels, layers, torch.tensor([[[0, last], [0, 0]]]), still, torch.ones(1), ones, (1, 2))
        assert augment(*case)[0, 0, 0].tolist() == seen
        assert_same(case)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, 1e30, -1e30])
def test_views_of_nowhere_are_gray(value: float) -> None:
    for place in range(9):
        matrix = torch.eye(3)
        matrix.view(-1)[place] = value
        one(noise(6, 9), matrix)  # compares the backends
    assert (one(noise(6, 9), torch.full((3, 3), math.nan)) == 114).all()
    assert (one(noise(6, 9), torch.tensor([[1.0, 0, value or 99], [0, 1, 0], [0, 0, 1]])) == 114).all()


def test_nothing_makes_gray_or_nothing() -> None:
    none = augment_case(0, images=0)
    assert augment(*none).shape == (0, 3, 23, 37)
    bare = augment_case(1, images=2, most=0)
    assert (augment(*bare._replace(hsv_gains=torch.ones(2, 3))) == 114).all()
    assert_same(bare)
    flat = table([[0, 0, 5, 0, 0, -1], [0, 3, 0, 0, 0, -1]])
    assert_same(bare._replace(layers=flat, ranges=torch.tensor([[[0, 2], [0, 0]]] * 2)))


def test_floats_are_shares_of_255_and_channels_last_is_a_format() -> None:
    case = augment_case(3, images=2)
    whole = augment(*case)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(augment(*case, dtype), (whole.float() / 255).to(dtype))
    lasting = augment(*case, channels_last=True)
    assert torch.equal(lasting, whole)
    assert lasting.is_contiguous(memory_format=torch.channels_last)


def test_strides_change_nothing() -> None:
    case = augment_case(4, images=2)
    strange = case._replace(
        layers=case.layers.T.contiguous().T, matrices=case.matrices.transpose(0, 1).contiguous().transpose(0, 1),
        hsv_gains=case.hsv_gains.repeat(1, 2)[:, :3], pixels=case.pixels.repeat_interleave(2)[::2],
    )  # fmt: skip
    assert_same(strange)
    assert torch.equal(augment(*strange), augment(*case))


@pytest.mark.parametrize("backend", [name for name in available("augment") if name != "triton"])
def test_the_registration_is_sound(backend: str) -> None:
    *tensors, size = augment_case(5)
    pixels, *tables = tensors
    for dtype, channels_last in ((torch.uint8, False), (torch.bfloat16, True)):
        arguments = ([pixels], *tables, *size, dtype, channels_last, backend)
        torch.library.opcheck(torch.ops.yolov9k.augment.default, arguments)
        real: Any = torch.ops.yolov9k.augment(*arguments)
        with FakeTensorMode() as mode:
            fakes = [mode.from_tensor(tensor) for tensor in tensors]
            fake: Any = torch.ops.yolov9k.augment(fakes[:1], *fakes[1:], *arguments[-5:])
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
    compiled = torch.compile(lambda *case: augment(*case, size, backend=backend), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*tensors), augment(*tensors, size, backend=backend))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pixels": torch.zeros(9)}, TypeError, "pixels must be of dtype torch.uint8, got torch.float32"),
        ({"pixels": torch.zeros(3, 3, dtype=torch.uint8)}, ValueError, r"pixels must have shape \[\*\]"),
        ({"layers": torch.zeros(1, 5, dtype=torch.int64)}, ValueError, r"layers must have shape \[\*, 8\], got \[1, 5\]"),
        ({"ranges": torch.zeros(2, 2, 2)}, TypeError, "ranges must be of dtype torch.int64"),
        ({"matrices": torch.zeros(2, 3, 3)}, ValueError, r"matrices must have shape \[2, 2, 3, 3\]"),
        ({"matrices": torch.zeros(2, 2, 3, 3).double()}, TypeError, "matrices must be of dtype torch.float32"),
        ({"mix_weights": torch.zeros(2, device="meta")}, ValueError, "mix_weights must be on cpu, got meta"),
        ({"hsv_gains": torch.zeros(3, 3)}, ValueError, r"hsv_gains must have shape \[2, 3\], got \[3, 3\]"),
        ({"size": (0, 5)}, ValueError, "size must be at least 1 x 1"),
        ({"size": (5, 40_000)}, ValueError, "size must be at most 32768 x 32768"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"augment: {message}"):
        augment(*augment_case(6)._replace(**change))


def test_another_dtype_is_refused() -> None:
    with pytest.raises(TypeError, match=r"augment: dtype must be one of torch.uint8, .*, got torch.float64"):
        augment(*augment_case(6), dtype=torch.float64)


@pytest.mark.parametrize("backend", ["reference", *(name for name in BACKENDS if name == "cpu")])
@pytest.mark.parametrize(
    "layer",
    [[0, 3, 3, 0, 0, -1, 9, 0], [-1, 1, 1, 0, 0, -1, 3, 0], [0, 1, 1, 0, 0, 26, 3, 1], [0, 1, 1, 0, 0, -2, 3, 1],
     [0, -1, -1, 0, 0, -1, 0, 0], [0, 1, 1, 2**18, 0, -1, 3, 0], [0, 0, 2**18, 0, 0, -1, 2**20, 0],
     [0, 2**17, 2**17, 0, 0, -1, 3 * 2**17, 0], [0, 2, 2, 0, 0, -1, 5, 0], [0, 2, 2, 0, 0, -1, 21, 0],
     [0, 2, 1, 0, 0, -1, -3, 0], [0, 2, 1, 0, 0, -1, 2**62, 0], [0, 2, 2, 0, 0, 12, 6, 1], [0, 2, 2, 0, 0, 12, 6, 13],
     [0, 1, 1, 0, 0, -1, 2**20, 0]],
)  # fmt: skip
def test_layers_beyond_the_pixels_are_refused(backend: str, layer: list[int]) -> None:
    case = augment_case(7, images=1)._replace(pixels=torch.zeros(26, dtype=torch.uint8), layers=torch.tensor([layer]))
    with pytest.raises(ValueError, match="augment: layers must"):
        augment(*case._replace(ranges=torch.tensor([[[0, 1], [0, 0]]])), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=examples(25), deadline=None)
@given(seed=seeds)
def test_pixels_may_lie_in_several_places(backend: str, seed: int) -> None:
    case = augment_case(seed, kind=KINDS[seed % 4])
    wanted = augment(*case, backend="reference")
    starts = [start for row in case.layers.tolist() for start in (row[0], row[5]) if start > 0]
    ends = sorted({0, *starts, len(case.pixels)})
    parts = [case.pixels[a:b].clone() for a, b in pairwise(ends)] or [case.pixels]
    parts.insert(seed % len(parts), case.pixels[:0])
    device = "cuda" if backend == "triton" else "cpu"
    rest = (value.to(device) if isinstance(value, Tensor) else value for value in case[1:])
    assert torch.equal(augment([part.to(device) for part in parts], *rest, backend=backend).cpu(), wanted)


@pytest.mark.parametrize("backend", ["reference", *(name for name in BACKENDS if name == "cpu")])
def test_a_layer_lies_in_one_place(backend: str) -> None:
    case = augment_case(7, images=1)._replace(layers=table([[0, 2, 2, 0, 0, 12]]), ranges=torch.tensor([[[0, 1], [0, 0]]]))
    parts = torch.zeros(16, dtype=torch.uint8).split([12, 4])
    augment(parts, *case[1:], backend=backend)
    for sizes in ([11, 5], [13, 3], [4, 12], [12, 3, 1]):
        with pytest.raises(ValueError, match=r"augment: layers must (be|lie) within pixels"):
            augment(torch.zeros(16, dtype=torch.uint8).split(sizes), *case[1:], backend=backend)
    with pytest.raises(ValueError, match="augment: pixels must be a tensor or several, got none"):
        augment([], *case[1:], backend=backend)
    with pytest.raises(TypeError, match=r"augment: pixels\[1\] must be of dtype torch.uint8"):
        augment([parts[0], parts[1].float()], *case[1:], backend=backend)


@pytest.mark.parametrize("backend", ["reference", *(name for name in BACKENDS if name == "cpu")])
@pytest.mark.parametrize("pair", [[0, 2], [1, 0], [-1, 0]])
def test_ranges_beyond_the_layers_are_refused(backend: str, pair: list[int]) -> None:
    layers, pixels = table([[0, 1, 1, 0, 0, -1]]), torch.zeros(3, dtype=torch.uint8)
    case = augment_case(8, images=1)._replace(layers=layers, pixels=pixels, ranges=torch.tensor([[pair, [0, 0]]]))
    with pytest.raises(ValueError, match="augment: ranges must be rising, from 0 to at most"):
        augment(*case, backend=backend)


class TestBackends(BackendChecks):
    operator = "augment"

    def call(self, backend: str) -> Tensor:
        pixels, layers = torch.full((12,), 200, dtype=torch.uint8), torch.tensor([[0, 2, 2, 0, 0, -1, 6, 0]])
        ranges, ones = torch.tensor([[[0, 1], [0, 0]]]), torch.ones(1, 3)
        still = torch.eye(3).expand(1, 2, 3, 3)
        return augment(pixels, layers, ranges, still, ones[:, 0], ones * 0.9, (3, 3), backend=backend)
