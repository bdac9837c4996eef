"""`yolov9k predict`."""

from __future__ import annotations

from yolov9k.cli.parser import console
from yolov9k.common.errors import RUN, failing_as
from yolov9k.config import PredictOptions


def run(options: PredictOptions) -> None:
    """Detect objects in images and videos."""
    from yolov9k.compat import load
    from yolov9k.data.letterbox import rounded_size
    from yolov9k.engine.predict.predictor import Predictor
    from yolov9k.engine.predict.sources import open_source
    from yolov9k.engine.predict.writers import predict_to_folder, writing
    from yolov9k.engine.train.run_dir import run_directory

    options.check()
    # before the model is loaded, which takes seconds
    source = open_source(options.source, options.max_frames, options.vid_stride)
    predictor = Predictor(
        load(options.weights, options.cfg), rounded_size(options.img, "--img"), options.conf, options.iou,
        options.classes or None, options.agnostic_nms, options.max_det, options.device, options.amp, options.batch,
        augment=options.augment,
    )  # fmt: skip
    with failing_as(RUN), run_directory(options.project, options.name, options.exist_ok) as directory:
        summary = predict_to_folder(
            predictor, source, directory, max_frames=options.max_frames, **writing(options)
        )  # fmt: skip
    found = ", ".join(f"{count} {name}" for name, count in summary.counts.items()) or "nothing"
    media = f"images: {summary.images}, videos: {summary.videos} (frames: {summary.frames})"
    skipped = f"; unreadable files, left out: {len(summary.skipped)}" if summary.skipped else ""
    console.print(f"{media}: {found}; {summary.speed}{skipped}")
    console.print(f"run: {directory}")
