"""MLflow. https://mlflow.org/docs/latest/ml/tracking/."""

import logging
import os
import shlex
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from iolaus.logger.service import PATIENCE_S, Service

SEND_EVERY_S = 1.0
MOST_VALUES = 1000  # of one call, as MLflow allows
MOST_LETTERS = 500  # of a setting
STATUS = {"completed": "FINISHED", "failed": "FAILED"}  # KILLED otherwise
DEFAULT_STORE = "sqlite:///outputs/mlflow.db"


class MLflow(Service):
    """Runs of MLflow, in a file on this machine or on a server.

    Values wait for up to a second, so that a slow server is asked once for many of them. Keys are read from MLFLOW_TRACKING_USERNAME,
    MLFLOW_TRACKING_PASSWORD and MLFLOW_TRACKING_TOKEN.

    Args:
        save_dir: the run's folder.
        tracking_uri: where runs are kept; None: MLFLOW_TRACKING_URI, or the file outputs/mlflow.db with its pictures in outputs/mlflow/.
        experiment: that the run belongs to.
        name: of the run; None: the last two parts of its folder's path.
        tags: by which it is found.
    """

    package = "mlflow"
    extra = "mlflow"
    instead = "see to logger.mlflow.tracking_uri, which may be null for a file"

    def __init__(
        self,
        save_dir: str,
        tracking_uri: str | None = None,
        experiment: str = "iolaus",
        name: str | None = None,
        tags: dict[str, str] | None = None,
    ):
        super().__init__(save_dir, name)
        self.tracking_uri = tracking_uri
        self.experiment_name = experiment
        self.tags = tags or {}
        self._client: Any = None
        self._waiting: list[Any] = []
        self._sent_at = 0.0

    def begin(self, earlier: str | None) -> str:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a run does not wait minutes for its server
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENCE_S))
        uri = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # after the import, which sets them
            logging.getLogger(name).setLevel(logging.WARNING)
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).absolute().parent.mkdir(parents=True, exist_ok=True)
        self._uri = uri
        self._client = MlflowClient(uri)
        if earlier is not None:
            self._client.update_run(earlier, status="RUNNING")
            return earlier
        return self._client.create_run(self._experiment(), tags=self.tags, run_name=self.run_name).info.run_id

    def _experiment(self) -> str:
        """The experiment's id; it is made where there is none."""
        from mlflow.exceptions import MlflowException

        place = None
        if self._uri.startswith("sqlite:///"):  # beside the file, and not in the working directory
            place = Path(self._uri.removeprefix("sqlite:///")).absolute().with_suffix("").as_uri()
        found = self._client.get_experiment_by_name(self.experiment_name)
        if found is None:
            try:
                return self._client.create_experiment(self.experiment_name, artifact_location=place)
            except MlflowException:  # another job of a sweep was quicker
                found = self._client.get_experiment_by_name(self.experiment_name)
                if found is None:
                    raise
        return found.experiment_id

    def write_settings(self, settings: dict[str, Any]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self._id).data.params  # which MLflow lets nobody change
        params = [Param(key, str(value)[:MOST_LETTERS]) for key, value in settings.items() if key not in known]
        self._client.log_batch(self._id, params=params)

    def write(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, step) for name, value in values.items()]
        if time.monotonic() - self._sent_at > SEND_EVERY_S:
            self._send()

    def _send(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), MOST_VALUES):
            self._client.log_batch(self._id, metrics=waiting[start : start + MOST_VALUES])
        self._sent_at = time.monotonic()

    def written(self) -> dict[str, Any]:
        """Nothing that could be cut back; but what is logged before a resume point has been sent when the point is kept."""
        self._attempt(self._send)
        return {}

    def write_file(self, tag: str, file: Path, step: int) -> None:
        self._client.log_artifact(self._id, str(file), tag.rpartition("/")[0] or None)

    def end(self, status: str) -> None:
        self._send()
        self._client.set_tag(self._id, "status", status)
        self._client.set_terminated(self._id, STATUS.get(status, "KILLED"))

    @property
    def next_command(self) -> str | None:
        if self._client is None:
            return None
        return (
            self._uri
            if urlsplit(self._uri).scheme.startswith("http")
            else f"uvx mlflow ui --backend-store-uri {shlex.quote(self._uri)}"
        )
