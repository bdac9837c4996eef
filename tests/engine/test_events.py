"""Events of training, validation and prediction: in order, typed, and by the names that Ultralytics gives them."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tests import synthetic_samples
from tests.engine_cases import TINY
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.loader import make_loader
from yolov9k.data.synthetic import generate
from yolov9k.engine import events
from yolov9k.engine.evaluate.validator import validate
from yolov9k.engine.predict.predictor import Predictor
from yolov9k.engine.train.trainer import Trainer

ULTRALYTICS = """on_pretrain_routine_start on_pretrain_routine_end on_train_start on_train_epoch_start on_train_batch_start
    optimizer_step on_before_zero_grad on_train_batch_end on_train_epoch_end on_fit_epoch_end on_model_save on_train_end
    on_params_update teardown on_val_start on_val_batch_start on_val_batch_end on_val_end on_predict_start
    on_predict_batch_start on_predict_postprocess_end on_predict_batch_end on_predict_end on_export_start on_export_end"""


def trained(tmp_path: Path, callbacks: events.Callbacks, **changes) -> Trainer:
    """A run of 4 images in 2 batches an epoch."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    data = generate(tmp_path / "data", train=4, val=1, size=64)
    options = {"epochs": 3, "img": 64, "batch": 2, "close_mosaic": 0, "workers": 0, "device": "cpu", "noplots": True}
    made = TrainOptions(
        data=str(data), cfg=str(tmp_path / "tiny.yaml"), project=str(tmp_path / "runs"), **{**options, **changes}
    )  # fmt: skip
    trainer = Trainer(made, Console(quiet=True), callbacks=callbacks)
    trainer.fit()
    return trainer


def test_a_logger_of_three_lines(tmp_path: Path) -> None:
    callbacks, lines = events.Callbacks(), []

    def log(trainer) -> None:
        lines.append(f"{trainer.epoch + 1}/{trainer.epochs} {trainer.metrics['metrics/mAP_0.5']:.3f} {trainer.loss['box']:.2f}")

    callbacks.add("on_fit_epoch_end", log)
    run = trained(tmp_path, callbacks)
    assert [line.split()[0] for line in lines] == ["1/3", "2/3", "3/3"]
    rows = (run.directory / "results.csv").read_text().splitlines()
    assert [float(line.split()[2]) for line in lines] == pytest.approx([float(row.split(",")[2]) for row in rows[1:]], abs=0.01)


def test_events_come_in_order(tmp_path: Path) -> None:
    callbacks, seen = events.Callbacks(), list[events.Event]()
    for kind in set(events.ALIASES.values()):
        callbacks.add(kind, seen.append)
    run = trained(tmp_path, callbacks, epochs=2)
    validation = ["ValStart", "ValBatchStart", "ValBatchEnd", "ValEnd"]
    batches = ["TrainBatchStart", "TrainBatchEnd"] * 2
    epoch = ["TrainEpochStart", *batches, "TrainEpochEnd", *validation, "ModelSave", "ModelSave", "FitEpochEnd"]
    names = [type(event).__name__ for event in seen]
    assert names[0] == "TrainStart"
    assert names[1 : 1 + len(epoch)] == epoch  # its best.pt and last.pt are written
    assert names[-6:] == [*validation, "TrainEnd", "Teardown"]
    ends = [event for event in seen if type(event) is events.TrainBatchEnd]
    assert [(event.epoch, event.batch, event.batches) for event in ends] == [(0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 1, 2)]
    (end,) = [event for event in seen if type(event) is events.TrainEnd]
    assert (end.save_dir, end.best.is_file(), end.last.is_file()) == (run.directory, True, True)
    assert end.options is run.options  # what the event has not is the trainer's
    assert end.result.metrics.ap50 >= 0
    saved = {event.path.name for event in seen if type(event) is events.ModelSave}
    assert saved == {"best.pt", "last.pt"}


