"""The night's record: kept after every step, a failed one among them, and left where a step did not run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import nightly


def test_steps_named_alone_leave_the_record_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "nightly" / "record.json"
    steps = {"good": [sys.executable, "-c", "print('7 passed')"], "bad": [sys.executable, "-c", "raise SystemExit('no')"]}
    monkeypatch.setattr(nightly, "RECORD", record)
    monkeypatch.setattr(nightly, "STEPS", steps)
    assert nightly.main([]) == 1
    first = json.loads(record.read_text())
    assert {name: step["passed"] for name, step in first.items()} == {"good": True, "bad": False}
    assert [step["last_line"] for step in first.values()] == ["7 passed", "no"]
    assert set(first["good"]) == {"passed", "seconds", "last_line", "failures", "commit", "machine"}
    steps["good"][2] = "print('8 passed')"
    assert nightly.main(["good"]) == 0
    second = json.loads(record.read_text())
    assert second["good"]["last_line"] == "8 passed"
    assert second["bad"] == first["bad"]


def test_a_step_that_does_not_exist_is_named() -> None:
    with pytest.raises(SystemExit, match=r"no step is called nvc; there are .*nvcc"):
        nightly.main(["nvc"])


def test_the_steps_draw_what_has_more_examples_by_night() -> None:
    """Those of hypothesis by its mark, fuzz tests by their files' names; the others are by night what they are by day."""
    for step, wanted in (("properties", "tests/ops/test_conv3x3.py"), ("fuzz", "tests/data/test_text_fuzz.py")):
        command = [part for part in nightly.STEPS[step] if part not in ("-n", "auto", "--dist", "loadfile")]
        command = [*command[: command.index("tests")], wanted, *command[command.index("tests") + 1 :], "--collect-only"]
        done = subprocess.run(command, cwd=nightly.ROOT, capture_output=True, text=True, check=True)
        assert f"{wanted}::" in done.stdout
