"""Every option that the installed Ultralytics and LibreYOLO list is one that a command of ours answers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from yolov9k.config.keys import known_keys

PEERS = os.environ.get("YOLOV9K_PEERS", "")
pytestmark = [pytest.mark.tools, pytest.mark.skipif(not PEERS, reason="YOLOV9K_PEERS names no folder with both packages")]

OF_OTHER_COMMANDS = {
    "format", "optimize", "dynamic", "simplify", "opset", "workspace", "nms", "tracker", "cfg", "int8", "keras",
}  # fmt: skip


def printed(folder: Path, *command: str) -> str:
    environment = {
        "PATH": os.environ["PATH"], "COLUMNS": "200", "HOME": str(folder), "YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "1",
    }  # fmt: skip
    program = Path(PEERS) / "bin" / command[0]
    done = subprocess.run(
        [program, *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


def test_keys_of_ultralytics(tmp_path: Path) -> None:
    keys = set(re.findall(r"^([a-z]\w*):", printed(tmp_path, "yolo", "cfg"), re.MULTILINE))
    assert len(keys) > 90
    assert keys - OF_OTHER_COMMANDS - set().union(*(known_keys(command) for command in ("train", "val", "predict"))) == set()


@pytest.mark.parametrize("command", ["train", "val", "predict"])
def test_options_of_libreyolo(command: str, tmp_path: Path) -> None:
    text = printed(tmp_path, "libreyolo", command, "--help")
    keys = {flag.replace("-", "_") for flag in re.findall(r"^[│|] +\*? *--([a-z0-9-]+)", text, re.MULTILINE)} - {"help"}
    assert len(keys) > 20
    assert keys - set(known_keys(command)) == set()
