"""What the network makes of its inputs, as points in TensorBoard's projector. https://projector.tensorflow.org."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from iolaus.callbacks.base import EpochLook, evaluating, on_device
from iolaus.callbacks.rows import class_name, one_of, target_in_words
from iolaus.data.base import DataModule
from iolaus.task.base import Task

CONFIG = "projector_config.pbtxt"  # where TensorBoard looks for it
MOST_PIXELS = 8_192  # a side of all images together, which browsers can show
MOST_SIDE, LEAST_SIDE = 64, 16  # of an image, in pixels


@dataclass
class Embedding:
    """Points with names.

    Args:
        points: (N, D).
        columns: what is told of each point.
        rows: N of them.
        images: (N, C, H, W), or None.
    """

    points: torch.Tensor
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    images: torch.Tensor | None = None


class Embeddings(EpochLook):
    """Puts points into the tab Projector, where they can be turned, searched and laid out by PCA, t-SNE and UMAP.

    | task | points | told of each |
    | --- | --- | --- |
    | classification, regression | samples of the validation, as the last layer with weights gets them | target, prediction; the image |
    | translation, speech | the same, the mean over time | target |
    | language modelling, ranking | the embedded tokens, the embedded items | which it is |
    | scaling | the map | the point's name |

    They lie in the run's folder, embeddings/<step>/, and projector_config.pbtxt lists them by paths relative to it, so that it
    may be moved; a run that goes on from an earlier point forgets the later ones. Weights are those that are trained.

    Cost: about 0.3 s a look at 1,000 images.

    Args:
        output_dir: the run's folder.
        num_samples: of the validation split.
        every_n_epochs: epochs between looks; None: the last one alone. Each stays and can be chosen.
    """

    def __init__(self, output_dir: str, num_samples: int = 1_000, every_n_epochs: int | None = None):
        super().__init__(every_n_epochs)
        self.folder = Path(output_dir)
        self.num_samples = num_samples

    def prepare(self, task: Task, data: DataModule) -> None:
        if points_of_weights(task, data) is None and "val" not in data.datasets:
            self.leave("there is neither a validation split nor a table of embeddings")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget what was embedded after the point that the run goes on from."""
        with self.safely():
            for place in (self.folder / "embeddings").glob("*"):
                if place.name.isdigit() and int(place.name) > trainer.global_step:
                    shutil.rmtree(place)
            if (self.folder / CONFIG).exists():
                self._list(None)

    def look(self, trainer: pl.Trainer, task: Task, data: DataModule) -> None:
        found = points_of_weights(task, data) or self._of_samples(trainer, task, data)
        name = f"embeddings/{trainer.global_step:08d}"
        place = self.folder / name
        place.mkdir(parents=True, exist_ok=True)
        np.savetxt(place / "tensors.tsv", found.points.detach().float().cpu().numpy(), fmt="%.6g", delimiter="\t")
        # TensorBoard takes the first line for names where there are two columns or more
        lines = [found.columns, *found.rows] if len(found.columns) > 1 else found.rows
        text = "".join("\t".join(_cell(cell) for cell in line) + "\n" for line in lines)
        (place / "metadata.tsv").write_text(text, encoding="utf-8")
        listed: dict[str, Any] = {"tensor_name": f"step {trainer.global_step}"}
        listed |= {"tensor_path": f"{name}/tensors.tsv", "metadata_path": f"{name}/metadata.tsv"}
        if found.images is not None:
            size = _save_sprite(found.images, place / "sprite.png")
            listed["sprite"] = {"image_path": f"{name}/sprite.png", "single_image_dim": size}
        self._list(listed)

    def _of_samples(self, trainer: pl.Trainer, task: Task, data: DataModule) -> Embedding:
        """Samples of the validation split as the last layer gets them."""
        size = min(self.num_samples, len(data.rows["val"]))
        batches = data.some_batches("val", size, data.batch_size, data.seed)
        points: list[torch.Tensor] = []
        rows: list[list[str]] = []
        with evaluating(task), trainer.precision_plugin.forward_context():
            for batch in batches:
                last, output = last_input(task, on_device(trainer, batch))
                samples = [one_of(batch, k) for k in range(len(batch[-1]))]
                taken = _predicted(task, data, output)
                points.append(last)
                rows += [[target_in_words(sample, data), *more] for sample, more in zip(samples, taken, strict=True)]
        images = torch.cat([batch[0] for batch in batches]).float().cpu() if data.input_kind == "image" else None
        columns = ["target", "prediction"][: len(rows[0])]
        return Embedding(torch.cat(points), columns, rows, images)

    def _list(self, new: dict[str, Any] | None) -> None:
        """Write what lies in the folder, a new one first, which is what the page shows."""
        from google.protobuf import text_format
        from tensorboard.plugins.projector.projector_config_pb2 import EmbeddingInfo, ProjectorConfig

        file, before = self.folder / CONFIG, ProjectorConfig()
        if file.exists():
            text_format.Parse(file.read_text(encoding="utf-8"), before)
        listed = [EmbeddingInfo(**new)] if new else []
        listed += [e for e in before.embeddings if not new or e.tensor_path != new["tensor_path"]]
        there = [e for e in listed if (self.folder / e.tensor_path).exists()]
        file.write_text(text_format.MessageToString(ProjectorConfig(embeddings=there)), encoding="utf-8")


