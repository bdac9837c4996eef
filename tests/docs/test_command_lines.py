"""Every command of the documentation's pages, as it stands but for sizes, devices and where weights come from."""

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
    shutil.copytree(data.parent, tmp_path / "path" / "to" / "data")
    for file in ("data.yaml", "labels", "images"):
        (tmp_path / "path" / "to" / file).symlink_to(Path("data") / file)
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


# What the commands of each page leave.
LEFT = {
    "coming_from.md": [
        *(f"runs/train/{name}/weights/best.pt" for name in ("yolov9-t", "ours", "v9-t", "libre")),
        *(f"runs/predict/{name}" for name in ("yolov9_c_640_detect", "exp", "exp2", "exp3")),
    ],
    "command_line.md": ["weights/yolov9-c.pt"],
    "weights.md": ["runs/predict/exp", "ultralytics.pt"],
    "train.md": ["runs/grid.png", "runs/train/exp/weights/best.pt", "runs/val/exp"],
    "data.md": ["runs/grid.png"],
    "predict.md": ["runs/predict/exp/labels"],
}


def test_no_page_with_commands_is_left_out() -> None:
    assert {page.name for page in DOCS.rglob("*.md") if commands(str(page.relative_to(DOCS)))} == LEFT.keys()
    assert all(len(commands(page)) >= 4 for page in ("coming_from.md", "command_line.md", "weights.md"))


@pytest.mark.parametrize("page", LEFT)
def test_commands_of_the_page(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if page in ("weights.md", "predict.md"):
        write_weights(folder)
    with serving(Site(b"PK\x03\x04weights")) as address:
        for line in commands(page):
            words = shlex.split(line)[1:]
            if words[0] == "download":
                words += [] if len(words) == 1 else ["--mirror", address]
            else:
                for pattern, smaller in SMALLER:
                    line = re.sub(pattern, smaller, line)
                words = shlex.split(line)[1:]
                words += ["workers=0", "device=cpu"] if words[0] in ("train", "val", "detect") else []
                words += ["epochs=1"] if words[0] == "train" and "epoch" not in line else []
                words += ["--img", "64"] if words[0] in ("val", "predict") and "img" not in line else []
            assert run(*words) == 0, f"{line}\n{capsys.readouterr().err}"
    for left in LEFT[page]:
        assert (folder / left).exists()
    if page == "coming_from.md":
        assert len(list((folder / "runs" / "predict").iterdir())) == 4
    if page == "weights.md":
        assert len(list((folder / "runs" / "predict" / "exp").glob("*.*"))) == 2
        assert load(folder / "yolov9-t-lean.pt").spec.name == load(folder / "ultralytics.pt").spec.name == "gelan-t"
