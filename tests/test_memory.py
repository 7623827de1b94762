"""iolaus memory: closed forms of GPT-2, real steps, and mistakes told in a line."""

import contextlib
import io
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, composed
from forked import apart

from iolaus import cli
from iolaus.build import build_task
from iolaus.check import plain
from iolaus.functional.accounting import LiveBytes
from iolaus.memory import needed
from iolaus.model.layers.checkpointing import POLICIES

# GPT-2 XL as in the paper on ZeRO: batch, length, width, heads, vocabulary.
B, T, H, HEADS, V = 32, 1024, 1600, 25, 50_257
PARAMETERS = 1_557_611_200


def expected(layers, dropout):
    """Bytes that blocks keep, and their extra operations in percent, by policy.

    In units of batch x length x width values of two bytes: a block's output, queries, keys and values, attention's output, the rest
    before the second norm, both norms' outputs, four widths before and after GELU; a dropout's mask is half a unit. Operations in
    units of 2 x batch x length x width: products of matrices of width h take h, 4 h and so on; their backward pass takes twice as many,
    attention's 2.5 times.
    """
    unit, sums = 2 * B * T * H, 4 * B * T * HEADS
    masks = 2 * 0.5 if dropout else 0
    units = {"none": 1 + 1 + 3 + 1 + 1 + 1 + 4 + 4 + masks, "full": 1, "attention": 2, "selective": 5, "matmuls": 11}
    kept = {policy: layers * (unit * n + (sums if policy != "full" else 0)) for policy, n in units.items()}
    attention = 2 * T
    step = 3 * 12 * H + 3.5 * attention
    down = 4 * H if dropout else 0  # the last product, computed again only for the mask of what follows it
    again = {"none": 0, "matmuls": 0, "selective": (1 + 4) * H + down}
    again |= {"attention": (3 + 1 + 4) * H + down, "full": (3 + 1 + 4) * H + down + attention}
    return kept, {policy: 100 * n / step for policy, n in again.items()}


def assert_expected(found, layers, dropout):
    kept, extra = expected(layers, dropout)
    assert found["policies"].keys() == kept.keys()
    for policy, need in found["policies"].items():
        # Means and deviations of norms, and seeds, are left out of the closed form.
        assert need["activations_of_blocks"] == pytest.approx(kept[policy], rel=0.002), policy
        assert need["extra_flops_of_blocks"] == pytest.approx(extra[policy], abs=0.01), policy
        assert need["activations"] > need["activations_of_blocks"] + 2 * B * T * V  # the logits
        assert need["total"] == pytest.approx(
            need["parameters"] + need["optimizer_state"] + need["peak_in_backward"], rel=1e-3
        )


def call(*arguments):
    """Exit code and text of the command."""

    def run():
        text, code = io.StringIO(), 0
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            try:
                cli.main(list(arguments))
            except SystemExit as stop:
                code = int(stop.code or 0)
        return code, text.getvalue()

    return apart(run)


def reckoned(*words):
    code, text = call("memory", *words, "--json")
    assert code == 0, text
    return json.loads(text)


@pytest.mark.parametrize("dropout", [pytest.param(0.1, marks=pytest.mark.slow), 0.0])
def test_a_block_of_gpt2_xl_in_closed_form(dropout):
    found = reckoned("experiment=gpt2_xl", "model.num_layers=1", f"model.dropout={dropout}")
    assert_expected(found, 1, dropout)
    kept, extra = expected(48, 0.0)
    assert kept["selective"] < kept["none"] / 3
    assert extra["selective"] == pytest.approx(12.4, abs=0.1)


