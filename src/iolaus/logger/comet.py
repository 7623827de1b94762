"""Comet. https://www.comet.com/docs/v2/."""

import logging
import os
import shlex
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iolaus.logger.service import Service

# What Comet would gather or say by itself.
UNASKED: dict[str, Any] = {
    **dict.fromkeys(("log_code", "log_graph", "log_git_patch", "parse_args", "auto_output_logging"), False),
    **dict.fromkeys(("auto_param_logging", "auto_metric_logging"), False),
    "display_summary_level": 0,
}


class Comet(Service):
    """Experiments of Comet: sent while they train where there is a key, else kept in the run's folder, for `comet upload`.

    Keys are read from COMET_API_KEY, or from where `comet login` puts them. What is kept in the folder is written when the run ends: a run
    that was killed leaves nothing, and the resumed run sends its epochs again.

    Args:
        save_dir: the run's folder, in which comet/ holds what is to be sent.
        project: that the experiment belongs to.
        workspace: of a user or a team; None: the key's.
        name: of the experiment; None: the last two parts of the run's folder's path.
        tags: words to find it by.
        online: whether it is sent while it trains; None: where there is a key.
    """

    package = "comet_ml"
    extra = "comet"
    forgets = True  # all of it, where it is kept in the folder
    instead = "set logger.comet.online=false to keep the run in its folder, or comet login"

    def __init__(
        self,
        save_dir: str,
        project: str = "iolaus",
        workspace: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        online: bool | None = None,
    ):
        super().__init__(save_dir, name)
        self.place = {"project_name": project, "workspace": workspace}
        self.tags = list(tags)
        self.online = online
        self._experiment: Any = None

    def begin(self, earlier: str | None) -> str:
        os.environ["COMET_DISABLE_AUTO_LOGGING"] = "1"  # it would put its own functions into torch
        os.environ.setdefault("COMET_ERROR_TRACKING_ENABLE", "false")
        import comet_ml

        logging.getLogger("comet_ml").setLevel(logging.CRITICAL)  # what fails is told by us
        online = self.online
        if online is None:
            online = comet_ml.get_api_key(None, comet_ml.get_config()) is not None
        # A new experiment would end the one of another run in this process, as there are in a sweep.
        comet_ml.config.set_global_experiment(None)
        settings = UNASKED | self.place
        if online:
            more: dict[str, Any] = {"previous_experiment": earlier} if earlier else {}
            cls: Any = comet_ml.ExistingExperiment if earlier else comet_ml.Experiment
        else:
            folder = self.folder / "comet"
            for file in folder.glob("*.zip"):
                if not _has_content(file):
                    file.unlink()  # of a run that was killed
            is_kept = earlier is not None and (folder / f"{earlier}.zip").exists()
            more = {"previous_experiment" if is_kept else "experiment_key": earlier, "offline_directory": str(folder)}
            cls = comet_ml.ExistingOfflineExperiment if is_kept else comet_ml.OfflineExperiment
        self._experiment = cls(**settings, **more)
        if not self._experiment.alive:
            raise ConnectionError("Comet cannot be reached, or refuses the key")
        if not earlier:
            self._experiment.set_name(self.run_name)
            self._experiment.add_tags(self.tags)
        return self._experiment.get_key()

    def write_settings(self, settings: dict[str, Any]) -> None:
        self._experiment.log_parameters(settings)

    def write(self, values: dict[str, float], step: int) -> None:
        epoch = values.pop("epoch", None)
        self._experiment.log_metrics(values, step=step, epoch=None if epoch is None else int(epoch))

    def write_file(self, tag: str, file: Path, step: int) -> None:
        match file.suffix:
            case ".png" | ".gif":
                self._experiment.log_image(str(file), name=tag, step=step)
            case ".wav":
                self._experiment.log_audio(str(file), file_name=f"{tag}.wav", step=step)
            case ".csv":
                self._experiment.log_table(str(file))
            case _:
                self._experiment.log_text(file.read_text(encoding="utf-8"), step=step, metadata={"name": tag})

    def end(self, status: str) -> None:
        self._experiment.log_other("status", status)
        self._experiment.end()

    @property
    def next_command(self) -> str | None:
        if self._experiment is None:
            return None
        if (url := self._experiment.url) is not None:
            return str(url)
        return f"comet upload {shlex.quote(os.path.relpath(self.folder / 'comet'))}/*.zip"


def _has_content(file: Path) -> bool:
    """Whether an archive was written to its end."""
    try:
        with zipfile.ZipFile(file) as archive:
            return bool(archive.namelist())
    except zipfile.BadZipFile:
        return False
