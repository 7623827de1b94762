"""Starting from another run's weights."""

import logging
from pathlib import Path

from torch import nn

from iolaus.checkpoint import read
from iolaus.errors import UserError
from iolaus.files import INDEX
from iolaus.runs import find_checkpoint

log = logging.getLogger("iolaus")


def take_weights(model: nn.Module, source: Path, partial: bool) -> None:
    """Copy the weights of a run's model into another one; the run's statistics, optimizer and schedule stay behind.

    Args:
        model: the network, which may lie on any device.
        source: a run's folder, whose best checkpoint is taken (the last one where none is the best), or a checkpoint.
        partial: whether weights that are missing there, or have another shape, keep their first values; else they are refused.

    Raises:
        UserError: for a source without weights, weights that do not fit, or none that fits.
    """
    file = source
    if source.is_dir() and not (source / INDEX).is_file():
        file = find_checkpoint(source, "best" if (source / "checkpoints/best.ckpt").exists() else "last")
    saved = {
        name.removeprefix("model."): value
        for name, value in read(file)["state_dict"].items()
        if name.startswith("model.")
    }
    own = model.state_dict()
    fitting = {name: value for name, value in saved.items() if name in own and own[name].shape == value.shape}
    others = [name for name in {**own, **saved} if name not in fitting]
    told = [f"{name} ({_shape(saved.get(name))} there, {_shape(own.get(name))} here)" for name in others]
    if not fitting:
        raise UserError(f"init_from: no weight of {file} fits this model; the first: {'; '.join(told[:2])}")
    if others and not partial:
        raise UserError(
            f"init_from: {file} is of another model: {'; '.join(told[:3])}{' ...' if len(told) > 3 else ''}; "
            "add init_partial=true to take the weights that fit"
        )
    model.load_state_dict(fitting, strict=False)
    log.info("init_from: %d of %d weights from %s", len(fitting), len(own), file)
    if told:
        log.info("init_from: left as they were: %s", "; ".join(told))


def _shape(value: object) -> str:
    return "none" if value is None else str(list(getattr(value, "shape", [])))
