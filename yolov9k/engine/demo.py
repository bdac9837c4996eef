"""The demonstration: generated samples, a short training, an image of predictions beside the ground truth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from yolov9k.common.console import literal
from yolov9k.config.command_options import DemoOptions
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.config import load_split
from yolov9k.data.draw import draw_boxes, mosaic
from yolov9k.data.images import read_image, write_image
from yolov9k.data.records import Split
from yolov9k.data.synthetic import generate
from yolov9k.engine.predict.predictor import Predictor
from yolov9k.engine.train.trainer import Trainer

SIZE = 128  # pixels: small enough for minutes on two cores
NEXT = """what to type next, for your own data:
  yolov9k data check path/to/data.yaml --plot runs/grid.png
  yolov9k train --cfg yolov9-t --data path/to/data.yaml --img 640 --name mine      (a few hundred images: add --hyp small)
  yolov9k val --weights runs/train/mine/weights/best.pt --data path/to/data.yaml
  yolov9k predict --weights runs/train/mine/weights/best.pt --source path/to/images"""


def run_demo(demo: DemoOptions, console: Console) -> float:
    """Generate, train, evaluate, draw; returns AP50 on samples that were not trained on: a fifth of `demo.images` more."""
    demo.check()
    data = generate(demo.folder, train=demo.images, val=max(demo.images // 5, 1), size=SIZE)
    console.print(literal(f"generated samples: {data.parent}"))
    options = TrainOptions(
        data=str(data), cfg="yolov9-t", img=SIZE, batch=16, epochs=demo.epochs, hyp="demo", workers=1, project=demo.project,
        name="demo", close_mosaic=0, cache="ram",
    )  # fmt: skip
    trainer = Trainer(options, console)
    result = trainer.fit()
    weights = trainer.directory / "weights" / "best.pt"
    image = draw_beside_truth(Predictor(weights, SIZE), load_split(data, "val"), trainer.directory / "predictions.png")
    values = result.metrics.columns()
    ap50, ap = values["metrics/mAP_0.5"], values["metrics/mAP_0.5:0.95"]
    console.print(f"AP50 {ap50:.3f}, AP {ap:.3f} on samples that were not trained on")
    console.print(literal(f"predictions (right) beside the ground truth (left): {image}"))
    console.print(literal(NEXT))
    return ap50


def draw_beside_truth(predictor: Predictor, split: Split, path: Path, count: int = 12) -> Path:
    """Write pairs, ground truth left and prediction right, of the split's first `count` images into a mosaic; returns it."""
    pairs = []
    for record in split.records[:count]:
        image = np.asarray(cv2.resize(read_image(record.path), None, fx=2, fy=2), dtype=np.uint8)
        (found,) = predictor(image)
        size = np.array([image.shape[1], image.shape[0]] * 2)
        ground_truth = draw_boxes(image.copy(), record.boxes * size, record.classes, split.names)
        pairs.append(np.concatenate((ground_truth, found.draw()), 1))
    write_image(path, mosaic(pairs, columns=3))
    return path
