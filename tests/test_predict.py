"""`iolaus predict` and `iolaus test` on what users have: many classes, large files, wrong words, runs of other versions."""

import csv
import io
import json

import numpy as np
import pytest
from forked import copy_of, finished
from PIL import Image
from test_export import call, predictions

from iolaus import cli
from iolaus.data import csv_table
from iolaus.data.clips import Sounds
from iolaus.data.image_folder import ImageFolder
from iolaus.data.picture import ImageDecoder
from iolaus.errors import UserError
from iolaus.predict import _files, _write

__all__ = ["call"]
NUM_CLASSES = 23
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    lines = [f"{i % 23},{i / 10},{COLOURS[i % 3]},species {i % 23}" for i in range(230)]
    (place / "t.csv").write_text("\n".join(["a,b,colour,y", *lines]))
    return finished(place, "data=csv", f"data.path={place}/t.csv", "data.target=y", "trainer.max_epochs=1")


@pytest.fixture
def new(tmp_path):
    (tmp_path / "new.csv").write_text("b,colour,a\n" + "".join(f"{i / 7},red,{i}\n" for i in range(12)))
    return tmp_path / "new.csv"


def table(call, made, tmp_path, *words):
    code, text = call("predict", made, *words, "--output", tmp_path / "preds.csv")
    assert code == 0, text
    with (tmp_path / "preds.csv").open() as file:
        return list(csv.DictReader(file)), text


@pytest.mark.slow
def test_of_many_classes_the_likeliest_are_named(call, made, new, tmp_path):
    """Five in a table, as many as asked for, all in JSON lines; the same probabilities everywhere."""
    every = predictions(call, made, tmp_path, new)
    assert len(every[0]) == 3 + NUM_CLASSES
    rows, text = table(call, made, tmp_path, new)
    assert f"of {NUM_CLASSES} classes the 5 likeliest" in text
    three = predictions(call, made, tmp_path, new, "--top", "3")
    for row, short, whole in zip(rows, three, every, strict=True):
        ranked = sorted(((p, k[2:]) for k, p in whole.items() if k.startswith("p_")), reverse=True)
        assert len(row) == 1 + 2 * 5
        assert [row["prediction"], row["prediction_2"], row["prediction_5"]] == [ranked[k][1] for k in (0, 1, 4)]
        assert float(row["probability_5"]) == pytest.approx(ranked[4][0], rel=1e-4)
        assert short["probability_3"] == pytest.approx(ranked[2][0])
        assert "prediction_4" not in short


def test_a_file_is_read_in_parts(call, made, new, tmp_path, monkeypatch):
    """Any size of them gives the same rows, and lines are counted through; what was written before a fault is not left."""
    expected, _ = table(call, made, tmp_path, new)
    monkeypatch.setattr(csv_table, "BLOCK", 5)
    assert table(call, made, tmp_path, new)[0] == expected
    (tmp_path / "preds.csv").unlink()
    new.write_text(new.read_text() + "1,red,x\n")
    code, text = call("predict", made, new, "--strict", "--output", tmp_path / "preds.csv")
    assert code == 1
    assert text.splitlines()[-1] == f"{new} line 14, column 'a': 'x' is not a number"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["new.csv"]


def test_rows_that_cannot_be_read_are_listed_and_the_others_predicted(call, made, new, tmp_path):
    expected, _ = table(call, made, tmp_path, new)
    lines = new.read_text().splitlines()
    lines[3], lines[9] = "1,red,x", ",red,5"
    new.write_text("\n".join(lines))
    code, text = call("predict", made, new, "--output", tmp_path / "preds.csv")
    assert code == 1
    assert f"10 predictions: {tmp_path / 'preds.csv'}\n" in text
    assert text.splitlines()[-3:] == [
        "not predicted: 2, which could not be read",
        f"{new} line 4, column 'a': 'x' is not a number",
        f"{new} line 10, column 'b': the cell is empty; only a run with data.missing=mean or median fills it in",
    ]
    with (tmp_path / "preds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [k for k, row in enumerate(rows) if row["error"]] == [2, 8]
    for row, known in zip(rows, expected, strict=True):
        failed = row.pop("error") != ""
        assert row == (dict.fromkeys(known, "") | {"file": str(new)} if failed else known)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "RUN", "FILE", "--output", "missing/a.csv"], "--output: the folder missing does not exist; create it first"),
        (["predict", "RUN", "FILE", "--output", "a.xlsx"], "--output: a.xlsx must end in .csv or .jsonl"),
        (["predict", "RUN", "FILE", "--top", "0"], "--top: must be at least 1; received 0"),
        (["predict", "RUN", "gone.csv"], "predict: gone.csv does not exist"),
        (["predict", "RUN"], "predict: name a file, or give a text"),
        (["predict", "PARENT", "FILE"], "runs lie in it, as "),
        (["test", "PARENT"], "runs lie in it, as "),
    ],
)  # fmt: skip
def test_wrong_words(call, made, new, words, says):
    known = {"RUN": made, "FILE": new, "PARENT": made.parent}
    code, text = call(*(known.get(word, word) for word in words))
    assert code == 1
    assert says in text
    assert len(text.splitlines()) == 1


