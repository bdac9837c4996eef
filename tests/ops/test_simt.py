"""The CUDA kernels, run on the host: equal to the references, clean under sanitizers that find planted errors."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.augment_cases import KINDS, augment_case, boxes_case
from tests.ops.simt.cases import AssignCase, ImageCase, NmsCase, ObjectsCase, build, execute, plant, results
from tests.simt_cases import assign_cases, crowded_cases, expected, nms_cases
from yolov9k.ops import augment, augment_boxes

pytestmark = pytest.mark.toolchain


def assert_equal(cases: list[AssignCase] | list[NmsCase], found: list[tuple[Tensor, ...]]) -> None:
    """Every index and every float the same, to the bit."""
    for case, ours in zip(cases, found, strict=True):
        for mine, wanted in zip(ours, expected(case), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=0, atol=0)


Programs = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """An operator's host program, plain or under a sanitizer, built when it is first asked for: a build takes many seconds."""
    return functools.cache(lambda operator, sanitizer: build(tmp_path_factory.mktemp(sanitizer), operator, sanitizer))


@pytest.mark.twin
def test_assigner_kernels_equal_the_reference_in_a_few_cases(programs: Programs) -> None:
    cases = assign_cases()[1:3] + assign_cases()[8:10] + assign_cases()[12:14]
    assert_equal(cases, results(programs("task_aligned_assign", "plain"), cases))


@pytest.mark.parametrize("sanitizer", ["plain", "address", "thread"])
def test_assigner_kernels_equal_the_reference(programs: Programs, sanitizer: str) -> None:
    cases = assign_cases() if sanitizer != "thread" else assign_cases()[3:8]
    assert_equal(cases, results(programs("task_aligned_assign", sanitizer), cases))


@pytest.mark.parametrize("sanitizer", ["plain", "address", "thread"])
def test_suppression_kernels_equal_the_reference(programs: Programs, sanitizer: str) -> None:
    cases = {"plain": nms_cases(), "address": nms_cases()[::3], "thread": nms_cases()[1:2]}[sanitizer]  # slower each
    assert_equal(cases, results(programs("batched_nms", sanitizer), cases))


def test_suppression_kernels_take_the_best_of_too_many(programs: Programs) -> None:
    cases = crowded_cases()
    assert_equal(cases, results(programs("batched_nms", "plain"), cases))


@pytest.mark.parametrize("sanitizer", ["plain", "address", "thread"])
def test_host_augmentation_equals_the_reference(programs: Programs, sanitizer: str) -> None:
    """Built with and without AVX2 by the compiler's own choice at run time; every array ends where it is said to end."""
    sizes = ((19, 33), (1, 1), (40, 8))
    images = [
        ImageCase(augment_case(seed, seed % 4, KINDS[seed % 4], size=sizes[seed % 3]), seed % 2 == 1) for seed in range(40)
    ]
    objects = [ObjectsCase(boxes_case(seed, seed % 4, KINDS[seed % 4])) for seed in range(40)]
    if sanitizer == "thread":
        images, objects = images[:8], objects[:8]
    program = programs("augment", sanitizer)
    for mine, (found,) in zip(images, results(program, images), strict=True):
        assert torch.equal(found, augment(*mine.case, backend="reference"))
    for yours, found in zip(objects, results(program, objects), strict=True):
        wanted = augment_boxes(*yours.case, yours.capacity, backend="reference")
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_read_past_the_images_is_caught(tmp_path: Path) -> None:
    csrc = plant(tmp_path / "csrc", "augment.cpp", "low, low + length - kFraction)};", "low, low + length)};")
    whole = torch.tensor([[0, 8, 8, 0, 0, -1, 24, 0]]), torch.tensor([[[0, 1], [0, 0]]])
    case = augment_case(0, images=1, kind="still", size=(9, 9))
    case = case._replace(pixels=torch.zeros(192, dtype=torch.uint8), layers=whole[0], ranges=whole[1])
    done = execute(build(tmp_path / "address", "augment", "address", csrc), [ImageCase(case)])
    assert done.returncode not in (0, 66)
    assert "heap-buffer-overflow" in done.stderr


def first_end(program: Path, cases: list[AssignCase], tries: int = 5) -> subprocess.CompletedProcess[str]:
    """The first of some runs that ends within a minute, of the second that it takes.

    Without the barrier threads may part and wait for each other before the sanitizer has seen the race: one run in eight.
    """
    for _ in range(tries - 1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return execute(program, cases, 60)
    return execute(program, cases, 60)


def test_a_missing_barrier_is_caught(tmp_path: Path) -> None:
    sound = "        __syncthreads();\n        held = appended;"
    csrc = plant(tmp_path / "csrc", "task_aligned_assign.cuh", sound, "        held = appended;")
    done = first_end(build(tmp_path / "thread", "task_aligned_assign", "thread", csrc), assign_cases()[3:4])
    assert done.returncode == 66
    assert "data race" in done.stderr


def test_a_write_out_of_bounds_is_caught(tmp_path: Path) -> None:
    csrc = plant(tmp_path / "csrc", "task_aligned_assign.cuh", "if (!real) continue;", "if (!real && a > in.count) continue;")
    done = execute(build(tmp_path / "address", "task_aligned_assign", "address", csrc), assign_cases()[3:4])
    assert done.returncode not in (0, 66)
    assert "heap-buffer-overflow" in done.stderr
