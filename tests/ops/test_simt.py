"""The CUDA kernels, run on the host: equal to the references, clean under sanitizers that find planted errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.augment_cases import KINDS, augment_case, boxes_case
from tests.ops.simt.cases import ROOT, AssignCase, ImageCase, NmsCase, ObjectsCase, build, execute, results
from tests.support import assign_case, nms_prediction
from yolov9k.ops import augment, augment_boxes
from yolov9k.ops.reference.batched_nms import batched_nms
from yolov9k.ops.reference.task_aligned_assign import AssignOptions, task_aligned_assign

pytestmark = pytest.mark.toolchain

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def assign_cases() -> list[AssignCase]:
    """Few boxes and many, more claims than a block holds at a time, ties, contests, what is not finite, nothing at all."""
    cases = [
        AssignCase(*assign_case(seed=n, images=2, boxes=n, size=96, classes=3, dtype=DTYPES[n % 3]), logits=n % 2 == 1)
        for n in (0, 1, 2, 33, 64, 65)
    ]
    cases += [AssignCase(*assign_case(7, 1, 20, 96, 2)[:6], topk=k, mask_conflicts=k == 3) for k in (1, 3, 1000)]
    one = assign_case(8, 1, 1, 512, 1, spread=600.0)  # 5376 anchors, nearly all inside: the buffer is trimmed on the way
    cases += [AssignCase(*one[:4], torch.tensor([[[0.0, 0, 512, 512]]]), one[5]), AssignCase(*one[:6], topk=1024)]
    tied = assign_case(9, 2, 6, 64, 1)
    cases.append(AssignCase(torch.full_like(tied[0], 0.5), *tied[1:3], tied[3], tied[4][:, :1].expand(-1, 6, -1), tied[5]))
    odd = assign_case(10, 2, 9, 64, 2)
    nan, inf = float("nan"), float("inf")
    for tensor, values in ((odd[0], (nan, -1.0)), (odd[1], (nan, inf, 1e30)), (odd[4], (inf,))):
        for i, value in enumerate(values):
            tensor.view(-1)[i :: 11 + i] = value
    cases.append(AssignCase(*odd, beta=0.0, alpha=0.0))
    cases.append(AssignCase(*odd, alpha=1.0, beta=4.5))
    minus = assign_case(12, 2, 9, 64, 2)
    minus[0][:, ::3], minus[0][:, 1::3] = -0.0, -0.3
    cases += [AssignCase(*minus), AssignCase(*minus, alpha=1.0)]
    bare = tuple(part[:, :0] if i < 2 else part[:0] if i == 2 else part for i, part in enumerate(minus))  # no anchors
    return [*cases, AssignCase(*bare), AssignCase(*assign_case(11, 0, 4, 64, 2))]


def nms_cases() -> list[NmsCase]:
    """One label and many, filters, ties, what is not finite, nothing, and more candidates than may compete."""
    cases = []
    for seed in range(6):
        prediction = nms_prediction(seed, images=2, classes=1 + 2 * seed, anchors=40 + 97 * seed, dtype=DTYPES[seed % 3])
        classes = [0] if seed == 4 else None
        cases.append(NmsCase(prediction, 0.1, 0.45, classes, seed % 2 == 1, seed % 3 != 0, (1, 30, 700)[seed % 3]))
    tied = nms_prediction(7, 1, 3, 600)
    tied[:, 4:] = 0.5
    odd = nms_prediction(8, 1, 2, 90)
    odd[0, 0, ::7], odd[0, 2, ::5], odd[0, 4, ::3], odd[0, 5, ::11] = float("nan"), float("inf"), float("inf"), float("nan")
    cases += [NmsCase(tied, 0.1, 0.3, multi_label=True, max_detections=50), NmsCase(odd, 0.01, 0.5, multi_label=True)]
    short = nms_prediction(10, 3, 4, 300)
    cases.append(NmsCase(short, 0.1, 0.45, multi_label=True, lengths=torch.tensor([0, 170, 900])))
    cases += [NmsCase(odd, 0.01, 0.5), NmsCase(odd, 0.999, 0.5), NmsCase(odd[:0], 0.1, 0.5)]
    return cases


def crowded_cases() -> list[NmsCase]:
    """More candidates than the 30,000 that compete: with scores all apart, and with so many alike that places decide."""
    prediction = nms_prediction(9, 1, 40, 800)
    prediction[:, 4:] = torch.rand(prediction[:, 4:].shape, generator=torch.Generator().manual_seed(9))
    alike = prediction.clone()
    alike[:, 4:] = torch.where(alike[:, 4:] > 0.9, 0.9, 0.25)
    return [NmsCase(image, 0.001, 0.1, multi_label=True, max_detections=20) for image in (prediction, alike)]


def expected(case: AssignCase | NmsCase) -> tuple[Tensor, ...]:
    """What the reference makes of a case."""
    if isinstance(case, NmsCase):
        return batched_nms(*case)
    options = AssignOptions(case.topk, case.alpha, case.beta, case.mask_conflicts)
    return task_aligned_assign(*case[:6], options, case.logits)


def assert_equal(cases: list[AssignCase] | list[NmsCase], found: list[tuple[Tensor, ...]]) -> None:
    """Every index and every float the same, to the bit."""
    for case, ours in zip(cases, found, strict=True):
        for mine, wanted in zip(ours, expected(case), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=0, atol=0)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The host program, plain and under each sanitizer."""
    return {name: build(tmp_path_factory.mktemp(name), name) for name in ("plain", "address", "thread")}


