"""One small data set in every layout that is read: three images of 100 x 50, two to train on, of which one is empty."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data_cases import write_image

NAMES = ("cat", "dog")
Objects = list[tuple[str, tuple[int, int, int, int]]]  # name, x1 y1 x2 y2 in pixels
TRAIN: dict[str, Objects] = {"a": [("dog", (10, 10, 30, 40)), ("cat", (50, 5, 90, 45))], "b": []}
VAL: dict[str, Objects] = {"c": [("cat", (0, 0, 20, 20))]}
SPLITS = {"train": TRAIN, "val": VAL}


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def images(folder: Path, stems: dict[str, Objects]) -> None:
    for stem in stems:
        write_image(folder / f"{stem}.png", 100, 50)


def yolo_rows(objects: Objects) -> str:
    rows = [
        (NAMES.index(name), (x1 + x2) / 200, (y1 + y2) / 100, (x2 - x1) / 100, (y2 - y1) / 50)
        for name, (x1, y1, x2, y2) in objects
    ]
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)


def voc_xml(objects: Objects) -> str:
    sides = ("xmin", "ymin", "xmax", "ymax")
    boxes = [
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box, strict=True))
        + "</bndbox></object>\n"
        for name, box in objects
    ]
    return f"<annotation>\n<size><width>100</width><height>50</height></size>\n{''.join(boxes)}</annotation>"


def labelme_json(stem: str, objects: Objects, **changes: Any) -> str:
    shapes = [
        {"label": name, "points": [[x2, y1], [x1, y2]], "group_id": None, "shape_type": "rectangle", "flags": {}}
        for name, (x1, y1, x2, y2) in objects
    ]
    head = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{stem}.png", "imageData": None}
    return json.dumps(head | {"imageHeight": 50, "imageWidth": 100} | changes)


def coco_json(stems: dict[str, Objects], **changes: Any) -> str:
    boxes = [(number, name, box) for number, objects in enumerate(stems.values(), 1) for name, box in objects]
    content = {
        "images": [{"id": number, "file_name": f"{stem}.png"} for number, stem in enumerate(stems, 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": NAMES.index(name) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for n, (image, name, (x1, y1, x2, y2)) in enumerate(boxes, 1)
        ],
    }
    return json.dumps(content | changes)


def csv_rows(stems: dict[str, Objects], row: Callable[[str, str, Any], str]) -> str:
    """A row for each box, one with empty cells for an image without."""
    return "\n".join(
        row(stem, name, box) for stem, objects in stems.items() for name, box in objects or [("", ("", "", "", ""))]
    )


def yolo(root: Path) -> Path:
    for split, stems in SPLITS.items():
        images(root / "images" / split, stems)
        for stem, objects in stems.items():
            put(root / "labels" / split / f"{stem}.txt", yolo_rows(objects))
    return put(root / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")


def mit(root: Path) -> Path:
    yolo(root / "data" / "mine").unlink()
    return put(root / "mine.yaml", "path: data/mine\ntrain: train\nvalidation: val\nclass_num: 2\nclass_list: [cat, dog]\n")


def mit_coco(root: Path) -> Path:
    for split, stems in SPLITS.items():
        images(root / "images" / f"{split}2017", stems)
        put(root / "annotations" / f"instances_{split}2017.json", coco_json(stems))
    return put(
        root / "mine.yaml", "path: .\ntrain: train2017\nvalidation: val2017\nclass_list: [cat, dog]\nauto_download: {}\n"
    )


def darknet(root: Path) -> Path:
    for split, stems in SPLITS.items():
        folder = f"obj_{split}_data"
        images(root / folder, stems)
        for stem, objects in stems.items():
            put(root / folder / f"{stem}.txt", yolo_rows(objects))
        put(root / f"{split}.txt", "".join(f"data/{folder}/{stem}.png\n" for stem in stems))
    put(root / "obj.names", "cat\ndog\n")
    put(
        root / "obj.data",
        "classes = 2\ntrain = data/train.txt\nvalid = data/val.txt\nnames = data/obj.names\nbackup = backup/\n",
    )
    return root


def coco(root: Path) -> Path:
    for split, stems in SPLITS.items():
        images(root / "images" / split, stems)
        put(root / "annotations" / f"instances_{split}.json", coco_json(stems))
    return root


def voc(root: Path, annotations: str = "Annotations", folder: str = "JPEGImages") -> Path:
    for split, stems in SPLITS.items():
        images(root / folder, stems)
        put(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
        for stem, objects in stems.items():
            put(root / annotations / f"{stem}.xml", voc_xml(objects))
    return root


def voc_beside(root: Path) -> Path:
    for split, stems in (("train", TRAIN), ("valid", VAL)):
        images(root / split, stems)
        for stem, objects in stems.items():
            put(root / split / f"{stem}.xml", voc_xml(objects))
    put(root / "README.roboflow.txt", "exported")
    return root


def labelme(root: Path) -> Path:
    for split, stems in SPLITS.items():
        images(root / split, stems)
        for stem, objects in stems.items():
            put(root / split / f"{stem}.json", labelme_json(stem, objects))
    return root


def csv_tensorflow(root: Path) -> Path:
    for split, stems in SPLITS.items():
        images(root / "images" / split, stems)
        rows = csv_rows(stems, lambda stem, name, box: f"{stem}.png,100,50,{name},{','.join(map(str, box))}")
        put(root / f"{split}_labels.csv", f"filename,width,height,class,xmin,ymin,xmax,ymax\n{rows}\n")
    return root


def csv_retinanet(root: Path) -> Path:
    for split, stems in (("train", TRAIN), ("valid", VAL)):
        images(root / split, stems)
        rows = csv_rows(stems, lambda stem, name, box: f"{stem}.png,{','.join(map(str, box))},{name}")
        put(root / split / "_annotations.csv", f"{rows}\n")
        put(root / split / "_classes.csv", "cat,0\ndog,1\n")
    return root


def csv_kaggle(root: Path) -> Path:
    lines = []
    for split, stems in SPLITS.items():
        images(root / "images", stems)
        lines.append(csv_rows(stems, lambda stem, name, box, split=split: f"{stem};{name};{split};{_list(box)}"))
    return put(root / "boxes.csv", "image_id;class_name;Split;bbox\n" + "\n".join(lines))


def _list(box: Any) -> str:
    x1, y1, x2, y2 = box
    return "" if x1 == "" else f"[{x1}.0, {y1}.0, {x2 - x1}.0, {y2 - y1}.0]"


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "yolo": yolo,
    "mit": mit,
    "mit-coco": mit_coco,
    "darknet": darknet,
    "coco": coco,
    "voc": voc,
    "voc-annots": lambda root: voc(root, "annots", "images"),
    "voc-annotations": lambda root: voc(root, "annotations", "images"),
    "voc-beside": voc_beside,
    "labelme": labelme,
    "csv-tensorflow": csv_tensorflow,
    "csv-retinanet": csv_retinanet,
    "csv-kaggle": csv_kaggle,
}
