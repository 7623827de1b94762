"""How the loss is curved, over training: the spectrum of its Hessian. Ghorbani, Krishnan and Xiao, https://arxiv.org/abs/1901.10159."""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision

from iolaus import figures
from iolaus.callbacks.base import is_last_epoch
from iolaus.data.base import DataModule
from iolaus.errors import UserError
from iolaus.exhibits import Animation, Curves, Exhibit, Table
from iolaus.functional.hessian import Hessian
from iolaus.functional.lanczos import Spectrum, lanczos
from iolaus.logger.tensorboard import TensorBoard
from iolaus.task.base import Task
from iolaus.undisturbed import twice_differentiable, undisturbed

log = logging.getLogger("iolaus")

MOST_SAMPLES = 512  # that are measured on where num_samples is not given
MOST_FRAMES = 40  # of the animation
POINTS = 1_000  # of a drawn density
AXES = ("eigenvalue", "density")
NAMES = (
    *("lambda_max", "lambda_max_error", "lambda_min", "lambda_min_error", "trace", "trace_error"),
    *("negative_share", "gradient_norm"),
)


@dataclass(frozen=True)
class Measured:
    """The curvature at one moment.

    Args:
        epoch: epochs trained before.
        step: steps taken before.
        spectrum: of the Hessian.
        gradient_norm: of the gradient on the same samples.
    """

    epoch: int
    step: int
    spectrum: Spectrum
    gradient_norm: float

    @property
    def scalars(self) -> dict[str, float]:
        """The numbers that are logged, by name; see Curvature."""
        ends = (self.spectrum.largest, self.spectrum.smallest, self.spectrum.trace)
        values = (*(value for end in ends for value in end), self.spectrum.negative_share, self.gradient_norm)
        return dict(zip(NAMES, values, strict=True))

    def state(self) -> dict[str, Any]:
        """All of it as plain containers and tensors."""
        return {**vars(self), "spectrum": dict(vars(self.spectrum))}

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Measured":
        """What `state` gave."""
        return cls(**state | {"spectrum": Spectrum(**state["spectrum"])})


