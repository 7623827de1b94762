"""The curvature of a finished run's loss at its checkpoints; the data that it was trained on must be there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iolaus.check import check
from iolaus.errors import UserError
from iolaus.runs import NAMED, find_checkpoint, read_run
from iolaus.startup import import_lightning

MODES = ("train", "eval")
OPTIONS = {
    "callbacks.curvature.num_samples": "--samples",
    "callbacks.curvature.lanczos_steps": "--steps",
    "callbacks.curvature:": "curvature:",
}
COLUMNS = (
    "checkpoint",
    "step",
    "largest eigenvalue",
    "smallest eigenvalue",
    "trace",
    "negative share",
    "gradient norm",
)


def curvature(
    folder: Path,
    overrides: list[str],
    checkpoint: str,
    num_samples: int | None,
    lanczos_steps: int,
    mode: str,
    allow: list[str],
) -> None:
    """Measure at checkpoints, write a figure and the spectrum of each, and print a table.

    A checkpoint's own weights are measured: with averages of the weights, the averages. What is measured, see
    iolaus.callbacks.curvature; batch size and seed are the run's.

    Args:
        folder: the run's.
        overrides: settings KEY=VALUE to change.
        checkpoint: best, last, previous, a file, or all of the run's.
        num_samples: of the training split; None: 512, or all where there are fewer.
        lanczos_steps: eigenvalues that are found at most.
        mode: train or eval.
        allow: packages of one's own that the settings may name.

    Raises:
        UserError: for what cannot be measured, or a checkpoint of another model.
    """
    if mode not in MODES:
        raise UserError(f"--mode: must be {' or '.join(MODES)}; received {mode}")
    for option, number, least in (("--samples", num_samples, 1), ("--steps", lanczos_steps, 2)):
        if number is not None and number < least:
            raise UserError(f"{option}: must be at least {least}; received {number}")
    config = read_run(folder, overrides, allow)
    files = [find_checkpoint(folder, name) for name in _names(folder, checkpoint)]
    check(config)
    import_lightning()
    from iolaus.build import build
    from iolaus.callbacks.curvature import Curvature
    from iolaus.tables import text_table

    run = build(config)
    callback = Curvature(1, num_samples, config.data.batch_size, mode, lanczos_steps, seed=config.seed)  # type: ignore[arg-type]
    measured = []
    for name, found in _measured(run, callback, files):
        measured.append((name, found))
        for file in _write(folder, name, found):
            print(file)
    print(text_table(COLUMNS, [_row(name, found) for name, found in measured]))


def _names(folder: Path, checkpoint: str) -> list[str]:
    """What find_checkpoint takes: the one that was asked for, or all of the run's."""
    kept = (folder / "checkpoints").glob("*.ckpt") if checkpoint == "all" else ()
    return [file.stem if file.stem in NAMED else str(file) for file in kept] or [
        "best" if checkpoint == "all" else checkpoint
    ]


def _measured(run: Any, callback: Any, files: list[Path]) -> Iterator[tuple[str, Any]]:
    """Each checkpoint's name and what was measured there, in the order of their steps."""
    from iolaus.checkpoint import read

    task = run.task.to(run.trainer.strategy.root_device)
    contents = [(file, read(file)) for file in files]
    for step, file, content in sorted(((_step(c), f, c) for f, c in contents), key=lambda known: known[:2]):
        task.on_load_checkpoint(content)
        task.load_state_dict(content["state_dict"])
        try:
            yield file.stem, callback.measure(run.trainer, task, run.data, 0, step)
        except UserError as error:
            text = str(error)
            for key, option in OPTIONS.items():
                text = text.replace(key, option)
            raise UserError(text) from error


def _step(content: dict[str, Any]) -> int:
    """Steps taken before a checkpoint; 0 where it does not tell."""
    step = content.get("global_step")
    return step if isinstance(step, int) else 0


def _write(folder: Path, name: str, found: Any) -> list[Path]:
    """The density as a picture, and the spectrum's nodes with their weights and bounds as a table, in the run's folder."""
    from iolaus.callbacks.curvature import density
    from iolaus.exhibits import Table
    from iolaus.show import show

    spectrum = found.spectrum
    rows = zip(spectrum.nodes.tolist(), spectrum.weights.tolist(), spectrum.bounds.tolist(), strict=True)
    table = Table(["node", "weight", "bound"], list(rows))
    title = f"{name}.ckpt, step {found.step:,}"
    key = f"curvature_{name}"
    show({key: density(found, title)}, folder, [], found.step)
    show({key: table}, folder, [], found.step)
    return [folder / "figures" / f"{key}.png", folder / "samples" / f"{key}.csv"]


def _row(name: str, found: Any) -> list[str]:
    ends = (found.spectrum.largest, found.spectrum.smallest, found.spectrum.trace)
    pairs = [f"{value:.6g} ± {error:.2g}" for value, error in ends]
    return [name, f"{found.step:,}", *pairs, f"{found.spectrum.negative_share:.4f}", f"{found.gradient_norm:.4g}"]
