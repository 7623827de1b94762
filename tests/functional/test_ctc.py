"""CTC decoding against exhaustive search with torch's loss, and against the published algorithm on dictionaries."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from iolaus.functional.ctc import ctc_beam_search, ctc_greedy


def frames(batch_size, num_frames, num_labels, seed=0, sharpness=1.5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch_size, num_frames, num_labels, generator=generator, dtype=torch.float64)
    return (sharpness * logits).log_softmax(-1)


def certain(labels, num_labels=3, prob=0.9):
    """Frames in which the labels have this probability, as (1, T, V)."""
    rest = (1 - prob) / (num_labels - 1)
    return (F.one_hot(torch.tensor([labels]), num_labels).double() * (prob - rest) + rest).log()


def loss_of(log_probs, lengths, labels, blank):
    """Log probability of the labels for each sample, by torch's loss."""
    batch_size = len(log_probs)
    targets = torch.tensor([labels] * batch_size, dtype=torch.int64).reshape(batch_size, len(labels))
    sizes = torch.full((batch_size,), len(labels))
    return -F.ctc_loss(log_probs.transpose(0, 1), targets, lengths, sizes, blank, reduction="none")


def stripped(tokens, blank):
    return [tuple(t for t in row if t != blank) for row in tokens.tolist()]


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("num_frames", [4, 5])
def test_a_wide_beam_is_the_exhaustive_search(num_frames, blank):
    log_probs = frames(60, num_frames, 3, seed=num_frames)
    lengths = torch.arange(60) % num_frames + 1
    labels = [c for c in range(3) if c != blank]
    every = [s for n in range(num_frames + 1) for s in itertools.product(labels, repeat=n)]
    oracle = torch.stack([loss_of(log_probs, lengths, s, blank) for s in every])
    torch.testing.assert_close(oracle.logsumexp(0), torch.zeros(60, dtype=torch.float64))
    tokens, scores = ctc_beam_search(log_probs, lengths, len(every), blank)
    best, index = oracle.max(0)
    torch.testing.assert_close(scores, best)
    assert stripped(tokens, blank) == [every[i] for i in index]
    assert tokens.shape[1] == max(len(every[i]) for i in index)
    greedy = stripped(ctc_greedy(log_probs, lengths, blank), blank)
    assert greedy != stripped(tokens, blank), "the samples do not tell the searches apart"


def hannun(log_probs, beam_width, blank):
    """The published prefix search on a dictionary: prefix to probabilities of ending in blank and in a label."""
    beam = {(): (1.0, 0.0)}
    for frame in log_probs.exp().tolist():
        following = {}
        for prefix, (in_blank, in_label) in beam.items():
            for label, prob in enumerate(frame):
                if label == blank:
                    parts = [(prefix, (in_blank + in_label) * prob, 0.0)]
                elif prefix and label == prefix[-1]:
                    parts = [(prefix, 0.0, in_label * prob), ((*prefix, label), 0.0, in_blank * prob)]
                else:
                    parts = [((*prefix, label), 0.0, (in_blank + in_label) * prob)]
                for key, b, n in parts:
                    old = following.get(key, (0.0, 0.0))
                    following[key] = (old[0] + b, old[1] + n)
        beam = dict(sorted(following.items(), key=lambda item: -sum(item[1]))[:beam_width])
    best = max(beam, key=lambda key: sum(beam[key]))
    return best, math.log(sum(beam[best]))


@pytest.mark.parametrize("beam_width", [1, 2, 3, 5, 16])
def test_a_narrow_beam_is_the_published_algorithm(beam_width):
    log_probs = frames(25, 12, 4, seed=1, sharpness=1.0)
    lengths = 12 - torch.arange(25) % 5
    tokens, scores = ctc_beam_search(log_probs, lengths, beam_width)
    expected = [hannun(x[:n], beam_width, 0) for x, n in zip(log_probs, lengths, strict=True)]
    assert stripped(tokens, 0) == [labels for labels, _ in expected]
    torch.testing.assert_close(scores, torch.tensor([score for _, score in expected], dtype=torch.float64))
    for row, (labels, score) in enumerate(expected):
        probability = loss_of(log_probs[row : row + 1], lengths[row : row + 1], labels, 0)
        assert score <= probability.item() + 1e-9