XL = """
import resource, sys
from iolaus.cli import main
main(["memory", "experiment=gpt2_xl", "--json", *sys.argv[1:]])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.1, 0.0])
def test_gpt2_xl_within_two_gigabytes(dropout):
    """The figures of the paper on ZeRO: 60 GB by its rule, 8 GB with checkpoints, gradients and a block included, 33 % more compute."""
    done = subprocess.run(
        [sys.executable, "-c", XL, f"model.dropout={dropout}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert int(done.stderr.split()[-1]) < 2e9
    assert_expected(found, 48, dropout)
    none, full, selective = (found["policies"][policy] for policy in ("none", "full", "selective"))
    assert none["parameters"] == none["gradients"] == 2 * PARAMETERS
    assert none["optimizer_state"] == pytest.approx(4 * PARAMETERS, rel=1e-5)
    assert "60.4 GB; their inputs alone 5.03 GB" in found["notes"][-1]
    assert full["activations_of_blocks"] / 1e9 == pytest.approx(5.03, abs=0.01)
    if dropout:
        assert none["activations_of_blocks"] / 1e9 == pytest.approx(85.7, abs=0.1)
        assert full["extra_flops_of_blocks"] == pytest.approx(33, abs=0.5)
    else:
        assert selective["activations_of_blocks"] / none["activations_of_blocks"] < 1 / 3


@pytest.mark.slow
def test_a_table_with_a_column_for_each_policy_of_the_model():
    code, text = call("memory", "model=transformer", "model.activation_checkpointing=selective")
    assert code == 0, text
    lines = text.splitlines()
    assert lines[0].split() == ["none", "full", "attention", "selective", "*", "matmuls"]
    assert lines[1].startswith("parameters")
    assert lines[1].split()[1:3] == ["275", "kB"]  # of 68,810 numbers, and mean and deviation
    assert "68,810 parameters; inputs [64, 1, 8, 8]; 32-true; Adam; kernels of a GPU" in text
    code, text = call("memory", "model=mlp")
    assert code == 0, text
    assert text.splitlines()[0].split() == ["none"]
    assert "extra FLOPs" not in text


def needs(*overrides):
    settings = plain(composed("trainer=cpu", *overrides))
    return apart(lambda: needed(settings))


@pytest.mark.parametrize("model", [pytest.param("transformer", marks=pytest.mark.slow), "sequential"])
def test_activations_are_those_of_a_real_step(model):
    settings = plain(composed(f"model={model}", "trainer=cpu"))
    found, _ = apart(lambda: needed(settings))
    task = build_task(settings).train()
    batch = task.example(settings["data"]["batch_size"])
    with LiveBytes([*task.parameters(), *task.buffers(), *batch]) as live:
        loss = task.step(batch)[0]
        kept = live.now
        loss.backward()
    assert (found["none"].activations, found["none"].peak_in_backward) == (kept, live.peak)


@pytest.mark.slow
def test_settings_of_the_training_count():
    usual, _ = needs("model=mlp")
    base = usual["none"]
    weights = base.parameters - 2 * 4 * 1 - 0  # mean and deviation of one channel
    assert base.gradients == weights
    assert base.optimizer_state == pytest.approx(2 * weights, abs=64)
    half = needs("model=mlp", "trainer.precision=bf16-true")[0]["none"]
    double = needs("model=mlp", "trainer.precision=64-true")[0]["none"]
    mixed = needs("model=mlp", "trainer.precision=16-mixed")[0]["none"]
    assert (2 * half.parameters, double.parameters, mixed.parameters) == (
        base.parameters,
        2 * base.parameters,
        base.parameters,
    )
    assert mixed.activations > half.activations  # the weights that autocast made narrow
    frozen = needs("model=mlp", "+optim._groups_.first={match: layers.1, frozen: true}")[0]["none"]
    first = 4 * (64 * 128 + 128)
    assert frozen.gradients == base.gradients - first
    assert frozen.optimizer_state == pytest.approx(2 * (weights - first), abs=64)
    accumulated = needs("model=mlp", "trainer.accumulate_grad_batches=4")[0]["none"]
    assert base.peak_in_backward < accumulated.peak_in_backward <= base.peak_in_backward + base.gradients
    bounded, notes = needs("model=mlp", "optim=lbfgs")
    assert bounded["none"].optimizer_state == 202 * weights
    assert "optimizer state: at most, once the history of LBFGS is full" in notes


def test_facts_that_only_the_file_knows_are_read(tmp_path):
    rows = "".join(f"{i},{i % 7},{'ab'[i % 2]}\n" for i in range(100))
    (tmp_path / "rows.csv").write_text("x,y,label\n" + rows)
    words = [
        "data=csv",
        f"data.path={tmp_path / 'rows.csv'}",
        "data.target=label",
        "model=linear",
        "data.batch_size=16",
    ]
    found = reckoned(*words)
    assert "6 parameters; inputs [16, 2]" in found["notes"][0]


@pytest.mark.slow
@pytest.mark.parametrize("data", ["number_words", "stdlib", "interactions", "distances", "zero"])
def test_data_of_other_kinds(data):
    """The losses of the others ask for values."""
    loss = ["loss=sampled_softmax"] if data == "interactions" else []
    found = reckoned(f"data={data}", *loss)["policies"]
    assert found.keys() == ({"none", *POLICIES} if data == "number_words" else {"none"})
    assert found["none"]["activations"] > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["optim.lrr=1"], "optim.lrr: torch.optim.Adam has no argument 'lrr'; did you mean 'lr'?"),
        (["model.activation_checkpointing=full"], "iolaus.model.mlp.MLP has no argument 'activation_checkpointing'"),
        (
            ["model=transformer", "model.activation_checkpointing=fulll"],
            "model.activation_checkpointing: received 'fulll'; did you mean 'full'?",
        ),
        (["model=sequential", "model.activation_checkpointing=full"], "the model has no blocks"),
        (["data=csv", "data.path=no.csv", "data.target=y"], "data.path: no.csv is not a file"),
        (
            ["data=interactions", "data.num_users=40"],
            "with loss BPR cannot be counted: how many values it picks depends on the values, as the pairs of BPR do on "
            "the clicks (nonzero), and memory is counted from shapes alone; train an epoch with callbacks=[default,throughput]",
        ),
        pytest.param(
            ["data=morse"],
            "ConvGRU with loss CTC cannot be counted: what CTC keeps depends on the lengths of the transcripts",
            marks=pytest.mark.slow,
        ),
        (
            ["data=number_words", "model=seq2seq_gru"],
            "cannot be counted: the size of a packed batch depends on the lengths of its sequences",
        ),
        (["model=torchvision", "model.name=vgg11"], "model: TorchvisionModel cannot take a batch of the data: "),
        (["trainer.precision=transformer-engine"], "trainer.precision: memory is counted for"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_in_a_line(words, says):
    code, text = call("memory", *words)
    assert code == 1
    assert says in text
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) <= 2


@pytest.mark.slow
def test_the_folder_of_the_options_is_that_of_train_py(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text = call("memory", "model=linear")
    assert code == 0, text  # the package's own
    os.makedirs("conf")
    (tmp_path / "conf" / "config.yaml").write_text("something: of another program\n")
    assert call("memory", "model=linear") == (0, text)
    (tmp_path / "train.py").write_text("from iolaus.train import train\n")
    code, text = call("memory")
    assert code == 1
    assert text.splitlines() == [f"{tmp_path / 'conf'}: Key 'data' is not in struct"]
