"""Damaged text files of every kind: read, or one short line or issue, never a traceback, a hang or gigabytes."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.data_cases import BOX, write_image, write_yolo
from tests.mutations import text_mutants, within_time
from tests.tiers import examples
from yolov9k.common.errors import UserError
from yolov9k.config import TrainOptions
from yolov9k.config.recipe import load_recipe
from yolov9k.data.config import read_split
from yolov9k.engine.predict.sources import open_source
from yolov9k.engine.train.plots import read_results

pytestmark = pytest.mark.e2e

MOST_MEMORY = 1 << 20  # KiB
LONGEST = 1500  # characters of a message without its paths
Read = Callable[[Path], object]

COCO = {
    "images": [{"id": n, "file_name": f"images/{name}.jpg", "height": 20, "width": 40} for n, name in ((1, "a"), (2, "b"))],
    "categories": [{"id": 1, "name": "cell"}, {"id": 7, "name": "dust"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 9], "area": 90, "iscrowd": 0,
         "segmentation": [[1, 2, 11, 2, 11, 11, 1, 11], [2, 2, 4, 2, 4, 4]]},
        {"id": 2, "image_id": 2, "category_id": 1, "bbox": [1.5, 2.5, 10, 9], "iscrowd": 1,
         "segmentation": {"counts": [1, 2, 3], "size": [20, 40]}},
    ],
}  # fmt: skip
VOC = """<?xml version="1.0" encoding="utf-8"?>
<annotation><filename>a.jpg</filename><size><width>40</width><height>20</height><depth>3</depth></size>
<object><name>cell</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>19</ymax></bndbox></object>
<object><name>dust</name><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>12.5</xmax><ymax>19</ymax></bndbox></object></annotation>
"""
TABLE = (
    "filename,width,height,class,xmin,ymin,xmax,ymax\nimages/a.jpg,40,20,cell,1,2,10,9\nimages/b.jpg,40,20,dust,1,2,10.5,9\n"
)
LABELME = {
    "version": "5.5.0", "flags": {}, "imagePath": "..\\images\\a.jpg", "imageData": None, "imageHeight": 20, "imageWidth": 40,
    "shapes": [
        {"label": "cell", "points": [[1, 2], [10, 9.5]], "group_id": None, "shape_type": "rectangle"},
        {"label": "dust", "points": [[1, 2], [10, 2], [10, 9]], "group_id": 1, "shape_type": "polygon"},
    ],
}  # fmt: skip
RESULTS = "epoch,train/box_loss,metrics/mAP_0.5,lr/pg0\n0,1.5,0.25,0.01\n1,1.25,,0.02\n2,nan,0.5,0.03\n"
LABELS = f"{BOX}\n1 0.1 0.1 0.3 0.1 0.3 0.3 0.1 0.3\n\n0 0.5 0.5 1 1\n"
DATA = """path: .
train: images
val: [images, list.txt, 'images/*.jpg']
nc: 2
names: {0: cell, 1: dust}
download: &x https://example.org
"""
ORIGINALS = {
    "data.yaml": [DATA, "train: images\nval: list.txt\nnames: [cell, dust]\n", "train: train.json\nnames:\n- cell\n- dust\n"],
    "hyp.yaml": [
        "lr0: 0.01\nmomentum: 0.937\nfl_gamma: 0.0\nmosaic: 1.0\n",
        "{box: 7.5, tal_topk: 10}\n",
    ],
    "args.yaml": [yaml.safe_dump(TrainOptions(data="data.yaml", cfg="gelan-t").by_flag())],
    "train.json": [json.dumps(COCO), json.dumps(COCO, indent=1)],
    "x.xml": [VOC, VOC.replace("utf-8", "gb18030")],
    "labels/a.txt": [LABELS, "0 0.5 0.5 0.2 0.4 0.9\n", "0,0.5,0.5,0.2,0.4\n"],
    "list.txt": ["images/a.jpg\nimages/b.jpg\n", "./images\\a.jpg\r\nimages/b.jpg"],
    "boxes.csv": [TABLE, "images/a.jpg,1,2,10,9,cell\nimages/b.jpg,,,,,\n", TABLE.replace(",", ";")],
    "me/a.json": [json.dumps(LABELME, indent=1), json.dumps(LABELME)],
    "obj.data": [
        "classes = 2\ntrain = data/list.txt\nnames = data/obj.names\n",
        "train=list.txt\nvalid=list.txt\nnames=obj.names",
    ],
    "results.csv": [RESULTS, RESULTS.replace(",", ",  ")],
    "source.txt": ["images/a.jpg\nimages/b.jpg\n", "images\\a.jpg\r\n"],
}


def read_voc(path: Path) -> object:
    return read_split(path.parent / "voc", "train")


def read_yolo(path: Path) -> object:
    return read_split(path.parents[1] / "data.yaml" if path.parent.name == "labels" else path.parent / "by_list.yaml", "train")


READERS: dict[str, Read] = {
    "data.yaml": lambda path: [read_split(path, split) for split in ("train", "val")],
    "hyp.yaml": load_recipe,
    "args.yaml": lambda path: TrainOptions.from_yaml(path).check(),
    "train.json": lambda path: read_split(path, "train"),
    "x.xml": read_voc,
    "labels/a.txt": read_yolo,
    "list.txt": read_yolo,
    "boxes.csv": lambda path: read_split(path, "train"),
    "me/a.json": lambda path: read_split(path.parent, "train"),
    "obj.data": lambda path: read_split(path, "train"),
    "results.csv": read_results,
    "source.txt": open_source,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a data set in each format; entries of a list may lead to the working folder, which is another."""
    root = tmp_path / "set"
    write_yolo(root, {"a": BOX, "b": LABELS})
    (root / "me").mkdir()
    (root / "obj.names").write_text("cell\ndust\n")
    write_image(root / "me" / "b.jpg")
    (root / "me" / "b.json").write_text(json.dumps(LABELME | {"imagePath": "b.jpg"}))
    for name, texts in ORIGINALS.items():
        (root / name).write_text(texts[0])
    (root / "by_list.yaml").write_text("train: list.txt\nnames: [cell, dust]\n")
    write_image(root / "voc" / "JPEGImages" / "x.jpg")
    write_image(root / "voc" / "JPEGImages" / "y.jpg")
    (root / "voc" / "Annotations").mkdir()
    (root / "voc" / "Annotations" / "y.xml").write_text(VOC)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return root


