"""The end of a run: results.json for programs, report.md and a table for people."""

import fcntl
import json
import logging
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch
import yaml
from omegaconf import DictConfig
from pytorch_lightning.profilers import PassThroughProfiler

from iolaus import figures, show, slurm
from iolaus.build import Run, build, make, quiet
from iolaus.callbacks.go_back import GoBack
from iolaus.callbacks.resume_points import ResumePoints, cut_back, newest_point, own_state
from iolaus.check import plain
from iolaus.checkpoint import PARTIAL
from iolaus.divergence import Diverged
from iolaus.errors import Pruned, UserError
from iolaus.exhibits import Exhibit
from iolaus.init_from import take_weights
from iolaus.logger.tensorboard import TensorBoard
from iolaus.preview import draw_inputs, draw_schedule, preview
from iolaus.runs import Job
from iolaus.signals import Stopped, requests

log = logging.getLogger("iolaus")

PACKAGES = ("iolaus", "torch", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy")


class Report:
    """Follows a run and writes what it came to, also when it failed or was interrupted.

    Use as a context manager around the run; `follow` tells it the live objects once they are built.

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
        self._exhibits: dict[str, Exhibit] = {}
        self._found: dict[str, float] = {}  # the numbers of a study
        self._start = time.monotonic()
        self._point: Path | None = None  # the resume point to go on from
        self._step = 0  # how many steps it has

    def __enter__(self) -> "Report":
        self._claim = claim(self.folder, self.job.resumed)
        self._handlers = requests.install()
        slurm.remember(self.folder)
        if not self.job.resumed:
            write_text(self.folder / "config.yaml", self._settings())
        return self

    def follow(self, run: Run) -> Run:
        """Take the built run and save its settings; what was logged after the point that it goes on from is forgotten."""
        self.run = run
        if self.job.resumed:
            self._go_back_to_point()
        write_text(self.folder / "config.yaml", self._settings())
        for logger in run.trainer.loggers:
            logger.log_hyperparams(self._hyperparameters())
            if isinstance(logger, TensorBoard):  # so that it alone tells what a run was
                text = f"`{_command()}`\n\n```yaml\n{self._settings()}```"
                logger.add("text", "config", text, self._step)
        if not self.config.trainer.fast_dev_run:
            self._write_results("running", None)
        return run

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

    def info(self) -> None:
        """Say and draw what the run is going to do."""
        assert self.run is not None
        log.info("%s", preview(self.run, self.folder))

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
        self.run = build(self.config)
        back = self.run.callback(GoBack)
        assert back is not None
        back.times = times
        self._go_back_to_point()

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
        with torch.no_grad(), torch.random.fork_rng():
            self._exhibits = task.show(self.run.data)
        for name, value in self.run.history.test.items():
            if name.startswith("loss/") and not math.isfinite(value):
                log.warning("%s: is %s; look for extreme values in the test split", name, value)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        requests.patience = "the report is being written"
        stopped = isinstance(error, KeyboardInterrupt | Stopped)
        pruned = isinstance(error, Pruned)
        status = "completed" if error is None else "interrupted" if stopped else "pruned" if pruned else "failed"
        if error is not None and status == "failed" and not isinstance(error, UserError):
            log.debug("", exc_info=(type(error), error, traceback))
        results = self._results(status, error)
        if not self.config.trainer.fast_dev_run:
            self._write_results(status, error)
            # whoever stops a run does not wait for pictures
            shown = [] if stopped or pruned else self._draw(results)
            write_text(self.folder / "report.md", _markdown(results, shown, self._settings()))
        if status != "failed":
            log.info("%s", self._closing_words(results))
        if isinstance(error, Stopped) and error.signal.name == "SIGUSR1":
            slurm.requeue()
        requests.reinstall(self._handlers)
        Path(self._claim.name).unlink(missing_ok=True)
        self._claim.close()
        return pruned

    def _write_results(self, status: str, error: BaseException | None) -> None:
        text = json.dumps(self._results(status, error), indent=2, allow_nan=True)
        write_text(self.folder / "results.json", text + "\n")

    def _settings(self) -> str:
        """The resolved settings as YAML; complete once the run is built, as some facts only the data tell."""
        settings = self.run.config if self.run else plain(self.config)
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)

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
        return short | {key: _setting(settings, key, text) for key, text in named.items()}

    def _results(self, status: str, error: BaseException | None) -> dict[str, Any]:
        monitor, mode = self.config.objective.monitor, self.config.objective.mode
        run = self.run
        rows = run.history.rows if run else []
        best = run.history.best(monitor, mode) if run else None
        samples = len(run.data.rows["train"]) * len(rows) if run else 0
        checkpoint = run.best_checkpoint if run else None
        metrics = {name: _metrics(row) for name, row in (("best", best), ("last", rows[-1] if rows else None))}
        return {
            "status": status,
            "name": run.config["name"] if run else self.config.name,
            "command": _command(),
            "overrides": self.job.overrides,
            "seed": self.config.seed,
            "task": self.job.choices.get("task"),
            "choices": self.job.choices,
            "metrics": {**metrics, "test": dict(run.history.test) if run else {}}
            | ({"study": self._found} if self._found else {}),
            "objective": {"monitor": monitor, "mode": mode, "value": best[monitor] if best else None},
            "best_epoch": int(best["epoch"]) if best else None,
            "epochs": len(rows),
            "steps": run.trainer.global_step if run else 0,
            "checkpoint": os.path.relpath(checkpoint, self.folder) if checkpoint else None,
            "tested": self.tested,
            "num_parameters": _count(run) if run else None,
            "seconds": {"total": round(time.monotonic() - self._start, 3), "fit": round(self.fit_seconds, 3)},
            "samples_per_s": round(samples / self.fit_seconds, 1) if self.fit_seconds else None,
            "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
            "git": _git(),
            "error": _told(error),
        } | ({"together": self.together} if self.together else {})

    def _draw(self, results: dict[str, Any]) -> list[str]:
        """Draw all that there is to see, in the folder and in TensorBoard; the report's lines that show it."""
        run = self.run
        if run is None:
            return show.show(self._exhibits, self.folder, [], 0)
        drawn = figures.draw(_plain(run.task.figures), run.data.class_names)
        if run.history.rows:
            drawn = {"learning_curves": figures.learning_curves(run.history.rows, results["best_epoch"]), **drawn}
        boards = [logger for logger in run.trainer.loggers if isinstance(logger, TensorBoard)]
        lines = [
            line
            for name, figure in drawn.items()
            for line in show.figure(name, figure, self.folder, boards, results["steps"])
        ]
        for callback in run.trainer.callbacks:  # type: ignore[attr-defined]
            self._exhibits |= callback.show() if hasattr(callback, "show") else {}
        lines += show.show(self._exhibits, self.folder, boards, results["steps"])
        for file in _profiles(run, self.folder):
            for board in boards:
                board.add(
                    "text", f"profile/{file.stem}", f"```\n{file.read_text(encoding='utf-8')}\n```", results["steps"]
                )
        if (best := results["objective"]["value"]) is not None:
            for board in (
                boards
            ):  # the best value, beside the last ones; its capital makes it the first column of a sweep's runs
                board.log_metrics({"Objective": best}, results["steps"])
        if run.trainer.optimizers and results["status"] == "completed":
            for path in (*draw_schedule(run, self.folder), *draw_inputs(run, self.folder)):
                lines += ["", f"![{path.stem}](figures/{path.name})"]
        for board in boards:
            board.save()
        return lines

    def _closing_words(self, results: dict[str, Any]) -> str:
        """The table, the folder and the commands to go on with."""
        folder = shlex.quote(os.path.relpath(self.folder))
        if self.config.trainer.fast_dev_run:
            return "it runs: the batches went through, nothing was kept"
        if self.config.stages == ["info"]:
            return f"nothing was trained: {folder}"
        if "study" in results["metrics"]:
            lines = [f"  {name}: {value:.6g}" for name, value in results["metrics"]["study"].items()]
            return "\n".join(
                [results["name"], *lines, f"completed in {results['seconds']['total']:.1f} s: {folder}/report.md"]
            )
        best = results["best_epoch"]
        epoch = f"epoch {best}, the best of {results['epochs']}" if best else f"after {results['epochs']} epochs"
        words = [
            table_text(f"{results['name']}: {epoch}", _columns(results)),
            f"\n{results['status']} in {results['seconds']['total']:.1f} s: {folder}",
        ]
        if self.tested:
            words.append(f"tested: {self.tested}")
        logdir = shlex.quote(os.path.relpath(self.folder.parent)) if self.folder.parent != Path.cwd() else folder
        words += ["", "next:"]
        if "tensorboard" in (self.config.get("logger") or {}):
            words.append(f"  tensorboard --logdir {logdir}")
        if results["status"] == "interrupted" and self.run is not None and self.run.callback(ResumePoints) is not None:
            words.append(f"  iolaus resume {folder}")
        if results["checkpoint"] and self.run is not None and "test" in self.run.data.datasets:
            words.append(f"  iolaus test {folder}")
        if results["checkpoint"]:
            words.append(f"  iolaus predict {folder} FILE")
        return "\n".join(words)


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


def claim(folder: Path, resumed: bool) -> TextIO:
    """Make a folder this process' own, for as long as the file that is returned is open.

    Raises:
        UserError: when it holds a run already, or another process trains in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = (folder / ".lock").open("w")
    try:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's it is not handed on to a loader's processes
        if not os.path.samestat(os.fstat(held.fileno()), os.stat(held.name)):
            raise BlockingIOError  # it was another's, who has just removed it
    except (BlockingIOError, FileNotFoundError):
        held.close()
        raise UserError(f"output_dir: another process is training in {folder}") from None
    if not resumed and (folder / "config.yaml").exists():
        held.close()
        raise UserError(
            f"output_dir: {folder} holds a run already; choose another folder, or go on with it: resume={folder}"
        )
    return held


def write_text(file: Path, text: str) -> None:
    """Write a file so that it is at every moment either what it was or the new one."""
    if not file.parent.is_dir():
        raise UserError(f"output_dir: {file.parent} is gone; it was removed while the run went on")
    partial = file.with_name(file.name + PARTIAL)
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)


def _command() -> str:
    """The command as the user wrote it."""
    name, *words = sys.argv
    is_ours = Path(name).name in ("iolaus", "__main__.py")
    return shlex.join([*(["iolaus"] if is_ours else ["python", name]), *(_as_typed(word) for word in words)])


def _told(error: BaseException | None) -> str | None:
    """An error as a line of the results."""
    if isinstance(error, Stopped):
        return f"stopped by {error.signal.name}"
    if isinstance(error, Pruned):
        return str(error)
    return None if error is None else f"{type(error).__name__}: {error}"


def _as_typed(word: str) -> str:
    """An override of the run's folder as the user wrote it, not as Hydra calls it."""
    folder = re.fullmatch(r'hydra\.(?:run|sweep)\.dir="(.*)"', word)
    return f"output_dir={folder[1]}" if folder else word


def _metrics(row: dict[str, float] | None) -> dict[str, float]:
    return {k: v for k, v in (row or {}).items() if "/" in k}


def _setting(settings: dict[str, Any], key: str, text: str) -> Any:
    """The value that an override set, as TensorBoard takes it: numbers as such, so that they are filtered and drawn by their size."""
    node: Any = settings
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node if isinstance(node, bool | int | float | str) else text


def _count(run: Run) -> int:
    return sum(p.numel() for p in run.task.model.parameters())


def _plain(value: Any) -> Any:
    """Tensors on the processor, as arrays, inside lists and dicts."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.detach().cpu().numpy()


def _git() -> dict[str, Any] | None:
    """Commit of the code, and whether files differ from it; None outside a repository."""
    try:
        ask = lambda *a: subprocess.run(  # noqa: E731
            ["git", "-C", str(Path(__file__).parent), *a], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _cell(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4e}"


def metrics_table(columns: dict[str, dict[str, float]]) -> list[list[str]]:
    """Rows of metric name and its value in each column; keys lose their split, which the column says."""
    names = list(dict.fromkeys(key.rpartition("/")[0] for values in columns.values() for key in values if "/" in key))
    rows = []
    for name in names:
        cells = [
            next((_cell(v) for k, v in values.items() if k.rpartition("/")[0] == name), "")
            for values in columns.values()
        ]
        rows.append([name, *cells])
    return rows


def _columns(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    best = results["metrics"]["best"] or results["metrics"]["last"]
    columns = {split: {k: v for k, v in best.items() if k.endswith(f"/{split}")} for split in ("train", "val")}
    return {name: values for name, values in {**columns, "test": results["metrics"]["test"]}.items() if values}


def table_text(title: str, columns: dict[str, dict[str, float]]) -> str:
    """A table of metrics as text, a column for each split."""
    return f"{title}\n{show.text_table(['metric', *columns], metrics_table(columns))}"


def _effort(results: dict[str, Any]) -> list[str]:
    """What the run took, as lines of a list."""
    seconds = results["seconds"]
    if not results["steps"]:
        return [f"- {seconds['total']:.1f} s, no step"]
    speed = f"{results['samples_per_s'] or 0:,.0f} samples/s"
    lines = [
        f"- parameters: {results['num_parameters']:,}",
        f"- steps: {results['steps']:,} in {seconds['fit']:.1f} s, {speed}; {seconds['total']:.1f} s in all",
    ]
    if "together" in results:
        lines.append(f"- trained together with {results['together']} others, whose training these seconds hold too")
    return lines


def _markdown(results: dict[str, Any], shown: list[str], settings: str) -> str:
    columns = _columns(results)
    lines = [f"# {results['name']}", "", f"`{results['command']}`", "", f"Status: {results['status']}."]
    if results["error"]:
        lines += ["", "```", results["error"], "```"]
    objective = results["objective"]
    if objective["value"] is not None:
        lines += [
            "",
            f"Best epoch {results['best_epoch']} of {results['epochs']} by {objective['monitor']} = {objective['value']:.6g} "
            f"({objective['mode']}); tested: {results['tested'] or 'nothing'}.",
        ]
    elif results["epochs"]:
        lines += ["", f"{objective['monitor']} was never logged; the table shows the last epoch."]
    if columns:
        lines += ["", *show.markdown(["metric", *columns], metrics_table(columns))]
    lines += shown
    lines += ["", "## The run", "", *_effort(results)]
    lines += [f"- {name}: {number}" for name, number in results["versions"].items()]
    if results["git"]:
        lines.append(f"- code: {results['git']['commit']}{' with changes' if results['git']['dirty'] else ''}")
    lines += ["", "## Settings", "", "```yaml", settings.rstrip(), "```", ""]
    return "\n".join(lines)
