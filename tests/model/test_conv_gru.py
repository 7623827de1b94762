"""The network of speech: padding has no say, frames are counted, the recurrent layers are those of packed sequences."""

import math

import numpy as np
import pytest
import scipy.signal
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from iolaus.loss.ctc import CTC
from iolaus.model.conv_gru import ConvGRU, Spectrogram, reversal, triangles

RATE_HZ = 4_000


def model(**settings):
    torch.manual_seed(0)
    return ConvGRU(RATE_HZ, 11, **{"frame_s": 0.08, "channels": (12, 16), "hidden_dim": 8, **settings})


def sounds(*lengths):
    """Noise of these lengths, padded by silence."""
    generator = torch.Generator().manual_seed(1)
    samples = torch.randint(-9_000, 9_000, (len(lengths), max(lengths)), generator=generator)
    size = torch.tensor(lengths)
    return samples.where(torch.arange(max(lengths)) < size[:, None], 0).to(torch.int16), size


def repadded(samples, lengths, more):
    """The same sounds with noise instead of silence after them, and more of it."""
    generator = torch.Generator().manual_seed(2)
    size = samples.shape[1] + more
    noise = torch.randint(-30_000, 30_000, (len(samples), size), generator=generator).to(torch.int16)
    is_sound = torch.arange(size) < lengths[:, None]
    return torch.nn.functional.pad(samples, (0, more)).where(is_sound, noise)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bidirectional": False, "strides": (1, 3)},
        {"num_layers": 2, "num_bands": None},
        {"channels": (8,), "strides": (4,)},
    ],
    ids=str,
)
def test_what_stands_in_the_padding_changes_nothing(settings):
    samples, lengths = sounds(7_003, 4_000, 901)
    target = torch.tensor([[1, 2, 2, 3, 4], [5, 6, 7, -100, -100], [8, -100, -100, -100, -100]])
    results = []
    for x in (samples, repadded(samples, lengths, 2_345)):
        network = model(**settings)
        logits, counts = network(x, lengths)
        loss = CTC()((logits, counts), target)
        loss.backward()
        parts = [row[:n] for row, n in zip(logits, counts.tolist(), strict=True)]
        results.append([counts, *parts, loss, *(p.grad for p in network.parameters())])
    assert results[0][-1].abs().max() > 0
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_clip_alone_is_as_in_a_batch():
    samples, lengths = sounds(5_000, 2_222)
    network = model().eval()
    logits, counts = network(samples, lengths)
    alone, count = network(samples[1:, :2_222], lengths[1:])
    assert count.tolist() == counts[1:].tolist()
    torch.testing.assert_close(logits[1:, : alone.shape[1]], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strides", [(2, 2), (1, 4), (3, 2), (1, 1)])
@pytest.mark.parametrize("length", [1, 319, 320, 321, 5_000])
def test_frames_are_as_many_as_the_time_needs(strides, length):
    frame_s = 0.02 * math.prod(strides)
    samples, lengths = sounds(length)
    logits, counts = model(frame_s=frame_s, strides=strides)(samples, lengths)
    assert counts.tolist() == [math.ceil(length / (frame_s * RATE_HZ))]
    assert logits.shape == (1, counts[0], 11)


def test_all_parameters_have_gradients_that_descend():
    samples, lengths = sounds(8_000, 6_000, 5_000)
    target = torch.tensor([[1, 2, 3], [4, 4, -100], [5, -100, -100]])
    network, loss = model(dropout=0.1), CTC()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(network(samples, lengths), target)
        value.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] / 3


@pytest.mark.parametrize("num_layers", [1, 2])
def test_recurrent_layers_are_torchs_of_packed_sequences(num_layers):
    network = model(num_layers=num_layers)
    theirs = nn.GRU(16, 8, num_layers, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for i in range(num_layers):
            for layer, suffix in ((network.ahead[i], ""), (network.back[i], "_reverse")):
                for name, value in layer.named_parameters():
                    getattr(theirs, name.replace("_l0", f"_l{i}") + suffix).copy_(value)
    network.head = nn.Identity()
    samples, lengths = sounds(7_000, 6_100, 500)
    states, counts = network(samples, lengths)
    states, convolved = states.split([16, 16], -1)
    packed = pack_padded_sequence(convolved, counts, batch_first=True)
    expected, _ = pad_packed_sequence(theirs(packed)[0], batch_first=True)
    for row, other, n in zip(states, expected, counts.tolist(), strict=True):
        torch.testing.assert_close(row[:n], other[:n])


def test_reversal():
    assert reversal(torch.tensor([4, 2, 1]), 4).tolist() == [[3, 2, 1, 0], [1, 0, 2, 3], [0, 1, 2, 3]]


def test_the_spectrogram_is_scipys():
    """Magnitudes of scipy's short-time transform, whose scaling is the same, then logarithms, standardised."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 2_000)
    _, _, expected = scipy.signal.stft(samples, RATE_HZ, scipy.signal.windows.hann(128, sym=False), 128, 128 - 80)
    expected = np.log(np.abs(expected).T[:25])  # 25 hops of 80 samples begin before the end
    found, counts = Spectrogram(RATE_HZ, 0.032, 0.02, None)(torch.tensor(samples).float()[None], torch.tensor([2_000]))
    assert counts.tolist() == [25]
    expected = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(found[0, :, :-1], expected, atol=1e-3)


def test_loudness_and_the_kind_of_number_have_no_influence():
    samples, lengths = sounds(4_000)
    spectrogram = Spectrogram(RATE_HZ, 0.032, 0.02, 32)
    found = spectrogram(samples, lengths)[0]
    assert torch.equal(spectrogram(samples / 2**15, lengths)[0], found)
    torch.testing.assert_close(spectrogram(samples / 2**15 / 7, lengths)[0], found, rtol=0, atol=1e-4)
    assert spectrogram(torch.zeros_like(samples), lengths)[0].abs().max() < 0.01


@pytest.mark.parametrize("frequency", [300.0, 800.0, 1_500.0])
def test_a_tone_is_in_the_band_nearest_in_mel(frequency):
    tone = torch.sin(2 * torch.pi * frequency / RATE_HZ * torch.arange(RATE_HZ))[None]
    found = Spectrogram(RATE_HZ, 0.064, 0.02, 24)(tone, torch.tensor([RATE_HZ]))[0][0, 10, :-1]
    mel = 2_595 * np.log10(1 + np.array([frequency, RATE_HZ / 2]) / 700)
    assert int(found.argmax()) == round(mel[0] / (mel[1] / 25)) - 1


def test_bands_average():
    torch.testing.assert_close(triangles(16_000, 512, 40).sum(0), torch.ones(40))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strides": (2,)}, "strides must be one for each of channels"),
        ({"kernel_size": 4}, "kernel_size must be odd; received 4"),
        ({"frame_s": 0.2, "strides": (1, 1)}, "window_s must be no shorter than a spectrogram's frame"),
        ({"frame_s": 1e-4}, "window_s must be no shorter"),
        ({"num_bands": 100}, "num_bands must be fewer"),
    ],
    ids=str,
)
def test_what_cannot_be_is_told(settings, words):
    with pytest.raises(ValueError, match=words):
        model(**settings)