def points_of_weights(task: Task, data: Any) -> Embedding | None:
    """Points that are weights themselves: a map, or the embedding of tokens or items; None where there are none."""
    points = getattr(task.model, "points", None)
    if isinstance(points, nn.Parameter):
        if data.labels is None:
            return Embedding(points, ["point"], [[name] for name in data.point_names])
        kinds = [class_name(label, data) for label in data.labels]
        return Embedding(points, ["point", "kind"], list(zip(data.point_names, kinds, strict=True)))
    names = {"tokens": lambda: _tokens(data), "user_item": lambda: data.items}.get(data.input_kind)
    if names is None:
        return None
    tables = [m for m in task.model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == len(names())]
    return Embedding(tables[-1].weight, ["name"], [[name] for name in names()]) if tables else None


def _tokens(data: Any) -> list[str]:
    decode = getattr(data, "decode", lambda tokens: str(tokens[0]))  # which data of one's own may lack
    return [repr(decode([token]))[1:-1] for token in range(data.vocab_size)]


def last_input(task: Task, batch: Any) -> tuple[torch.Tensor, Any]:
    """What the last layer with weights of its own gets in a step, (B, D), the mean over time where it has one; and the step's output.

    Raises:
        ValueError: where no layer takes in a row for each sample.
    """
    found: list[torch.Tensor] = []

    def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].is_floating_point():
            found[:] = [inputs[0]]

    layers = [m for m in task.model.modules() if m._parameters and not any(m.children())]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        _, output, _ = task.step(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not found or len(found[0]) != len(batch[-1]):
        raise ValueError("the last layer with weights does not take in a row for each sample")
    (last,) = found
    return (last.flatten(1, -2).mean(1) if last.ndim == 3 else last.flatten(1)).float(), output


def _predicted(task: Task, data: DataModule, output: Any) -> list[list[str]]:
    """Of each sample the prediction; nothing for targets that are no classes or amounts."""
    if data.target_kind not in ("class", "real"):
        return [[]] * len(torch.utils._pytree.tree_leaves(output)[0])
    preds = task.to_preds(output.float()).cpu()
    if data.target_kind == "real":
        return [[", ".join(f"{value:.4g}" for value in row)] for row in preds.tolist()]
    return [[class_name(number, data)] for number in preds.argmax(1).tolist()]


def _cell(content: object) -> str:
    return str(content).replace("\t", " ").replace("\n", " ") or " "


def _save_sprite(images: torch.Tensor, file: Path) -> list[int]:
    """Write all images side by side in a square, as the page wants them; width and height of one of them."""
    from PIL import Image

    count = math.ceil(math.sqrt(len(images)))
    images = (images - images.min()) / (images.max() - images.min()).clamp_min(1e-12)
    longest = max(images.shape[-2:])
    side = min(max(longest, LEAST_SIDE), MOST_SIDE, MOST_PIXELS // count)
    if side < longest:
        images = F.interpolate(images, scale_factor=side / longest, mode="bilinear", antialias=True)
    elif side > longest:
        images = F.interpolate(images, scale_factor=side // longest, mode="nearest")
    pixels = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, count * count - len(pixels)))
    square = (
        padded.view(count, count, 3, height, width).permute(0, 3, 1, 4, 2).reshape(count * height, count * width, 3)
    )
    Image.fromarray((255 * square).round().byte().numpy()).save(file)
    return [width, height]
