"""Weights & Biases. https://docs.wandb.ai."""

import csv
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iolaus.logger.service import PATIENCE_S, Service

STEP = "trainer/global_step"  # as in Lightning's own logger


class WeightsAndBiases(Service):
    """Runs of Weights & Biases: sent while they train where there is a key, else kept in the run's folder, for `wandb sync`.

    Keys are read from WANDB_API_KEY, or from where `wandb login` puts them; WANDB_MODE and WANDB_BASE_URL count too.

    Args:
        save_dir: the run's folder, in which wandb/ holds what is to be sent.
        project: that the run belongs to.
        entity: a user or a team; None: the key's.
        name: of the run; None: the last two parts of its folder's path.
        group: of runs that belong together.
        tags: words to find it by.
        online: whether it is sent while it trains; None: where there is a key.
    """

    package = "wandb"
    extra = "wandb"
    forgets = True  # what is in its memory
    instead = "set logger.wandb.online=false to keep the run in its folder, or wandb login"

    def __init__(
        self,
        save_dir: str,
        project: str = "iolaus",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        online: bool | None = None,
    ):
        super().__init__(save_dir, name)
        self.place: dict[str, Any] = {"project": project, "entity": entity, "group": group, "tags": list(tags)}
        self.online = online
        self._run: Any = None

    def begin(self, earlier: str | None) -> str:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which would wait for the network
        import wandb

        quiet = wandb.Settings(silent=True, console="off", init_timeout=PATIENCE_S)
        wandb.setup(wandb.Settings(silent=True))
        online = self.online
        if online is None and "WANDB_MODE" not in os.environ:
            online = wandb.login(prompt=False, verify=False)
        mode: Any = {True: "online", False: "offline", None: None}[online]
        self._run = wandb.init(
            **self.place,
            name=self.run_name,
            id=earlier,
            resume="allow" if earlier else None,
            dir=self.folder,
            mode=mode,
            reinit="create_new",  # several runs in one process, as in a sweep, are several runs here too
            settings=quiet,
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP, step_sync=True)
        return self._run.id

    def write_settings(self, settings: dict[str, Any]) -> None:
        self._run.config.update(settings, allow_val_change=True)

    def write(self, values: dict[str, float], step: int) -> None:
        self._run.log({**values, STEP: step})

    def write_file(self, tag: str, file: Path, step: int) -> None:
        self._run.log({tag: _shown(file), STEP: step})

    def end(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=int(status == "failed"))

    @property
    def next_command(self) -> str | None:
        if self._run is None or self._run.disabled:
            return None
        if not self._run.offline:
            return str(self._run.url)
        return f"wandb sync {shlex.quote(os.path.relpath(self._run.settings.sync_dir))}"


def _shown(file: Path) -> Any:
    """A file as the package shows it."""
    import wandb

    match file.suffix:
        case ".png":
            return wandb.Image(str(file))
        case ".gif":
            return wandb.Video(str(file), format="gif")
        case ".wav":
            return wandb.Audio(str(file))
        case ".csv":
            with file.open(newline="", encoding="utf-8") as opened:
                rows = list(csv.reader(opened))
            return wandb.Table(columns=[*rows[0]], data=rows[1:])
        case _:
            return wandb.Table(columns=["text"], data=[[file.read_text(encoding="utf-8")]])
