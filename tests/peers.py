"""The other implementations, for tests that hold ours against them: each in a process of its own, as a black box.

YOLOV9K_PEERS: a folder with bin/python, an environment that has Ultralytics and LibreYOLO (bench/baselines/README.md says how
to make one). YOLOV9K_PUBLISHED, YOLOV9K_MIT: checkouts of the published code and of the MIT rewrite. A test that needs one
that is not there skips and says so. Files with such tests bear the mark `peers`, which puts them into the slow tier.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.baselines.subjects import QUIET

ROOT = Path(__file__).resolve().parents[1]
CHECKOUTS = {"published": "YOLOV9K_PUBLISHED", "mit": "YOLOV9K_MIT"}
_TAIL = 4000


def python() -> Path:
    """The interpreter of the environment of peers; skips the test without one."""
    folder = os.environ.get("YOLOV9K_PEERS")
    path = Path(folder or "") / "bin" / "python"
    if not folder or not path.exists():
        pytest.skip("needs the other implementations; set YOLOV9K_PEERS to an environment that has them")
    return path


def checkout(peer: str) -> Path:
    """The folder of "published" or "mit"; skips the test without it."""
    folder = Path(os.environ.get(CHECKOUTS[peer], ""))
    if not os.environ.get(CHECKOUTS[peer]) or not folder.is_dir():
        pytest.skip(f"needs a checkout of the {peer} code; set {CHECKOUTS[peer]} to it")
    return folder


def run(code: str, folder: Path, *arguments: object, peer: str | None = None, seconds: float = 900) -> str:
    """Output of Python code that runs beside the peers; fails the test, with the end of what it said, where the code fails.

    folder: it runs there, and peers keep their settings there. arguments: sys.argv[1:]. peer: "published" or "mit" puts that
    checkout on the path. This package is on it too.
    """
    path = [str(ROOT), *([str(checkout(peer))] if peer else [])]
    settings = {"YOLO_CONFIG_DIR": str(folder), "YOLOV5_CONFIG_DIR": str(folder), "PYTHONPATH": os.pathsep.join(path)}
    command = [str(python()), "-W", "ignore", "-c", code, *map(str, arguments)]
    environment = {**os.environ, **QUIET, **settings}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
    )
    if done.returncode:
        pytest.fail(f"exit {done.returncode}: {done.stdout[-_TAIL:]}", pytrace=False)
    return done.stdout


def answer(code: str, folder: Path, *arguments: object, peer: str | None = None, seconds: float = 900) -> Any:
    """What the code prints last, as JSON; otherwise as `run`."""
    return json.loads(run(code, folder, *arguments, peer=peer, seconds=seconds).rstrip().splitlines()[-1])
