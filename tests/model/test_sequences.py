"""Recurrent networks and the encoder over rows of images; the additive model."""

import pytest
import torch
from torch import nn

from iolaus.model.additive import Additive
from iolaus.model.layers.sequence import as_sequence
from iolaus.model.mlp import MLP
from iolaus.model.recurrent import Recurrent
from iolaus.model.transformer import Transformer


def test_images_are_read_row_by_row():
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert as_sequence(x)[0, 1].tolist() == [*x[0, 0, 1].tolist(), *x[0, 1, 1].tolist()]
    assert as_sequence(torch.zeros(5, 7)).shape == (5, 7, 1)


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_last_state_is_that_after_the_last_row_of_each_direction(cell, bidirectional):
    torch.manual_seed(0)
    model = Recurrent(cell, [1, 5, 3], 2, hidden_dim=4, bidirectional=bidirectional)
    x = torch.randn(6, 1, 5, 3)
    outputs, _ = model.recurrent(x[:, 0])
    ends = [outputs[:, -1, :4], outputs[:, 0, 4:]] if bidirectional else [outputs[:, -1]]
    torch.testing.assert_close(model(x), model.head(torch.cat(ends, 1)))


def test_the_encoder_needs_its_positions_to_tell_rows_apart():
    torch.manual_seed(0)
    model = Transformer([1, 6, 3], 2).eval()
    x = torch.randn(4, 1, 6, 3)
    turned = x.flip(2)
    assert not torch.allclose(model(x), model(turned))
    nn.init.zeros_(model.positions)
    torch.testing.assert_close(model(x), model(turned))


def test_each_feature_adds_the_vector_of_its_bin():
    model = Additive([2], 3, num_bins=6)  # bins one wide, from -3
    vectors = model.vectors.weight.reshape(2, 6, 3)
    out = model(torch.tensor([[-2.5, 0.5], [9.0, -9.0]]))
    torch.testing.assert_close(out, torch.stack([vectors[0, 0] + vectors[1, 3], vectors[0, 5] + vectors[1, 0]]))


def test_the_perceptron_normalises_before_its_activation():
    kinds = [type(layer).__name__ for layer in MLP([4], 2, [8], norm="BatchNorm1d", dropout=0.1).layers]
    assert kinds == ["Flatten", "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["model=lstm", "model.dropout=0.5"], "dropout acts between layers; received 0.5 with num_layers=1"),
        (["model=lstm", "model.cell=LTSM"], "model.cell"),
        (["model=transformer", "model.num_heads=5"], "num_heads must divide hidden_dim=64; received 5"),
        (["model=additive", "model.num_bins=1"], "num_bins must be at least 2"),
        (["model=additive", "model.sparse=true"], "choose optim=sparse_adam, sgd or adagrad"),
        (["optim=sparse_adam"], "it wants sparse gradients; add model=additive model.sparse=true"),
        (["model=llama"], "model=llama with data=digits: it wants tokens"),
    ],
)
def test_wrong_settings(command, arguments, says):
    outcome = command(*arguments)
    assert outcome.code == 1
    assert says in outcome.text


@pytest.mark.slow
def test_sparse_adam_learns_digits(command):
    outcome = command("model=additive", "model.sparse=true", "optim=sparse_adam", "trainer.max_epochs=8")
    assert outcome.code == 0, outcome.text
    assert outcome.results["metrics"]["test"]["accuracy/test"] > 0.88
