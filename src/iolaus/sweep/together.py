"""The training of several runs as one stack, each with its own folder, schedule, early stopping, checkpoints and report."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn, TrainerStatus
from torch import nn
from torch.utils.data import TensorDataset

from iolaus.build import Run, build
from iolaus.callbacks.monitor_check import missing_monitor
from iolaus.callbacks.progress import Progress
from iolaus.callbacks.resume_points import ResumePoints
from iolaus.check import plain
from iolaus.data.base import DataModule
from iolaus.data.loader import AugmentedLoader, make_loader, reading_told
from iolaus.divergence import diverged
from iolaus.init_from import take_weights
from iolaus.preflight import preflight
from iolaus.report import Report
from iolaus.run_log import LogFile, logged_stdout
from iolaus.runs import Job
from iolaus.signals import Stopped, requests
from iolaus.sweep.stack import Evaluation, Moment, Stack
from iolaus.sweep.stacked_scores import StackedScores
from iolaus.task.base import single_numbers
from iolaus.undisturbed import undisturbed
from iolaus.unwritten import quiet_thread_errors
from iolaus.user_code import user_errors_located

log = logging.getLogger("iolaus")

TOLERANCE = 1e-3  # of a stacked gradient against a single one's largest number: rounding, not another computation
SMALLER = 0.75  # of the stack's members that still train, at which it is made smaller


class Apart(Exception):
    """The runs cannot be trained together after all, and why; they are trained one by one."""


class Member:
    """One of the runs: its folder, its live objects, and how far it is."""

    def __init__(self, config: DictConfig, job: Job, others: int):
        self.config = config
        self.monitor, self.mode = config.objective.monitor, config.objective.mode
        self.report = Report(config, job)
        self.report.together = others
        self.is_open = False
        self.failed = False
        self.epochs = 0
        self.steps = 0
        self.log_every_n_steps = 1
        self.best: tuple[torch.Tensor, Moment, tuple[int, int], dict[str, Any]] | None = None
        self._log_file = Path(config.output_dir) / "train.log"

    @property
    def run(self) -> Run:
        """The live objects, once they are built."""
        assert self.report.run is not None
        return self.report.run

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The run's own, which takes no step: its schedule sets the rates here, and checkpoints are made of it."""
        return self.run.trainer.optimizers[0]

    @contextmanager
    def logged(self) -> Iterator[None]:
        """What is said goes to this run's train.log too."""
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        handler = LogFile(self._log_file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.close()

    def attempt(self, work: Callable[[], None]) -> None:
        """Do a part of this run; what goes wrong ends this run and no other."""
        with self.logged():
            try:
                with reading_told(), user_errors_located(plain(self.config, resolve=False), self._log_file):
                    work()
            except Exception as error:  # whatever it is, it is this run's: its results.json says it
                self.close(error)
                log.error("%s: %s", self.config.output_dir, error)

    def close(self, error: BaseException | None = None) -> None:
        """Write the report."""
        if self.is_open:
            self.is_open, self.failed = False, error is not None
            self.report.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    def prepare(self, read: dict[str, DataModule]) -> None:
        """Build the run, on data that an earlier one has read where they are the same, and try a batch."""
        self.report.__enter__()
        self.is_open = True
        settings = str(plain(self.config.data))
        run = self.report.follow(build(self.config, read.get(settings)))
        read.setdefault(settings, run.data)
        preflight(run)
        if self.config.get("init_from"):
            take_weights(run.task.model, Path(self.config.init_from), self.config.init_partial)

    def train_alone(self) -> None:
        """Train as a single run does."""
        self.report.together = 0
        self.report.fit()
        self.finish()

    def finish(self) -> None:
        """Test and report."""
        if "test" in self.config.stages:
            self.report.test()
        self.close()

    # what Lightning's Trainer does around its loop

    def begin(self) -> None:
        """Bring the trainer to where its first epoch begins."""
        trainer, task = self.run.trainer, self.run.task
        self.log_every_n_steps = trainer.log_every_n_steps  # type: ignore[attr-defined]
        trainer.state.fn, trainer.state.status, trainer.training = TrainerFn.FITTING, TrainerStatus.RUNNING, True
        trainer._data_connector.attach_datamodule(task, datamodule=self.run.data)
        trainer.strategy.connect(task)
        task.trainer = trainer
        trainer.strategy.setup_environment()
        trainer.strategy.setup(trainer)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Progress):
                continue
            callback.setup(trainer, task, "fit")
            callback.on_fit_start(trainer, task)
            callback.on_train_start(trainer, task)

    def begin_epoch(self) -> None:
        """Log the rates."""
        for callback in self.run.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LearningRateMonitor):
                callback.on_train_epoch_start(self.run.trainer, self.run.task)

    def count(self, epochs: int, steps: int, inside: bool) -> None:
        """Set the trainer's counters to those of a single run.

        Args:
            epochs: that were trained.
            steps: that were taken.
            inside: whether the last epoch's end is still to come, as it is where callbacks look at what was measured.
        """
        fit: Any = self.run.trainer.fit_loop
        loop = fit.epoch_loop
        batches = steps // epochs if epochs else 0
        for progress, number in ((fit.epoch_progress.total, epochs), (fit.epoch_progress.current, epochs)):
            progress.ready = progress.started = progress.processed = number
            progress.completed = number - inside
        optimizer = loop.automatic_optimization.optim_progress.optimizer
        for number, kind in ((steps, "total"), (batches, "current")):
            done = getattr(loop.batch_progress, kind)
            done.ready = done.started = done.processed = done.completed = number
            step, zero_grad = (getattr(part, kind) for part in (optimizer.step, optimizer.zero_grad))
            step.ready = step.completed = number
            zero_grad.ready = zero_grad.started = zero_grad.completed = number
        loop.batch_progress.is_last_batch = True
        loop._batches_that_stepped = steps
        if (schedule := self.schedule) is not None:
            waits = inside and schedule.reduce_on_plateau  # for the objective of this epoch
            per_epoch = batches if schedule.interval == "step" else 1 - waits
            total = steps if schedule.interval == "step" else epochs - waits
            for number, kind in ((total, "total"), (per_epoch, "current")):
                done = getattr(loop.scheduler_progress, kind)
                done.ready = done.completed = number
        validated = len(self.run.data.val_dataloader())
        for done in (loop.val_loop.batch_progress.total, loop.val_loop.batch_progress.current):
            done.ready = done.started = done.processed = done.completed = validated
        loop.val_loop.batch_progress.is_last_batch = True

    @property
    def schedule(self) -> Any:
        """The schedule with Lightning's settings for it; None without one."""
        configs = self.run.trainer.lr_scheduler_configs
        return configs[0] if configs else None

    def step_schedule(self, interval: str, value: torch.Tensor | None = None) -> bool:
        """Step the schedule where it is due; whether it was.

        Args:
            interval: what has ended: a step, or an epoch.
            value: the objective, for a schedule that waits for it, once it is known.
        """
        due = self.schedule
        if due is None or due.interval != interval or due.reduce_on_plateau != (value is not None):
            return False
        if value is None:
            due.scheduler.step()
        else:
            due.scheduler.step(value)
        return True

    def log_values(self, values: dict[str, torch.Tensor], step: int) -> None:
        """Write an epoch's values."""
        numbers = {name: float(value) for name, value in values.items()}
        for logger in self.run.trainer.loggers:
            logger.log_metrics({**numbers, "epoch": self.epochs - 1}, step)

    def end_epoch(self, values: dict[str, torch.Tensor], moment: Callable[[], Moment]) -> None:
        """Callbacks and loggers at the end of an epoch.

        Args:
            values: what was measured, by `<metric>/<split>`.
            moment: gives what the run is now, for the checkpoint.
        """
        trainer = self.run.trainer
        trainer.callback_metrics.update(values)
        if self.monitor not in values:
            raise missing_monitor("objective.monitor", self.monitor, list(values))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping):
                callback.on_train_epoch_end(trainer, self.run.task)
        if self.monitor in values and self._improves(values[self.monitor]):
            schedule = self.schedule.scheduler.state_dict() if self.schedule else {}
            settings = {key: value for key, value in self.optimizer.param_groups[0].items() if key != "params"}
            kept = {"schedule": schedule, "settings": settings}
            self.best = (values[self.monitor], moment(), (self.epochs, self.steps), kept)

    def _improves(self, value: torch.Tensor) -> bool:
        """Whether this is the best so far, as ModelCheckpoint has it."""
        if not any(isinstance(c, ModelCheckpoint) for c in self.run.trainer.callbacks):  # type: ignore[attr-defined]
            return False
        if self.best is None:
            return True
        best = self.best[0]
        return bool(value < best if self.mode == "min" else value > best)

    @property
    def is_done(self) -> bool:
        """Whether its training has ended: by its number of epochs, or because the objective improves no more."""
        limit = self.run.trainer.max_epochs or -1
        return bool(self.run.trainer.should_stop) or (0 < limit <= self.epochs)

    def save_best(self, stack: Stack) -> None:
        """Write the checkpoint of the best epoch."""
        if self.best is None:
            return
        value, moment, (epochs, steps), kept = self.best
        trainer = self.run.trainer
        (callback,) = (c for c in trainer.callbacks if isinstance(c, ModelCheckpoint))  # type: ignore[attr-defined]
        stack.restore(moment, self.run.task, self.optimizer)
        now = self._exchange(kept)
        self.count(epochs, steps, inside=True)
        path = callback._get_metric_interpolated_filepath_name({}, trainer)
        callback.best_model_path = callback.kth_best_model_path = path
        callback.best_model_score = callback.current_score = callback.kth_value = value
        callback.best_k_models = {path: value}
        callback._save_checkpoint(trainer, path)
        self._exchange(now)

    def _exchange(self, kept: dict[str, Any]) -> dict[str, Any]:
        """Put the optimizer's settings and the schedule's state in place; those before."""
        group = self.optimizer.param_groups[0]
        schedule = self.schedule.scheduler if self.schedule else None
        now = {
            "settings": {key: group[key] for key in kept["settings"]},
            "schedule": schedule.state_dict() if schedule else {},
        }
        group.update(kept["settings"])
        if schedule is not None:
            schedule.load_state_dict(kept["schedule"])
        return now

    def end(self, stack: Stack, moment: Moment, seconds: float) -> None:
        """Write the checkpoints, and close what the fit has opened."""
        self.report.fit_seconds = seconds
        trainer, task = self.run.trainer, self.run.task
        self.save_best(stack)
        stack.restore(moment, task, self.optimizer)
        self.count(self.epochs, self.steps, inside=False)
        points = self.run.callback(ResumePoints)
        try:
            if points is not None:
                points.on_train_end(trainer, task)
                points.on_fit_end(trainer, task)
        finally:
            trainer.state.status, trainer.state.stage = TrainerStatus.FINISHED, None


