"""Training from start to end: epochs, validation, checkpoints, what is printed and drawn (arXiv 2402.13616, appendix A)."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from yolov9k.common.console import PlainConsole, literal
from yolov9k.common.device import choose_amp, pick_device
from yolov9k.common.errors import warn
from yolov9k.common.figures import drawing
from yolov9k.common.progress import progress_bar
from yolov9k.common.signals import Interrupted, SignalGuard
from yolov9k.compat import load
from yolov9k.config.recipe import load_recipe
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.batch import Batch
from yolov9k.data.transform import Transform
from yolov9k.engine import events
from yolov9k.engine.evaluate.validator import ValidationResult, print_metrics, validate
from yolov9k.engine.train.batch_choice import pick_batch
from yolov9k.engine.train.check_options import check_batches, check_options, suited
from yolov9k.engine.train.loss_monitor import LossMonitor
from yolov9k.engine.train.memory import explain_out_of_memory, is_out_of_memory, memory_gb
from yolov9k.engine.train.prefetch import prefetch
from yolov9k.engine.train.report import announcement, draw_run, epoch_row, epoch_text
from yolov9k.engine.train.resume import SavedRun, data_facts, read_run, saved_options
from yolov9k.engine.train.run_dir import (
    Results,
    check_room,
    hold,
    latest_checkpoint,
    make_folder,
    make_run_directory,
    save_settings,
    wanted_directory,
)
from yolov9k.engine.train.schedule import Schedule
from yolov9k.engine.train.setup import build_model, load_splits, make_criterion, make_loaders
from yolov9k.engine.train.step import TrainStep
from yolov9k.engine.train.time_limit import TimeLimit
from yolov9k.models.checkpoints import save
from yolov9k.tasks import task_of

__all__ = ["Trainer", "make_criterion"]


class Trainer:
    """One training run. `fit` trains; `directory` holds what it leaves: weights, results.csv, images."""

    def __init__(
        self,
        options: TrainOptions,
        console: Console | None = None,
        resume: SavedRun | None = None,
        *,
        callbacks: events.Callbacks | None = None,
        augment: Transform | None = None,
    ) -> None:
        check_options(options, resumed=resume is not None)
        self.callbacks, self.stop = callbacks or events.Callbacks(), False
        self.options, self.console = options, console or PlainConsole()
        self.device = pick_device(options.device)
        self.recipe = resume.recipe if resume else load_recipe(options.hyp, options.flavor).overridden(options.override)
        if options.label_smoothing is not None:
            self.recipe = self.recipe.override("--label-smoothing", label_smoothing=options.label_smoothing)
        if not resume:
            self.recipe = suited(self.recipe, options)
        self.amp = choose_amp(options.amp, self.device)
        torch.manual_seed(options.seed)
        self.train_split, self.val_split = load_splits(options, self.console)
        if resume:
            resume.check_data(self.train_split, self.val_split)
        self.data_facts = data_facts(self.train_split, self.val_split)
        model = build_model(options, self.train_split, resume, self.console)
        self.model = model.to(self.device).checkpoint_stages(options.checkpoint)
        self.task = task_of(self.model)
        self.criterion = self.task.criterion(self.model, self.recipe)
        if options.batch == 0:
            self._choose_batch()
        self.train_loader, self.val_loader = make_loaders(
            options, self.recipe, self.train_split, self.val_split, self.device, self.model.letterbox,
            augment,
        )  # fmt: skip
        check_batches(self.train_loader.sampler, self.model.stride)
        self.schedule = Schedule(self.recipe, options.batch, len(self.train_loader), options.epochs, options.lr_curve)
        self.step = TrainStep(
            self.model, self.criterion, self.recipe, options.mode, batch=options.batch, schedule=self.schedule, amp=self.amp,
            optimizer=options.optimizer, log=self.console.print,
        )  # fmt: skip
        self.next_epoch, self.batches_done = 0, 0  # where a run goes on that is resumed from here
        self.best, self.best_epoch = -1.0, 0
        self.limit = TimeLimit(options.time, resume.spent if resume else 0.0)
        if resume:
            self._restore(resume)
        self.first_epoch = self.next_epoch
        self._open_run(resume)

    def _open_run(self, resume: SavedRun | None) -> None:
        """The run's directory, held for this process, new where no run is resumed; its settings and results.csv."""
        options = self.options
        check_room(resume.directory if resume else wanted_directory(options.project, options.name), self._room(resume))
        self.directory = resume.directory if resume else make_run_directory(options.project, options.name, options.exist_ok)
        self.hold = resume.hold if resume else hold(self.directory)
        make_folder(self.directory / "weights")
        save_settings(self.directory, opt=options.plain(), args=options.by_flag(), hyp=asdict(self.recipe))
        self.results = Results(self.directory / "results.csv", self.task, self.first_epoch)
        last_good = self.directory / "weights" / "last.pt"
        self.monitor = LossMonitor(self.step, self.train_split.records, options.bad_steps, last_good)
        if resume and resume.means and self.batches_done:
            self.monitor.start(*resume.means)

    def _room(self, resume: SavedRun | None) -> int:
        """Bytes of the checkpoints that a run begins with: last.pt, which is written beside the one before, and best.pt."""
        states = [self.model.state_dict(), self.step.ema.state_dict(), *self.step.optimizer.moments().values()]
        last, best = (sum(int(t.nbytes) for state in part for t in state.values()) for part in (states, states[:1]))
        return last if resume else last + best

    @classmethod
    def resume(
        cls,
        path: str | Path | None,
        project: str = "runs/train",
        console: Console | None = None,
        *,
        callbacks: events.Callbacks | None = None,
        augment: Transform | None = None,
        **changes: Any,
    ) -> Trainer:
        """Go on with a run from its last.pt (None: the youngest below `project`). Raises UserError.

        changes: options that the run may take up anew, `config.train_options.RESUMABLE`.
        """
        run = read_run(Path(path) if path else latest_checkpoint(project), **changes)
        with run.hold.pop_all() as run.hold:  # let go of where the run cannot be made
            trainer = cls(run.options, console, run, callbacks=callbacks, augment=augment)
            trainer.hold = run.hold.pop_all()
        return trainer

    def fit(self) -> ValidationResult:
        """Train all epochs; returns the validation of the best weights.

        A signal that asks for an end saves last.pt between two steps and is raised as KeyboardInterrupt, which says so.
        """
        self.console.print(announcement(self))
        with self.hold, SignalGuard() as self.signals:
            try:
                self._tell(events.TrainStart, self.first_epoch)
                while self.next_epoch < self.options.epochs and not self.stop:  # --time may change how many
                    self._do_epoch(self.next_epoch)
                    self.stop = self.stop or self._is_stuck(self.next_epoch - 1)
                result = self._finish()
                self._tell(events.TrainEnd, self.next_epoch - 1, result)
                return result
            except KeyboardInterrupt as error:
                error.args = (self._save_interrupted(error),)
                raise
            finally:
                self.train_loader.close()
                self.val_loader.close()
                self.results.close()
                self._tell(events.Teardown, max(self.next_epoch - 1, 0))

    def _tell(self, kind: type[events.TrainEvent], epoch: int, *facts: Any) -> None:
        """Emit an event of the run."""
        if kind in self.callbacks:
            self.callbacks.emit(kind(self, epoch, self.options.epochs, self.directory, *facts))

    def _do_epoch(self, epoch: int) -> None:
        started = time.perf_counter()
        self._tell(events.TrainEpochStart, epoch)
        losses, speed = self._train_epoch(epoch)
        self._tell(events.TrainEpochEnd, epoch, losses, speed)
        last = epoch + 1 == self.options.epochs or self.stop
        result = None if self.options.noval and not last else self._validate()
        seconds = time.perf_counter() - started
        with self.signals.held():
            self._record(epoch, losses, speed, result, seconds)
        metrics, fitness = (result.metrics.columns(), result.metrics.fitness) if result else ({}, None)
        self._tell(events.FitEpochEnd, epoch, losses, speed, metrics, fitness, seconds)

    def _is_stuck(self, epoch: int) -> bool:
        """Whether --patience is over."""
        patience = self.options.patience
        if stuck := bool(patience) and epoch - self.best_epoch >= patience:
            self.console.print(f"no better fitness for {patience} epochs: stopping early")
        return stuck

    def _save_interrupted(self, error: KeyboardInterrupt) -> str:
        """Save where the run stands, unless that is no good state; returns what to tell."""
        last = self.directory / "weights" / "last.pt"
        self.monitor.wait()
        clean = not isinstance(error, Interrupted) or error.clean
        if clean and not self.monitor.consecutive:
            self._save(last.name)
            return f"interrupted: {last} is saved; go on with --resume"
        return f"interrupted: {last} stays as it was; go on with --resume" if last.exists() else "interrupted: nothing is saved"

    def _choose_batch(self) -> None:
        choice = pick_batch(
            self.model, self.criterion, self.recipe, self.options.img, self.device, amp=self.amp,
            images=len(self.train_split.records), mode=self.options.mode, optimizer=self.options.optimizer,
        )  # fmt: skip
        self.options.batch = choice.batch
        self.console.print(choice.reason)

    def _restore(self, run: SavedRun) -> None:
        run.restore(self.step)
        self.next_epoch, self.best, self.best_epoch = run.epoch, run.best, run.best_epoch
        if run.batches_done and run.batches != len(self.train_loader):
            warn(f"--resume: an epoch has {len(self.train_loader)} batches in place of {run.batches}; it begins anew")
        else:
            self.batches_done = run.batches_done
        self.step.iteration = self.next_epoch * len(self.train_loader) + self.batches_done

    def _train_epoch(self, epoch: int) -> tuple[dict[str, float], float]:
        """One epoch, or what is left of it; returns the mean losses by name and images a second."""
        self.model.train()
        self.train_loader.set_epoch(epoch, self.batches_done)
        images, started = 0, time.perf_counter()
        with progress_bar(self.console.is_terminal, self.console, note=True) as bar:
            task = bar.add_task(
                f"epoch {epoch + 1}/{self.options.epochs}", total=len(self.train_loader), completed=self.batches_done, note=""
            )  # fmt: skip
            for batch in prefetch(self.train_loader, self.device, self.step.dtype):
                place = self.batches_done, len(self.train_loader)
                self._tell(events.TrainBatchStart, epoch, *place)
                self._plot(batch, epoch)
                with self.signals.held(breakable=True):  # a step is done or not, for whoever goes on from here
                    self.monitor.add(self._do(batch), batch)
                    self.batches_done += 1
                images += len(batch)
                rate = images / (time.perf_counter() - started)
                note = f"{self.task.loss_text(self.monitor.means, ' ')}  {rate:.1f} images/s  {memory_gb(self.device):.1f} GB"
                bar.update(task, advance=1, note=note)
                self._tell(events.TrainBatchEnd, epoch, *place, self.monitor.means)
            self.monitor.finish()
        return self.monitor.means, images / (time.perf_counter() - started)

    def _plot(self, batch: Batch, epoch: int) -> None:
        """Draw a run's first batches."""
        if epoch == self.first_epoch and self.batches_done < 3 and not self.options.noplots:
            path = self.directory / f"train_batch{self.batches_done}.png"
            with drawing():
                self.task.plot_batch(batch, self.train_split.names, path)

    def _do(self, batch: Batch) -> Tensor:
        """One step. Raises UserError where memory gives out, with what had been allocated and what to change."""
        try:
            return self.step(batch.images, *self.task.targets(batch))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = max(batch.images.shape[-2:])
            raise explain_out_of_memory(
                error, self.model, self.criterion, len(batch), size, amp=self.amp, recipe=self.recipe,
                optimizer=self.options.optimizer,
            ) from None  # fmt: skip

    def _validate(self) -> ValidationResult:
        return validate(
            self.step.ema, self.val_loader, split=self.val_split, criterion=self.criterion, amp=self.amp,
            device=self.device, channels_last=True, progress=self.console.is_terminal, callbacks=self.callbacks,
        )  # fmt: skip

    def _record(
        self, epoch: int, losses: dict[str, float], speed: float, result: ValidationResult | None, seconds: float
    ) -> None:
        """Write the epoch's line and checkpoints."""
        row = epoch_row(self, epoch, losses, speed, result, seconds)
        if result:
            self.monitor.compare(losses, result.losses)
            if result.metrics.fitness > self.best:
                self.best, self.best_epoch = result.metrics.fitness, epoch
                self._save_average("best.pt", epoch, best=self.best)
        self.results.add(row)
        self.next_epoch, self.batches_done = epoch + 1, 0
        self._replan()
        self.monitor.start()
        if not self.monitor.consecutive:  # last.pt stays the last good state
            self._save("last.pt")
        if epoch and self.options.save_period > 0 and epoch % self.options.save_period == 0:
            self._save_average(f"epoch{epoch}.pt", epoch)
        self.console.print(epoch_text(self, row, losses))

    def _save_average(self, name: str, epoch: int, **facts: Any) -> None:
        path = self.directory / "weights" / name
        save(path, self.step.ema, epoch=epoch, **facts)
        self._tell(events.ModelSave, epoch, path)

    def _replan(self) -> None:
        """With --time, train as many epochs as fit: the learning rate falls to its end by then, mosaic ends before."""
        epochs = self.limit.epochs(self.next_epoch)
        if epochs is not None and epochs != self.options.epochs:
            self.options.epochs = self.schedule.epochs = epochs
            self.train_loader.plan(epochs, min(self.options.close_mosaic, epochs // 4))
            self.console.print(f"--time {self.options.time:g}: {epochs} epochs by the time of the first {self.next_epoch}")

    def _save(self, name: str) -> None:
        """Save all that a resumed run needs."""
        save(
            self.directory / "weights" / name, self.model, ema=self.step.ema.state_dict(), step=self.step.state_dict(),
            epoch=self.next_epoch, batches_done=self.batches_done, batches=len(self.train_loader), means=self.monitor.sums,
            best=self.best, best_epoch=self.best_epoch, hyp=asdict(self.recipe), options=saved_options(self.options),
            data=self.data_facts, spent=self.limit.spent,
        )  # fmt: skip
        self._tell(events.ModelSave, max(self.next_epoch - 1, 0), self.directory / "weights" / name)

    def _finish(self) -> ValidationResult:
        """Validate the best weights once more, with images."""
        weights = self.directory / "weights"
        best = load(weights / ("best.pt" if (weights / "best.pt").exists() else "last.pt")).to(self.device)
        result = validate(
            best, self.val_loader, split=self.val_split, criterion=self.criterion, amp=self.amp, device=self.device,
            plots_dir=None if self.options.noplots else self.directory, progress=self.console.is_terminal,
            callbacks=self.callbacks,
        )  # fmt: skip
        if not self.options.noplots:
            draw_run(self.directory, self.task, self.train_split)
        print_metrics(result, self.console)
        self.console.print(literal(f"run: {self.directory}  weights: {weights / 'best.pt'}"))
        return result
