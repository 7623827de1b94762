"""Decoding against enumeration of all sequences, a plain beam search without early stops, and exact distributions."""

import itertools
import math

import pytest
import torch

from iolaus.functional.decoding import beam_search, filtered, greedy, sample

BOS, EOS, PAD = 7, 1, -1  # bos and pad are no tokens of the tables below; eos is not the last


class Tables:
    """A random distribution of the next token for each sample and each whole prefix."""

    def __init__(self, batch_size, vocabulary, max_length, seed=0, end=0.0):
        generator = torch.Generator().manual_seed(seed)
        prefixes = sum(vocabulary**n for n in range(max_length))
        self.logits = torch.randn(batch_size, prefixes, vocabulary, generator=generator, dtype=torch.float64)
        self.logits[..., EOS] += end
        self.calls = []

    def __call__(self, prefix, owner):
        assert prefix.dtype == owner.dtype == torch.int64
        assert (prefix[:, 0] == BOS).all()
        self.calls.append(list(zip(owner.tolist(), map(tuple, prefix[:, 1:].tolist()), strict=True)))
        code = torch.zeros_like(owner)
        for token in prefix.T[1:]:
            code = code * self.logits.shape[2] + token + 1  # a number of its own for every prefix of any length
        return self.logits[owner, code]

    def log_probs(self, owner, prefix):
        """Of the next token, as a list."""
        row = torch.tensor([[BOS, *prefix]])
        return self(row, torch.tensor([owner]))[0].log_softmax(-1).tolist()

    def only(self, owner):
        """The tables of one sample, as a batch of one."""
        other = object.__new__(Tables)
        other.logits, other.calls = self.logits[owner : owner + 1], []
        return other


def every_sequence(tables, owner, max_length, penalty, prefix=(), log_prob=0.0):
    """(score, tokens) of all sequences that end, or are of the greatest length."""
    for token, value in enumerate(tables.log_probs(owner, prefix)):
        tokens, total = (*prefix, token), log_prob + value
        if token == EOS or len(tokens) == max_length:
            yield total / len(tokens) ** penalty, tokens
        else:
            yield from every_sequence(tables, owner, max_length, penalty, tokens, total)


def plain_beam(tables, owner, max_length, width, penalty):
    """(score, tokens) of the best sequences by a search that never stops early; and the prefixes that might have changed them."""
    beam, done, open_ = [(0.0, ())], [], []
    for length in range(1, max_length + 1):
        worst = sorted(done, reverse=True)[width - 1][0] if len(done) >= width else -math.inf
        # The best that may come of a prefix: all that follows is certain, and the length the most favourable.
        open_ += [(owner, t) for p, t in beam if max(p / n**penalty for n in range(length, max_length + 1)) > worst]
        following = [
            (log_prob + value, (*prefix, token))
            for log_prob, prefix in beam
            for token, value in enumerate(tables.log_probs(owner, prefix))
        ]
        following.sort(reverse=True)
        last = length == max_length
        done += [(p / length**penalty, t) for p, t in following[:width] if t[-1] == EOS or last]
        beam = [(p, t) for p, t in following if t[-1] != EOS][:width]
    return sorted(done, reverse=True)[:width], open_


def unpadded(tokens):
    return [tuple(t for t in row if t != PAD) for row in tokens.tolist()]


def assert_found(tokens, scores, expected):
    """The rows of one sample are the expected (score, tokens), and nothing follows."""
    count = len(expected)
    assert unpadded(tokens)[:count] == [t for _, t in expected]
    torch.testing.assert_close(scores[:count], torch.tensor([s for s, _ in expected], dtype=torch.float64))
    assert (tokens[count:] == PAD).all()
    assert (scores[count:] == -torch.inf).all()
    for row in tokens.tolist():
        assert PAD not in row[: len([t for t in row if t != PAD])], "padding stands at the end alone"


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.5, -0.5])
@pytest.mark.parametrize(("batch_size", "vocabulary", "max_length"), [(1, 4, 4), (3, 3, 5)])
def test_a_wide_beam_is_the_enumeration(batch_size, vocabulary, max_length, penalty):
    tables = Tables(batch_size, vocabulary, max_length)
    ranked = [sorted(every_sequence(tables, b, max_length, penalty), reverse=True) for b in range(batch_size)]
    width = len(ranked[0]) + 3
    tokens, scores = beam_search(tables, batch_size, BOS, EOS, max_length, width, penalty, PAD)
    assert tokens.shape == (batch_size, width, max_length)
    for b in range(batch_size):
        assert_found(tokens[b], scores[b], ranked[b])
        assert len(set(unpadded(tokens[b])[:-3])) == width - 3


