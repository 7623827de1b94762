"""Tokens with class labels: whole numbers go to an embedding, and a sequence has one output."""

import csv
import io

import pytest
import torch
from torch.utils.data import TensorDataset

from iolaus import cli, signature
from iolaus.data.base import DataModule
from iolaus.errors import UserError
from iolaus.model.recurrent import Recurrent
from iolaus.model.transformer import Transformer

MODULE = '''
import torch
from torch.utils.data import TensorDataset

from iolaus.data.base import DataModule


class FirstToken(DataModule):
    """Rows of tokens; the class is the half of the vocabulary that the first token is of."""

    def load(self):
        drawn = torch.Generator().manual_seed(0)
        tokens = torch.randint(self.vocab_size, (400, *self.input_shape), generator=drawn, dtype=torch.int32)
        return {"train": TensorDataset(tokens, (tokens[:, 0] >= self.vocab_size // 2).long())}

    def new_items(self, source):
        yield torch.tensor([int(token) for token in source.split()])
'''

OPTION = """
defaults:
  - /base/data@_here_
  - override /task@_global_.task: classification
  - _self_

_target_: my_tokens.FirstToken
input_kind: tokens
input_shape: [5]
target_kind: class
num_classes: 2
vocab_size: 12
"""


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    (tmp_path / "my_tokens.py").write_text(MODULE)
    (tmp_path / "options" / "data").mkdir(parents=True)
    (tmp_path / "options" / "data" / "first_token.yaml").write_text(OPTION)
    monkeypatch.syspath_prepend(str(tmp_path))
    for cached in (signature._module, signature._names, signature.find):
        cached.cache_clear()


@pytest.mark.usefixtures("own_data")
def test_a_module_of_ones_own_is_trained_tested_and_predicted_for(command, capfd):
    own = ("--config-dir", "options", "allow=[my_tokens]", "data=first_token", "trainer=cpu", "logger=[]")
    outcome = command(
        *own, "model=gru", "model.hidden_dim=32", "optim.lr=0.03", "trainer.max_epochs=4", "output_dir=run"
    )
    assert outcome.code == 0, outcome.text
    assert outcome.results["metrics"]["test"]["accuracy/test"] > 0.95
    capfd.readouterr()
    cli.main(["predict", "run", "--allow", "my_tokens", "--text", "0 7 8 9 9", "--text", "11 2 2 1 0"])
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert [row["prediction"] for row in rows] == ["0", "1"]
    outcome = command(*own, "model=gpt2")
    assert outcome.code == 1
    assert "model=gpt2 with data=first_token" in outcome.text
    assert "try model=gru" in outcome.text


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_pooled_states(cell, pooling):
    """The output is that of the last state, or the mean of those of all steps, as the layer is linear."""
    tokens = torch.randint(7, (4, 5), generator=torch.Generator().manual_seed(0))
    model = Recurrent(cell, [5], 3, vocab_size=7, hidden_dim=8, target_kind="class", pooling=pooling)
    steps = model.head(model.recurrent(model.embedding(tokens))[0])
    torch.testing.assert_close(model(tokens), steps[:, -1] if pooling == "last" else steps.mean(1))


def test_tokens_that_follow_have_an_output_each():
    assert Recurrent("GRU", [5], 7, vocab_size=7)(torch.zeros(4, 5, dtype=torch.int64)).shape == (4, 5, 7)
    with pytest.raises(ValueError, match="what comes next would be known"):
        Recurrent("GRU", [5], 7, vocab_size=7, bidirectional=True)


def test_a_sequence_may_be_read_from_both_ends_where_it_has_one_output():
    tokens = torch.tensor([[0, 1, 2, 3], [3, 1, 2, 3], [0, 1, 2, 4]])
    model = Recurrent("GRU", [4], 3, vocab_size=7, hidden_dim=8, bidirectional=True, target_kind="class").eval()
    output = model(tokens)
    assert output.shape == (3, 3)
    assert not torch.allclose(output[0], output[1])
    assert not torch.allclose(output[0], output[2])


def test_a_transformer_reads_tokens():
    model = Transformer([4], 3, vocab_size=7, hidden_dim=8, num_heads=2).eval()
    tokens = torch.tensor([[0, 1, 2, 3], [3, 1, 2, 0]])
    assert not torch.allclose(*model(tokens))  # order counts


class Tokens(DataModule):
    def __init__(self, tokens, **base):
        super().__init__("tokens", [2], "class", 2, **base)
        self.tokens = tokens

    def load(self):
        return {"train": TensorDataset(self.tokens, torch.arange(len(self.tokens)) % 2)}


@pytest.mark.parametrize(
    ("tokens", "vocab_size", "words"),
    [
        (torch.zeros(20, 2), 5, r"data.input_kind: tokens must be whole numbers; received torch.float32"),
        (torch.full((20, 2), 5), 5, r"token 5 \(row 0 of the train split\) is not in 0 .. 4"),
        (torch.full((20, 2), -1), 5, r"token -1"),
        (torch.zeros(20, 2, dtype=torch.int64), None, r"data.vocab_size: must be the number of tokens"),
    ],
)
def test_tokens_without_a_place_in_the_vocabulary_are_refused(tokens, vocab_size, words):
    with pytest.raises(UserError, match=words):
        Tokens(tokens, vocab_size=vocab_size).setup()
