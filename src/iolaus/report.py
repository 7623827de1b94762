"""The course of a run from its folder to its end: results.json for programs, a report and a table for people."""

import functools
import logging
import math
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch
import yaml
from omegaconf import DictConfig
from pytorch_lightning.profilers import PassThroughProfiler

from iolaus import figures, ranks, show, slurm
from iolaus.build import Run, build, make, quiet
from iolaus.callbacks.go_back import GoBack
from iolaus.callbacks.resume_points import ResumePoints, cut_back, newest_point, own_state
from iolaus.check import plain
from iolaus.claim import claim
from iolaus.closing import next_steps, outcome
from iolaus.commands import run_command
from iolaus.diagnosis import undefined_values, unpredicted_classes
from iolaus.divergence import Diverged
from iolaus.errors import CannotWrite, Pruned, UserError
from iolaus.exhibits import Exhibit
from iolaus.files import write
from iolaus.init_from import take_weights
from iolaus.logger.service import Service
from iolaus.logger.tensorboard import TensorBoard
from iolaus.preview import draw_inputs, draw_schedule, preview
from iolaus.references import keep_references
from iolaus.results import command, framework, git, machine, setting, told, versions
from iolaus.run_log import log_traceback
from iolaus.run_report import write_report
from iolaus.runs import Job, read_results
from iolaus.signals import Stopped, requests
from iolaus.strategy.ddp import unused_error
from iolaus.strict_json import to_json
from iolaus.terminal import RESULT
from iolaus.unwritten import list_unwritten, unwritten
from iolaus.user_code import UserCodeError, warn_on_failure