def examine(read: Read, path: Path, root: Path) -> bool:
    """Whether a file is taken; asserts what holds of all."""
    with within_time():
        content, refused = None, ""
        try:
            content = read(path)
        except UserError as error:
            refused = str(error)
    splits = content if isinstance(content, list) else [content]
    messages = [refused, *(str(issue) for split in splits for issue in getattr(split, "issues", ()))]
    for message in messages:
        assert len(message.replace(str(root), "")) < LONGEST, message[:2000]
    return not any(messages)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("count", "seed"), [(500, 1), pytest.param(50, 2, marks=pytest.mark.twin)])
@pytest.mark.parametrize("name", ORIGINALS)
def test_damaged_texts_are_read_or_refused(folder: Path, name: str, count: int, seed: int) -> None:
    path = folder / ("voc/Annotations/x.xml" if name == "x.xml" else name)
    read = READERS[name] if name != "x.xml" else lambda _: READERS[name](folder / "x")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = []
    for data in text_mutants(ORIGINALS[name], examples(count), seed):
        path.write_bytes(data)
        taken.append(examine(read, path, folder))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY
    assert 0 < np.mean(taken) < 0.98


@pytest.mark.parametrize("name", ORIGINALS)
def test_undamaged_texts_are_taken(folder: Path, name: str) -> None:
    path = folder / ("voc/Annotations/x.xml" if name == "x.xml" else name)
    for text in ORIGINALS[name]:
        path.write_bytes(text.encode("gb18030" if "gb18030" in text else "utf-8"))
        READERS[name](folder / "x" if name == "x.xml" else path)
