"""Builds operators and their part of tests/ops/simt with a host compiler, and passes the program cases and results by file."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tests import artifacts
from tests.augment_cases import AugmentCase, BoxesCase
from yolov9k.ops.reference.task_aligned_assign import AssignOptions, regions

CXX = os.environ.get("CXX", "g++")
ROOT = Path(__file__).resolve().parents[3]
SHIM = Path(__file__).resolve().parent
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # csrc/dtype.h
FILTER_WORDS = 128  # csrc/batched_nms.h: kMostFiltered / 32
SANITIZERS = {
    "plain": ("-O1",),
    "address": ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-O1", "-g", "-fsanitize=thread"),
}


class AssignCase(NamedTuple):
    """Arguments of task_aligned_assign; scores contiguous."""

    scores: Tensor
    boxes: Tensor
    anchors: Tensor
    gt_labels: Tensor
    gt_boxes: Tensor
    gt_mask: Tensor
    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0
    logits: bool = False
    mask_conflicts: bool = False
    small_side: float = 0.0
    grown_side: float = 0.0
    limits: Tensor | None = None

    @property
    def options(self) -> AssignOptions:
        return AssignOptions(self.topk, self.alpha, self.beta, self.mask_conflicts, self.small_side, self.grown_side)

    def pack(self) -> bytes:
        """The bytes that task_aligned_assign.cpp reads."""
        (images, count, classes), gt_count = self.scores.shape, self.gt_boxes.shape[1]
        topk = min(self.topk, max(count, 1))
        switches = [self.logits, self.mask_conflicts, self.limits is not None]
        sizes = [0, images, count, gt_count, classes, topk, DTYPES[self.scores.dtype], *switches]
        floats = (self.boxes, self.anchors)
        return b"".join((
            np.array(sizes, np.int64).tobytes(), np.array([self.alpha, self.beta], np.float64).tobytes(), raw(self.scores),
            *(raw(tensor.float()) for tensor in floats), raw(self.gt_labels.long()), raw(self.gt_boxes.float()),
            raw(regions(self.gt_boxes.float(), self.options)), raw(self.gt_mask.bool()),
            *([] if self.limits is None else [raw(self.limits)]),
        ))  # fmt: skip

    def unpack(self, stream: memoryview) -> tuple[tuple[Tensor, ...], memoryview]:
        """gt_index, weight, weight_sum from the head of a result, and its rest."""
        images, count, _ = self.scores.shape
        return take(stream, (np.int64, (images, count)), (np.float32, (images, count)), (np.float32, (images,)))


class NmsCase(NamedTuple):
    """Arguments of batched_nms; prediction contiguous."""

    prediction: Tensor
    conf_threshold: float
    iou_threshold: float
    classes: Sequence[int] | None = None
    class_agnostic: bool = False
    multi_label: bool = False
    max_detections: int = 300
    lengths: Tensor | None = None

    def pack(self) -> bytes:
        """The bytes that batched_nms.cpp reads."""
        images, rows, count = self.prediction.shape
        sizes = [
            1, images, rows - 4, count, self.max_detections, DTYPES[self.prediction.dtype], self.class_agnostic,
            self.multi_label, self.classes is not None,
        ]  # fmt: skip
        words = np.zeros(FILTER_WORDS, np.uint32)
        for label in self.classes or ():
            words[label // 32] |= np.uint32(1 << label % 32)
        thresholds = np.array([self.conf_threshold, self.iou_threshold], np.float32)
        lengths = torch.full((images,), count) if self.lengths is None else self.lengths
        packed = np.array(sizes, np.int64).tobytes() + thresholds.tobytes() + words.tobytes()
        return packed + raw(self.prediction) + raw(lengths)

    def unpack(self, stream: memoryview) -> tuple[tuple[Tensor, ...], memoryview]:
        """detections and counts from the head of a result, and its rest."""
        images = len(self.prediction)
        return take(stream, (np.float32, (images, self.max_detections, 6)), (np.int64, (images,)))


class ImageCase(NamedTuple):
    """Arguments of augment; uint8, contiguous or channels last."""

    case: AugmentCase
    channels_last: bool = False

    def pack(self) -> bytes:
        """The bytes that augment.cpp reads."""
        pixels, layers, *tables, size = self.case
        sizes = [2, len(self.case.ranges), *size, len(pixels), len(layers), self.channels_last]
        levels = torch.arange(256, dtype=torch.uint8)
        return np.array(sizes, np.int64).tobytes() + b"".join(map(raw, (pixels, layers, *tables, levels)))

    def unpack(self, stream: memoryview) -> tuple[tuple[Tensor, ...], memoryview]:
        """The images from the head of a result, and its rest."""
        (height, width), images = self.case.size, len(self.case.ranges)
        shape = (images, height, width, 3) if self.channels_last else (images, 3, height, width)
        (found,), rest = take(stream, (np.uint8, shape))
        return (found.permute(0, 3, 1, 2) if self.channels_last else found,), rest


class ObjectsCase(NamedTuple):
    """Arguments of augment_boxes."""

    case: BoxesCase
    capacity: int = 20

    def pack(self) -> bytes:
        """The bytes that augment_boxes.cpp reads."""
        *tables, size = self.case
        sizes = [3, len(self.case.ranges), *size, len(self.case.points), len(self.case.ends), self.capacity]
        return np.array(sizes, np.int64).tobytes() + b"".join(map(raw, tables))

    def unpack(self, stream: memoryview) -> tuple[tuple[Tensor, ...], memoryview]:
        """boxes and counts from the head of a result, and its rest."""
        images = len(self.case.ranges)
        return take(stream, (np.float32, (images, self.capacity, 5)), (np.int64, (images,)))


Case = AssignCase | NmsCase | ImageCase | ObjectsCase


def raw(tensor: Tensor) -> bytes:
    """A tensor's elements, row by row."""
    return bytes(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()) if tensor.numel() else b""