log = logging.getLogger("iolaus")

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Report:
    """Follows a run and writes what it came to, also when it failed or was interrupted.

    Use as a context manager around the run; `follow` tells it the live objects once they are built. Of several processes that train
    together the first writes and speaks.

    Args:
        config: the composed settings.
        job: the command's overrides, the options chosen, and whether the run goes on from where it was.

    Raises:
        UserError: when the folder holds a run already, or another process trains it.
    """

    def __init__(self, config: DictConfig, job: Job):
        self.config = config
        self.job = job
        self.folder = Path(config.output_dir)
        self.run: Run | None = None
        self.fit_seconds = 0.0
        self.tested: str | None = None  # which weights were tested
        self.together = 0  # runs that were trained with this one, in one stack
        self.draws = True  # whether figures and samples are made when the run has ended
        self._ended: dict[str, Any] = {}  # what results.json said then
        self._earlier: dict[str, Any] = {}  # what it said before the run went on
        self._exhibits: dict[str, Exhibit] = {}
        self._shown: list[show.Shown] = []
        self._found: dict[str, float] = {}  # the numbers of a study
        self._suggestions: dict[str, Any] = {}  # of finders
        self._finds: list[show.Shown] = []  # what they show
        self._start = time.monotonic()
        self._point: Path | None = None  # the resume point to go on from
        self._speaks = ranks.is_first()
        self._claim: TextIO | None = None
        self._step = 0  # how many steps it has
        self._code = {
            "git": git(self.folder),
            "framework": framework(),
        }  # as the run begins: files may change meanwhile

    def __enter__(self) -> "Report":
        if self._speaks:
            self._claim = claim(self.folder, self.job.resumed)
        self._handlers = requests.install()
        slurm.remember(self.folder)
        if self.job.resumed:
            self._earlier = read_results(self.folder)
            self._suggestions = self._earlier.get("suggestions") or {}
        elif self._speaks:
            write(self.folder / "config.yaml", self._settings())
            if not self.config.trainer.fast_dev_run:
                self._write(self._results("running", None))  # a kill before the data are read leaves what was asked for
        return self

    def follow(self, run: Run) -> Run:
        """Take the built run and save its settings; what was logged after the point that it goes on from is forgotten."""
        self.run = run
        if self.job.resumed:
            self._go_back_to_point()
        if not self._speaks:
            return run
        write(self.folder / "config.yaml", self._settings())
        self._begin_loggers()
        if not self.config.trainer.fast_dev_run:
            self._write(self._results("running", None))
        return run

    def _begin_loggers(self) -> None:
        """Tell the loggers what the run is; services refuse it here, before the training. Where nothing is trained they are not asked."""
        assert self.run is not None
        for logger in self.run.trainer.loggers:
            if not (isinstance(logger, Service) and self.config.stages == ["info"]):
                logger.log_hyperparams(self._hyperparameters())
            if isinstance(logger, TensorBoard):  # so that it alone tells what a run was
                text = f"`{command(self.job)}`\n\n```yaml\n{self._settings()}```"
                logger.add("text", "config", text, self._step)
        for service in self._services:
            service.log_again(self.run.history.rows)

    def _close_services(self, status: str) -> None:
        """End what was begun at services; status is that of results.json."""
        for service in self._services:
            service.close(status)

    @property
    def _services(self) -> list[Service]:
        return [logger for logger in self.run.trainer.loggers if isinstance(logger, Service)] if self.run else []

    def _go_back_to_point(self) -> None:
        """Find the newest resume point, and let the loggers forget what came after it."""
        assert self.run is not None
        points = self.run.callback(ResumePoints)
        found = newest_point(points.folder, self.job.train_on) if points is not None else None
        if found:
            limit = self.config.trainer.max_epochs or 0
            if 0 < limit < found[1]["epoch"]:
                raise UserError(
                    f"trainer.max_epochs: {limit} is less than the {found[1]['epoch']} epochs that the run has"
                )
        self._point = found[0] if found else None
        self._step = found[1]["global_step"] if found else 0
        if not self._speaks:
            return
        cut_back(self.run.trainer.loggers, own_state(found[1]).get("loggers", {}) if found else {})
        if found:
            log.info(
                "going on from %s, epoch %d, step %d", found[0].name, found[1]["epoch"] + 1, found[1]["global_step"]
            )
        else:
            log.info("there is no resume point: starting from the beginning")

    @property
    def objective(self) -> float | None:
        """The best value of the objective; None when it was never logged."""
        objective = self.config.objective
        best = self.run.history.best(objective.monitor, objective.mode) if self.run else None
        return best[objective.monitor] if best else None

    def describe_data(self) -> None:
        """Log how the data were understood, and what may make a score on them mean little."""
        assert self.run is not None
        if self._speaks:
            log.info("%s", "\n".join(f"data: {line}" for line in self.run.data.describe()))
            for line in self.run.data.warnings:
                log.warning("data: %s", line)

    def info(self) -> None:
        """Say and draw what the run is going to do."""
        assert self.run is not None
        if self._speaks:
            log.info("%s", preview(self.run, self.folder))

    def find(self, stage: str) -> None:
        """Look for a setting, say it and draw why; nothing is set, and the run is as it was. One that goes on has looked already.

        Raises:
            UserError: where several processes train.
        """
        assert self.run is not None
        if self.job.resumed:
            return
        if ranks.count() > 1:
            raise UserError(
                f"stages: {stage} tries steps of one process; run it alone with trainer.devices=1, and train with what it finds"
            )
        found = make(self.run.config[stage], stage).find(self.run)
        boards = [logger for logger in self.run.trainer.loggers if isinstance(logger, TensorBoard)]
        self._suggestions[stage] = found.suggestion
        self._finds += show.show(found.figures, self.folder, boards, 0)
        show.show({stage: found.table}, self.folder, [], 0)
        log.info("%s", found.words)
        if not self.config.trainer.fast_dev_run:
            self._write(self._results("running", None))

    def study(self) -> None:
        """Compute what a study has to show; nothing is trained."""
        quiet()
        study = make(plain(self.config)["study"], "study")
        self._exhibits = study.run()
        self._found = study.values

    def fit(self) -> None:
        """Train, with the time taken; after a divergence again with a lower rate, where that was asked for."""
        while True:
            try:
                self._fit_once()
                return
            except Diverged as error:
                self._go_back_or_raise(error)

    def _fit_once(self) -> None:
        assert self.run is not None
        if self._point is None and self.config.get("init_from"):
            take_weights(self.run.task.model, Path(self.config.init_from), self.config.init_partial)
        start = time.monotonic()
        try:
            self.run.trainer.fit(
                self.run.task, datamodule=self.run.data, ckpt_path=self._point and str(self._point), weights_only=True
            )
        except Stopped:
            raise
        except SystemExit:
            raise KeyboardInterrupt from None  # Lightning's answer to Ctrl-C
        except RuntimeError as error:
            if (unused := unused_error(error, self.run.trainer.strategy)) is not None:
                raise unused from error
            raise
        finally:
            points = self.run.callback(ResumePoints)
            self.fit_seconds = time.monotonic() - start + (points.seconds_before if points else 0.0)

    def _go_back_or_raise(self, error: Diverged) -> None:
        """Build the run anew, to go on from its last resume point; where that was not asked for, or too often, it has failed."""
        assert self.run is not None
        back = self.run.callback(GoBack)
        if back is None or back.times >= back.retries:
            raise error
        times = back.times + 1
        log.warning("%s", str(error).splitlines()[0])
        log.warning("going back, %d of %d times; learning rates times %g", times, back.retries, back.factor)
        self._close_services("interrupted")
        self.run = build(self.config)
        back = self.run.callback(GoBack)
        assert back is not None
        back.times = times
        self._go_back_to_point()
        self._begin_loggers()

    def test(self) -> None:
        """Test the best weights, or the present ones where no checkpoint was kept; nothing without a test split."""
        assert self.run is not None
        if "test" not in self.run.data.datasets:
            log.info("no test: the data set has no test split")
            return
        best = self.run.best_checkpoint
        self.tested = os.path.relpath(best, self.folder) if best else "the last weights (no checkpoint was kept)"
        self.run.trainer.test(self.run.task, datamodule=self.run.data, ckpt_path=best, verbose=False, weights_only=True)

        task = self.run.task
        task.eval()
        left_out = warn_on_failure(f"samples of the test by {type(task).__name__}.show")
        with left_out, torch.no_grad(), torch.random.fork_rng(), self.run.data.looked_at_whole():
            self._exhibits = dict(task.show(self.run.data))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        requests.patience = "the report is being written"
        stopped = isinstance(error, KeyboardInterrupt | Stopped | ranks.Lost)
        pruned = isinstance(error, Pruned)
        if isinstance(error, ranks.Lost) and (cause := ranks.first_error()):
            error, stopped = UserError(cause), False
        status = "completed" if error is None else "interrupted" if stopped else "pruned" if pruned else "failed"
        if (
            error is not None
            and status == "failed"
            and (isinstance(error, UserCodeError) or not isinstance(error, UserError | OSError))
        ):
            log_traceback(error, self.folder / "train.log")
        if self._speaks:
            self._end(self._results(status, error), is_over=not (stopped or pruned))
            if isinstance(error, Stopped) and error.signal.name == "SIGUSR1":
                slurm.requeue()
        requests.reinstall(self._handlers)
        if self._claim is not None:
            Path(self._claim.name).unlink(missing_ok=True)
            self._claim.close()
        if isinstance(error, CannotWrite):
            unwritten.note(self.folder / error.file, error)
        if lost := unwritten.take(self.folder):
            if error is None or pruned or isinstance(error, CannotWrite):
                raise UserError(self._missing(lost, status)) from error
            log.error("%s", self._missing(lost, status))  # beside what ended the run, which is raised
        return pruned

    def _missing(self, lost: dict[str, str], status: str) -> str:
        """Say which files could not be written, what the folder has, and how to go on.

        Args:
            lost: the reason by file.
            status: as in results.json.
        """
        kept = [name for name in KEPT if name not in lost and (self.folder / name).exists()]
        place, allow = os.path.relpath(self.folder), list(self.config.get("allow") or [])
        is_whole = status == "completed" and "results.json" not in lost
        step = run_command("report" if is_whole else "resume", self.folder, allow)
        return f"{place}: {list_unwritten(lost)}\nkept: {', '.join(kept) or 'nothing'}\nmake room on its disk, then: {step}"

    def _warn_of_values(self, metrics: dict[str, dict[str, float]]) -> None:
        """Log which values are not defined and why, and which classes were never predicted."""
        for name, value in self._found.items():
            if not math.isfinite(value):
                log.warning("study: %s is %s, and null in results.json", name, value)
        if self.run is None:
            return
        task, data = self.run.task, self.run.data
        values = metrics["last"] | metrics["best"] | metrics["test"]
        for line in (*undefined_values(task, values), *unpredicted_classes(task, data.class_names)):
            log.warning("%s", line)

    def _end(self, results: dict[str, Any], is_over: bool) -> None:
        """Write the report, with pictures unless somebody waits who has stopped the run, and say how it ended."""
        if not self.config.trainer.fast_dev_run:
            if is_over:  # before the run counts as completed: a kill while it is drawn leaves no gap
                self._log_objective(results)
            with unwritten.noted(self.folder / "results.json"):
                self._write(results)
            if is_over and self.draws:
                self._draw(results, self.run.trainer.loggers if self.run else [])
            self._write_report(results)
        self._close_services(results["status"])
        if results["status"] != "failed":
            self._warn_of_values(results["metrics"])
            self._tell(results)

    def draw(self) -> None:
        """Make the figures and samples of a run that has ended without, in its folder and in TensorBoard, and write its report again."""
        assert self.run is not None
        self._draw(self._ended, [logger for logger in self.run.trainer.loggers if isinstance(logger, TensorBoard)])
        self._write_report(self._ended)

    def _write_report(self, results: dict[str, Any]) -> None:
        self._ended = results
        results |= {"shown": self._finds + self._shown, "changed": self.job.changed()}
        with unwritten.noted(self.folder / "report.html"):
            self._write(results)
            write_report(self.folder, results)

    def _write(self, results: dict[str, Any]) -> None:
        write(self.folder / "results.json", to_json(results, indent=2) + "\n")

    def _settings(self) -> str:
        """The resolved settings as YAML; before the run is built they refer to the data where only these tell."""
        settings = (
            self.run.config if self.run else keep_references(plain(self.config), plain(self.config, resolve=False))
        )
        return yaml.dump(settings, Dumper=DUMPER, sort_keys=False, allow_unicode=True)

    def _hyperparameters(self) -> dict[str, Any]:
        """The few settings that tell runs apart: the parts by class, the numbers one varies, the command's overrides."""
        assert self.run is not None
        settings = self.run.config
        short: dict[str, Any] = {
            group: str(self.job.choices.get(group))
            for group in ("data", "model", "loss", "optim", "gradient", "scheduler")
        }
        short |= {"seed": settings["seed"], "lr": settings["optim"].get("lr", 0.0)}
        short |= {"batch_size": settings["data"]["batch_size"], "num_parameters": _count(self.run)}
        told = {*short, "optim.lr", "data.batch_size", "sweep", "experiment", "output_dir", "name"}
        pairs = (o.lstrip("+").partition("=")[::2] for o in self.job.overrides if "=" in o)
        named = {key: text for key, text in pairs if key not in told and not key.startswith("hydra")}
        return short | {key: setting(settings, key, text) for key, text in named.items()}

    def _results(self, status: str, error: BaseException | None) -> dict[str, Any]:
        monitor, mode = self.config.objective.monitor, self.config.objective.mode
        run = self.run
        if run is None and self._earlier.get("epochs"):  # stopped before it could go on
            return self._earlier | {"status": status, "error": told(error)}
        rows = run.history.rows if run else []
        best = run.history.best(monitor, mode) if run else None
        samples = len(run.data.rows["train"]) * len(rows) if run else 0
        checkpoint = run.best_checkpoint if run else None
        metrics = {name: _metrics(row) for name, row in (("best", best), ("last", rows[-1] if rows else None))}
        return {
            "status": status,
            "name": run.config["name"] if run else self.config.name,
            "command": command(self.job),
            "overrides": self.job.overrides,
            "flags": self.job.flags,
            "changed": None,  # found at the end
            "seed": self.config.seed,
            "task": self.job.choices.get("task"),
            "choices": self.job.choices,
            "metrics": {**metrics, "test": dict(run.history.test) if run else {}}
            | ({"study": self._found} if self._found else {}),
            "objective": {"monitor": monitor, "mode": mode, "value": best[monitor] if best else None},
            "best_epoch": int(best["epoch"]) if best else None,
            "epochs": len(rows),
            "steps": (run.trainer.global_step or self._step) if run else 0,
            "checkpoint": os.path.relpath(checkpoint, self.folder) if checkpoint else None,
            "tested": self.tested,
            "num_parameters": _count(run) if run else None,
            "data": {"description": run.data.describe(), "warnings": run.data.warnings} if run else None,
            "processes": ranks.count(),
            "seconds": {"total": round(time.monotonic() - self._start, 3), "fit": round(self.fit_seconds, 3)},
            "samples_per_s": round(samples / self.fit_seconds, 1) if self.fit_seconds else None,
            "shown": [],
            "versions": versions(),
            "machine": machine(),
            **self._code,
            "error": told(error),
            **({"suggestions": self._suggestions} if self._suggestions else {}),
        } | ({"together": self.together} if self.together else {})

    def _draw(self, results: dict[str, Any], loggers: list[Any]) -> None:
        """Draw all that there is to see, in the folder and in loggers, and note what the report shows."""
        run = self.run
        if run is None:
            self._shown = show.show(self._exhibits, self.folder, [], 0)
            return
        drawn: dict[str, Callable[[], Any]] = {}
        if run.history.rows:
            drawn["learning_curves"] = lambda: figures.learning_curves(run.history.rows, results["best_epoch"])
        for name in run.task.figures:
            if name in figures.DRAWN:
                drawn[name] = functools.partial(_metric_figure, run, name)
        self._shown = []
        for name, make_figure in drawn.items():
            with warn_on_failure(f"figures/{name}.png", self.folder):
                self._shown.append(show.figure(name, make_figure(), self.folder, loggers, results["steps"]))
        for callback in run.trainer.callbacks:  # type: ignore[attr-defined]
            with warn_on_failure(f"{type(callback).__name__}.show"):
                self._exhibits |= callback.show() if hasattr(callback, "show") else {}
        self._shown += show.show(self._exhibits, self.folder, loggers, results["steps"])
        with warn_on_failure("profile"):
            for file in _profiles(run, self.folder):
                text = f"```\n{file.read_text(encoding='utf-8')}\n```"
                for logger in loggers:
                    if isinstance(logger, TensorBoard):
                        logger.add("text", f"profile/{file.stem}", text, results["steps"])
        if run.trainer.optimizers and results["status"] == "completed":
            for name, draw in (("schedule", draw_schedule), ("inputs", draw_inputs)):
                with warn_on_failure(f"figures/{name}.png", self.folder):
                    self._shown += [{"file": f"figures/{path.name}"} for path in draw(run, self.folder)]
        for logger in loggers:
            if isinstance(logger, TensorBoard):
                logger.save()

    def _log_objective(self, results: dict[str, Any]) -> None:
        """The best value, beside the last ones; its capital makes it the first column of a sweep's runs."""
        best = results["objective"]["value"]
        for logger in self.run.trainer.loggers if self.run and best is not None else []:
            if isinstance(logger, TensorBoard | Service):
                logger.log_metrics({"Objective": best}, results["steps"])
            if isinstance(logger, TensorBoard):
                logger.save()

    def _tell(self, results: dict[str, Any]) -> None:
        """The last words in the terminal."""
        if self.config.trainer.fast_dev_run:
            log.info("it runs: the batches went through, nothing was kept")
            return
        if not {"fit", "test", "study"} & {*self.config.stages}:
            log.info("nothing was trained: %s", shlex.quote(os.path.relpath(self.folder)))
            return
        run = self.run
        log.log(RESULT, "%s", outcome(results))
        has_tensorboard = run is not None and "tensorboard" in (self.config.get("logger") or {})
        is_resumable = run is not None and run.callback(ResumePoints) is not None
        is_testable = run is not None and "test" in run.data.datasets
        services = [service.next_command for service in self._services if service.next_command]
        allow = list(self.config.get("allow") or [])
        log.info("%s", next_steps(results, self.folder, has_tensorboard, services, is_resumable, is_testable, allow))


