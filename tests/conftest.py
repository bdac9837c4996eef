"""What holds for all tests: Triton's interpreter where there is no GPU, exact convolutions, tiers, hypothesis's profiles."""

from __future__ import annotations

import gc
import os
import signal
import tempfile

import hypothesis
import pytest
import torch

from tests.tiers import TIERS, tier

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton asks when it is imported, so it is told before any test is
# A shell starts what it runs in the background with Ctrl-C ignored, and so would be every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What is compared with cuDNN's convolutions is compared with float32, and each run with the one before.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True
# A cache of compiled code that several users share made a test fail once.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.mkdtemp(prefix="yolov9k-inductor-"))

hypothesis.settings.register_profile("quick", deadline=None)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# Files that take longest: a file is one process's, and one that begins last is waited for alone.
LONGEST = ("test_simt", "test_training", "test_detection_loss", "test_real_input", "test_compile", "test_trajectory",
           "test_baselines", "test_host_reads", "test_readme", "test_docs", "test_examples", "test_models", "test_recompute",
           "test_build", "test_checkpoints", "test_cli", "test_memory", "test_step")  # fmt: skip
COLLECTED = pytest.StashKey[list[tuple[str, frozenset[str]]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    choices = (*TIERS, "all")
    parser.addoption("--tier", choices=choices, default="all", help="quick, slow (the rest), nightly, or all but nightly")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out other tiers; longest files first, an order that pytest-xdist keeps when it is told to make none (Makefile)."""
    marks = [frozenset(mark.name for mark in item.iter_markers()) for item in items]
    config.stash[COLLECTED] = [(item.nodeid, names) for item, names in zip(items, marks, strict=True)]
    wanted = config.getoption("--tier")
    wanted = ("quick", "slow") if wanted == "all" else (wanted,)
    chosen = [item for item, names in zip(items, marks, strict=True) if tier(names) in wanted]
    if left := [item for item, names in zip(items, marks, strict=True) if tier(names) not in wanted]:
        config.hook.pytest_deselected(items=left)
    order = {name: place for place, name in enumerate(LONGEST)}
    items[:] = sorted(chosen, key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    """What was imported lives to the end: collections of garbage need not walk through it, a tenth of a training's time."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Else some libraries report it as leaked."""
    gc.unfreeze()
