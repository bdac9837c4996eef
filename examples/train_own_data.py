"""Train on your own data: python examples/train_own_data.py --data path/to/data.yaml --img 640 --epochs 100.

Without --data a small data set of drawn shapes is generated first, in YOLO's format: data.yaml, images and text labels.
"""

import argparse
from pathlib import Path

from yolov9k.config.train_options import TrainOptions
from yolov9k.data.config import load_split
from yolov9k.data.synthetic import generate
from yolov9k.engine.train.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="data.yaml, COCO JSON or Pascal VOC folder; none: generated")
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    parser.add_argument("--model", default="yolov9-t")
    parser.add_argument("--img", type=int, default=64, help="training size in pixels, a multiple of 32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=32, help="images to generate")
    args = parser.parse_args()

    data = args.data or str(generate(args.out / "data", train=args.images, val=max(args.images // 4, 1), size=args.img))
    split = load_split(data, "train")  # every image and box is checked; what is wrong is listed with file and line
    print(f"{len(split.records)} images, classes {', '.join(split.names)}, {len(split.issues)} issues")

    options = TrainOptions(
        data=data, cfg=args.model, img=args.img, batch=args.batch, epochs=args.epochs, hyp="small", workers=0,
        project=str(args.out), name="train", exist_ok=True, close_mosaic=0,
    )  # fmt: skip
    trainer = Trainer(options)
    trainer.fit()
    print(f"weights: {trainer.directory / 'weights' / 'best.pt'}")


if __name__ == "__main__":
    main()
