"""Language modelling, a whole run: perplexity by hand, samples, going on from a text."""

import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from iolaus.build import restore
from iolaus.cli import main
from iolaus.runs import read_settings

SMALL = (
    "data=text_file",
    "data.path=text.txt",
    "data.input_shape=[16]",
    "model.hidden_dim=24",
    "task.sample_length=40",
)


@pytest.fixture
def run(command, tmp_path):
    text = "".join(f"line {i % 10} of {i % 7}\n" for i in range(700))
    (tmp_path / "text.txt").write_text(text)
    outcome = command(*SMALL, "trainer.max_epochs=2", "output_dir=run")
    assert outcome.code == 0, outcome.text
    return outcome


def restored(outcome):
    settings = read_settings(outcome.folder)
    return restore(settings, outcome.folder / "checkpoints/best.ckpt")


def test_a_run(run, tmp_path, capfd):
    """Perplexity, bits and accuracy equal their definitions on the test split; what there is to look at is in the folder."""
    data, task = restored(run)
    data.setup()
    tokens, target = data.datasets["test"].take(data.rows["test"])
    with torch.no_grad():
        logits = task(tokens)
    nats = F.cross_entropy(logits.flatten(0, 1), target.flatten()).item()
    found = run.results["metrics"]["test"]
    assert found["loss/test"] == pytest.approx(nats, rel=1e-5)
    assert found["perplexity/test"] == pytest.approx(math.exp(nats), rel=1e-4)
    assert found["bits_per_byte/test"] == pytest.approx(nats / math.log(2), rel=1e-4)
    assert found["accuracy/test"] == pytest.approx((logits.argmax(-1) == target).float().mean().item(), rel=1e-5)
    samples = (run.folder / "samples/samples.txt").read_text()
    assert samples.count("def ") >= 3
    assert (run.folder / "figures/loss_by_position.png").stat().st_size > 5000
    report = (run.folder / "report.md").read_text()
    assert "loss_by_position.png" in report
    assert "def " in report
    tags = EventAccumulator(str(run.folder)).Reload().Tags()
    assert "figures/loss_by_position" in tags["images"]
    assert "samples/samples/text_summary" in tags["tensors"]

    # the text need not be there any more
    (tmp_path / "text.txt").unlink()
    capfd.readouterr()
    main(["predict", str(run.folder), "--text", "line 3", "task.temperature=0", "task.sample_length=12"])
    said = capfd.readouterr().out
    known = list(b"line 3")
    for _ in range(12):
        with torch.no_grad():
            known.append(int(task(torch.tensor([known[-16:]]))[0, -1].argmax()))
    assert said == data.decode(known) + "\n"


def test_samples_depend_on_the_seed_alone(run):
    data, task = restored(run)
    first = task.predict(["line"], data)
    torch.manual_seed(5)
    assert task.predict(["line"], data) == first


WRONG = [
    (["--text", ""], "task.prompt"),
    (["no_file"], "no_file does not exist"),
    ([], "name a file"),
    (["--text", "a", "task.top_p=2"], "task.top_p"),
    (["--text", "a", "task.tempratur=1"], "did you mean 'temperature'"),
    (["--text", "a", "--output", "x.txt"], "must end in .csv or .jsonl"),
    (["bad.bin"], "not text in UTF-8"),
]


def test_wrong_predictions(run, tmp_path, capfd):
    (tmp_path / "bad.bin").write_bytes(b"\xff\xfe\xff")
    for arguments, words in WRONG:
        with pytest.raises(SystemExit) as stop:
            main(["predict", str(run.folder), *arguments])
        assert stop.value.code == 1
        assert words in capfd.readouterr().err
