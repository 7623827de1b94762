"""Exported files: used as a stranger would, with onnxruntime, torch or safetensors and the description beside them, without iolaus."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from conftest import composed
from forked import finished
from torch import nn

from iolaus import cli, portable
from iolaus.build import build
from iolaus.commands import install_command
from iolaus.errors import UserError
from iolaus.model.layers.scanned import scanned

COLUMNS = ("area", "rooms", "city", "price")


def houses(path, n=60):
    cities = ("Berlin", "Oslo", "Rome")
    rows = [(30 + 7 * i % 170, 1 + i % 6, cities[i % 3], "dear" if 7 * i % 170 > 80 else "cheap") for i in range(n)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    houses(place / "houses.csv")
    return finished(place, "data=csv", f"data.path={place}/houses.csv", "data.target=price", "trainer.max_epochs=2")


@pytest.fixture
def call(capfd):
    def run(*arguments):
        capfd.readouterr()
        code = 0
        try:
            cli.main([str(a) for a in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return run


def described(path):
    return json.loads(path.with_name(path.name + ".json").read_text())


def encoded(rows, description):
    """Rows of a table as the description says."""
    cells = []
    for name, known in description["data"]["encoding"].items():
        for category in known["categories"] or [None]:
            cells.append(
                [
                    float(row[name]) - known["shift"] if category is None else float(row[name] == category)
                    for row in rows
                ]
            )
    return np.array(cells, dtype=np.float32).T


def predictions(call, run, tmp_path, *arguments):
    code, text = call("predict", run, *arguments, "--output", tmp_path / "preds.jsonl")
    assert code == 0, text
    return [json.loads(line) for line in (tmp_path / "preds.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_onnxruntime_alone_predicts_the_same(run, call, tmp_path):
    """For new rows, of which the graph takes as many as come; and for the example in the description."""
    import onnxruntime

    code, text = call("export", run)
    assert code == 0, text
    assert sorted(f.name for f in run.glob("model.*")) == ["model.onnx", "model.onnx.json", "model.txt"]
    about = described(run / "model.onnx")
    session = onnxruntime.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert {"name": entry.name, "dtype": "float32", "shape": entry.shape} == about["inputs"][0]
    new = houses(tmp_path / "new.csv", 37)
    with new.open() as file:
        rows = encoded(list(csv.DictReader(file)), about)
    (found,) = session.run(None, {"inputs": rows})
    expected = predictions(call, run, tmp_path, new)
    assert [about["data"]["class_names"][i] for i in found.argmax(1)] == [row["prediction"] for row in expected]
    for number, name in enumerate(about["data"]["class_names"]):
        np.testing.assert_allclose(found[:, number], [row[f"p_{name}"] for row in expected], atol=1e-5)
    (again,) = session.run(None, {"inputs": np.array(about["example"]["inputs"], dtype=np.float32)})
    np.testing.assert_allclose(again, about["example"]["probabilities"], atol=1e-6)
    assert about["verified"]["largest_difference"] < 1e-5
    assert about["run"]["metrics"]["test"] == json.loads((run / "results.json").read_text())["metrics"]["test"]


def test_a_program_of_torch_and_weights(run, call, tmp_path):
    """The program gives the probabilities; the weights are those of the checkpoint, bit for bit."""
    from safetensors.torch import load_file

    for form in ("pt2", "safetensors"):
        code, text = call("export", run, "--output", tmp_path / f"houses.{form}")
        assert code == 0, text
    about = described(tmp_path / "houses.pt2")
    found = torch.export.load(tmp_path / "houses.pt2").module()(torch.tensor(about["example"]["inputs"]))
    np.testing.assert_allclose(found.detach(), about["example"]["probabilities"], atol=1e-6)
    saved = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    weights = load_file(tmp_path / "houses.safetensors")
    assert weights.keys() == saved.keys()
    assert all(torch.equal(weights[name], saved[name]) for name in saved)


def test_a_table_that_has_changed_is_encoded_as_the_training_learned(run, call, tmp_path):
    """With another city in the file, which would be an input of its own to a training."""
    changed = houses(tmp_path / "changed.csv")
    changed.write_text(changed.read_text().replace("Oslo", "Athens", 5))
    code, text = call("export", run, f"data.path={changed}", "--output", tmp_path / "houses.pt2")
    assert code == 0, text
    about = described(tmp_path / "houses.pt2")
    assert "samples of the test split" in about["verified"]["what"]
    assert about["inputs"][0]["shape"] == ["batch", 5]
    assert about["data"]["encoding"]["city"]["categories"] == ["Berlin", "Oslo", "Rome"]


def test_a_file_that_differs_is_refused_and_removed(run, call, tmp_path, monkeypatch):
    right = portable.run_pt2
    monkeypatch.setattr(portable, "run_pt2", lambda *a: lambda *inputs: [1.0001 * part for part in right(*a)(*inputs)])
    code, text = call("export", run, "--output", tmp_path / "houses.pt2")
    assert code == 1
    assert "differs from the run by 0.0001 of an output's largest value" in text
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_by_its_own_name_with_what_it_needs(run, call, tmp_path, monkeypatch):
    """What was there before stays until all is written, and no other file is left; nor are the weights of a larger one, by one without."""
    (tmp_path / "houses.onnx").write_text("old")

    def write(found, path):
        path.write_text(f"the weights are in {path.name}.data")
        path.with_name(f"{path.name}.data").write_text("weights")
        assert (tmp_path / "houses.onnx").read_text() == "old"

    monkeypatch.setattr(portable, "write_onnx", write)
    monkeypatch.setattr(portable, "run_onnx", lambda *a: lambda *inputs: [torch.full((len(inputs[0]), 2), 0.5)])
    monkeypatch.setattr(portable, "TOLERANCE", 1.0)
    code, text = call("export", run, "--output", tmp_path / "houses.onnx")
    assert code == 0, text
    assert f"{tmp_path}/houses.onnx.data: 7 bytes, its weights, without which it cannot be read\n" in text
    assert sorted(f.name for f in tmp_path.iterdir()) == ["houses.onnx", "houses.onnx.data", "houses.onnx.json"]
    assert (tmp_path / "houses.onnx").read_text() == "the weights are in houses.onnx.data"
    assert described(tmp_path / "houses.onnx")["needs"] == ["houses.onnx.data"]
    monkeypatch.setattr(portable, "write_onnx", lambda found, path: path.write_text("whole"))
    code, text = call("export", run, "--output", tmp_path / "houses.onnx")
    assert code == 0, text
    assert sorted(f.name for f in tmp_path.iterdir()) == ["houses.onnx", "houses.onnx.json"]


@pytest.mark.slow
def test_weights_in_a_file_of_their_own_are_found_where_they_are_put(run, call, tmp_path, monkeypatch):
    """As where an ONNX file would be too large; and where both are moved to another folder later."""
    import onnxruntime

    monkeypatch.setattr(portable, "ONE_FILE_BYTES", 0)
    code, text = call("export", run, "--output", tmp_path / "houses.onnx")
    assert code == 0, text
    assert "houses.onnx.data: " in text
    names = ["houses.onnx", "houses.onnx.data", "houses.onnx.json"]
    assert sorted(f.name for f in tmp_path.iterdir()) == names
    about = described(tmp_path / "houses.onnx")
    assert about["needs"] == ["houses.onnx.data"]
    (tmp_path / "away").mkdir()
    for name in names[:2]:
        (tmp_path / name).rename(tmp_path / "away" / name)
    session = onnxruntime.InferenceSession(tmp_path / "away" / "houses.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"inputs": np.array(about["example"]["inputs"], dtype=np.float32)})
    np.testing.assert_allclose(found, about["example"]["probabilities"], atol=1e-6)
    (tmp_path / "away" / "houses.onnx.data").unlink()
    with pytest.raises(Exception, match=r"houses\.onnx\.data"):
        onnxruntime.InferenceSession(tmp_path / "away" / "houses.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--format", "onxn"], "--format: there is no format 'onxn'; did you mean 'onnx'"),
        (["--output", "missing/a.onnx"], "--output: the folder missing does not exist"),
        (["--format", "pt2", "--output", "a.onnx"], "--output: a.onnx must end in .pt2"),
        (["--checkpoint", "frist"], "kept are: best, last"),
        (["model.hidden_dims=[3]"], "checkpoint: it is of another model"),
    ],
)
def test_wrong_words(run, call, arguments, says):
    code, text = call("export", run, *arguments)
    assert code == 1
    assert says in text
    assert len(text.splitlines()) == 1


def test_missing_packages_are_named(run, call, monkeypatch):
    monkeypatch.setattr("iolaus.export.find_spec", lambda name: None if name == "onnxruntime" else True)
    code, text = call("export", run)
    assert code == 1
    assert text == f"--format onnx: needs onnxruntime: {install_command('export')}\n"


@pytest.mark.slow
def test_weights_that_are_shared_are_written_once(tmp_path):
    from safetensors.torch import load_file

    config = composed("data=stdlib", "model=llama", "model.num_layers=1", "model.hidden_dim=16", "model.num_heads=2")
    config.output_dir = str(tmp_path)
    config.data.update({"size": 20_000})
    task = build(config).task
    shared = portable.write_safetensors(task, tmp_path / "a.safetensors")
    assert shared == {"model.head.weight": "model.embedding.weight"}
    assert "model.head.weight" not in load_file(tmp_path / "a.safetensors")
    assert portable.is_equal(task, tmp_path / "a.safetensors", shared)
    with torch.no_grad():
        task.model.norm.weight[0] += 1
    assert not portable.is_equal(task, tmp_path / "a.safetensors", shared)


def test_the_private_loop_of_torch_is_where_it_was():
    """It is that of `iolaus.model.layers.scanned`; when it moves, look there."""
    from torch._higher_order_ops.scan import scan

    x = torch.arange(12.0).view(4, 3)
    last, steps = scan(lambda states, x: ((states[0] + x,), (states[0] + x).clone()), (torch.zeros(3),), x, dim=0)
    assert torch.equal(steps, x.cumsum(0))
    assert torch.equal(last[0], x.sum(0))


def test_without_the_private_loop_of_torch_recurrent_layers_are_refused_in_a_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch._higher_order_ops.scan", None)
    config = composed("data=diabetes", "model=lstm", "model.num_layers=1")
    config.output_dir = str(tmp_path)
    task = build(config).task.eval()
    with pytest.raises(
        UserError, match=r"Recurrent cannot be written as a graph: .*scan.*; --format safetensors writes its weights"
    ):
        portable.traced(task, task.graph(), task.example(2)[:1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(
    "settings", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}]
)
def test_recurrent_layers_as_loops(kind, settings):
    """Torch's own layers, for other lengths than those traced, with states given and without."""
    torch.manual_seed(0)
    layer = getattr(nn, kind)(3, 4, **settings).eval()
    batched = int(not settings.get("batch_first", False))
    x = torch.randn(5, 6, 3)
    state = torch.randn(2 * settings.get("num_layers", 1) if settings.get("bidirectional") else 1, x.shape[batched], 4)
    state = (state, state + 1) if kind == "LSTM" else state
    steps = {1 - batched: torch.export.Dim.DYNAMIC}
    with torch.no_grad(), scanned(layer):
        for given in (None, state):
            sizes = (steps, (None, None) if isinstance(given, tuple) else None)
            program = torch.export.export(layer, (x, given), dynamic_shapes=sizes, strict=False).module()
            assert "forward" in vars(layer)
            for length in (5 if batched else 6, 9):
                part = torch.randn(*((length, 6, 3) if batched else (5, length, 3)))
                expected = type(layer).forward(layer, part, given)
                torch.testing.assert_close(program(part, given), expected, atol=1e-6, rtol=1e-5)
    assert "forward" not in vars(layer)


