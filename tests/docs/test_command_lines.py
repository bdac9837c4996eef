"""Every command of the pages on command lines, run as it stands but for sizes, devices and where weights come from."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from tests.command_line import run
from tests.http_cases import Site, serving
from yolov9k.data.synthetic import generate

pytestmark = pytest.mark.tools

DOCS = Path(__file__).resolve().parents[2] / "docs"
SMALLER = (
    (r"yolov9-c\b", "yolov9-t"),
    (r"(--img|imgsz=|--imgsz)( ?)640", r"\1\g<2>64"),
    (r"\[640,640\]", "[64,64]"),
    (r"(--epochs |epochs=|task\.epoch=)\d+", r"\g<1>1"),
    (r"(--batch |batch=|batch_size=)\d+", r"\g<1>2"),
    (r"(--workers |cpu_num=)\d+", r"\g<1>0"),
    (r"(--device |device=)0", r"\1cpu"),
)


def commands(page: str) -> list[str]:
    return re.findall(r"^    (yolov9k .*)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with data.yaml and images."""
    data = generate(tmp_path / "data", train=4, val=2, size=64)
    described = {**yaml.safe_load(data.read_text()), "path": str(data.parent)}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(described))
    shutil.copytree(data.parent / "images" / "val", tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path


@pytest.mark.parametrize("page", ["coming_from.md", "command_line.md"])
def test_commands_of_the_page(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands(page)
    assert len(found) >= 4
    with serving(Site(b"PK\x03\x04weights")) as address:
        for line in found:
            words = shlex.split(line)[1:]
            if words[0] == "download":
                words += [] if len(words) == 1 else ["--mirror", address]
            else:
                for pattern, smaller in SMALLER:
                    line = re.sub(pattern, smaller, line)
                words = shlex.split(line)[1:]
                words += ["workers=0", "device=cpu"] if words[0] in ("train", "val", "detect") else []
            assert run(*words) == 0, f"{line}\n{capsys.readouterr().err}"
    if page == "coming_from.md":
        for name in ("yolov9-t", "ours", "v9-t", "libre"):
            assert (folder / "runs" / "train" / name / "weights" / "best.pt").exists()
        assert len(list((folder / "runs" / "predict").iterdir())) == 4
    else:
        assert (folder / "weights" / "yolov9-c.pt").exists()
