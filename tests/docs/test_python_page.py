"""The page on Python: its programs run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from yolov9k.data.synthetic import generate

pytestmark = pytest.mark.tools

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_programs_run_one_after_another(tmp_path: Path) -> None:
    generate(tmp_path / "runs" / "demo-data", train=16, val=4, size=64)
    programs = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(programs) == 2
    for program in programs:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
            text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "model.safetensors").is_file()
    assert done.stdout.startswith("1 1 ")
    assert {path.name for path in (tmp_path / "runs/train").iterdir()} == {"python", "logged"}


@pytest.mark.twin
def test_every_event_is_in_the_table() -> None:
    from yolov9k.engine.events import ALIASES

    assert [kind.__name__ for kind in ALIASES.values() if f"`{kind.__name__}`" not in PAGE] == []
