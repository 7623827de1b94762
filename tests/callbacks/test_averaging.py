"""Averaged weights against means taken by hand; the traps that averaging has."""

import pytest
import torch
from torch import nn

RUN = ("data=wine", "trainer.max_epochs=4", "data.batch_size=16", "optim=sgd", "~callbacks.early_stopping", "logger=[]")
RAW = '''
import pytorch_lightning as pl

class Keep(pl.Callback):
    """The raw weights after each step."""
    kept = []

    def on_train_batch_end(self, trainer, task, *rest):
        Keep.kept.append({k: v.detach().clone() for k, v in task.model.state_dict().items()})
'''


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Weights after each step of the next run."""
    (tmp_path / "keep_weights.py").write_text(RAW)
    monkeypatch.syspath_prepend(tmp_path)
    import keep_weights

    keep_weights.Keep.kept = []
    return keep_weights.Keep


KEEP = ("+callbacks.keep._target_=keep_weights.Keep", "allow=[keep_weights]")


def saved(outcome, name="last"):
    content = torch.load(outcome.folder / f"checkpoints/{name}.ckpt", weights_only=True)
    return {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}, content


@pytest.mark.slow
def test_swa_is_the_mean_after_each_of_the_last_epochs(command, raw):
    """The last epoch counts too; test and checkpoint have the mean, the raw weights are kept beside it."""
    outcome = command(*RUN, *KEEP, "callbacks=[default,swa]", "callbacks.swa.start=2")
    assert outcome.code == 0, outcome.text
    average, content = saved(outcome)
    ends = raw.kept[7::8][2:]
    assert len(ends) == 2
    for name, value in average.items():
        torch.testing.assert_close(value, torch.stack([end[name] for end in ends]).mean(0))
        assert torch.equal(content["current_model_state"]["model." + name], raw.kept[-1][name])


def test_ema_follows_its_formula(command, raw):
    outcome = command(*RUN, *KEEP, "callbacks=[default,ema]", "callbacks.ema.decay=0.8", "callbacks.ema.start=1")
    assert outcome.code == 0, outcome.text
    average, _ = saved(outcome)
    expected = raw.kept[8]
    for weights in raw.kept[9:]:
        expected = {name: 0.8 * expected[name] + 0.2 * weights[name] for name in expected}
    for name, value in average.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_before_its_start_nothing_changes(command):
    """Validation, best weights and history are those of a run without averaging, and not those of untrained weights."""
    plain = command(*RUN, "trainer.max_epochs=3")
    averaged = command(*RUN, "trainer.max_epochs=3", "callbacks=[default,swa]", "callbacks.swa.start=2")
    rows = [(o.folder / "metrics.csv").read_text().splitlines() for o in (plain, averaged)]
    assert rows[0][:3] == rows[1][:3]
    assert rows[0][3] == rows[1][3]  # the mean of one epoch is that epoch


@pytest.mark.slow
def test_an_early_stop_before_the_start_keeps_the_trained_weights(command):
    arguments = (
        "data=wine",
        "callbacks.early_stopping.patience=0",
        "callbacks.early_stopping.min_delta=5",
        "logger=[]",
    )
    outcome = command(*arguments, "callbacks=[default,swa]")
    assert outcome.code == 0, outcome.text
    assert "the averaging never began" in outcome.text
    plain = command(*arguments)
    assert all(torch.equal(value, saved(plain)[0][name]) for name, value in saved(outcome)[0].items())


def test_a_start_that_is_never_reached_is_refused(command):
    outcome = command(*RUN, "callbacks=[default,swa]", "callbacks.swa.start=4")
    assert outcome.code == 1
    assert "callbacks.swa.start: averaging after 4 epochs never begins with trainer.max_epochs=4" in outcome.text


@pytest.mark.slow
def test_the_tested_weights_are_the_averaged_ones(command, raw):
    """`iolaus test` on the checkpoint and the run's own test give the mean's metrics."""
    outcome = command(
        *RUN, *KEEP, "callbacks=[default,swa]", "callbacks.swa.start=2", "callbacks.checkpoint.every_n_epochs=4"
    )
    assert outcome.results["tested"] == "checkpoints/best.ckpt"
    average, _ = saved(outcome, "best")
    mean = {name: torch.stack([end[name] for end in raw.kept[7::8][2:]]).mean(0) for name in average}
    for name, value in average.items():
        torch.testing.assert_close(value, mean[name])


NORMED = """
from torch import nn

class Normed(nn.Module):
    def __init__(self, output_dim: int = 3):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(13, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, output_dim))

    def forward(self, x):
        return self.layers(x)
"""


@pytest.mark.slow
def test_batch_norms_are_estimated_for_the_averaged_weights(command, tmp_path, monkeypatch):
    """Mean over all training batches of the inputs that reach them with the averaged weights, as torch's update_bn has it."""
    (tmp_path / "normed.py").write_text(NORMED)
    monkeypatch.syspath_prepend(tmp_path)
    model = ("model=linear", "model._target_=normed.Normed", "~model.input_shape", "~model.bias", "allow=[normed]")
    outcome = command(
        *RUN, *model, "callbacks=[default,swa]", "callbacks.swa.start=2", "data.batch_size=31"
    )  # 4 equal batches
    assert outcome.code == 0, outcome.text
    average, content = saved(outcome)

    from normed import Normed

    from iolaus.build import build
    from iolaus.resume import prepare

    (outcome.folder / "results.json").unlink()
    config, _ = prepare(outcome.folder, [], ["normed"])
    run = build(config)
    run.task.load_state_dict(content["state_dict"])
    fresh = Normed()
    fresh.load_state_dict(average)
    batches = [run.task.standardize_input(inputs) for inputs, _ in run.data.train_dataloader()]
    torch.optim.swa_utils.update_bn(batches, fresh)
    norm, expected = average, fresh.state_dict()
    torch.testing.assert_close(norm["layers.1.running_mean"], expected["layers.1.running_mean"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm["layers.1.running_var"], expected["layers.1.running_var"], rtol=0.1, atol=1e-3)
    assert isinstance(fresh.layers[1], nn.BatchNorm1d)
