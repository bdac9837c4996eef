"""What validation and prediction share: devices, precision, timing, the progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from yolov9k.errors import UserError
from yolov9k.models.checkpoints import write_atomically

AMP = {"off": None, "fp16": torch.float16, "bf16": torch.bfloat16}


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """None or "auto": the first GPU, else the CPU; "cpu", "cuda", "cuda:1" or just "1". Raises UserError."""
    if device is None or str(device) in ("", "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text = f"cuda:{device}" if str(device).isdigit() else str(device)
    try:
        chosen = torch.device(text)
    except RuntimeError:
        raise UserError(f"--device {device}: no such device; give cpu, cuda, cuda:N or N") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return chosen


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises UserError unless low <= value <= high."""
    if not low <= value <= high:
        raise UserError(f"--{name} {value}: expected a number from {low:g} to {high:g}")


def model_device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """Mixed precision by name: "off", "fp16" or "bf16". Raises UserError for another."""
    if amp not in AMP:
        raise UserError(f"--amp {amp}: expected one of {', '.join(AMP)}")
    dtype = AMP[amp]
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def to_input(images: Tensor, model: nn.Module, device: torch.device, channels_last: bool = False) -> Tensor:
    """uint8 [B, 3, H, W] -> 0..1 on the device, in the precision of the model's weights."""
    dtype = next(model.parameters()).dtype
    x = images.to(device, non_blocking=True).to(dtype) / 255
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


@dataclass(frozen=True)
class Speed:
    """Milliseconds an image.

    preprocess: transfer and scaling, in prediction letterboxing too; postprocess: NMS, mapping to the original picture.
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
    """Adds up what each phase took, waiting for the GPU at its borders."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + self._now() - start

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def speed(self, images: int) -> Speed:
        """Means over the number of images."""
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