@pytest.mark.parametrize("penalty", [0.0, 1.0, 3.0, -1.0])
@pytest.mark.parametrize("width", [1, 2, 3, 7])
def test_a_narrow_beam_is_that_of_a_plain_search(width, penalty):
    tables = Tables(8, 4, 5, seed=1, end=0.5)
    tokens, scores = beam_search(tables, 8, BOS, EOS, 5, width, penalty, PAD)
    expected = [plain_beam(tables, b, 5, width, penalty)[0] for b in range(8)]
    for b in range(8):
        assert_found(tokens[b], scores[b], expected[b])
    assert tokens.shape[2] == max(len(t) for found in expected for _, t in found)


@pytest.mark.parametrize("penalty", [0.0, 0.8])
def test_a_batch_is_its_samples(penalty):
    tables = Tables(6, 4, 5, seed=2, end=1.0)
    tokens, scores = beam_search(tables, 6, BOS, EOS, 5, 3, penalty, PAD)
    best = greedy(tables, 6, BOS, EOS, 5, PAD)
    for b in range(6):
        alone, score = beam_search(tables.only(b), 1, BOS, EOS, 5, 3, penalty, PAD)
        assert unpadded(tokens[b]) == unpadded(alone[0])
        torch.testing.assert_close(scores[b], score[0])
        assert unpadded(best)[b] == unpadded(greedy(tables.only(b), 1, BOS, EOS, 5, PAD))[0]


@pytest.mark.parametrize("end", [-2.0, 0.0, 2.0])
def test_greedy_takes_the_likeliest_and_is_a_beam_of_one(end):
    tables = Tables(20, 4, 5, seed=3, end=end)
    tokens = greedy(tables, 20, BOS, EOS, 5, PAD)
    expected = []
    for b in range(20):
        row = ()
        while len(row) < 5 and EOS not in row:
            values = tables.log_probs(b, row)
            row = (*row, values.index(max(values)))
        expected.append(row)
    assert unpadded(tokens) == expected
    assert tokens.shape[1] == max(map(len, expected))
    beam, scores = beam_search(tables, 20, BOS, EOS, 5, 1, pad=PAD)
    assert beam[:, 0].equal(tokens)
    sums = [sum(tables.log_probs(b, row[:i])[t] for i, t in enumerate(row)) for b, row in enumerate(expected)]
    torch.testing.assert_close(scores[:, 0], torch.tensor(sums, dtype=torch.float64))


def test_greedy_asks_nothing_about_what_has_ended():
    tables = Tables(20, 4, 5, seed=4)
    tokens = greedy(tables, 20, BOS, EOS, 5, PAD)
    sizes = [len(row) for row in unpadded(tokens)]
    assert [len(call) for call in tables.calls] == [sum(s > n for s in sizes) for n in range(tokens.shape[1])]


@pytest.mark.parametrize("penalty", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("end", [0.0, 3.0])
def test_a_beam_follows_what_can_still_win_and_nothing_else(end, penalty):
    tables = Tables(10, 4, 5, seed=5, end=end)
    beam_search(tables, 10, BOS, EOS, 5, 2, penalty, PAD)
    steps, asked = len(tables.calls), list(itertools.chain.from_iterable(tables.calls))
    expected = list(itertools.chain.from_iterable(plain_beam(tables, b, 5, 2, penalty)[1] for b in range(10)))
    assert sorted(asked) == sorted(expected)
    assert len(asked) < 10 * (1 + 2 + 2 + 2 + 2)
    if end == 3 and penalty == 0:
        assert steps < 5


def test_tokens_of_no_probability_are_never_found():
    """Of four tokens two are impossible, so that three sequences are left: more beams than there are."""

    def step(prefix, owner):
        return torch.tensor([0.0, 1.0, -torch.inf, -torch.inf]).expand(len(prefix), 4)

    tokens, scores = beam_search(step, 2, BOS, EOS, 2, 6, pad=PAD)
    end, other = math.log(math.e / (1 + math.e)), math.log(1 / (1 + math.e))
    expected = [end, other + end, 2 * other, *[-torch.inf] * 3]
    torch.testing.assert_close(scores, torch.tensor([expected] * 2))
    assert tokens.tolist() == [[[1, -1], [0, 1], [0, 0], [-1, -1], [-1, -1], [-1, -1]]] * 2


def test_half_precision_is_summed_in_single():
    tables = Tables(4, 4, 5, seed=6)
    tables.logits = tables.logits.half()
    tokens, scores = beam_search(tables, 4, BOS, EOS, 5, 3, pad=PAD)
    tables.logits = tables.logits.float()
    expected, expected_scores = beam_search(tables, 4, BOS, EOS, 5, 3, pad=PAD)
    assert scores.dtype == torch.float32
    assert tokens.equal(expected)
    torch.testing.assert_close(scores, expected_scores)


def filtered_probs(logits, temperature, top_k, top_p):
    """Probabilities of a list of logits, by the definition."""
    weights = [math.exp(x / temperature) for x in logits]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])[:top_k]
    total, reached, left = sum(weights[i] for i in order), 0.0, []
    for i in order:
        if top_p is not None and reached >= top_p:
            break
        left.append(i)
        reached += weights[i] / total
    mass = sum(weights[i] for i in left)
    return [weights[i] / mass if i in left else 0.0 for i in range(len(weights))]


