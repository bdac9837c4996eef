"""What other implementations of YOLOv9 do by default, recorded from them as black boxes: tests/config/flavors.json.

In an environment that has Ultralytics and LibreYOLO, with checkouts of the published code and of the MIT rewrite:

    PYTHONPATH=. python -m tests.record_flavors ultralytics libreyolo published=FOLDER mit=FOLDER > tests/config/flavors.json
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

NC = 3  # classes of the models that are made
SIZE, INTO = (48, 64), (64, 64)  # height and width of an image, and of what it is fitted into
SIDES = (2, 4, 6, 7.9, 8, 9, 12, 15.9, 16, 17, 24)  # pixels of the boxes that are assigned
STRIDES = (8, 16, 32)
# Our keys of a recipe and LibreYOLO's of its configuration and its loss.
LIBREYOLO = {
    key: key for key in ("degrees", "translate", "shear", "perspective", "flipud", "copy_paste", "momentum", "weight_decay")
}
LIBREYOLO |= {"lr0": "lr0", "lrf": "min_lr_ratio", "warmup_epochs": "warmup_epochs", "warmup_momentum": "warmup_momentum"}
LIBREYOLO |= {"ema_decay": "ema_decay", "auxiliary": "aux_weight", "mosaic": "mosaic_prob", "mixup": "mixup_prob"}
LIBREYOLO |= {"fliplr": "flip_prob"}
LIBREYOLO_LOSS = {"box": "box_weight", "cls": "cls_weight", "dfl": "dfl_weight", "tal_topk": "topk"}
LIBREYOLO_LOSS |= {"tal_beta": "iou_factor", "tal_alpha": "cls_factor"}


def grid(size: int) -> dict[str, torch.Tensor]:
    """anchors [A, 2] of a square image and strides [A]."""
    grids = [
        torch.stack(torch.meshgrid(*[torch.arange(size // s) + 0.5] * 2, indexing="xy"), -1).view(-1, 2) * s for s in STRIDES
    ]
    strides = [torch.full((len(points),), float(s)) for points, s in zip(grids, STRIDES, strict=True)]
    return {"anchors": torch.cat(grids), "strides": torch.cat(strides)}


def assign_case() -> dict[str, torch.Tensor]:
    """Boxes of every width and height of SIDES, an image each, every anchor predicting the box; scores tell anchors apart."""
    anchors = grid(128)["anchors"]
    sides = torch.tensor([(w, h) for w in SIDES for h in (w, 24)], dtype=torch.float32)
    boxes = torch.cat((61.3 - sides / 2, 61.3 + sides / 2), 1)[:, None]
    scores = (torch.arange(len(anchors)) * 0.618 % 1 * 0.6 + 0.3)[None, :, None].expand(len(boxes), -1, NC)
    return {"scores": scores, "predicted": boxes.expand(-1, len(anchors), -1), "boxes": boxes, **grid(128)}


def crowd_case() -> dict[str, torch.Tensor]:
    """Eight images of six overlapping boxes each, predictions near one of them, so that boxes contend for anchors."""
    generator = torch.Generator().manual_seed(0)
    anchors = grid(128)["anchors"]
    center, half = 40 + 48 * torch.rand(8, 6, 2, generator=generator), 3 + 25 * torch.rand(8, 6, 2, generator=generator)
    boxes = torch.cat((center - half, center + half), -1)
    near = torch.randint(6, (8, len(anchors)), generator=generator)
    predicted = boxes.gather(1, near[..., None].expand(-1, -1, 4)) + 4 * torch.randn(8, len(anchors), 4, generator=generator)
    return {
        "scores": torch.rand(8, len(anchors), NC, generator=generator),
        "predicted": predicted,
        "boxes": boxes,
        **grid(128),
    }


def reach_case() -> dict[str, torch.Tensor]:
    """Four images of five boxes from 2 to 500 pixels, their edges on anchors' centers: some reached by few anchors or none."""
    generator = torch.Generator().manual_seed(1)
    anchors, sides = grid(640)["anchors"], torch.tensor([2, 116, 240, 300, 500])
    corner = 4 + 8 * torch.randint(0, 16, (4, 5, 2), generator=generator)
    boxes = torch.cat((corner, corner + sides[:, None]), -1).float()
    near = torch.randint(5, (4, len(anchors)), generator=generator)
    predicted = boxes.gather(1, near[..., None].expand(-1, -1, 4)) + 4 * torch.randn(4, len(anchors), 4, generator=generator)
    scores = torch.rand(4, len(anchors), NC, generator=generator) * 0.9 + 0.05
    return {"scores": scores, "predicted": predicted, "boxes": boxes, **grid(640)}


