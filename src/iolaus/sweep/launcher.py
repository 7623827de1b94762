"""Jobs of a sweep side by side: those that are done are passed over, those that were stopped go on, what fails stops nothing."""

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from iolaus.commands import config_flags
from iolaus.defaults import changed_by, flags_of, several
from iolaus.errors import UserError
from iolaus.normalize import normalize
from iolaus.rules import GROUPS
from iolaus.runs import Changes
from iolaus.sweep.jobs import DONE, ELSEWHERE, Claims, Job, Together, each, typed, write_plan
from iolaus.sweep.part import Part
from iolaus.sweep.processes import Forked, Fresh, Pool, Starter
from iolaus.terminal import has_boxes, is_live

log = logging.getLogger("iolaus")

OWN = ("hydra.sweep", "hydra.run", "hydra.launcher", "hydra.mode", "hydra/launcher", "hydra/sweeper")
TOGETHER, PART = "together", "jobs.pickle"  # what processes of several jobs have: their folder, and what they are given
DRAWN_S = 0.5  # between two drawings of the table


class Sweep:
    """A sweep's folder, its command, and the way its jobs are run; a context, at whose end processes end.

    Args:
        config: Hydra's, of the sweep.
        context: Hydra's, which composes the jobs' settings.
        warm: whether jobs' processes are forked from one that has imported everything, or begin anew.
        options: of the pool; see iolaus.sweep.processes.Pool.
    """

    def __init__(self, config: DictConfig, context: Any, warm: bool = True, **options: Any):
        self.config = config
        self.folder = Path(config.hydra.sweep.dir).absolute()
        self.script = Path(sys.argv[0]).absolute()
        self.jobs: list[Job] = []
        self._composed: dict[int, DictConfig] = {}  # by the job's number
        self.config_loader = context.config_loader
        self._options = options
        self._starter: Starter = Forked() if warm else Fresh()  # which imports while jobs are composed
        self._pool: Pool | None = None
        self._claims: Claims | None = None
        self._flags = list(config_flags(sys.argv[1:]))
        self._hydra = [word for word in config.hydra.overrides.hydra if not word.startswith(OWN)]

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None and error is not None:
            log.warning("stopping %d jobs, each with a resume point", len(self.running))
            self._pool.stop(signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
        self._starter.close()
        if self._claims is not None:
            self._claims.close()

    def job(self, number: int, overrides: Sequence[str], varying: Sequence[str]) -> Job:
        """A job by its settings, with the folder that Hydra would give it, as it was left.

        Args:
            number: within the sweep.
            overrides: all of its settings.
            varying: those that tell it from others, by which it is called.
        """
        config = normalize(self.config_loader.load_sweep_config(self.config, list(overrides)))
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
            config.hydra.job.override_dirname = "_".join(word.replace("=", "-") for word in varying)
        HydraConfig.instance().set_config(config)  # which the folder's name reads
        job = Job(number, list(overrides), self.folder / str(config.hydra.sweep.subdir), list(varying))
        if job.folder.exists():
            job.look()
        self._composed[number] = config
        self.jobs.append(job)
        return job

    def batch(self, batch: Sequence[Sequence[str]], first: int) -> list[Job]:
        """Jobs that are known together, called by what they do not share; what the sweep is made of is written."""
        shared = set(batch[0]).intersection(*batch[1:]) if len(batch) > 1 else set()
        jobs = [self.job(first + k, words, [w for w in words if w not in shared]) for k, words in enumerate(batch)]
        self.plan()
        return jobs

    def settings(self, job: Job) -> tuple[DictConfig, dict[str, Any]]:
        """The settings of a job as its run gets them, and the option chosen for each group."""
        config = self._composed[job.number]
        with read_write(config.hydra), open_dict(config):  # which Hydra has made read-only
            config.hydra.runtime.output_dir = str(job.folder)
        HydraConfig.instance().set_config(config)
        choices = {str(group).partition("@")[0]: choice for group, choice in config.hydra.runtime.choices.items()}
        settings = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        resolved = OmegaConf.create({"name": str(config.name), "output_dir": str(job.folder)})
        chosen = {g: c for g, c in choices.items() if g in GROUPS and c} | several(config.hydra)
        return OmegaConf.merge(settings, resolved), chosen  # type: ignore[return-value]

    def changed(self, job: Job) -> Callable[[], Changes | None]:
        """What finds the settings that a job changes."""
        config = self._composed[job.number]
        return changed_by(config.hydra, config)

    def together(
        self,
        jobs: Sequence[Job],
        settings: Sequence[tuple[DictConfig, dict[str, Any]]],
        figures: Literal["best", "all"],
    ) -> Together:
        """Jobs as one process trains them, from new folders.

        Args:
            jobs: that differ in numbers alone.
            settings: of each, as `Sweep.settings` gives them.
            figures: of which they are drawn.
        """
        for job in jobs:
            job.make_room()
        part = Together(jobs[0].number, [], self.folder / TOGETHER / str(jobs[0].number), members=list(jobs))
        Part(
            configs=[config for config, _ in settings],
            overrides=[job.overrides for job in jobs],
            choices=[chosen for _, chosen in settings],
            changes=[self.changed(job)() for job in jobs],
            flags=flags_of(self.config.hydra),
            figures=figures,
        ).write(part.folder / PART)
        return part

    def plan(self, trials: int | None = None) -> None:
        """Write what the sweep is made of; of a search also how many trials there will be."""
        write_plan(self.folder, typed, self.script, self.jobs, trials)

    def run(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Run those that are not done, as many at a time as there is room for; each is given back when it has ended."""
        waiting = [job for job in jobs if job.state not in DONE]
        if done := [job for job in jobs if job.state in DONE]:
            log.info("%d of %d jobs are done already", len(done), len(each(jobs)))
        yield from done
        with Display(self.jobs) as display:
            while waiting or self.running:
                while waiting and self.pool.has_room:
                    job = waiting.pop(0)
                    if isinstance(job, Together) or self.claim(job):
                        self.start(job)
                    else:
                        yield job
                yield from self.ended()
                display.draw()

    def claim(self, job: Job) -> bool:
        """Take a job; whether it is to be run here: no other process runs it, or has meanwhile."""
        self._claims = self._claims or Claims(self.folder)
        before = job.state
        if not self._claims.take(job.number):
            job.state = ELSEWHERE
            return False
        job.look()
        return job.state == "interrupted" or job.state == before != ELSEWHERE

    @property
    def pool(self) -> Pool:
        """The processes."""
        if self._pool is None:
            asked = [config.trainer.devices for config in self._composed.values() if "trainer" in config]
            devices = max((number for number in asked if isinstance(number, int)), default=1)
            self._pool = Pool(self._starter, devices=devices, **self._options)
        return self._pool

    @property
    def running(self) -> list[Job]:
        """The jobs that are being run."""
        return each(self._pool.running) if self._pool is not None else []

    def start(self, job: Job) -> None:
        """Start a job, or let it go on."""
        if isinstance(job, Together):
            self.pool.start(job, ["-m", "iolaus.sweep.part", str(job.folder / PART), str(self.script)])
            for member in job.members:
                member.state = "running"
            return
        if job.state == ELSEWHERE:
            job.state, job.error = "failed", "another process is training in its folder"
            return
        if job.is_resumable():
            packages = ",".join(self._composed[job.number].get("allow") or [])
            allowed = [f"allow=[{packages}]"] if packages else []
            self.pool.start(job, [str(self.script), f"resume={job.folder}", *allowed])
            return
        job.make_room()
        place = [f'hydra.run.dir="{job.folder}"', "hydra.mode=RUN", f"hydra.job.num={job.number}"]
        self.pool.start(job, [str(self.script), *self._flags, *self._hydra, *job.overrides, *place])

    def ended(self) -> list[Job]:
        """Jobs that have ended meanwhile; waits a moment for one."""
        return each(self._pool.ended()) if self._pool is not None else []


def launch(
    config: DictConfig, context: Any, batch: Sequence[Sequence[str]], first: int, options: dict[str, Any]
) -> list:
    """Hydra's launcher: run a batch of jobs and give back what they returned; a job that failed returns None."""
    with Sweep(config, context, **options) as sweep:
        jobs = sweep.batch(batch, first)
        for _ in sweep.run(jobs):
            pass
    return [_returned(job) for job in jobs]


def _returned(job: Job) -> JobReturn:
    """What Hydra is given back; its sweeper would stop at a failure, which the sweep's report tells."""
    result = JobReturn(overrides=job.overrides, working_dir=str(job.folder), status=JobStatus.COMPLETED)
    result.return_value = job.value if job.state in DONE else None
    return result


def launch_together(
    config: DictConfig, context: Any, batch: Sequence[Sequence[str]], first: int, options: dict[str, Any]
) -> list:
    """As `launch`, where jobs that differ in numbers alone are trained together, in a process for each processor or GPU."""
    from iolaus.sweep.vectorized import stackable

    options = dict(options)
    if (figures := options.pop("figures", "best")) not in ("best", "all"):
        raise UserError(f"hydra.launcher.figures: must be best or all; received {figures}")
    with Sweep(config, context, **options) as sweep:
        jobs = sweep.batch(batch, first)
        begin = [job for job in jobs if job.state in ("waiting", "failed", "interrupted") and not job.is_resumable()]
        fresh = [job for job in begin if sweep.claim(job)]
        if onward := [f"#{job.number}" for job in jobs if job.is_resumable()]:
            log.info("from their resume points, each in a process of its own: %s", ", ".join(onward))
        settings = [sweep.settings(job) for job in fresh]
        groups, reasons = stackable([OmegaConf.to_container(own, resolve=True) for own, _ in settings])  # type: ignore[misc]
        for position, reason in reasons.items():
            log.info("#%d is trained apart: %s", fresh[position].number, reason)
        shares = -(-sweep.pool.size // max(len(groups), 1))  # of a group, so that no processor waits
        stacks, stacked = [], {fresh[position].number for group in groups for position in group}
        for part in (part for group in groups for part in _shared_out(group, shares)):
            members = [fresh[position] for position in part]
            log.info("%d jobs are trained together: %s", len(part), ", ".join(f"#{job.number}" for job in members))
            stacks.append(sweep.together(members, [settings[position] for position in part], figures))
        for _ in sweep.run([*stacks, *(job for job in jobs if job.number not in stacked)]):
            pass
    return [_returned(job) for job in jobs]


def _shared_out(group: list[int], shares: int) -> list[list[int]]:
    """The jobs of a group in as many parts as asked for, of two or more each."""
    shares = min(shares, len(group) // 2)
    return [group[share::shares] for share in range(shares)]


class Display:
    """The jobs as a table that is drawn anew on a terminal, or lines as they begin and end elsewhere."""

    def __init__(self, jobs: list[Job]):
        self.jobs = jobs
        self._told: dict[int, str] = {}
        self._drawn = 0.0
        self._live: Any = None
        if is_live(sys.stdout):
            from rich.live import Live

            self._live = Live(refresh_per_second=2, transient=True)

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.draw(at_once=True)
        if self._live is not None:
            self._live.stop()

    def draw(self, at_once: bool = False) -> None:
        """Show what has changed; seldom enough to cost nothing."""
        if not at_once and time.monotonic() - self._drawn < DRAWN_S:
            return
        self._drawn = time.monotonic()
        for job in self.jobs:
            if job.state != self._told.get(job.number) and job.state != "waiting":
                self._told[job.number] = job.state
                log.info("%s", _line(job))
        if self._live is not None:
            self._live.update(_table(self.jobs))


def _line(job: Job) -> str:
    """A job in a line: what it is when it begins, what it came to when it ends."""
    if job.state == "running":
        return f"#{job.number} {' '.join(job.varying)}"
    value = f", objective {job.value:.6g}" if job.value is not None else ""
    error = f": {job.error.splitlines()[0]}" if job.error else ""
    return f"#{job.number} {job.state}{value}{error}"


def _table(jobs: Sequence[Job]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table("job", "settings", "epoch", "objective", "state", box=box.HEAVY_HEAD if has_boxes() else box.ASCII)
    shown = [job for job in jobs if job.state != "waiting"]
    for job in shown[-30:]:
        epoch, value = job.progress()
        value = job.value if job.value is not None else value
        cells = [str(epoch or ""), "" if value is None else f"{value:.5g}", job.state]
        table.add_row(str(job.number), " ".join(job.varying), *cells)
    waiting = len(jobs) - len(shown)
    if waiting:
        table.add_row("", f"and {waiting} that wait", "", "", "")
    return table