@pytest.mark.parametrize("sanitizer", ["plain", "address", "thread"])
def test_assigner_kernels_equal_the_reference(programs: dict[str, Path], sanitizer: str) -> None:
    cases = assign_cases() if sanitizer != "thread" else assign_cases()[3:8]
    assert_equal(cases, results(programs[sanitizer], cases))


@pytest.mark.parametrize("sanitizer", ["plain", "address", "thread"])
def test_suppression_kernels_equal_the_reference(programs: dict[str, Path], sanitizer: str) -> None:
    cases = {"plain": nms_cases(), "address": nms_cases()[::3], "thread": nms_cases()[1:2]}[sanitizer]  # slower each
    assert_equal(cases, results(programs[sanitizer], cases))


def test_suppression_kernels_take_the_best_of_too_many(programs: dict[str, Path]) -> None:
    cases = crowded_cases()
    assert_equal(cases, results(programs["plain"], cases))


@pytest.mark.twin
@pytest.mark.parametrize("sanitizer", ["plain", "address", "thread"])
def test_host_augmentation_equals_the_reference(programs: dict[str, Path], sanitizer: str) -> None:
    """Built with and without AVX2 by the compiler's own choice at run time; every array ends where it is said to end."""
    sizes = ((19, 33), (1, 1), (40, 8))
    images = [
        ImageCase(augment_case(seed, seed % 4, KINDS[seed % 4], size=sizes[seed % 3]), seed % 2 == 1) for seed in range(40)
    ]
    objects = [ObjectsCase(boxes_case(seed, seed % 4, KINDS[seed % 4])) for seed in range(40)]
    if sanitizer == "thread":
        images, objects = images[:8], objects[:8]
    for mine, (found,) in zip(images, results(programs[sanitizer], images), strict=True):
        assert torch.equal(found, augment(*mine.case, backend="reference"))
    for yours, found in zip(objects, results(programs[sanitizer], objects), strict=True):
        wanted = augment_boxes(*yours.case, yours.capacity, backend="reference")
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_read_past_the_images_is_caught(tmp_path: Path) -> None:
    csrc = plant(tmp_path / "csrc", "augment.cpp", "low, low + length - kFraction)};", "low, low + length)};")
    whole = torch.tensor([[0, 8, 8, 0, 0, -1, 24, 0]]), torch.tensor([[[0, 1], [0, 0]]])
    case = augment_case(0, images=1, kind="still", size=(9, 9))
    case = case._replace(pixels=torch.zeros(192, dtype=torch.uint8), layers=whole[0], ranges=whole[1])
    done = execute(build(tmp_path / "address", "address", csrc), [ImageCase(case)])
    assert done.returncode not in (0, 66)
    assert "heap-buffer-overflow" in done.stderr


def plant(folder: Path, name: str, sound: str, faulty: str) -> Path:
    """A copy of csrc/ in which one file's line is replaced."""
    shutil.copytree(ROOT / "csrc", folder)
    text = (folder / name).read_text(encoding="utf-8")
    assert text.count(sound) == 1, f"{name} has no such line any more: {sound}"
    (folder / name).write_text(text.replace(sound, faulty), encoding="utf-8")
    return folder


@pytest.mark.twin
def test_a_missing_barrier_is_caught(tmp_path: Path) -> None:
    sound = "        __syncthreads();\n        held = appended;"
    csrc = plant(tmp_path / "csrc", "task_aligned_assign.cuh", sound, "        held = appended;")
    done = execute(build(tmp_path / "thread", "thread", csrc), assign_cases()[3:4])
    assert done.returncode == 66
    assert "data race" in done.stderr


def test_a_write_out_of_bounds_is_caught(tmp_path: Path) -> None:
    csrc = plant(tmp_path / "csrc", "task_aligned_assign.cuh", "if (!real) continue;", "if (!real && a > in.count) continue;")
    done = execute(build(tmp_path / "address", "address", csrc), assign_cases()[3:4])
    assert done.returncode not in (0, 66)
    assert "heap-buffer-overflow" in done.stderr
