"""What Hydra finds of Iolaus' sweeps: thin classes, as Hydra imports this at every start; the work is done in iolaus.sweep."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig


class Processes(Launcher):
    """Each job in a process of its own; see iolaus.sweep.processes.Pool for the arguments."""

    def __init__(self, **options: Any):
        self.options = options

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Take what a sweep needs."""
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        """Run a batch of jobs."""
        from iolaus.sweep.launcher import launch

        return launch(self.config, self.context, job_overrides, initial_job_idx, self.options)


class Vectorized(Processes):
    """Jobs that differ in numbers alone trained together, the others as by Processes."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        """Run a batch of jobs."""
        from iolaus.sweep.launcher import launch_together

        return launch_together(self.config, self.context, job_overrides, initial_job_idx, self.options)


class Optuna(Sweeper):
    """A search; see conf/hydra/sweeper/optuna.yaml for the arguments."""

    def __init__(self, **options: Any):
        self.options = options

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Take what a sweep needs."""
        self.context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the trials, and report."""
        from iolaus.sweep.finish import searched

        assert self.config is not None
        return searched(self.config, self.context, self.options, arguments)


class Grid(BasicSweeper):
    """Hydra's own sweeper, all combinations; jobs were composed and checked before Hydra began, and are not a second time."""

    def validate_batch_is_legal(self, batch: Any) -> None:
        """They are."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs, and report."""
        from iolaus.sweep.finish import finish, hold

        assert self.config is not None
        held = None if isinstance(self.launcher, Processes) else hold(self.config)
        try:
            results = super().sweep(arguments)
        except BaseException:
            finish(self.config)
            raise
        finally:
            if held is not None:
                held.close()
        if finish(self.config):
            raise SystemExit(1)
        return results