@pytest.mark.slow
def test_a_loop_is_traced_as_if_it_were_the_first():
    """A batch of one size, fixed; then one of the same size, which is to be free."""
    for free in ({0}, {0, 1}):
        layer = nn.GRU(3, 4).eval()
        sizes = (dict.fromkeys(free, torch.export.Dim.DYNAMIC),)
        with torch.no_grad(), scanned(layer):
            program = torch.export.export(layer, (torch.randn(6, 5, 3),), dynamic_shapes=sizes, strict=False).module()
    assert program(torch.randn(9, 2, 3))[0].shape == (9, 2, 4)


class Stranger:
    """An exported ONNX file and its description, and nothing else."""

    def __init__(self, path):
        import onnxruntime

        self.about = described(path)
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def __call__(self, *inputs):
        named = zip(self.about["inputs"], inputs, strict=True)
        return self.session.run(None, {entry["name"]: np.asarray(x, dtype=entry["dtype"]) for entry, x in named})


def classes(model, rows):
    (probabilities,) = model(rows)
    return [{"prediction": model.about["data"]["class_names"][row.argmax()]} for row in probabilities]


def amounts(model, rows):
    (found,) = model(rows)
    return [{"prediction": pytest.approx(float(row[0]), rel=1e-4)} for row in found]


