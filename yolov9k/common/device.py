"""Devices: which one, and in what precision."""

from __future__ import annotations

import torch
from torch import nn

from yolov9k.common.errors import UserError

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
