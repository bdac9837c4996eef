"""`make test`: lint and the quick tests side by side, and the failure of either is its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Says what it is called with and waits for its like: of ruff and python, which begin the two, each sees the other begin.
TOOL = """#!/bin/sh
name=$(basename "$0")
echo "$name $*"
touch "$0.began"
tries=0
while [ "$other" ] && [ ! -e "$(dirname "$0")/$other.began" ]; do
    sleep 0.1
    tries=$((tries + 1))
    [ $tries -lt 100 ] || exit 9
done
[ "$name" != "$FAILING" ]
"""


@pytest.mark.skipif(not shutil.which("make"), reason="no make on PATH")
@pytest.mark.parametrize("failing", ["", "ruff", "codespell", "python"])
def test_lint_and_tests_run_side_by_side_and_either_fails_both(tmp_path: Path, failing: str) -> None:
    (tmp_path / "bin").mkdir()
    for name, other in {"python": "ruff", "ruff": "python", "mypy": "", "codespell": ""}.items():
        path = tmp_path / "bin" / name
        path.write_text(TOOL.replace("tries=0", f"tries=0 other={other}"))
        path.chmod(0o755)
    (tmp_path / ".installed").touch()
    command = ["make", "test", f"VENV={tmp_path}", f"FAILING={failing}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode == 0) == (failing == ""), done.stderr
    assert "python -m pytest" in done.stdout
    assert "--tier quick" in done.stdout
    assert ("\ncodespell " in done.stdout) == (failing != "ruff"), done.stdout