def continued(model, text):
    tokens = list(text.encode())
    for _ in range(20):
        (logits,) = model([tokens[-model.about["largest_sizes"]["time"] :]])
        tokens.append(int(logits[0, -1].argmax()))
    return [{"text": bytes(tokens).decode(errors="replace")}]


def translated(model, text):
    vocab = model.about["data"]["vocab"]
    source = [vocab.index(c) for c in (text if model.about["data"]["source_tokens"] == "characters" else text.split())]
    tokens = [1]
    while tokens[-1] != 2 and len(tokens) <= 100:
        (logits,) = model([source], [tokens])
        tokens.append(int(logits[0, -1].argmax()))
    between = "" if model.about["data"]["target_tokens"] == "characters" else " "
    return [{"source": text, "translation": between.join(vocab[t] for t in tokens[1:] if t > 2)}]


def heard(model, samples):
    logits, frames = model([samples], [len(samples)])
    best = logits[0, : frames[0]].argmax(1)
    kept = [token for token, before in zip(best, [0, *best], strict=False) if token not in (0, before)]
    return [{"transcript": "".join(model.about["data"]["characters"][token - 1] for token in kept)}]


def recommended(model, user, clicked):
    names = model.about["data"]
    (scores,) = model([names["users"].index(user)], [range(len(names["items"]))])
    order = [int(i) for i in (-scores[0]).argsort() if int(i) not in clicked][:5]
    return [{"item": names["items"][i]} for i in order]


