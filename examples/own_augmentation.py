"""Augment with functions of your own, such as a pipeline of Albumentations: pip install albumentations.

The function is called in the loader's processes with every image that a training sample is made of, before mosaic, warp,
mix-up, colors and flips of the recipe. Without Albumentations a few lines of numpy stand in for it.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import yolov9k
from yolov9k.data.synthetic import generate

try:
    import albumentations
except ImportError:
    albumentations = None


class Pipeline:
    """An Albumentations pipeline as yolov9k calls it: `rng` makes a run the same for any number of workers."""

    def __init__(self) -> None:
        self.pipeline = albumentations.Compose(
            [
                albumentations.RandomRotate90(p=0.5),
                albumentations.MotionBlur(p=0.2),
                albumentations.ImageCompression(p=0.2),
                albumentations.CLAHE(p=0.1),
            ],
            bbox_params=albumentations.BboxParams("pascal_voc", label_fields=["classes"], min_visibility=0.1, clip=True),
        )

    def __call__(self, image: Any, boxes: Any, classes: Any, rng: np.random.Generator) -> tuple[Any, Any, Any]:
        self.pipeline.set_random_seed(int(rng.integers(2**31)))
        made = self.pipeline(image=image[..., ::-1].copy(), bboxes=boxes, classes=classes)  # in RGB; images here are BGR
        return made["image"][..., ::-1], made["bboxes"], np.asarray(made["classes"], np.int64)


def turn_and_darken(image: Any, boxes: Any, classes: Any, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """The same idea in numpy: half of the images upside down, all of them somewhat darker."""
    if rng.random() < 0.5:
        image, boxes = image[::-1], boxes[:, [0, 3, 2, 1]] * [1, -1, 1, -1] + [0, image.shape[0], 0, image.shape[0]]
    return (image * rng.uniform(0.6, 1)).astype(np.uint8), boxes, classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="data.yaml, COCO JSON or Pascal VOC folder; none: generated")
    parser.add_argument("--out", type=Path, default=Path("runs/example-augment"))
    parser.add_argument("--img", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=32, help="images to generate")
    args = parser.parse_args()

    data = args.data or generate(args.out / "data", train=args.images, val=max(args.images // 4, 1), size=args.img)
    print(f"augmented by {'Albumentations' if albumentations else 'numpy'}")
    model = yolov9k.YOLOv9("yolov9-t")
    model.train(
        data=data, imgsz=args.img, epochs=args.epochs, batch=8, workers=0, project=args.out, name="train", exist_ok=True,
        augment=Pipeline() if albumentations else turn_and_darken,
    )  # fmt: skip
    print(f"weights: {model.ckpt_path}")


if __name__ == "__main__":
    main()