def take(stream: memoryview, *parts: tuple[Any, tuple[int, ...]]) -> tuple[tuple[Tensor, ...], memoryview]:
    """Arrays of the given dtypes and shapes from the head of `stream`, and its rest."""
    found = []
    for dtype, shape in parts:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        found.append(torch.from_numpy(np.frombuffer(stream[:size], dtype).reshape(shape).copy()))
        stream = stream[size:]
    return tuple(found), stream


def build(folder: Path, operator: str, sanitizer: str = "plain", csrc: Path = ROOT / "csrc") -> Path:
    """Compile an operator of `csrc`, and those whose names begin with its own, for the host; returns the program."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c++17", "-Wall", "-Wextra", "-ffp-contract=off", f"-I{SHIM}", f"-I{csrc}", *SANITIZERS[sanitizer]]
    sources = [
        *(["-DYK_SIMT", "-x", "c++", str(path)] for path in csrc.glob(f"{operator}*.cu")),
        *([str(path)] for room in (csrc, SHIM) for path in sorted(room.glob(f"{operator}*.cpp"))),
        [str(SHIM / "main.cpp")],
    ]
    compiles = [compiling([*flags, *source], folder / f"{number}.o") for number, source in enumerate(sources)]
    objects = [str(finished(compiled)) for compiled in compiles]
    program = folder / "simt"
    subprocess.run([CXX, *flags, *objects, "-o", str(program), "-lpthread"], check=True)
    return program


def plant(folder: Path, name: str, sound: str, faulty: str) -> Path:
    """A copy of csrc/ in which one file's line is replaced."""
    shutil.copytree(ROOT / "csrc", folder)
    text = (folder / name).read_text(encoding="utf-8")
    assert text.count(sound) == 1, f"{name} has no such line any more: {sound}"
    (folder / name).write_text(text.replace(sound, faulty), encoding="utf-8")
    return folder


class Compiling(NamedTuple):
    """An object file, its name in the cache, and what is compiling it: None where the cache has it."""

    target: Path
    name: str
    process: subprocess.Popen[str] | None


@functools.cache
def compiler_version() -> str:
    return subprocess.run([CXX, "--version"], capture_output=True, text=True, check=True).stdout


def compiling(arguments: list[str], target: Path) -> Compiling:
    """Start to compile one source file, unless the same text was compiled with the same flags by this compiler before."""
    done = subprocess.run([CXX, *arguments, "-E", "-P"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    flags = [flag for flag in arguments if flag.startswith("-") and not flag.startswith("-I")]
    name = artifacts.digest(compiler_version(), done.stdout, *flags)
    if kept := artifacts.find(name):
        return Compiling(kept, name, None)
    process = subprocess.Popen([CXX, *arguments, "-c", "-o", str(target)], stderr=subprocess.PIPE, text=True)
    return Compiling(target, name, process)


def finished(compiled: Compiling) -> Path:
    """The object file once it is there, kept for the next time; AssertionError with the compiler's message, warnings too."""
    if compiled.process is None:
        return compiled.target
    message = compiled.process.communicate()[1]
    assert compiled.process.returncode == 0, message
    assert not message, message
    return artifacts.keep(compiled.name, compiled.target)


def execute(program: Path, cases: Sequence[Case], seconds: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the program over cases; its results lie beside it. Raises TimeoutExpired after so many seconds."""
    program.with_name("cases.bin").write_bytes(b"".join(case.pack() for case in cases))
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1 exitcode=66", "ASAN_OPTIONS": "detect_leaks=0"}
    # Newer kernels randomize more address bits than older thread sanitizers can map.
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []
    command = [*fixed, str(program), str(program.with_name("cases.bin")), str(program.with_name("results.bin"))]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds)


def results(program: Path, cases: Sequence[Case]) -> list[tuple[Tensor, ...]]:
    """What the program makes of the cases; AssertionError with its message when it fails."""
    done = execute(program, cases)
    assert done.returncode == 0, done.stderr[-4000:]
    stream, found = memoryview(program.with_name("results.bin").read_bytes()), []
    for case in cases:
        result, stream = case.unpack(stream)
        found.append(result)
    assert not stream
    return found