CASES = {"assigned": assign_case, "contended": crowd_case, "reached": reach_case}


def laid(image: Any, fill: int = 114) -> dict[str, int]:
    """Left and top of what is not gray in an image [h, w, 3] or [3, h, w]."""
    array = np.asarray(image)
    array = array.transpose(1, 2, 0) if array.shape[0] == 3 else array
    rows, columns = np.nonzero((array != fill).any(-1))
    return {"left": int(columns.min()), "top": int(rows.min())}


def biases(boxes: Any, classes: Any) -> dict[str, Any]:
    """The first bias of each level's last convolutions."""
    return {"box": [float(b[-1].bias[0]) for b in boxes], "class": [float(c[-1].bias[0]) for c in classes]}


def ultralytics() -> dict[str, Any]:
    package = importlib.import_module("ultralytics")
    tasks, utils = importlib.import_module("ultralytics.nn.tasks"), importlib.import_module("ultralytics.utils")
    model = tasks.DetectionModel("yolov9t.yaml", nc=NC, verbose=False)
    model.args = utils.IterableSimpleNamespace(**utils.DEFAULT_CFG_DICT)
    assigner = importlib.import_module("ultralytics.utils.loss").v8DetectionLoss(model).assigner
    head = model.model[-1]
    keys = "box cls dfl hsv_h hsv_s hsv_v degrees translate scale shear perspective flipud fliplr mosaic mixup copy_paste"
    fitted = importlib.import_module("ultralytics.data.augment").LetterBox(INTO)(image=np.zeros((*SIZE, 3), np.uint8))
    return {
        "version": package.__version__,
        "recipe": {key: float(utils.DEFAULT_CFG_DICT[key]) for key in keys.split()},
        "close_mosaic": utils.DEFAULT_CFG_DICT["close_mosaic"],
        "bias": biases(head.cv2, head.cv3),
        "box_groups": head.cv2[0][1].conv.groups,
        "letterbox": laid(fitted),
        **{key: _assigned(assigner, case()) for key, case in CASES.items()},
    }


def _assigned(assigner: Any, case: dict[str, Any]) -> list[list[list[int]]]:
    """By image the anchors that are given to boxes, and to which."""
    shape = (*case["boxes"].shape[:2], 1)
    found = assigner(
        case["scores"], case["predicted"], case["anchors"], torch.zeros(shape), case["boxes"],
        torch.ones(shape, dtype=torch.bool),
    )  # fmt: skip
    taken = [given.bool().nonzero().flatten() for given in found[3]]
    return [[rows.tolist(), boxes[rows].tolist()] for rows, boxes in zip(taken, found[4], strict=True)]


def _matched(matcher: Any, case: dict[str, torch.Tensor]) -> list[list[list[int]]]:
    """As `_assigned`, of the MIT rewrite's matcher and LibreYOLO's."""
    targets = torch.cat((torch.zeros(*case["boxes"].shape[:2], 1), case["boxes"]), -1)
    aligned, valid = matcher(targets, (case["scores"].logit(), case["predicted"]))[:2]
    found = []
    for given, boxes, mask in zip(aligned[..., -4:], case["boxes"], valid, strict=True):
        rows = mask.nonzero().flatten()
        found.append([rows.tolist(), (given[rows, None] == boxes).all(-1).int().argmax(1).tolist()])
    return found


def libreyolo() -> dict[str, Any]:
    package = importlib.import_module("libreyolo")
    config = importlib.import_module("libreyolo.training.config").YOLO9Config()
    head = importlib.import_module("libreyolo.models.yolo9.nn").LibreYOLO9Model("t", nb_classes=NC).head
    loss = inspect.signature(importlib.import_module("libreyolo.models.yolo9.loss").YOLO9Loss.__init__).parameters
    prepared = importlib.import_module("libreyolo.models.yolo9.utils").preprocess_numpy(np.zeros((*SIZE, 3), np.uint8), INTO[0])
    image = (np.asarray(prepared[0]) * 255).round()
    matcher = importlib.import_module("libreyolo.models.yolo9.loss").BoxMatcher
    return {
        "version": package.__version__,
        "recipe": {ours: float(getattr(config, theirs)) for ours, theirs in LIBREYOLO.items()}
        | {ours: float(loss[theirs].default) for ours, theirs in LIBREYOLO_LOSS.items()}
        | {"scale": config.mosaic_scale[1] - 1},
        "bias": biases(head.cv2, head.cv3),
        "box_groups": head.cv2[0][1].conv.groups,
        "letterbox": laid(image),
        **{
            key: _matched(matcher(NC, case()["anchors"], case()["strides"], head.reg_max), case())
            for key, case in CASES.items()
        },
    }


