"""TensorBoard without the traps of the stock logger. https://www.tensorflow.org/tensorboard."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from iolaus.logger.files import cut_files

log = logging.getLogger("iolaus")


class TensorBoard(TensorBoardLogger):
    """Scalars in the run's folder itself, and the settings that tell runs apart as hyperparameters.

    Only the records of the session's start and end are written: the experiment record, of which TensorBoard takes any one
    for the whole log folder, would hide the columns of runs with other settings. Where its file cannot be written, a line says so, and the
    run goes on without it.

    Args:
        save_dir: the run's folder.
    """

    def __init__(self, save_dir: str):
        super().__init__(save_dir, name="", version="", default_hp_metric=False)
        self._session_open = False
        self._failed = False

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Tell of a file that cannot be written, once."""
        try:
            yield
        except (OSError, ValueError) as error:
            cause = error.__cause__ or error  # Lightning wraps what it meets
            if not isinstance(cause, OSError):
                raise
            if not self._failed:
                log.warning(
                    "TensorBoard's file in %s cannot be written: %s; the run goes on without it",
                    self.save_dir,
                    cause.strerror or cause,
                )
            self._failed = True

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write flat settings as hyperparameters, once a run."""
        if params and not self._session_open:
            from torch.utils.tensorboard.summary import hparams

            _, start, self._session_end = hparams(dict(params), {})
            with self._going_on():
                self.experiment._get_file_writer().add_summary(start)
            self._session_open = True

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Write scalars, those of a call as one record: a record for each would take ten times as long."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        if not self._failed:
            with self._going_on():
                record = Summary(value=[Summary.Value(tag=tag, simple_value=float(v)) for tag, v in metrics.items()])
                self.experiment._get_file_writer().add_summary(record, step)

    @rank_zero_only
    def add(self, kind: str, tag: str, *arguments: Any, **more: Any) -> None:
        """Write a text, a sound, curves of precision and recall, a layout: SummaryWriter's `add_<kind>`."""
        if not self._failed:
            with self._going_on():
                getattr(self.experiment, f"add_{kind}")(tag, *arguments, **more)

    @rank_zero_only
    def add_picture(self, tag: str, picture: bytes, step: int) -> None:
        """Write a PNG as it is, or an animated GIF, which the page shows moving; torch's writer of videos writes nothing."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(io.BytesIO(picture)) as opened:
            width, height = opened.size
        if not self._failed:
            with self._going_on():
                image = Summary.Image(encoded_image_string=picture, colorspace=4, width=width, height=height)
                record = Summary(value=[Summary.Value(tag=tag, image=image)])
                self.experiment._get_file_writer().add_summary(record, step)

    @rank_zero_only
    def add_histograms(self, values: dict[str, Any], step: int) -> None:
        """Write how values are distributed, all of a call as one record: in bins of like width, as the page shows them.

        Args:
            values: by tag, for each bin its lower edge, its upper edge and the number of values in it; and their sum and the sum of their
                squares: (edges of B + 1 floats, counts of B floats, sum, sum of squares).
            step: the training's.
        """
        from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

        def histogram(edges: Any, counts: Any, total: float, squares: float) -> HistogramProto:
            ends = {"min": edges[0], "max": edges[-1]}
            sums = {"num": sum(counts), "sum": total, "sum_squares": squares}
            return HistogramProto(**ends, **sums, bucket_limit=edges[1:], bucket=counts)

        if not self._failed:
            with self._going_on():
                record = Summary(value=[Summary.Value(tag=tag, histo=histogram(*v)) for tag, v in values.items()])
                self.experiment._get_file_writer().add_summary(record, step)

    @rank_zero_only
    def save(self) -> None:
        """Flush; the settings stand in config.yaml and need no second file."""
        if not self._failed:
            with self._going_on():
                self.experiment.flush()

    def written(self) -> dict[str, int]:
        """Bytes written so far, by file."""
        self.save()
        return {file.name: file.stat().st_size for file in self._files()}

    def cut_back(self, written: dict[str, int] | None) -> None:
        """Remove what was logged after `written`: the ends of files, and files that were not there yet."""
        cut_files(self._files(), written)

    def _files(self) -> list[Path]:
        return sorted(Path(self.log_dir).glob("events.out.tfevents.*"))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with self._going_on():
            if self._session_open:
                self.experiment._get_file_writer().add_summary(self._session_end)
            super().finalize(status)