@pytest.mark.e2e
def test_a_callback_can_end_the_run(tmp_path: Path) -> None:
    callbacks, epochs = events.Callbacks(), []

    def end(trainer) -> None:
        epochs.append(trainer.epoch)
        trainer.stop = trainer.epoch == 1

    callbacks.add(events.TrainEpochEnd, end)
    run = trained(tmp_path, callbacks, epochs=5, noval=True)
    assert epochs == [0, 1]
    assert len((run.directory / "results.csv").read_text().splitlines()) == 3
    assert (run.directory / "weights" / "best.pt").is_file()  # the last epoch is validated all the same


@pytest.mark.e2e
def test_what_a_callback_raises_ends_the_run_and_leaves_it_whole(tmp_path: Path) -> None:
    callbacks = events.Callbacks()

    def fail(event) -> None:
        raise ZeroDivisionError("of the user's")

    callbacks.add("on_fit_epoch_end", fail)
    with pytest.raises(ZeroDivisionError, match="of the user's"):
        trained(tmp_path, callbacks)
    (directory,) = (tmp_path / "runs").iterdir()
    assert Trainer.resume(directory / "weights" / "last.pt", console=Console(quiet=True)).first_epoch == 1


def test_prediction_and_validation_tell_theirs(tmp_path: Path) -> None:
    callbacks, seen = events.Callbacks(), list[events.Event]()
    for name in ("on_predict_start", "on_predict_batch_start", "on_predict_batch_end", "on_predict_end", "on_val_end"):
        callbacks.add(name, seen.append)
    image = synthetic_samples.paint((120, 200), [(0, 40, 20, 140, 100)])
    predictor = Predictor(synthetic_samples.ColorDetector(), 320, device="cpu", batch=2, callbacks=callbacks)
    results = list(predictor([image] * 3))
    assert [type(event).__name__ for event in seen] == [
        "PredictStart", "PredictBatchStart", "PredictBatchEnd", "PredictBatchStart", "PredictBatchEnd", "PredictEnd",
    ]  # fmt: skip
    assert [len(event.results) for event in seen if type(event) is events.PredictBatchEnd] == [2, 1]
    assert seen[2].results[0] is results[0]
    assert seen[2].names == ["red", "blue"]
    split = synthetic_samples.split(tmp_path)
    loader = make_loader(split, TrainRecipe(), img_size=320, batch=2, augment=False, rect=True, workers=0)
    result = validate(synthetic_samples.ColorDetector(), loader, split=split, progress=False, callbacks=callbacks)
    assert seen[-1].result is result
    assert seen[-1].metrics["metrics/mAP_0.5"] == pytest.approx(1.0, abs=0.01)


def test_every_name_of_ultralytics_is_known_or_told() -> None:
    names = ULTRALYTICS.split()
    assert len(names) == 25
    told = {name for name in names if name not in events.ALIASES}
    assert told == {"optimizer_step", "on_before_zero_grad", "on_params_update", "on_export_start", "on_export_end"}
    for name in told:
        with pytest.raises(UserError, match=f"callback {name}: .*(take on_train_batch_end|no export yet)"):
            events.event_type(name)
    assert all(events.event_type(name) is events.ALIASES[name] for name in set(names) - told)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("on_train_epoch_ned", r"callback 'on_train_epoch_ned': no such event; did you mean 'on_train_epoch_end'\?"),
        ("FitEpochsEnd", r"did you mean 'FitEpochEnd'\?"),
        ("xyzzy", "no such event; known: on_pretrain_routine_start"),
        (int, "no such event"),
    ],
)
def test_a_mistyped_event_is_told(event: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        events.Callbacks().add(event, print)  # type: ignore[arg-type]


def test_listeners_are_functions_that_can_be_forgotten() -> None:
    callbacks, calls = events.Callbacks(), []
    with pytest.raises(UserError, match="expected a function of one event, got str"):
        callbacks.add("on_val_end", "print")  # type: ignore[arg-type]
    callbacks.add("on_predict_start", calls.append)
    callbacks.add(events.PredictEnd, calls.append)
    callbacks.clear("on_predict_start")
    callbacks.emit(events.PredictStart(None))
    callbacks.emit(events.PredictEnd(None))
    assert len(calls) == 1
    callbacks.clear()
    assert events.PredictEnd not in callbacks
    with pytest.raises(AttributeError, match="neither PredictEnd nor NoneType has 'epoch'"):
        _ = calls[0].epoch
