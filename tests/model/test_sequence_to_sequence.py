"""Sequence to sequence models: padding changes nothing, what comes later is not seen, attention is a distribution over the source."""

import pytest
import torch

from iolaus.model.recurrent import Recurrent
from iolaus.model.seq2seq_gru import Seq2SeqGRU
from iolaus.model.seq2seq_transformer import Seq2SeqTransformer, sinusoids

MODELS = {"gru": lambda: Seq2SeqGRU(20, 16), "transformer": lambda: Seq2SeqTransformer(20, 16, 2, 2, 32)}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


SOURCE = torch.tensor([[5, 6, 7, 8, 9], [4, 5, 0, 0, 0], [7, 7, 7, 0, 0]])
TOKENS = torch.tensor([[1, 4, 5, 6], [1, 9, 0, 0], [1, 3, 4, 0]])


def test_padding_changes_nothing(model):
    together = model(SOURCE, TOKENS)
    longer = model(torch.cat([SOURCE, torch.zeros(3, 4, dtype=torch.int64)], 1), TOKENS)
    torch.testing.assert_close(longer, together, rtol=1e-5, atol=1e-6)
    for row, (s, t) in enumerate(((5, 4), (2, 2), (3, 3))):
        alone = model(SOURCE[row : row + 1, :s], TOKENS[row : row + 1, :t])
        torch.testing.assert_close(together[row, :t], alone[0], rtol=1e-5, atol=1e-6)


def test_what_comes_later_is_not_seen(model):
    changed = TOKENS.clone()
    changed[:, 2:] = 11
    before, after = model(SOURCE, TOKENS), model(SOURCE, changed)
    torch.testing.assert_close(before[:, :2], after[:, :2], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before[:, 2:], after[:, 2:])


def test_attention_is_a_distribution_over_the_source(model):
    weights = model.attention(SOURCE, TOKENS)
    assert weights.shape == (3, 4, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))
    assert (weights[1, :, 2:] == 0).all()
    torch.testing.assert_close(model(SOURCE, TOKENS), model.decode(model.encode(SOURCE), TOKENS))


def test_the_gru_s_attention_by_hand():
    """softmax(h W m) over the encoder's states, for the first token of the first source."""
    torch.manual_seed(0)
    model = Seq2SeqGRU(20, 16).eval()
    states, _ = model.encoder(model.embedding(SOURCE[:1]))
    memory = model.encode(SOURCE[:1])
    hidden, _ = model.decoder(model.embedding(TOKENS[:1, :1]), memory[2][None])
    scores = torch.stack([hidden[0, 0] @ model.query.weight.T @ state for state in states[0]])
    torch.testing.assert_close(model.attention(SOURCE[:1], TOKENS[:1, :1])[0, 0], scores.softmax(0))


def test_sinusoids_are_the_published_ones():
    found = sinusoids(7, 6, torch.zeros(1, dtype=torch.float64))
    for position in range(7):
        for i in range(3):
            angle = torch.tensor(position / 10000 ** (2 * i / 6))
            assert found[position, i].item() == pytest.approx(angle.sin().item(), abs=1e-6)
            assert found[position, 3 + i].item() == pytest.approx(angle.cos().item(), abs=1e-6)


def test_a_recurrent_network_over_tokens_sees_the_past_only():
    torch.manual_seed(0)
    model = Recurrent("GRU", [6], 11, vocab_size=11, hidden_dim=8).eval()
    tokens = torch.randint(11, (2, 6))
    changed = tokens.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 11
    before, after = model(tokens), model(changed)
    assert before.shape == (2, 6, 11)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])
    with pytest.raises(ValueError, match="bidirectional must be false"):
        Recurrent("GRU", [6], 11, vocab_size=11, bidirectional=True)
