"""Translation, a whole run: scores equal their definitions on what the saved weights decode, beam search, new sentences."""

import json

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.text import bleu_score, word_error_rate

from iolaus.build import restore
from iolaus.cli import main
from iolaus.functional.tokens import NO_TARGET
from iolaus.runs import read_settings

SMALL = (
    "data=number_words",
    "data.size=600",
    "model=seq2seq_gru",
    "model.hidden_dim=32",
    "optim.lr=0.01",
    "task.max_length=15",
)


@pytest.fixture(scope="module")
def pairs():
    return "".join(f"{a} {b}\t{b.upper()} {a.upper()}\n" for a in "abcdefgh" for b in "ijklmnop")


def test_a_run(command, capfd, tmp_path):
    outcome = command(*SMALL, "trainer.max_epochs=3", "output_dir=run")
    assert outcome.code == 0, outcome.text
    data, task = restore(read_settings(outcome.folder), outcome.folder / "checkpoints/best.ckpt")
    data.setup()
    preds, target, nats, count = [], [], 0.0, 0
    for row in data.rows["test"]:
        source, known, following = data.datasets["test"].take(row[None])
        with torch.no_grad():
            logits = task(source, known)
        nats += F.cross_entropy(logits[0], following[0], reduction="sum").item()
        count += int((following != NO_TARGET).sum())
        preds.append(data.decode(task.translate(source)[0].tolist()))
        target.append(data.decode(following[0].tolist()))
    found = outcome.results["metrics"]["test"]
    assert found["loss/test"] == pytest.approx(nats / count, rel=1e-4)
    assert found["bleu/test"] == pytest.approx(bleu_score(preds, [[t] for t in target]).item(), abs=1e-4)
    assert found["wer/test"] == pytest.approx(word_error_rate(preds, target).item(), abs=1e-4)
    assert found["exact_match/test"] == pytest.approx(
        sum(p == t for p, t in zip(preds, target, strict=True)) / len(preds)
    )
    rows = (outcome.folder / "samples/translations.csv").read_text().splitlines()
    assert rows[0] == "source,prediction,reference"
    assert len(rows) == 1 + len(preds)
    assert (outcome.folder / "figures/attention.png").stat().st_size > 5000
    assert "| source | prediction | reference |" in (outcome.folder / "report.md").read_text()

    (tmp_path / "new.txt").write_text("12\n\n1999-12-31\n")
    capfd.readouterr()
    main(["predict", str(outcome.folder), "new.txt", "--output", "out.jsonl"])
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["source"] for row in written] == ["12", "1999-12-31"]
    assert all(row["translation"] for row in written)


@pytest.mark.slow
def test_a_user_s_own_pairs_with_beam_search(command, tmp_path, pairs):
    """The order of two words is turned round, which is learned to perfection."""
    (tmp_path / "pairs.tsv").write_text(pairs * 4)
    outcome = command(
        *(
            "data=tsv",
            "data.path=pairs.tsv",
            "data.batch_size=16",
            "model=seq2seq_gru",
            "model.hidden_dim=32",
            "optim.lr=0.02",
        ),
        *("trainer.max_epochs=12", "task.decoding=beam", "task.beam_width=3", "task.max_length=6"),
    )
    assert outcome.code == 0, outcome.text
    assert outcome.results["metrics"]["test"]["exact_match/test"] == 1
    assert outcome.results["metrics"]["test"]["bleu/test"] == 0  # two words have no four in a row