def test_categories_that_the_training_did_not_have_are_told(call, made, tmp_path, monkeypatch, capfd):
    """In a line on standard error, over all parts of a file and all files; the rows are predicted."""
    monkeypatch.setattr(csv_table, "BLOCK", 2)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("a,colour,b\n1,red,1\n2,azure,2\n3,green,3\n4,azure,4\n")
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    cli.main(["predict", str(made), "a.csv", "b.csv", "--text", "5,6,red"])
    rows, told = capfd.readouterr()
    assert [row["file"] for row in csv.DictReader(rows.splitlines())] == ["", *["a.csv"] * 4, *["b.csv"] * 4]
    assert told.splitlines()[1:] == [
        "warning: a.csv line 3 column 'colour': 'azure' was not seen in the training (4 rows in all); it is predicted as an unknown "
        "category"
    ]
    code, text = call("predict", made, "a.csv", "--output", "all.jsonl")
    assert code == 0
    assert "warning: a.csv line 3 column 'colour': 'azure' was not seen in the training (2 rows in all);" in text


def test_another_file_is_tested_as_the_training_was(call, made, tmp_path, caplog):
    """As many categories as the training's, of which one is another: it has none's place, and is told."""
    lines = (made.parent / "t.csv").read_text().replace("green", "azure")
    (tmp_path / "other.csv").write_text(lines)
    code, text = call("test", made, f"data.path={tmp_path}/other.csv", "--json")
    assert code == 0, text
    (record,) = (r for r in caplog.records if "not seen" in r.getMessage())
    assert record.getMessage().startswith(
        f"data.path: {tmp_path}/other.csv line 3 column 'colour': 'azure' was not seen"
    )


def test_of_a_folder_the_files_of_known_endings(tmp_path):
    for name in ("b.wav", "a.WAV", "transcripts.csv", ".hidden.wav"):
        (tmp_path / name).touch()
    assert [file.name for file in _files(tmp_path, Sounds.new_endings)] == ["a.WAV", "b.wav"]
    assert len(_files(tmp_path, frozenset())) == 3
    assert _files(tmp_path / "transcripts.csv", Sounds.new_endings) == [tmp_path / "transcripts.csv"]
    with pytest.raises(UserError, match=r"holds no file to predict for  .known endings: .bmp .gif"):
        _files(tmp_path, ImageFolder.new_endings)


def test_an_output_that_is_a_folder(call, made, new, tmp_path):
    (tmp_path / "a.csv").mkdir()
    code, text = call("predict", made, new, "--output", tmp_path / "a.csv")
    assert (code, text) == (1, f"--output: {tmp_path / 'a.csv'} is a folder; name a file\n")


def test_a_run_without_weights(call, made, new, tmp_path):
    run = copy_of(made, tmp_path / "run")
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results | {"status": "interrupted"}))
    for command in ("test", "predict"):
        code, text = call(command, run, *([new] if command == "predict" else []))
        assert code == 1
        assert text.startswith(
            f"{run}: the run has kept no weights yet (status: interrupted); go on with it: iolaus resume"
        )
        assert len(text.splitlines()) == 1


def test_a_run_of_another_version(call, made, new, tmp_path):
    """A line says so; where its settings cannot be built any more, that line and what they are."""
    run = copy_of(made, tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    results["versions"] |= {"iolaus": "0.0.7", "torch": results["versions"]["torch"] + ".99"}
    (run / "results.json").write_text(json.dumps(results))
    code, text = call("test", run)
    assert code == 0
    assert f"{run}: made by iolaus 0.0.7; this is iolaus " in text
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("iolaus.model.mlp.MLP", "iolaus.model.mlp.Old"))
    code, text = call("predict", run, new)
    assert code == 1
    first, second = text.splitlines()
    assert "made by iolaus 0.0.7; this is iolaus" in first
    assert "there is no 'Old' in iolaus.model.mlp" in second


def test_metrics_for_programs(call, made):
    code, text = call("test", made, "--json")
    assert code == 0, text
    found, end = json.JSONDecoder().raw_decode(text)
    assert "never predicted" in text[end:]  # on the other stream
    expected = json.loads((made / "results.json").read_text())["metrics"]["test"]
    assert found["metrics"] == pytest.approx(expected)
    assert found["checkpoint"].endswith("best.ckpt")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_mode_and_size(tmp_path, mode, channels):
    """An even grey stays that grey, whatever it is written in."""
    level = {"1": 255, "I;16": 128 * 257, "F": 128 / 255, "CMYK": (0, 0, 0, 127)}.get(mode)
    bands = {"LA": (128, 255), "RGB": (128,) * 3, "RGBA": (128, 128, 128, 255)}
    if mode == "P":
        image = Image.new("L", (50, 31), 128).convert("P")
    else:
        image = Image.new(mode, (50, 31), bands.get(mode, 128) if level is None else level)
    image.save(tmp_path / f"a.{'tif' if mode in ('CMYK', 'F') else 'png'}")
    (file,) = tmp_path.iterdir()
    pixels = ImageDecoder((8, 8), channels).read(file)
    assert pixels.shape == (channels, 8, 8)
    assert (pixels.int() - (255 if mode == "1" else 128)).abs().max() <= 1


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (50, 31)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png cannot be read as an image: .*pixels"):
        ImageDecoder((8, 8), 1).read(tmp_path / "a.png")


def test_large_numbers_keep_their_digits_in_tables():
    place = io.StringIO()
    _write(iter([{"price": 1234567.875}, {"price": float(np.float32(0.1))}]), place, "csv")
    assert [np.float32(text) for text in place.getvalue().split()[1:]] == [np.float32(1234567.875), np.float32(0.1)]