def test_alignments_count_together():
    """Two frames of P(blank) 0.6: the likeliest alignment is empty (0.36), but the label has 0.64."""
    log_probs = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]]).log()
    assert ctc_greedy(log_probs, torch.tensor([2])).shape == (1, 0)
    tokens, scores = ctc_beam_search(log_probs, torch.tensor([2]), 4)
    assert tokens.tolist() == [[1]]
    assert scores.exp().item() == pytest.approx(0.64)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([1, 0, 1], [1, 1]), ([1, 1, 1], [1]), ([1, 1, 0, 0, 1, 2, 2], [1, 1, 2]), ([1, 2, 1], [1, 2, 1]), ([0, 0], [])],
)
def test_a_repeated_label_needs_a_blank_between(labels, expected):
    log_probs, lengths = certain(labels, prob=0.99), torch.tensor([len(labels)])
    assert ctc_greedy(log_probs, lengths).tolist() == [expected]
    tokens, scores = ctc_beam_search(log_probs, lengths, 2**8)  # as many as there are
    assert tokens.tolist() == [expected]
    torch.testing.assert_close(scores, loss_of(log_probs, lengths, expected, 0))


@pytest.mark.parametrize("rest", [0.0, -torch.inf, torch.inf, torch.nan])
def test_frames_after_the_length_count_nothing(rest):
    log_probs, lengths = frames(6, 9, 4), torch.tensor([0, 1, 3, 5, 8, 9])
    filled = log_probs.clone()
    filled[torch.arange(9) >= lengths[:, None]] = rest
    tokens, scores = ctc_beam_search(filled, lengths, 5)
    best = ctc_greedy(filled, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, score = ctc_beam_search(log_probs[row : row + 1, :length], lengths[row : row + 1], 5)
        assert stripped(tokens, 0)[row] == stripped(alone, 0)[0]
        torch.testing.assert_close(scores[row], score[0])
        alone = ctc_greedy(log_probs[row : row + 1, :length], lengths[row : row + 1])
        assert stripped(best, 0)[row] == stripped(alone, 0)[0]
    assert stripped(tokens, 0)[0] == ()
    assert scores[0] == 0


@pytest.mark.parametrize("blank", [0, 3])
def test_greedy_is_groupby_of_the_likeliest(blank):
    log_probs, lengths = frames(40, 15, 4, seed=2), torch.arange(40) % 16
    tokens = ctc_greedy(log_probs, lengths, blank)
    expected = []
    for row, length in zip(log_probs.argmax(-1).tolist(), lengths.tolist(), strict=True):
        expected.append([label for label, _ in itertools.groupby(row[:length]) if label != blank])
    longest = max(map(len, expected))
    assert tokens.tolist() == [row + [blank] * (longest - len(row)) for row in expected]


def test_half_precision_is_summed_in_single():
    log_probs, lengths = frames(3, 30, 4).half(), torch.tensor([30, 20, 10])
    tokens, scores = ctc_beam_search(log_probs, lengths, 4)
    expected, expected_scores = ctc_beam_search(log_probs.float(), lengths, 4)
    assert scores.dtype == torch.float32
    assert tokens.equal(expected)
    assert scores.equal(expected_scores)


def test_wrong_values_are_told():
    log_probs, lengths = frames(1, 2, 3), torch.tensor([2])
    with pytest.raises(ValueError, match="blank must be a label, 0 to 2; received 3"):
        ctc_greedy(log_probs, lengths, 3)
    with pytest.raises(ValueError, match="blank must be a label, 0 to 2; received -1"):
        ctc_beam_search(log_probs, lengths, 2, -1)
    with pytest.raises(ValueError, match="beam_width must be at least 1; received 0"):
        ctc_beam_search(log_probs, lengths, 0)
