"""What validation and prediction share: devices, precision, the model made ready, detection, timing, the progress bar."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from yolov9k.errors import UserError
from yolov9k.models import YOLOv9
from yolov9k.models.checkpoints import write_atomically
from yolov9k.ops import Detections, batched_nms

AMP = {"off": None, "fp16": torch.float16, "bf16": torch.bfloat16}


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """None or "auto": the first GPU, else the CPU; "cpu", "cuda", "cuda:1" or just "1". Raises UserError."""
    if device is None or str(device) in ("", "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if "," in str(device):
        raise UserError(f"--device {device}: a run uses one device; give one of them")
    text = f"cuda:{device}" if str(device).isdigit() else str(device)
    try:
        chosen = torch.device(text)
    except RuntimeError:
        raise UserError(f"--device {device}: no such device; give cpu, cuda, cuda:N or N") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return chosen


def model_device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def choose_amp(amp: str, device: torch.device) -> str:
    """ "auto" by device: bf16 or fp16 on a GPU, off on a CPU; anything else as it is."""
    if amp != "auto":
        return amp
    if device.type != "cuda":
        return "off"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """Mixed precision by name: "off", "fp16" or "bf16". Raises UserError for another."""
    if amp not in AMP:
        raise UserError(f"--amp {amp}: expected one of {', '.join(AMP)}")
    dtype = AMP[amp]
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def inference_form(model: YOLOv9, device: torch.device, *, channels_last: bool = True, lean: bool = True) -> YOLOv9:
    """A new model on `device` that gives what `model` gives in evaluation mode, faster; `model` stays as it is.

    BatchNorm is folded into the convolutions. lean: only the main branch is kept; otherwise all are, and `branches` with
    main_only computes the same without the second copying that a lean model costs.
    """
    fused = (model.to_lean() if lean else model).fuse().to(device)
    return fused.to(memory_format=torch.channels_last) if channels_last else fused  # type: ignore[call-overload]


def exact(maps: Sequence[Tensor]) -> list[Tensor]:
    """Raw maps in at least float32: half precision cannot tell pixels apart beyond 2048 (fp16) or 256 (bf16)."""
    return [level if level.dtype == torch.float64 else level.float() for level in maps]


def detect(
    model: YOLOv9,
    maps: Sequence[Tensor],
    conf: float,
    iou: float,
    *,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    max_det: int = 300,
) -> Detections:
    """From the main branch's `exact` raw maps to what suppression keeps, as in `ops.batched_nms`; a GPU is not waited for."""
    prediction, lengths = model.candidates(maps, conf)
    return batched_nms(prediction, conf, iou, classes, agnostic, multi_label, max_det, lengths=lengths)


def to_input(images: Tensor, model: nn.Module, device: torch.device, channels_last: bool = False) -> Tensor:
    """uint8 [B, 3, H, W] -> 0..1 on the device, in the precision of the model's weights."""
    dtype = next(model.parameters()).dtype
    x = images.to(device, non_blocking=True).to(dtype) / 255
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


@dataclass(frozen=True)
class Speed:
    """Milliseconds an image.

    preprocess: transfer and scaling, in prediction letterboxing too; inference: the network; postprocess: decode, NMS, the
    way to the host, mapping to the original picture. Reading and decoding files is nowhere in it. On a GPU what the host
    does while the device is busy costs nothing, and counts as nothing.
    """

    preprocess: float = 0.0
    inference: float = 0.0
    postprocess: float = 0.0

    @property
    def total(self) -> float:
        return self.preprocess + self.inference + self.postprocess

    def __str__(self) -> str:
        parts = f"{self.preprocess:.1f} preprocess, {self.inference:.1f} inference, {self.postprocess:.1f} postprocess"
        return f"{parts} ms an image"


class Clock:
    """Adds up what each phase took, without waiting.

    On a CPU by its clock. On a GPU between two events in the stream: the time from when the device came to the phase until
    it was through with it, so work of the host counts as far as the device had to wait for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._open: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()  # phases the device is not through with

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what is done inside to `name`, a field of Speed."""
        if self._device.type == "cuda":
            start = self._event()
            yield
            self._open.append((name, start, self._event()))
            while self._open and self._open[0][2].query():  # type: ignore[no-untyped-call]
                self._close()
        else:
            began = time.perf_counter()
            yield
            self._add(name, time.perf_counter() - began)

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _close(self) -> None:
        name, start, end = self._open.popleft()
        self._add(name, start.elapsed_time(end) / 1000)

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def speed(self, images: int) -> Speed:
        """Means over the number of images; waits until the device is through with all phases."""
        while self._open:
            self._open[0][2].synchronize()
            self._close()
        return Speed(**{name: 1000 * seconds / max(images, 1) for name, seconds in self._seconds.items()})


def progress_bar(shown: bool = True) -> Progress:
    """A bar on stderr that goes when it is done."""
    times = TimeElapsedColumn(), TimeRemainingColumn()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON, its folder made where it is not there; the file appears complete or not at all. Raises UserError."""
    path, text = Path(path), json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        temporary.write_text(text)

    write_atomically(path, write)