def published(folder: str) -> dict[str, Any]:
    os.chdir(folder)
    sys.path.insert(0, folder)
    yolo, augmentations = importlib.import_module("models.yolo"), importlib.import_module("utils.augmentations")
    model = yolo.Model("models/detect/yolov9-t.yaml", ch=3, nc=NC)
    head = model.model[-1]
    yaml = importlib.import_module("yaml").safe_load(Path("data/hyps/hyp.scratch-high.yaml").read_text(encoding="utf-8"))
    keys = "hsv_h hsv_s hsv_v degrees translate scale shear perspective flipud fliplr mosaic mixup copy_paste"
    return {
        "recipe": {key: float(yaml[key]) for key in keys.split()},
        "bias": biases(head.cv4, head.cv5),
        "box_groups": head.cv4[0][1].conv.groups,
        "letterbox": laid(augmentations.letterbox(np.zeros((*SIZE, 3), np.uint8), INTO, auto=False)[0]),
    }


def mit(folder: str) -> dict[str, Any]:
    package = types.ModuleType("yolo")  # without what its own __init__ imports: trainers and loggers
    package.__path__ = [f"{folder}/yolo"]
    sys.modules["yolo"] = package
    head = importlib.import_module("yolo.model.module").Detection((64, 64), NC)
    pad = importlib.import_module("yolo.tools.data_augmentation").PadAndResize(INTO)
    image = importlib.import_module("PIL.Image").new("RGB", SIZE[::-1])
    task = importlib.import_module("yaml").safe_load((Path(folder) / "yolo/config/task/train.yaml").read_text(encoding="utf-8"))
    loss, augment = task["loss"], task["data"]["data_augment"]
    matcher, found = importlib.import_module("yolo.utils.bounding_box_utils").BoxMatcher, {}
    for key, case in CASES.items():
        levels = types.SimpleNamespace(anchor_grid=case()["anchors"], scaler=case()["strides"])
        found[key] = _matched(matcher(loss["matcher"], NC, levels, 16), case())
    return {
        "recipe": {
            "box": loss["objective"]["BoxLoss"],
            "cls": loss["objective"]["BCELoss"],
            "dfl": loss["objective"]["DFLoss"],
            "auxiliary": loss["aux"],
            "tal_topk": loss["matcher"]["topk"],
            "tal_alpha": loss["matcher"]["factor"]["cls"],
            "tal_beta": loss["matcher"]["factor"]["iou"],
            "mosaic": augment.get("Mosaic", 0),
            "mixup": augment.get("MixUp", 0),
            "fliplr": augment.get("HorizontalFlip", 0),
            "flipud": augment.get("VerticalFlip", 0),
        },
        "bias": biases([head.anchor_conv], [head.class_conv]),
        "box_groups": head.anchor_conv[1].conv.groups,
        "letterbox": laid(pad(image, torch.zeros(0, 5))[0]),
        **found,
    }


def main(arguments: list[str]) -> None:
    """Print what each peer that is named does."""
    known = {"ultralytics": ultralytics, "libreyolo": libreyolo, "published": published, "mit": mit}
    recorded: dict[str, Any] = {}
    with contextlib.redirect_stdout(sys.stderr):  # peers greet there
        for argument in arguments:
            name, _, folder = argument.partition("=")
            recorded[name] = known[name](str(Path(folder).resolve())) if folder else known[name]()  # type: ignore[operator]
    rows = {
        name: ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in peer.items())
        for name, peer in recorded.items()
    }
    print("{\n" + ",\n".join(f" {json.dumps(name)}: {{\n{text}\n }}" for name, text in rows.items()) + "\n}")


if __name__ == "__main__":
    main(sys.argv[1:])
