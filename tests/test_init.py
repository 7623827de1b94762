"""First weights: by a function of torch.nn.init, or from another run."""

import pytest
import torch
from forked import copy_of, finished
from torch import nn

from iolaus.init.initializer import FUNCTIONS, Initializer
from iolaus.model.mlp import MLP


def test_every_weight_is_drawn_by_the_function_and_norms_are_left_alone():
    model = MLP([30], 5, [40, 20], norm="LayerNorm")
    torch.manual_seed(3)
    Initializer("xavier_uniform", {"gain": 2.0}, 0.5)(model)
    torch.manual_seed(3)
    for layer in model.layers:
        if isinstance(layer, nn.Linear):
            assert torch.equal(layer.weight, nn.init.xavier_uniform_(torch.empty_like(layer.weight), 2.0))
            assert (layer.bias == 0.5).all()
        if isinstance(layer, nn.LayerNorm):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()


def test_the_functions_are_torch_s():
    assert {"kaiming_normal", "orthogonal", "sparse", "zeros"} <= FUNCTIONS.keys()


@pytest.mark.slow
def test_a_run_with_another_initialiser(command):
    outcome = command(
        "init=orthogonal", "data=iris", "trainer.max_epochs=1", "init.arguments.gain=1.4", "optim.lr=1e-9"
    )
    assert outcome.code == 0, outcome.text
    weight = torch.load(outcome.folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"][
        "model.layers.3.weight"
    ]
    torch.testing.assert_close(weight @ weight.T, 1.96 * torch.eye(64), atol=1e-3, rtol=1e-3)


SMALL = ("data=wine", "model.hidden_dims=[16,8]", "callbacks=[default]", "logger=[]")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("made"), *SMALL, "trainer.max_epochs=3")


@pytest.fixture
def source(command, made, tmp_path):
    copy_of(made, tmp_path / "source")
    return torch.load("source/checkpoints/best.ckpt", weights_only=True)["state_dict"]


def first_weights(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_starting_from_another_run(command, source):
    outcome = command(
        *SMALL, "init_from=source", "trainer.max_epochs=1", "optim=sgd", "optim.lr=1e-12", "output_dir=all"
    )
    assert outcome.code == 0, outcome.text
    assert "init_from: 6 of 6 weights from source/checkpoints/best.ckpt" in outcome.text
    for name, value in first_weights(outcome.folder).items():
        torch.testing.assert_close(value, source[name], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_new_head_on_frozen_layers(command, source):
    """Fine-tuning in one line: other classes, the trained layers kept as they are."""
    outcome = command(
        *("data=iris", "model.hidden_dims=[16,8]", "init_from=source/checkpoints/last.ckpt", "init_partial=true"),
        *("+optim._groups_.trunk={match: layers.3, frozen: true}", "trainer.max_epochs=5", "output_dir=new"),
    )
    assert outcome.code == 0, outcome.text
    assert "init_from: 5 of 6 weights" in outcome.text
    assert "layers.1.weight ([16, 13] there, [16, 4] here)" in outcome.text
    after = torch.load(outcome.folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    last = torch.load("source/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(after["model.layers.3.weight"], last["model.layers.3.weight"])
    assert not torch.equal(after["model.layers.5.weight"], last["model.layers.5.weight"])


@pytest.mark.slow
def test_a_resumed_run_does_not_start_from_it_again(command, source):
    import shutil

    assert command(*SMALL, "init_from=source", "trainer.max_epochs=2", "output_dir=once").code == 0
    shutil.rmtree("source")
    outcome = command("resume=once", "trainer.max_epochs=3")
    assert outcome.code == 0, outcome.text
    assert "init_from" not in outcome.text


@pytest.mark.slow
def test_the_statistics_of_frozen_batch_norms_stay(command):
    layers = "model.layers=[Flatten, {Linear: {out_features: 8}}, BatchNorm1d, ReLU]"
    frozen = "+optim._groups_.stem={match: 'layers.[12]', frozen: true}"
    outcome = command("model=sequential", layers, "data=iris", frozen, "trainer.max_epochs=2")
    assert outcome.code == 0, outcome.text
    state = first_weights(outcome.folder)
    assert (state["model.layers.2.running_mean"] == 0).all()
    assert (state["model.layers.2.running_var"] == 1).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["init_from=nowhere"], "init_from: nowhere does not exist"),
        (["init_from=."], "has no checkpoints/*.ckpt"),
        (["init_from=source", "model.hidden_dims=[16,4]"], "add init_partial=true"),
        (["init_from=source", "model=affine", "init_partial=true"], "no weight of"),
        (["init_partial=perhaps"], "init_partial: must be true or false"),
        (["init=xavier"], "there is no init 'xavier'; did you mean 'xavier_"),
        (["init=normal", "init.function=gauss"], "torch.nn.init has no 'gauss'"),
        (["init=normal", "+init.arguments.sdt=1"], "normal has no such argument; did you mean 'std'"),
    ],
)
def test_wrong_starts(command, source, arguments, says):
    outcome = command(*SMALL, *arguments)
    assert outcome.code == 1
    assert says in outcome.text, outcome.text
    assert "Traceback" not in outcome.text
