"""Any classification network of torchvision by its name, fitted to the data's channels and classes. https://pytorch.org/vision/stable/models.html."""

from collections.abc import Sequence

import torch
from torch import nn

from iolaus.errors import did_you_mean
from iolaus.model.layers.checkpointing import Policy, checkpoint_blocks


class TorchvisionModel(nn.Module):
    """The named network with a first convolution for the data's channels and a last layer for the outputs.

    Pretrained weights of another number of channels are kept in sum: each new channel gets their mean, so that an image that is the
    same in all channels gives the same output.

    Args:
        name: such as resnet18, mobilenet_v3_small, vit_b_16.
        input_shape: channels, height and width of one image.
        output_dim: number of outputs.
        pretrained: name of torchvision's weights, such as DEFAULT or IMAGENET1K_V1, which are downloaded once; None: none.
        small_images: for images of about 32 pixels: the first convolution of a ResNet becomes 3 x 3 without stride, its first
            pooling is left out. He and others, https://arxiv.org/abs/1512.03385, section 4.2.
        activation_checkpointing: what the blocks keep for the backward pass; see checkpoint_blocks.

    Shape:
        input: (B, C, H, W); output: (B, output_dim).

    Raises:
        ValueError: for a name that torchvision does not have, small_images with another family, images the network cannot take.
    """

    def __init__(
        self,
        name: str,
        input_shape: Sequence[int],
        output_dim: int,
        pretrained: str | None = None,
        small_images: bool = False,
        activation_checkpointing: Policy = "none",
    ):
        super().__init__()
        from torchvision import models

        names = models.list_models(module=models)
        if name not in names:
            raise ValueError(f"name: torchvision has no classification network {name!r}{did_you_mean(name, names)}")
        kept = [weights.name for weights in models.get_model_weights(name)]
        if pretrained is not None and pretrained not in (*kept, "DEFAULT"):
            raise ValueError(f"pretrained: {name} has no weights {pretrained!r}; there are: DEFAULT, {', '.join(kept)}")
        options = {}
        if name.startswith("vit") and pretrained is None:
            options["image_size"] = input_shape[1]
        if name.startswith(("googlenet", "inception")):  # their further heads serve the training at full size
            options |= {"aux_logits": pretrained is not None, "init_weights": pretrained is None}
        try:
            self.network = models.get_model(name, weights=pretrained, **options)
        except OSError as error:
            raise ValueError(f"pretrained: the weights of {name} cannot be fetched: {error}") from None
        for part in ("aux1", "aux2", "AuxLogits"):
            if hasattr(self.network, part):
                self.network.aux_logits = False
                setattr(self.network, part, None)
        _fit_channels(self.network, input_shape[0], keep=pretrained is not None)
        _fit_outputs(self.network, output_dim)
        if small_images:
            if not isinstance(self.network, models.ResNet):
                raise ValueError(f"small_images: for ResNets only; received name={name}")
            stem = self.network.conv1
            self.network.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)
            self.network.maxpool = nn.Identity()
        checkpoint_blocks(self, activation_checkpointing)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of each output."""
        return self.network(x)


def _fit_channels(network: nn.Module, channels: int, keep: bool) -> None:
    """Replace the first convolution where it wants another number of channels, keeping its weights in sum where they are to be kept."""
    name, conv = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels == channels:
        return
    new = nn.Conv2d(
        channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    if keep:
        with torch.no_grad():
            new.weight.copy_(conv.weight.sum(1, keepdim=True).expand_as(new.weight) / channels)
            if conv.bias is not None and new.bias is not None:
                new.bias.copy_(conv.bias)
    network.set_submodule(name, new)


def _fit_outputs(network: nn.Module, outputs: int) -> None:
    """Replace the last layer, linear or a convolution, by one with as many outputs."""
    name, last = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    if isinstance(last, nn.Linear):
        network.set_submodule(name, nn.Linear(last.in_features, outputs, last.bias is not None))
    else:  # SqueezeNet classifies by a convolution
        network.set_submodule(name, nn.Conv2d(last.in_channels, outputs, last.kernel_size))  # type: ignore[arg-type]
