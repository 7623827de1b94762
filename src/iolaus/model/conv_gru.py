"""Convolutions and a recurrent network over a spectrogram, for speech. Amodei and others, Deep Speech 2, https://arxiv.org/abs/1512.02595."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

FLOOR = 1e-5  # of a band's magnitude, where a full tone has 0.5: what is below it counts as silence
FLAT = 1e-3  # deviation of logarithms that counts as none


class Spectrogram(nn.Module):
    """Logarithms of the magnitudes in bands of frequency and of the whole, standardised clip by clip.

    The magnitudes of a Fourier transform under a Hann window are averaged over bands equally wide in mel, or stay as they are; one more
    row has the root of the sum of their squares, which tells sound from silence at any pitch. From the logarithms of all bands the
    clip's mean is taken, and the rest divided by the clip's deviation, so that loudness has no influence; likewise from the whole's.
    Frame t is about sample t * hop and sees silence outside the clip.

    Args:
        rate_hz: samples a second.
        window_s: length of the window, seconds.
        hop_s: from frame to frame, seconds.
        num_bands: triangular bands; None: each frequency of the transform is one.

    Shape:
        input: samples (B, N), 16-bit whole numbers or numbers in [-1, 1], and lengths (B,); output: (B, T, num_rows), 0 in frames
        after a clip's end, and how many frames each has, (B,).

    Raises:
        ValueError: for a window or hop that is no sample, a window shorter than the hop, bands narrower than the window tells apart.
    """

    window: torch.Tensor
    bands: torch.Tensor | None

    def __init__(self, rate_hz: int, window_s: float, hop_s: float, num_bands: int | None):
        super().__init__()
        self.size, self.hop = round(window_s * rate_hz), round(hop_s * rate_hz)
        if self.hop < 1 or self.size < max(self.hop, 4):
            raise ValueError(
                f"window_s must be no shorter than a spectrogram's frame, and both some samples; received {self.size} and {self.hop} "
                f"samples at {rate_hz} Hz"
            )
        window = torch.hann_window(self.size)
        self.register_buffer("window", window / window.sum(), persistent=False)
        bands = triangles(rate_hz, self.size, num_bands) if num_bands is not None else None
        self.register_buffer("bands", bands, persistent=False)
        self.num_rows = 1 + (num_bands if num_bands is not None else self.size // 2 + 1)

    @torch.no_grad()
    def forward(self, samples: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames and their numbers."""
        single = torch.promote_types(self.window.dtype, torch.float32)  # transforms are not made in half precision
        levels = samples.to(single) * (1.0 if samples.is_floating_point() else 2.0**-15)
        levels = levels.where(inside(lengths, samples.shape[1]), 0)
        number, counts = covering(samples.shape[1], self.hop), covering(lengths, self.hop)
        after = (number - 1) * self.hop + self.size - self.size // 2 - samples.shape[1]
        padded = F.pad(levels, (self.size // 2, after))
        if (
            torch.compiler.is_exporting()
        ):  # graphs of other programs have neither overlapping frames nor complex numbers
            magnitudes = self._magnitudes(padded)
        else:
            magnitudes = torch.fft.rfft(padded.unfold(1, self.size, self.hop) * self.window.to(single)).abs()
        whole = magnitudes.square().sum(-1, keepdim=True).sqrt()
        bands = magnitudes if self.bands is None else magnitudes @ self.bands.to(single)
        is_frame = inside(counts, magnitudes.shape[1])[..., None]
        rows = torch.cat([standardized(part.clamp_min(FLOOR).log(), is_frame) for part in (bands, whole)], -1)
        return rows.to(self.window.dtype), counts

    def _magnitudes(self, levels: torch.Tensor) -> torch.Tensor:
        """The magnitudes (B, T, size // 2 + 1) of levels (B, N) by the transform's definition, as a convolution."""
        size = self.size
        turns = torch.arange(size // 2 + 1, device=levels.device)[:, None] * torch.arange(size, device=levels.device)
        angles = (turns % size).double() * (2 * math.pi / size)
        waves = torch.cat([angles.cos(), angles.sin()]) * self.window
        parts = F.conv1d(levels[:, None], waves.to(levels.dtype)[:, None], stride=self.hop)
        return parts.unflatten(1, (2, -1)).square().sum(1).sqrt().transpose(1, 2).contiguous()


class ConvGRU(nn.Module):
    """A log spectrogram, convolutions along time, a recurrent network, and a linear layer: scores of tokens in frames.

    Every convolution is followed by layer normalisation of each frame and ReLU. What stands in the padding of a batch has no influence
    on what comes out before a clip's end: frames after it are zero before each convolution, and what is read from the end begins with
    the clip's last frame. The linear layer reads the last convolution too, past the recurrent layers, by which CTC leaves its first
    answer, blanks alone, sooner.

    Args:
        rate_hz: samples a second.
        vocab_size: number of tokens, the blank included, V.
        frame_s: from one frame of the output to the next, seconds; the product of `strides` of the spectrogram's fit into it.
        window_s: of the spectrogram, seconds.
        num_bands: of frequency, equally wide in mel; None: as many as the window tells apart.
        channels: of each convolution.
        kernel_size: of the convolutions, in frames; odd.
        strides: of each convolution.
        hidden_dim: size of the recurrent state, of each direction.
        num_layers: recurrent layers on top of one another.
        bidirectional: whether a second network reads from the end.
        dropout: on what the recurrent layers and the linear one read.

    Shape:
        input: samples (B, N), 16-bit whole numbers or numbers in [-1, 1], and lengths (B,); output: logits (B, T, V), and the frames
        of each, (B,).

    Raises:
        ValueError: for strides that are not one a convolution, an even kernel, windows that cannot be.
    """

    def __init__(
        self,
        rate_hz: int,
        vocab_size: int,
        frame_s: float,
        window_s: float = 0.032,
        num_bands: int | None = 32,
        channels: Sequence[int] = (64, 64),
        kernel_size: int = 7,
        strides: Sequence[int] = (2, 2),
        hidden_dim: int = 64,
        num_layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        if len(channels) != len(strides) or not channels or min(strides) < 1:
            raise ValueError(f"strides must be one for each of channels={list(channels)}; received {list(strides)}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd; received {kernel_size}")
        self.strides = list(strides)
        self.spectrogram = Spectrogram(rate_hz, window_s, frame_s / math.prod(strides), num_bands)
        sizes = [self.spectrogram.num_rows, *channels]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(sizes[i], sizes[i + 1], kernel_size, stride, kernel_size // 2) for i, stride in enumerate(strides)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        self.dropout = nn.Dropout(dropout)
        directions = 1 + bidirectional
        sizes = [sizes[-1], *[hidden_dim * directions] * num_layers]
        self.ahead = nn.ModuleList(nn.GRU(size, hidden_dim, batch_first=True) for size in sizes[:-1])
        self.back = nn.ModuleList(nn.GRU(size, hidden_dim, batch_first=True) for size in sizes[:-1] if bidirectional)
        self.head = nn.Linear(sizes[-1] + channels[-1], vocab_size)

    def forward(self, samples: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of the tokens in each frame, and the frames of each clip."""
        x, counts = self.spectrogram(samples, lengths)
        for convolution, norm, stride in zip(self.convolutions, self.norms, self.strides, strict=True):
            x = convolution(x.transpose(1, 2)).transpose(1, 2)
            counts = covering(counts, stride)
            x = norm(x).relu().where(inside(counts, x.shape[1])[..., None], 0)
        convolved = x
        last_first = reversal(counts, x.shape[1])[..., None]
        for i, ahead in enumerate(self.ahead):
            x = self.dropout(x)
            states = [ahead(x)[0]]
            if self.back:
                y = self.back[i](x.gather(1, last_first.expand_as(x)))[0]
                states.append(y.gather(1, last_first.expand_as(y)))
            x = torch.cat(states, -1)
        return self.head(self.dropout(torch.cat([x, convolved], -1))), counts


def covering(whole: Any, part: int) -> Any:
    """How many parts cover a whole: the quotient, rounded up. Graphs of other programs round negative quotients to zero."""
    return (whole + part - 1) // part


def inside(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """(B, size), which places stand before each length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def reversal(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """(B, size), the places of each sequence from its last to its first; those after its end stay.

    Packed sequences would serve too, but on a processor their gradient takes time that grows with the square of the length.
    """
    places = torch.arange(size, device=lengths.device)
    back = lengths[:, None] - 1 - places
    return back.where(back >= 0, places)


def standardized(x: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
    """Less its mean over a clip's frames and rows, by its deviation over them; 0 elsewhere.

    Shape:
        x: (B, T, D); is_frame: (B, T, 1).
    """
    size = is_frame.sum((1, 2), keepdim=True).clamp_min(1) * x.shape[2]
    x = (x - x.where(is_frame, 0).sum((1, 2), keepdim=True) / size).where(is_frame, 0)
    return x / (x.square().sum((1, 2), keepdim=True) / size).sqrt().clamp_min(FLAT)


def triangles(rate_hz: int, window: int, num_bands: int) -> torch.Tensor:
    """Weights of frequencies in bands equally wide in mel, 2595 log10(1 + f / 700 Hz), which sum to 1 in each band.

    Each band is a triangle that ends in the middles of its neighbours. O'Shaughnessy, Speech Communication, 1987.

    Shape:
        output: (window // 2 + 1, num_bands).
    """
    top = math.log1p(rate_hz / 2 / 700)
    middles = 700 * torch.expm1(torch.linspace(0, top, num_bands + 2, dtype=torch.float64))
    frequencies = torch.arange(window // 2 + 1, dtype=torch.float64)[:, None] * rate_hz / window
    low, middle, high = middles[:-2], middles[1:-1], middles[2:]
    weights = torch.minimum((frequencies - low) / (middle - low), (high - frequencies) / (high - middle)).clamp_min(0)
    if empty := int((weights.sum(0) == 0).sum()):
        raise ValueError(
            f"num_bands must be fewer: {empty} of {num_bands} would be narrower than a window of {window} samples at {rate_hz} Hz "
            "tells apart; or set a longer window_s, or num_bands=null"
        )
    return (weights / weights.sum(0)).float()
