"""`yolov9k train`."""

from __future__ import annotations

from yolov9k.cli.parser import console
from yolov9k.common.errors import RUN, failing_as, warn
from yolov9k.config import TrainOptions
from yolov9k.config.train_options import RESUMABLE


def run(options: TrainOptions) -> None:
    """Train a model; everything it leaves is in PROJECT/NAME."""
    from yolov9k.engine.train.trainer import Trainer

    if options.resume is None:
        trainer = Trainer(options, console)
        with failing_as(RUN):
            trainer.fit()
        return
    if ignored := options.given - {"resume", "project", *RESUMABLE}:
        names = ", ".join(sorted(f"--{name.replace('_', '-')}" for name in ignored))
        warn(f"--resume: the run keeps what it was begun with; without effect: {names}")
    changes = {name: getattr(options, name) for name in RESUMABLE if name in options.given}
    trainer = Trainer.resume(None if options.resume == "latest" else options.resume, options.project, console, **changes)
    with failing_as(RUN):
        trainer.fit()
