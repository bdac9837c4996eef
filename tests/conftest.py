"""Where there is no GPU Triton's kernels are interpreted. Triton asks when it is imported, so it is told before any test is."""

from __future__ import annotations

import gc
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# What is compared with cuDNN's convolutions is compared with float32, and each run with the one before.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True

# Files that take longest: a file is one process's, and one that begins last is waited for alone.
LONGEST = ("test_readme", "test_compile", "test_simt", "test_trajectory", "test_training", "test_peers", "test_real_input",
           "test_detection_loss", "test_host_reads", "test_recompute", "test_models", "test_modes", "test_build")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first; pytest-xdist keeps this order when it is told not to make its own (Makefile)."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    """What was imported lives to the end: collections of garbage need not walk through it, a tenth of a training's time."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Else some libraries report it as leaked."""
    gc.unfreeze()
