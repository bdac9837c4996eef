"""Follow a run: functions that are called with typed events, here a logger of three lines and an end of one's own choice."""

import argparse
from pathlib import Path

import yolov9k
from yolov9k.data.synthetic import generate
from yolov9k.engine.events import FitEpochEnd, TrainEpochEnd


def log(run: FitEpochEnd) -> None:
    """`run` is an event, and has what Ultralytics' trainer has by the same names: epoch, epochs, metrics, save_dir ..."""
    ap, box = run.metrics["metrics/mAP_0.5:0.95"], run.loss["box"]
    print(f"epoch {run.epoch + 1} of {run.epochs}: AP {ap:.3f}, box loss {box:.2f}")


def end_in_time(event: TrainEpochEnd) -> None:
    """End after two epochs."""
    event.stop = event.epoch == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/example-callbacks"))
    parser.add_argument("--img", type=int, default=64)
    parser.add_argument("--images", type=int, default=16)
    args = parser.parse_args()

    data = generate(args.out / "data", train=args.images, val=max(args.images // 4, 1), size=args.img)
    model = yolov9k.YOLOv9("yolov9-t", verbose=False)
    model.add_callback("on_fit_epoch_end", log)  # a name of Ultralytics'
    model.add_callback(TrainEpochEnd, end_in_time)  # or the event's class
    metrics = model.train(data=data, imgsz=args.img, epochs=9, batch=8, workers=0, project=args.out, name="train")
    print(f"AP {metrics.box.map:.3f}, weights in {metrics.save_dir / 'weights'}")


if __name__ == "__main__":
    main()
