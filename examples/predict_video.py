"""Detect in a video: python examples/predict_video.py --video clip.mp4 --weights runs/train/exp/weights/best.pt.

Without --video a short clip of a moving disk is written first; without --weights the model is untrained, which shows the calls
and finds nothing of use.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

import yolov9k


def write_clip(path: Path, frames: int, size: int) -> Path:
    """An mp4 of a disk that moves from left to right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25.0, (size, size))
    for step in range(frames):
        image = np.full((size, size, 3), 60, np.uint8)
        cv2.circle(image, (size * (step + 1) // (frames + 1), size // 2), size // 6, (40, 180, 240), -1)
        video.write(image)
    video.release()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--weights", help="a checkpoint; none: an untrained yolov9-t")
    parser.add_argument("--out", type=Path, default=Path("runs/example-video"))
    parser.add_argument("--img", type=int, default=128)
    parser.add_argument("--conf", type=float, default=0.25)
    parser.add_argument("--frames", type=int, default=8, help="frames of the clip that is generated")
    args = parser.parse_args()

    video = args.video or write_clip(args.out / "clip.mp4", args.frames, args.img)
    model = yolov9k.load(args.weights) if args.weights else yolov9k.create_model("yolov9-t", num_classes=4)
    predictor = yolov9k.Predictor(model, img_size=args.img, conf=args.conf)
    args.out.mkdir(parents=True, exist_ok=True)
    seen = 0
    for result in predictor(video):  # a generator: one frame at a time is in memory
        cv2.imwrite(str(args.out / f"frame-{result.frame:05}.jpg"), result.draw())
        seen += 1
        print(f"frame {result.frame}: {len(result)} detections")
    print(f"{seen} frames in {args.out}; {predictor.speed}")


if __name__ == "__main__":
    main()