FAST = ("trainer.max_epochs=1", "trainer.limit_train_batches=20", "trainer.limit_val_batches=2")
TASKS = {
    "classification": ("data=digits", "model=cnn"),
    "regression": ("data=diabetes", "model=lstm"),
    "language_modeling": ("data=stdlib", "data.size=100000", "data.input_shape=[32]", "task.temperature=0"),
    "translation": ("data=number_words",),
    "speech": ("data=morse",),
    "ranking": ("data=interactions", "model=two_towers"),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_every_task(command, call, tmp_path, task, form):
    """Trained, tested, predicted on a new file, exported; a stranger's predictions by the file are the same."""
    outcome = command(*TASKS[task], *FAST, "output_dir=run")
    assert outcome.code == 0, outcome.text
    code, text = call("test", outcome.folder, "--json")
    assert code == 0, text
    assert json.loads(text)["metrics"]["loss/test"] == pytest.approx(outcome.results["metrics"]["test"]["loss/test"])
    code, text = call("export", outcome.folder, "--format", form)
    assert code == 0, text
    assert described(outcome.folder / f"model.{form}")["verified"]["largest_difference"] < 1e-5
    if form == "pt2":
        return
    model = Stranger(outcome.folder / "model.onnx")
    new = tmp_path / "new.txt"
    if task in ("classification", "regression"):
        shape = model.about["inputs"][0]["shape"][1:]
        rows = np.random.default_rng(0).uniform(0, 5, (7, *shape)).round(3)
        np.savetxt(new, rows.reshape(7, -1), delimiter=",")
        expected = (classes if task == "classification" else amounts)(model, rows)
    elif task == "language_modeling":
        new.write_text("import o")
        expected = continued(model, "import o")
    elif task == "translation":
        new.write_text("2026-11-24\n")
        expected = translated(model, "2026-11-24")
    elif task == "speech":
        from scipy.io import wavfile

        new = tmp_path / "new.wav"
        rate = model.about["data"]["rate_hz"]
        samples = (np.sin(np.arange(2 * rate) * 1.9) * 8000 * (np.arange(2 * rate) // 250 % 2)).astype(np.int16)
        wavfile.write(new, rate, samples)
        expected = heard(model, samples)
    else:
        user = model.about["data"]["users"][3]
        new.write_text(user)
        saved = torch.load(outcome.folder / "checkpoints/best.ckpt", weights_only=True)["Interactions"]["clicked"]
        clicked = set(saved["items"][saved["offsets"][3] : saved["offsets"][4]].tolist())
        expected = recommended(model, user, clicked)
    words = ("task.sample_length=20", "task.temperature=0") if task == "language_modeling" else ()
    found = predictions(call, outcome.folder, tmp_path, new, *words)
    assert [{key: row[key] for key in expected[0]} for row in found] == expected


@pytest.mark.slow
def test_a_map_has_weights_and_no_graph(command, call):
    from safetensors.torch import load_file

    outcome = command("experiment=cities", "trainer.max_epochs=3", "output_dir=run")
    assert outcome.code == 0, outcome.text
    code, text = call("export", outcome.folder)
    assert code == 1
    assert "a map of points has no graph" in text
    assert len(text.splitlines()) == 1
    code, text = call("export", outcome.folder, "--format", "safetensors")
    assert code == 0, text
    saved = torch.load(outcome.folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(load_file(outcome.folder / "model.safetensors")["model.points"], saved["model.points"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("data=stdlib", "data.size=100000", "model=gpt2", "model.num_layers=1"),
        ("data=stdlib", "data.size=100000", "model=llama", "model.activation_checkpointing=selective"),
        ("model=transformer",),
        ("model=resnet18", "trainer.limit_train_batches=2"),
        ("data=breast_cancer", "loss=adaptive_softmax") ,
        ("data=iris", "trainer.precision=64-true"),
        ("data=iris", "callbacks=[default,ema]"),
    ],
)  # fmt: skip
def test_other_networks(command, call, words):
    outcome = command(*words, *(w for w in FAST if w.partition("=")[0] not in str(words)), "output_dir=run")
    assert outcome.code == 0, outcome.text
    code, text = call("export", outcome.folder)
    assert code == 0, text


@pytest.mark.slow
def test_what_cannot_be_traced_is_told_in_a_line(command, call):
    outcome = command("data=number_words", "model=seq2seq_gru", *FAST, "output_dir=run")
    code, text = call("export", outcome.folder)
    assert code == 1
    assert "Seq2SeqGRU cannot be written as a graph" in text
    assert "--format safetensors" in text
    assert len(text.splitlines()) == 1


@pytest.mark.slow
def test_data_that_are_gone_are_drawn(command, call, tmp_path):
    houses(tmp_path / "houses.csv")
    outcome = command("data=csv", "data.path=houses.csv", "data.target=price", *FAST, "output_dir=run")
    (tmp_path / "houses.csv").unlink()
    code, text = call("export", outcome.folder, "--format", "pt2")
    assert code == 0, text
    assert "drawn at random, as the run's data are not there" in text