class Together:
    """Trains a group of runs.

    Args:
        configs: composed and checked; alike but for numbers.
        jobs: what the user asked for, of each.
        figures: of which runs they are drawn: the best one, or all.
    """

    def __init__(self, configs: Sequence[DictConfig], jobs: Sequence[Job], figures: Literal["best", "all"] = "best"):
        self.figures = figures
        self.all = [Member(config, job, len(configs) - 1) for config, job in zip(configs, jobs, strict=True)]
        self.members: list[Member] = []  # of the stack, those that have ended too
        self._paused = 0.0

    @quiet_thread_errors()
    def run(self) -> list[float | None]:
        """Build, train, test and report all; the best value of each objective."""
        handlers = requests.install()
        read: dict[str, DataModule] = {}
        try:
            with logged_stdout(), user_errors_located(plain(self.all[0].config, resolve=False)):
                self._run(read)
        except BaseException as error:
            for member in self.all:
                with member.logged():
                    member.close(error)
            raise
        finally:
            requests.reinstall(handlers)
        return [self._objective(member) for member in self.all]

    def _run(self, read: dict[str, DataModule]) -> None:
        for member in self.all:
            member.attempt(lambda member=member: member.prepare(read))  # type: ignore[misc]
        self.members = [member for member in self.all if member.is_open]
        try:
            self._check()
        except Apart as reason:
            for member in self.members:
                with member.logged():
                    log.info("trained by itself: %s", reason)
                member.attempt(member.train_alone)
        else:
            for member in self.members:
                member.report.draws = self.figures == "all"
            self._fit()
            self._draw_best()

    def _draw_best(self) -> None:
        """Draw the figures of the best run, where not all have theirs."""
        values = {member: self._objective(member) for member in self.all if not member.report.draws}
        known = {member: value for member, value in values.items() if value is not None}
        if known:
            best = (min if self.all[0].mode == "min" else max)(known, key=lambda member: known[member])
            best.attempt(best.report.draw)

    def _objective(self, member: Member) -> float | None:
        return None if member.failed else member.report.objective

    def _check(self) -> None:
        """See that the first step of the stack is that of each run.

        Raises:
            Apart: where it is not, or data or networks have no stacked form.
        """
        if not self.members:
            return
        first = self.members[0].run
        lengths = {tuple((name, len(rows)) for name, rows in m.run.data.rows.items()) for m in self.members}
        if len(lengths) > 1:
            raise Apart("the runs have splits of different lengths")
        if not all(isinstance(d, TensorDataset) for m in self.members for d in m.run.data.datasets.values()):
            raise Apart("the data are not in memory")
        if any(isinstance(part, nn.modules.dropout._DropoutNd) and part.p for part in first.task.modules()):
            raise Apart("the model draws random numbers")
        for member in self.members:
            member.run.task.to(member.run.trainer.strategy.root_device)
        optimizers = [m.run.task.configure_optimizers() for m in self.members]
        optimizers = [o["optimizer"] if isinstance(o, dict) else o for o in optimizers]
        try:
            stack = Stack([m.run.task for m in self.members], optimizers)
            batch, apart = next(self._batches(0))
            losses, _, _ = stack.gradient(batch, apart)
        except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
            raise Apart(f"torch.func cannot stack it: {' '.join(str(error).split())[:150]}") from None
        for number, member in enumerate(self.members):
            own = tuple(part[number] for part in batch) if apart else batch
            with undisturbed(member.run.task, "train"):
                loss, _, _ = member.run.task.step(own)
                loss.backward()
                gradient = torch.cat([p.grad.flatten() for p in member.run.task.parameters() if p.grad is not None])
            largest = float(gradient.abs().max())
            gap = (
                float((gradient - stack.gradients[number]).abs().max())
                if gradient.shape == stack.gradients[number].shape
                else 1e9
            )
            if gap > TOLERANCE * largest or abs(loss.item() - losses[number].item()) > TOLERANCE * abs(loss.item()):
                raise Apart("its first step in a stack is another one than by itself")

    def _batches(self, epoch: int) -> Iterator[tuple[tuple[torch.Tensor, ...], bool]]:
        """The epoch's batches: the same for all where all have the same data, else of each member, (K, B, ...)."""
        data = list({id(m.run.data): m.run.data for m in self.members}.values())
        device = self.members[0].run.trainer.strategy.root_device
        place = [next(i for i, d in enumerate(data) if d is m.run.data) for m in self.members]
        for batches in zip(*(_loader(d, epoch) for d in data), strict=True):
            yield _joined(batches, place, device)

    def _fit(self) -> None:
        """Train all until each has ended."""
        for member in self.members:
            member.attempt(member.begin)
        self.members = [member for member in self.members if member.is_open]
        if not self.members:
            return
        for member in self.members:
            with member.logged():
                others = len(self.members) - 1
                log.info("trained together with %d other run%s", others, "s" * (others > 1))
                if not member.report.draws:
                    log.info(
                        "figures and samples are made of the best of these runs alone; hydra.launcher.figures=all: of each"
                    )
                member.report.together = len(self.members) - 1
        self._start = time.monotonic()
        epochs = max(member.run.trainer.max_epochs or 0 for member in self.members)
        self.stack = Stack([m.run.task for m in self.members], [m.optimizer for m in self.members], max(epochs, 0))
        self._take(self.members)
        epoch = 0
        while any(member.is_open for member in self.members):
            requests.patience = "stopping after this epoch, with resume points"
            self._epoch(epoch)
            epoch += 1
            self._leave()

    def _take(self, members: list[Member]) -> None:
        self.members = members
        tasks = [member.run.task for member in members]
        self._limits = [member.run.trainer.gradient_clip_val for member in members]
        self._by_steps = any(member.schedule is not None and member.schedule.interval == "step" for member in members)
        self.scores = {
            "train": StackedScores([task.train_scores for task in tasks]),
            "val": StackedScores([task.val_scores for task in tasks]),
        }

    def _epoch(self, epoch: int) -> None:
        """Train an epoch, validate, and have each run look at what came out."""
        self.stack.epoch = epoch
        going = [(number, member) for number, member in enumerate(self.members) if member.is_open]
        for _, member in going:
            member.begin_epoch()
        for batch, apart in self._batches(epoch):
            self._step(batch, apart)
        for number, finite in enumerate(self.stack.finite()):
            if self.members[number].is_open and not finite:
                self._fail(number, None)
        going = [(number, member) for number, member in going if member.is_open]
        for number, member in going:
            member.epochs += 1
            if member.step_schedule("epoch"):
                self.stack.settings(number, member.optimizer)
        for batch, apart in self._validation():
            self.scores["val"].add(self.stack.evaluate(batch, apart))
        measured = {split: scores.compute() for split, scores in self.scores.items()}
        for number, member in going:
            self._end_epoch(number, member, {split: measured[split][number] for split in ("val", "train")})

    def _end_epoch(self, number: int, member: Member, measured: dict[str, dict[str, Any]]) -> None:
        values = {
            f"{name}/{split}": value.float()
            for split, found in measured.items()
            for name, value in single_numbers(found)[0].items()
        }
        member.count(member.epochs, member.steps, inside=True)
        member.end_epoch(values, lambda: self.stack.moment(number))
        if member.step_schedule("epoch", values.get(member.monitor)):
            self.stack.settings(number, member.optimizer)
        member.log_values(values, member.steps - 1)

    def _validation(self) -> Iterator[tuple[tuple[torch.Tensor, ...], bool]]:
        data = list({id(m.run.data): m.run.data for m in self.members}.values())
        device = self.members[0].run.trainer.strategy.root_device
        place = [next(i for i, d in enumerate(data) if d is m.run.data) for m in self.members]
        for batches in zip(*(d.val_dataloader() for d in data), strict=True):
            yield _joined(batches, place, device)

    def _step(self, batch: tuple[torch.Tensor, ...], apart: bool) -> None:
        """One step of all that still train."""
        evaluation: Evaluation = self.stack.gradient(batch, apart)
        losses = evaluation[0]
        if not losses.isfinite().all():
            for number, loss in enumerate(losses.tolist()):
                if self.members[number].is_open and not losses[number].isfinite():
                    self._fail(number, loss)
        if any(self._limits):
            self.stack.clip(self._limits, self.members[0].run.trainer.gradient_clip_algorithm)
        self.stack.step()
        self.scores["train"].add(evaluation)
        for number, member in enumerate(self.members):
            if not member.is_open:
                continue
            if member.steps % member.log_every_n_steps == 0:
                for logger in member.run.trainer.loggers:
                    logger.log_metrics({"loss/step": float(losses[number])}, member.steps)
            member.steps += 1
            if self._by_steps and member.step_schedule("step"):
                self.stack.settings(number, member.optimizer)

    def _fail(self, number: int, loss: float | None) -> None:
        """End a run that diverged: its best weights so far are kept, nothing of the step is."""
        member = self.members[number]
        moment = self.stack.moment(number)
        self.stack.end(number)

        def tell() -> None:
            member.save_best(self.stack)
            self.stack.restore(moment, member.run.task, member.optimizer)
            member.count(member.epochs, member.steps, inside=False)
            member.report.fit_seconds = time.monotonic() - self._start - self._paused
            raise diverged(member.run.trainer, loss, member.steps)

        self._pause(lambda: member.attempt(tell))

    def _leave(self) -> None:
        """Finish the runs whose training has ended; all, with a resume point each, where a signal asked for it."""
        stop = requests.received
        for number, member in enumerate(self.members):
            if member.is_open and (member.is_done or stop is not None):
                moment = self.stack.moment(number)
                self.stack.end(number)
                seconds = time.monotonic() - self._start - self._paused
                self._pause(lambda m=member, then=moment, s=seconds: self._finish(m, then, s, stop))  # type: ignore[misc]
        if stop is not None:
            raise Stopped(stop)
        going = [number for number, member in enumerate(self.members) if member.is_open]
        if going and len(going) <= SMALLER * len(self.members):
            self.stack.keep(going)
            self._take([self.members[number] for number in going])

    def _finish(self, member: Member, moment: Moment, seconds: float, stop: int | None) -> None:
        def work() -> None:
            member.end(self.stack, moment, seconds)
            if stop is not None:
                raise Stopped(stop)
            member.finish()

        try:
            member.attempt(work)
        except Stopped as error:
            with member.logged():
                member.close(error)

    def _pause(self, work: Callable[[], None]) -> None:
        """Do what is no training."""
        start = time.monotonic()
        work()
        self._paused += time.monotonic() - start


def _loader(data: DataModule, epoch: int) -> Any:
    """An epoch's batches in the order that a single run has."""

    def key() -> tuple[int, ...]:
        return data.seed, epoch

    train = data.datasets["train"], data.rows["train"], data.batch_size
    loader = make_loader(*train, key, num_workers=0, min_rows=data.min_train_rows)
    return AugmentedLoader(loader, data.augmentations, key) if data.augmentations else loader


def _joined(batches: Sequence[Any], place: list[int], device: torch.device) -> tuple[tuple[torch.Tensor, ...], bool]:
    """The batches of all members as one, and whether they are apart in it."""
    if len(batches) == 1:
        return tuple(part.to(device) for part in batches[0]), False
    parts = zip(*(batches[number] for number in place), strict=True)
    return tuple(torch.stack(part).to(device) for part in parts), True