def _profiles(run: Run, folder: Path) -> list[Path]:
    """The tables that the run's profiler has written, those of each stage; what it measured is told."""
    profiler: Any = run.trainer.profiler  # type: ignore[attr-defined]
    if isinstance(profiler, PassThroughProfiler) or not profiler.filename:
        return []
    place = Path(profiler.dirpath or folder)
    for trace in sorted(place.glob("*.pt.trace.json*")):
        log.info("profile: %s; open it at https://ui.perfetto.dev", os.path.relpath(trace))
    tables = sorted(place.glob(f"*{profiler.filename}*.txt"))
    if tables:
        log.info("profile: %s", ", ".join(os.path.relpath(table) for table in tables))
    return tables


# of what a run leaves, what its owner goes on from
KEPT = (
    "config.yaml",
    "results.json",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "checkpoints/previous.ckpt",
    "metrics.csv",
)


def _metric_figure(run: Run, name: str) -> Any:
    return figures.draw_metric(name, _plain(run.task.figures[name]), run.data.class_names)


def _plain(value: Any) -> Any:
    """Tensors on the processor, as arrays, inside lists and dicts."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.detach().cpu().numpy()


def _metrics(row: dict[str, float] | None) -> dict[str, float]:
    return {k: v for k, v in (row or {}).items() if "/" in k}


def _count(run: Run) -> int:
    return sum(p.numel() for p in run.task.model.parameters())