class Curvature(pl.Callback):
    """Measures the Hessian of the training loss before the first step, after every n-th epoch, and after the last one.

    It is measured on a fixed part of the training split, without augmentation, in batches as the training's, and in the weights' own
    precision; a measurement costs num_probes * lanczos_steps + trace_samples products with the Hessian, 2 to 4 gradients of these samples
    each, and the memory of lanczos_steps copies of the weights. The training is not changed in a bit. With averages of the weights
    (callbacks=[default,curvature,ema]) the weights that are trained are measured, and not their average.

    | logged | is |
    | --- | --- |
    | curvature/lambda_max, lambda_min | the largest and the smallest eigenvalue found: Ritz values, which lie within the true extremes |
    | curvature/lambda_max_error, lambda_min_error | an eigenvalue lies as near as that |
    | curvature/trace, trace_error | an unbiased estimate of the sum of the eigenvalues, and its standard error |
    | curvature/negative_share | of the sum of all eigenvalues' sizes, the share of the negative ones |
    | curvature/gradient_norm | length of the gradient on the same samples |

    At the end: figures of the densities, of the extremes and of the trace, the density as an animation, samples/curvature.csv.

    Args:
        every_n_epochs: epochs between measurements.
        num_samples: of the training split; None: 512, or all where there are fewer.
        batch_size: samples that the loss is computed on together, which matters to batch norm and to losses that compare samples.
        mode: train: dropout and the statistics of batches as in the training, which is what is optimised; eval: as in evaluation. With
            batch norm the two differ greatly, also in sign.
        lanczos_steps: eigenvalues that each probe gives at most; the extremes are sharp after about 40.
        num_probes: random vectors that the density is the mean of.
        trace_samples: further random vectors for the trace.
        seed: of samples and vectors.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        num_samples: int | None = None,
        batch_size: int = 64,
        mode: Literal["train", "eval"] = "train",
        lanczos_steps: int = 40,
        num_probes: int = 1,
        trace_samples: int = 10,
        seed: int = 0,
    ):
        self.every_n_epochs = every_n_epochs
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.mode: Literal["train", "eval"] = mode
        self.lanczos_steps = lanczos_steps
        self.num_probes = num_probes
        self.trace_samples = trace_samples
        self.seed = seed
        self.history: list[Measured] = []
        self._batches: list[Any] = []
        self._stage = "fit"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stage = stage

    def state_dict(self) -> dict[str, Any]:
        return {"history": [measured.state() for measured in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._stage == "fit":  # a test brings back the best weights' state, and the run has gone on since
            self.history = [Measured.of(state) for state in state_dict["history"]]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0 and not self.history:
            start = time.monotonic()
            self._take(trainer, 0)
            log.info("curvature: a measurement takes %.1f s", time.monotonic() - start)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epochs = trainer.current_epoch + 1
        if not is_last_epoch(trainer) and epochs % self.every_n_epochs:
            return
        try:
            self._take(trainer, epochs)
        except UserError as error:  # what went well before must not end the training now
            log.warning("%s; not measured after epoch %d", str(error).splitlines()[0], epochs)

    def _take(self, trainer: pl.Trainer, epochs: int) -> None:
        """Measure and log."""
        task, data = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(task, Task)
        measured = self.measure(trainer, task, data, epochs, trainer.global_step)
        self.history.append(measured)
        values = {f"curvature/{name}": value for name, value in measured.scalars.items()}
        for logger in trainer.loggers:
            if epochs == 0 and hasattr(logger, "log_start"):
                logger.log_start(values)
            else:
                logger.log_metrics(values, measured.step)
            if isinstance(logger, TensorBoard):
                logger.add_picture("curvature/density", figures.png(figures.drawn(density(measured))), measured.step)

    def measure(self, trainer: pl.Trainer, task: Task, data: DataModule, epoch: int, step: int) -> Measured:
        """The curvature at the task's present weights; the task is left as it was.

        Raises:
            UserError: for more samples than there are, more steps than weights, a model or a loss that cannot be measured.
        """
        if not self._batches:
            self._batches = data.some_batches("train", self._size(data), self.batch_size, self.seed)
        precision = trainer.precision_plugin
        batches = [trainer.strategy.batch_to_device(precision.convert_input(batch)) for batch in self._batches]

        def loss(batch: Any) -> tuple[torch.Tensor, torch.Tensor | int]:
            value, _, target = task.step(batch)
            return value, task.size(target)

        # In mixed precision the rounding of the products would drown the small eigenvalues.
        context = nullcontext() if isinstance(precision, MixedPrecision) else precision.forward_context()
        with undisturbed(task, self.mode), twice_differentiable(task), context:
            if self.mode == "train":
                task.freeze_norms()
            try:
                hessian = Hessian(task, loss, batches)
                self._check_steps(hessian.dim)
                norm = hessian.gradient().norm().item()
                found = lanczos(
                    hessian.__matmul__,
                    hessian.dim,
                    self.lanczos_steps,
                    self.num_probes,
                    self.trace_samples,
                    self.seed,
                    hessian.dtype,
                    hessian.device,
                )
            except UserError:
                raise
            except (
                ValueError,
                RuntimeError,
            ) as error:  # of torch: no second derivative, no memory, a batch of one sample
                raise UserError(_cannot(task, error)) from error
        return Measured(epoch, step, found, norm)

    def _size(self, data: DataModule) -> int:
        rows = len(data.rows["train"])
        if self.num_samples is not None and self.num_samples > rows:
            raise UserError(
                f"callbacks.curvature.num_samples: {self.num_samples} is more than the {rows} training rows; set at most {rows}"
            )
        return min(self.num_samples or MOST_SAMPLES, rows)

    def _check_steps(self, dim: int) -> None:
        if self.lanczos_steps > dim:
            raise UserError(
                f"callbacks.curvature.lanczos_steps: {self.lanczos_steps} is more than the model's {dim} trained parameters; "
                f"set at most {dim}"
            )

    def show(self) -> dict[str, Exhibit]:
        """The densities, the extremes and the trace over the training, and all numbers as a table."""
        if not self.history:
            return {}
        chosen = _some(self.history, MOST_FRAMES)
        grid, width = _grid([measured.spectrum for measured in chosen])
        shown: dict[str, Exhibit] = {"curvature": table(self.history)}
        shown["curvature_densities"] = overlay(self.history, grid, width)
        if len(self.history) > 1:
            lowest = _lowest(self.history[0].spectrum.dim, width)
            frames = [
                Curves(grid, {"density": m.spectrum.density(grid, width)}, AXES, _title(m), "y", lowest) for m in chosen
            ]
            shown["curvature_density"] = Animation(frames)
            shown |= courses(self.history)
        return shown


def density(measured: Measured, title: str = "") -> Curves:
    """The spectral density at one moment."""
    grid, width = _grid([measured.spectrum])
    values = {"density": measured.spectrum.density(grid, width)}
    return Curves(grid, values, AXES, title or _title(measured), "y", _lowest(measured.spectrum.dim, width))


def overlay(history: Sequence[Measured], grid: torch.Tensor, width: float) -> Curves:
    """The densities before, during and after the training."""
    places = dict.fromkeys((0, len(history) // 2, len(history) - 1))
    curves = {_title(history[i]): history[i].spectrum.density(grid, width) for i in places}
    return Curves(grid, curves, AXES, "spectral density of the Hessian", "y", _lowest(history[0].spectrum.dim, width))


def courses(history: Sequence[Measured]) -> dict[str, Exhibit]:
    """The extreme eigenvalues and the trace over the steps."""
    columns = {name: [measured.scalars[name] for measured in history] for name in NAMES}
    steps = [measured.step for measured in history]
    ends = {"largest": "lambda_max", "smallest": "lambda_min"}
    return {
        "curvature_eigenvalues": Curves(
            steps,
            {name: columns[key] for name, key in ends.items()},
            ("step", "eigenvalue"),
            "extreme eigenvalues of the Hessian",
            errors={name: columns[f"{key}_error"] for name, key in ends.items()},
        ),
        "curvature_trace": Curves(
            steps,
            {"trace": columns["trace"]},
            ("step", "trace"),
            "trace of the Hessian, with its standard error",
            errors={"trace": columns["trace_error"]},
        ),
    }


def table(history: Sequence[Measured]) -> Table:
    """All numbers, a row a measurement."""
    rows = [[m.epoch, m.step, *(f"{value:.6g}" for value in m.scalars.values())] for m in history]
    return Table(
        ["epoch", "step", *NAMES], rows, "The Hessian of the training loss on a fixed part of the training split."
    )


def _title(measured: Measured) -> str:
    if measured.step == 0:
        return "before the first step"
    return f"epoch {measured.epoch}, step {measured.step:,}"


def _some(history: Sequence[Measured], most: int) -> list[Measured]:
    """At most so many, the first and the last among them."""
    places = torch.linspace(0, len(history) - 1, min(most, len(history))).round().long().tolist()
    return [history[i] for i in places]


def _grid(spectra: Sequence[Spectrum]) -> tuple[torch.Tensor, float]:
    """Where densities are drawn, and the width of a node: a two-hundredth of the range that holds all of them."""
    low = min(spectrum.nodes.min().item() for spectrum in spectra)
    high = max(spectrum.nodes.max().item() for spectrum in spectra)
    width = max((high - low) / 200, 1e-6 * max(abs(low), abs(high)), 1e-12)
    return torch.linspace(low - 5 * width, high + 5 * width, POINTS, dtype=torch.float64), width


def _lowest(dim: int, width: float) -> float:
    """A hundredth of the height of a single eigenvalue, whose weight a probe sees that small in one case of twelve."""
    return 0.01 / (dim * width * math.sqrt(2 * math.pi))


def _cannot(task: Task, error: Exception) -> str:
    """Why a task cannot be measured, in a line."""
    names = f"{type(task.model).__name__} with {type(task.loss).__name__}"
    reason = " ".join(str(error).split())[:300].rstrip(".")
    if "second derivative" in reason:
        return f"callbacks.curvature: {names} cannot be differentiated twice: {reason}; choose another loss or model, or leave it out"
    return f"callbacks.curvature: {names} cannot be measured: {reason}"
