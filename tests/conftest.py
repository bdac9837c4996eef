"""Where there is no GPU Triton's kernels are interpreted. Triton asks when it is imported, so it is told before any test is."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
