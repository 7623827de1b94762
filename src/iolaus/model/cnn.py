"""A small convolutional network of the kind that introductions train on MNIST."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class CNN(nn.Module):
    """Two convolutions, max-pooling over 2 x 2, and two linear layers, with ReLU between and dropout before the linear ones.

    Args:
        input_shape: channels, height and width of one image.
        output_dim: number of outputs.
        channels: channels of the two convolutions.
        kernel_size: side of their kernels.
        hidden_dim: width of the first linear layer.
        conv_dropout: dropout after pooling.
        hidden_dropout: dropout after the first linear layer.

    Shape:
        input: (B, C, H, W); output: (B, output_dim).

    Raises:
        ValueError: for images too small for the kernels, or another number of convolutions than two.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_dim: int,
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 3,
        hidden_dim: int = 128,
        conv_dropout: float = 0.25,
        hidden_dropout: float = 0.5,
    ):
        super().__init__()
        if len(channels) != 2:
            raise ValueError(f"channels must be two numbers; received {list(channels)}")
        height, width = ((side - 2 * (kernel_size - 1)) // 2 for side in input_shape[1:])
        if min(height, width) < 1:
            raise ValueError(f"images of {list(input_shape)} are too small for kernel_size {kernel_size}")
        self.conv1 = nn.Conv2d(input_shape[0], channels[0], kernel_size)
        self.conv2 = nn.Conv2d(channels[0], channels[1], kernel_size)
        self.conv_dropout = nn.Dropout(conv_dropout)
        self.hidden = nn.Linear(channels[1] * height * width, hidden_dim)
        self.hidden_dropout = nn.Dropout(hidden_dropout)
        self.head = nn.Linear(hidden_dim, output_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of each output."""
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.conv_dropout(F.max_pool2d(x, 2)).flatten(1)
        return self.head(self.hidden_dropout(F.relu(self.hidden(x))))