SETTINGS = [
    (1.0, None, None),
    (0.6, None, None),
    (2.0, 3, None),
    (1.0, 1, None),
    (1.0, None, 0.7),
    (1.5, 4, 0.8),
    (1.0, 99, 1.0),
    (1.0, None, 1e-9),
]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_the_filter_is_its_definition(temperature, top_k, top_p):
    logits = torch.randn(5, 40, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    before = logits.clone()
    result = filtered(logits, temperature, top_k, top_p)
    assert logits.equal(before)
    expected = [[filtered_probs(row, temperature, top_k, top_p) for row in part] for part in logits.tolist()]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(result.softmax(-1), expected)
    assert (result > -torch.inf).equal(expected > 0)
    torch.testing.assert_close(result[expected > 0], (logits / temperature)[expected > 0])


def test_the_filter_of_equal_and_impossible_tokens():
    equal = torch.zeros(1, 8)
    assert (filtered(equal, top_k=3) == 0).tolist() == [[True] * 3 + [False] * 5]
    assert (filtered(equal, top_p=0.5) == 0).tolist() == [[True] * 4 + [False] * 4]  # the sum reaches it exactly
    assert (filtered(equal, temperature=0.0) == 0).sum() == 1
    impossible = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    for settings in SETTINGS:
        assert filtered(impossible, *settings).softmax(-1).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, None, None), (0.7, 3, None), (1.3, None, 0.8)])
def test_frequencies_are_the_distribution(temperature, top_k, top_p):
    """Of pairs of tokens, each within 5 standard deviations; this fails by chance once in 50000 seeds."""
    tables, draws = Tables(2, 4, 2, seed=8), 20_000
    prefix = torch.full((2 * draws, 1), BOS)
    tokens = sample(
        lambda prefix, owner: tables(prefix, owner % 2),
        prefix,
        2,
        temperature,
        top_k,
        top_p,
        torch.Generator().manual_seed(9),
    )
    assert tokens.shape == (2 * draws, 3)
    assert tokens[:, :1].equal(prefix)
    for owner in range(2):
        counts = torch.bincount(tokens[owner::2, 1] * 4 + tokens[owner::2, 2], minlength=16).tolist()
        first = filtered_probs(tables.log_probs(owner, ()), temperature, top_k, top_p)
        for pair, count in enumerate(counts):
            second = filtered_probs(tables.log_probs(owner, (pair // 4,)), temperature, top_k, top_p)
            prob = first[pair // 4] * second[pair % 4]
            assert abs(count - draws * prob) <= 5 * math.sqrt(draws * prob * (1 - prob)), pair


def test_temperature_0_is_greedy_and_a_generator_repeats_itself():
    tables = Tables(10, 5, 4, seed=10)
    prefix = torch.full((10, 1), BOS)
    likeliest = sample(tables, prefix, 4, temperature=0)
    assert likeliest[:, 1:].equal(greedy(tables, 10, BOS, -2, 4))
    drawn = [sample(tables, prefix, 4, generator=torch.Generator().manual_seed(11)) for _ in range(2)]
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(likeliest)
    assert sample(tables, prefix, 0).equal(prefix)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature must be at least 0; received -1"),
        ({"temperature": math.nan}, "temperature must be at least 0; received nan"),
        ({"top_k": 0}, "top_k must be at least 1; received 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1; received 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1; received 1.5"),
        ({"length": -1}, "length must be at least 0; received -1"),
    ],
)
def test_wrong_settings_of_sampling_are_told(settings, message):
    with pytest.raises(ValueError, match=message):
        sample(Tables(1, 3, 1), torch.full((1, 1), BOS), **{"length": 1, **settings})


@pytest.mark.parametrize("name", ["batch_size", "max_length", "beam_width"])
def test_sizes_below_one_are_told(name):
    sizes = {"batch_size": 1, "max_length": 1, "beam_width": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1; received 0"):
        beam_search(Tables(1, 3, 1), bos=BOS, eos=EOS, **sizes)
    if name != "beam_width":
        del sizes["beam_width"]
        with pytest.raises(ValueError, match=f"{name} must be at least 1; received 0"):
            greedy(Tables(1, 3, 1), bos=BOS, eos=EOS, **sizes)
