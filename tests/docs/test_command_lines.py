"""Every command of the pages on command lines and weights, as it stands but for sizes, devices and where weights come from."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from tests.command_line import run
from tests.http_cases import Site, serving
from yolov9k.compat import convert, load
from yolov9k.data.synthetic import generate
from yolov9k.models import create_model
from yolov9k.models.checkpoints import save

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


# Files that the page on weights names, smaller as its commands are: the network in each, and whose file it is, "" our own.
WRITTEN_BY = {
    "yolov9-t-converted.pt": ("gelan-t", "published"), "LibreYOLO9t.pt": ("yolov9-t", "libreyolo"),
    "yolov9t.pt": ("gelan-t", "ultralytics"), "yolov9-t.pt": ("yolov9-t", "published"), "best.pt": ("yolov9-t", ""),
}  # fmt: skip


def write_weights(folder: Path) -> None:
    names = list(yaml.safe_load((folder / "data.yaml").read_text())["names"].values())
    for file, (network, peer) in WRITTEN_BY.items():
        model = create_model(network, len(names))
        model.names = names
        convert(model, folder / file, peer) if peer else save(folder / file, model)


@pytest.mark.parametrize("page", ["coming_from.md", "command_line.md", "weights.md"])
def test_commands_of_the_page(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands(page)
    assert len(found) >= 4
    if page == "weights.md":
        write_weights(folder)
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
                words += ["--img", "64"] if words[0] in ("val", "predict") and "img" not in line else []
            assert run(*words) == 0, f"{line}\n{capsys.readouterr().err}"
    if page == "coming_from.md":
        for name in ("yolov9-t", "ours", "v9-t", "libre"):
            assert (folder / "runs" / "train" / name / "weights" / "best.pt").exists()
        assert len(list((folder / "runs" / "predict").iterdir())) == 4
    elif page == "weights.md":
        assert load(folder / "yolov9-t-lean.pt").spec.name == load(folder / "ultralytics.pt").spec.name == "gelan-t"
        assert len(list((folder / "runs" / "predict" / "exp").glob("*.*"))) == 2
    else:
        assert (folder / "weights" / "yolov9-c.pt").exists()
