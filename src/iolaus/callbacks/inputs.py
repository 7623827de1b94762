"""What the training gets to see: the first samples of an epoch, augmented as they are."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from iolaus.board import write
from iolaus.callbacks.base import Look, at_least_one, of
from iolaus.callbacks.rows import class_name, inputs_in_words, one_of, target_in_words
from iolaus.data.base import DataModule
from iolaus.exhibits import Audio, Exhibit, Images, Table, Text

CLIPS = 3  # that can be heard
WINDOWS = 3  # of a text
MOST_ROWS = 20


class Inputs(Look):
    """Writes the first batch of the training, and of every n-th epoch where that is set, as the step gets it.

    | data | logged |
    | --- | --- |
    | images | figures/inputs: images with the names of their classes or their amounts, or beside targets that are images too |
    | tables, sentences, users and items, pairs of points | samples/inputs: a table |
    | texts | samples/inputs: windows of it |
    | sounds | samples/inputs_1, ...: sounds, and their transcripts as a table |

    Nothing is read for it: the batch is the training's own. Cost: about 0.15 s a look at images.

    Args:
        num_samples: of the batch that are shown.
        every_n_epochs: epochs between looks; None: the first one alone.
    """

    def __init__(self, num_samples: int = 32, every_n_epochs: int | None = None):
        super().__init__()
        self.every_n_epochs = at_least_one(every_n_epochs)
        self.num_samples = num_samples

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx or not self.boards or not self._begins(trainer.current_epoch):
            return
        with self.safely():
            shown = inputs([part[: self.num_samples].cpu() for part in batch], of(trainer)[1])
            if not shown:
                self.leave(f"data of the kind {of(trainer)[1].input_kind!r} have nothing to show")
            write(shown, self.boards, trainer.global_step)

    def _begins(self, epoch: int) -> bool:
        return epoch == 0 if self.every_n_epochs is None else epoch % self.every_n_epochs == 0


def inputs(batch: list[torch.Tensor], data: Any) -> dict[str, Exhibit]:
    """What there is to see of a batch on the processor; nothing for kinds of data that are not known.

    Args:
        batch: inputs and, last, the target.
        data: the data module.
    """
    samples = [one_of(batch, k) for k in range(len(batch[-1]))]
    if data.input_kind == "image":
        images = batch[0].float()
        if batch[-1].ndim > 2 and batch[-1].shape[-2:] == images.shape[-2:]:
            return {"inputs": beside_targets(images, batch[-1])}
        return {"inputs": Images(images, [_title(sample, data) for sample in samples])}
    if data.input_kind == "tokens" and data.target_kind == "tokens":
        windows = [data.decode(row) for row in batch[0][:WINDOWS].tolist()]
        return {"inputs": Text("\n\n----\n\n".join(windows))}
    if data.input_kind == "audio":
        sounds = [samples[0][0, : int(samples[1])] / 2**15 for *samples, _ in samples[:CLIPS]]
        said = [[k, target_in_words(sample, data)] for k, sample in enumerate(samples[:CLIPS], 1)]
        clips: dict[str, Exhibit] = {f"inputs_{k}": Audio(sound, data.rate_hz) for k, sound in enumerate(sounds, 1)}
        return clips | {"inputs": Table(["clip", "said"], said)}
    rows = [inputs_in_words(sample[:-1], data) for sample in samples[:MOST_ROWS]]
    if not rows or not rows[0]:
        return {}
    targets = [target_in_words(sample, data) for sample in samples]
    cells = [[*row.values(), target] for row, target in zip(rows, targets, strict=False)]
    return {"inputs": Table([*rows[0], "target"], cells)}


def beside_targets(images: torch.Tensor, targets: torch.Tensor) -> Images:
    """Each image, and right of it its target, whose values are spread over the range of the images'.

    Shape:
        images: (B, C, H, W); targets: (B, H, W) classes or numbers, or (B, C', H, W), of which several channels that are no colours are
            shown by the likeliest.
    """
    if targets.ndim == 4 and targets.shape[1] not in (1, 3):
        targets = targets.argmax(1)
    targets = targets.reshape(len(targets), -1, *targets.shape[-2:])
    if not targets.is_floating_point():  # classes in steps of equal size, whatever numbers stand for "ignored"
        targets = targets.unique(return_inverse=True)[1]
    targets = targets.float()
    share = (targets - targets.min()) / (targets.max() - targets.min()).clamp_min(1e-12)
    low, high = images.min(), images.max()
    shown = low + share * torch.where(high > low, high - low, 1.0)
    if 1 not in (images.shape[1], shown.shape[1]) and images.shape[1] != shown.shape[1]:
        shown = shown.mean(1, keepdim=True)
    channels = max(images.shape[1], shown.shape[1])
    pair = [part.expand(-1, channels, -1, -1) for part in (images, shown)]
    pixels = torch.stack(pair, 1).flatten(0, 1)
    return Images(pixels, ["", "target"] * len(images))


def _title(sample: Sequence[torch.Tensor], data: DataModule) -> str:
    """A class; of a blend of two, both and their shares; or an amount."""
    target = sample[-1]
    if data.target_kind == "class" and target.ndim == 2 and float(target.max()) < 1:
        shares, classes = target[0].topk(2)
        named = zip(shares.tolist(), classes.tolist(), strict=True)
        return "\n".join(f"{class_name(number, data)} {share:.0%}" for share, number in named)
    return target_in_words(sample, data)
