"""Memory of a step: what is counted, the batch that is picked, and what is said when it did not fit."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import little_model
from tests.tiers import examples
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine.train import batch_choice, memory
from yolov9k.engine.train.batch_choice import largest_batch, pick_batch, trial_schedule, trial_sizes
from yolov9k.engine.train.memory import batch_sizes, explain_out_of_memory, footprint, is_out_of_memory
from yolov9k.engine.train.trainer import make_criterion
from yolov9k.losses import DetectionLoss
from yolov9k.models import DetectionModel, create_model
from yolov9k.models.analysis.live_bytes import LiveBytes, step_bytes

pytestmark = pytest.mark.big

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small() -> tuple[DetectionModel, DetectionLoss]:
    model = create_model("gelan-t", 3)
    return model, make_criterion(model, TrainRecipe())


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> tuple[DetectionModel, DetectionLoss]:
    """Where the count is needed, again and again, and the model does not matter."""
    model = create_model(little_model(tmp_path_factory.mktemp("model")), 3)
    return model, make_criterion(model, TrainRecipe())


@pytest.fixture
def quick_collection() -> Iterator[None]:
    """What is alive already is not walked through by each collection of garbage."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_live_bytes_are_those_of_living_storages() -> None:
    known = torch.empty(100, device="meta")
    with LiveBytes([known]) as found:
        a = torch.empty(10, device="meta")
        b = a[2:].view(2, 4)  # the same storage
        c = known.view(10, 10) + a[:10]
        assert found.live == 4 * (10 + 100)
        del a, c
        assert found.live == 4 * 10
        del b
        assert (found.live, found.peak) == (0, 4 * 110)


def test_what_is_counted_on_shapes_is_what_real_tensors_take(small: tuple[DetectionModel, DetectionLoss]) -> None:
    model, criterion = small
    counted = step_bytes(model, criterion, 2, 64, torch.float32, "reference")
    storages: dict[int, int] = {}
    own = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    image = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        maps = [level for branch in model.use("reference").train()(image) for level in branch]
    model.use("auto")
    storages.pop(image.untyped_storage().data_ptr())
    outputs = sum(level.untyped_storage().nbytes() for level in maps)
    # Counted beside: mean and reciprocal deviation of each BatchNorm, BatchNorm's own copies, never a whole map.
    assert sum(storages.values()) <= counted.saved <= 1.1 * (sum(storages.values()) + outputs)
    assert counted.peak > counted.saved


# Convolutions' outputs 4.85 GB and inputs up to 6.5 GB of yolov9-c at batch 16, 640 pixels, bfloat16.
def test_saved_activations_are_those_that_were_counted_by_hand() -> None:
    saved = step_bytes(create_model("yolov9-c"), None, 16, 640, torch.bfloat16, "reference").saved
    assert 4.85e9 + 0.8 * 6.5e9 < saved < 1.15 * (4.85e9 + 6.5e9)
    small = step_bytes(create_model("yolov9-t"), None, 16, 640, torch.bfloat16, "reference").saved
    assert 0.1 * saved < small < 0.3 * saved  # as one pass over all BatchNorm outputs: 0.33 to 1.62 ms


def test_checkpointing_and_plans_hold_less() -> None:
    model = create_model("yolov9-t")
    plain, planned = (step_bytes(model, None, 2, 320, torch.bfloat16, way) for way in ("reference", "triton"))
    less = step_bytes(model.checkpoint_stages(), None, 2, 320, torch.bfloat16, "triton")
    assert planned.saved < plain.saved
    assert less.saved < 0.5 * planned.saved
    assert less.peak < 0.8 * planned.peak


def test_a_footprint_has_the_states_and_a_line(small: tuple[DetectionModel, DetectionLoss]) -> None:
    model, criterion = small
    cost = footprint(model, criterion, 64)
    assert cost.weights == cost.average == sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert cost.gradients == cost.momentum == sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    assert cost.low_precision == 0
    assert cost.total(6) - cost.total(3) == 3 * cost.image
    for batch in (24, 64):
        counted = step_bytes(model, criterion, batch, 64, torch.float32, "reference").peak
        assert cost.fixed + batch * cost.image == pytest.approx(counted, rel=0.02)
    half = footprint(model, criterion, 64, "bf16")
    assert half.image < 0.75 * cost.image
    assert half.low_precision == 2 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("nominal", "most", "wanted"),
    [
        (64, 64, [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 28, 32, 36, 56, 60, 64]),
        (64, 5, [1, 2, 3, 4, 5]),
        (4, 100, [1, 2, 4]),
        (64, 1, [1]),
    ],
)
def test_batches_accumulate_to_the_nominal_one(nominal: int, most: int, wanted: list[int]) -> None:
    assert batch_sizes(nominal, most) == wanted


@pytest.mark.usefixtures("quick_collection")  # every refusal collects garbage
@settings(max_examples=examples(30), deadline=None)
@given(st.integers(0, 50), st.integers(0, 20), st.integers(1, 1000), st.integers(1, 64), st.integers(1, 80))
def test_the_largest_that_fits_is_found(fixed: int, image: int, room: int, most: int, wall: int) -> None:
    """Bytes on a line; beyond `wall` images the allocator refuses, whatever the line says."""
    sizes = batch_sizes(64, most)

    def needs(batch: int) -> int:
        if batch > wall:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return fixed + image * batch

    fitting = [b for b in sizes if b <= wall and fixed + image * b <= room]
    if fitting:
        assert largest_batch(needs, room, sizes)[0] == fitting[-1]
    else:
        with pytest.raises(MemoryError):
            largest_batch(needs, room, sizes)


def test_another_error_is_not_taken_for_one_of_memory() -> None:
    def needs(batch: int) -> int:
        raise RuntimeError("boxes must be [B, G, 5]")

    with pytest.raises(RuntimeError, match=r"\[B, G, 5\]"):
        largest_batch(needs, 10, [1, 2])


def test_pick_on_a_cpu_keeps_within_the_room(
    little: tuple[DetectionModel, DetectionLoss], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, criterion = little
    cost = footprint(model, criterion, 128)
    for room in (cost.total(6), cost.total(20)):
        monkeypatch.setattr(batch_choice, "free_memory", lambda device, room=room: room + 1)
        picked = pick_batch(model, criterion, TrainRecipe(), 128, CPU, share=1.0)
        assert picked.batch == (6 if room == cost.total(6) else 20)
        assert f"--batch auto: {picked.batch} images of 128 px, estimated: " in picked.reason
    monkeypatch.setattr(batch_choice, "free_memory", lambda device: 10**15)
    assert "more would exceed the recipe's 64 images a step" in pick_batch(model, criterion, TrainRecipe(), 64, CPU).reason
    few = pick_batch(model, criterion, TrainRecipe(), 64, CPU, images=9)
    assert few.batch == 8
    monkeypatch.setattr(batch_choice, "free_memory", lambda device: cost.states)
    with pytest.raises(UserError, match=r"not even 1 images of 128 px fit in .*give a smaller --img"):
        pick_batch(model, criterion, TrainRecipe(), 128, CPU)


def test_free_memory_of_this_machine() -> None:
    assert 0 < memory.free_memory(CPU) < 1e14


def test_errors_of_memory_are_told_apart() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator: can't allocate memory"))


# A step whose activations are beyond the address space that the process may use, and the same step at the advised batch.
FAILING = """
import re, resource, sys, torch
from pathlib import Path
from yolov9k.engine import TrainStep
from yolov9k.engine.train.memory import explain_out_of_memory, is_out_of_memory
from yolov9k.engine.train.synthetic_batch import synthetic_batch
from yolov9k.engine.train.trainer import make_criterion
from yolov9k.config.recipe import TrainRecipe
from yolov9k.models import create_model

torch.set_num_threads(1)
torch.manual_seed(0)
model = create_model(sys.argv[1], 3).train()
criterion = make_criterion(model, TrainRecipe())
step = TrainStep(model, criterion, TrainRecipe())
step(*synthetic_batch(2, 64, 3, torch.device("cpu")))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 700_000_000,) * 2)
try:
    step(*synthetic_batch(64, 512, 3, torch.device("cpu")))
except Exception as error:
    assert is_out_of_memory(error), error
    message = str(explain_out_of_memory(error, model, criterion, 64, 512))
else:
    sys.exit("it fitted")
print(message)
step(*synthetic_batch(int(re.search(r"--batch (\\\\d+)", message)[1]), 512, 3, torch.device("cpu")))
print("fits")
"""


def test_a_step_that_runs_out_of_memory_says_what_fits(tmp_path: Path) -> None:
    script = FAILING.replace("\\\\\\\\", "\\\\").replace("\\\\", "\\")
    command = [sys.executable, "-c", script, str(little_model(tmp_path))]
    plain = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}  # what is freed is given back: no room lost between
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=os.environ | plain)
    assert done.returncode == 0, done.stderr
    message, last = done.stdout.strip().splitlines()
    assert last == "fits"
    for text in (
        "out of memory: a step of 64 images of 512 px on cpu takes weights ", "gradients ", "momentum ", "moving average ",
        "activations about ", " an image", "Try --batch ", "--checkpoint (one more forward a step", "--img 384",
        "DefaultCPUAllocator: can't allocate memory",
    ):  # fmt: skip
        assert text in message


def test_what_was_tried_already_is_not_advised_again(little: tuple[DetectionModel, DetectionLoss]) -> None:
    model, criterion = little
    try:
        error = explain_out_of_memory(MemoryError(), model.checkpoint_stages(), criterion, 1, 64)
    finally:
        model.checkpoint_stages(False)
    assert "--checkpoint" not in str(error)
    assert "(MemoryError)" in str(error)


@pytest.mark.parametrize(("batch", "accumulate"), [(1, 3), (16, 3), (32, 2), (64, 1), (40, 2)])
def test_a_trial_has_every_kind_of_step_that_a_run_has(batch: int, accumulate: int) -> None:
    recipe, schedule = trial_schedule(TrainRecipe(), batch)
    sizes = trial_sizes(batch, schedule)
    assert [schedule.at(i).accumulate for i in range(len(sizes))] == [accumulate] * len(sizes)
    assert sizes[-1] == max(batch - 1, 1)
    assert sizes.count(batch) >= 3 * accumulate
    assert (recipe.warmup_epochs, TrainRecipe().nominal_batch) == (0.0, 64)
