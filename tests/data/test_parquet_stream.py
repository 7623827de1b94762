"""Parquet files streamed, against pyarrow and numpy; runs that are killed inside an epoch go on with the same bits."""

import io
import itertools
import json
import signal
from collections import Counter

import numpy as np
import pytest
import torch
from forked import Child, differences, kill_at_step, memory_of
from PIL import Image
from test_training_together import assert_two_train_as_one

from iolaus.data.parquet_stream import ParquetStream
from iolaus.data.sniff import told_by_file
from iolaus.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(0)
FEATURES = [f"x{number}" for number in range(4)]


def table(n, start=0):
    """Rows of three classes that their features tell; `id` is a number of their own."""
    kinds = RNG.integers(0, 3, n)
    values = RNG.normal(kinds[:, None] * 3, 1, (n, 4)).astype(np.float32)
    columns = {name: values[:, number] for number, name in enumerate(FEATURES)}
    return pa.table({**columns, "id": np.arange(start, start + n), "y": np.array(["oak", "ash", "elm"])[kinds]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("shards")
    start = 0
    for number, n in enumerate((90, 61, 120)):
        pq.write_table(table(n, start), place / f"part-{number}.parquet", row_group_size=30)
        start += n
    return place


def ready(path, target="y", **settings):
    """The data as build makes them, with what compose has read off the first file."""
    asked = {"path": str(path), "target": target, "num_streams": 4, "num_workers": 0} | settings
    told = told_by_file({key: asked.get(key) for key in ("path", "target", "columns", "drop", "num_streams")})
    data = ParquetStream(**{"input_shape": None, **told, **asked})
    data.setup()
    return data


def read_through(make):
    """All that there is to read of the data that a function makes."""
    data = make()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        epoch(loader)


def epoch(loader):
    return tuple(torch.cat(parts) for parts in zip(*loader, strict=True))


def test_every_row_is_in_one_split(folder):
    data = ready(folder, columns=["id"], batch_size=16, standardize=False, shuffle_buffer=32)
    found = {
        "train": epoch(data.train_dataloader()),
        "val": epoch(data.val_dataloader()),
        "test": epoch(data.test_dataloader()),
    }
    ids = {split: inputs[:, 0].int().tolist() for split, (inputs, _) in found.items()}
    assert {split: len(rows) for split, rows in ids.items()} == {"train": 190, "val": 27, "test": 54}
    assert sorted(itertools.chain(*ids.values())) == list(range(271))
    whole = pq.read_table(folder).to_pydict()
    for inputs, targets in found.values():
        for number, label in zip(inputs[:, 0].int().tolist(), targets.tolist(), strict=True):
            assert data.class_names[label] == whole["y"][whole["id"].index(number)]


def test_what_is_known_of_the_data(folder):
    data = ready(folder, drop=["id"])
    whole = pq.read_table(folder)
    counts = Counter(whole["y"].to_pylist())
    assert data.class_names == ["ash", "elm", "oak"]
    assert data.facts()["num_classes"] == 3
    assert data.facts()["input_shape"] == [4]
    assert data.facts()["class_weights"] == pytest.approx(
        [271 / 3 / counts[name] for name in data.class_names], abs=1e-5
    )
    train = epoch(data.train_dataloader())[0].numpy()
    mean, deviation = data.statistics()["input"]
    np.testing.assert_allclose(mean, train.mean(0), rtol=1e-5)
    np.testing.assert_allclose(deviation, train.std(0), rtol=1e-5)
    assert data.fingerprint() == ready(folder, drop=["id"]).fingerprint()
    assert data.fingerprint() != ready(folder, drop=["id"], num_streams=2).fingerprint()


def test_splits_of_ones_own(tmp_path):
    for split, n in (("train", 50), ("val", 20), ("test", 10)):
        (tmp_path / split).mkdir()
        pq.write_table(table(n), tmp_path / split / "0.parquet")
    data = ready(tmp_path)
    assert {split: len(rows) for split, rows in data.rows.items()} == {"train": 50, "val": 20, "test": 10}
    data = ready(tmp_path / "train" / "*.parquet", test_path=str(tmp_path / "test"), val_fraction=0.2)
    assert {split: len(rows) for split, rows in data.rows.items()} == {"train": 40, "val": 10, "test": 10}


def test_rows_that_are_sorted_by_class_are_warned_of(tmp_path, caplog):
    """In one file, and in a file for each class; shuffled ones never, in shards of any size, and rows that are not held out neither."""
    rows = table(300)
    by_class = rows.sort_by("y")
    pq.write_table(by_class, tmp_path / "sorted.parquet")
    (tmp_path / "apart").mkdir()
    for number, label in enumerate(("ash", "elm", "oak")):
        pq.write_table(rows.filter(pa.compute.equal(rows["y"], label)), tmp_path / "apart" / f"{number}.parquet")
    for place in ("sorted.parquet", "apart"):
        caplog.clear()
        ready(tmp_path / place, drop=["id"])
        (line,) = caplog.messages
        assert "rows seem to be sorted by class (" in line
        assert "so the val and test split held out" in line
        assert "give data.val_path and data.test_path" in line
        assert "\n" not in line
    caplog.clear()
    ready(tmp_path / "sorted.parquet", drop=["id"], val_path=str(tmp_path / "apart"), test_path=str(tmp_path / "apart"))
    for size in (1, 2, 7, 300):
        pq.write_table(by_class.take(RNG.permutation(300)), tmp_path / "shuffled.parquet", row_group_size=size)
        ready(tmp_path / "shuffled.parquet", drop=["id"])
    rare = by_class.append_column("rare", pa.array(["no"] * 290 + ["yes"] * 10))
    pq.write_table(rare.take(RNG.permutation(300)), tmp_path / "rare.parquet")
    ready(tmp_path / "rare.parquet", "rare", drop=["id", "y"])
    assert caplog.messages == []


def test_amounts(tmp_path):
    x, y = RNG.normal(5, 2, (300, 3)), RNG.normal(-7, 3, (300, 2))
    columns = {f"x{number}": x[:, number] for number in range(3)}
    pq.write_table(pa.table({**columns, "y": y[:, 0], "both": list(y)}), tmp_path / "a.parquet")
    data = ready(tmp_path, drop=["both"])
    assert data.target_kind == "real"
    data = ready(tmp_path, "both", drop=["y"], target_kind="real", test_fraction=0.0, val_fraction=0.0)
    assert data.facts()["num_targets"] == 2
    mean, deviation = data.statistics()["target"]
    np.testing.assert_allclose(mean, y.mean(0), rtol=1e-5)
    np.testing.assert_allclose(deviation, y.std(0), rtol=1e-5)


def encoded(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


PIXELS = RNG.integers(0, 256, (40, 6, 8, 3), dtype=np.uint8)
BYTES = [encoded(image) for image in PIXELS]
IMAGES = {
    "encoded": (pa.array(BYTES), PIXELS.transpose(0, 3, 1, 2), {}),
    "as Hugging Face has them": (
        pa.array([{"bytes": b, "path": None} for b in BYTES]),
        PIXELS.transpose(0, 3, 1, 2),
        {},
    ),
    "lists in lists": (pa.array(PIXELS[..., 0].tolist(), pa.list_(pa.list_(pa.uint8()))), PIXELS[:, None, :, :, 0], {}),
    "end to end": (
        pa.array(PIXELS[..., 0].reshape(40, -1).tolist(), pa.list_(pa.uint8(), 48)),
        PIXELS[:, None, :, :, 0],
        {"input_shape": [1, 6, 8], "input_kind": "image"},
    ),
    "Arrow's tensors": (
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2))),
        PIXELS.transpose(0, 3, 1, 2),
        {},
    ),
}


@pytest.mark.parametrize("form", IMAGES)
def test_images(tmp_path, form):
    column, expected, settings = IMAGES[form]
    pq.write_table(pa.table({"image": column, "y": [0, 1] * 20}), tmp_path / "a.parquet", row_group_size=15)
    data = ready(tmp_path, shuffle_buffer=0, num_streams=1, val_fraction=0.0, test_fraction=0.0, **settings)
    assert data.input_kind == "image"
    assert data.input_shape == expected.shape[1:]
    inputs = epoch(data._loader("train", 7))[0]
    assert inputs.dtype == torch.uint8
    assert np.array_equal(inputs.numpy(), expected)


def test_images_are_resized_and_transformed(tmp_path):
    sizes = [encoded(RNG.integers(0, 256, (5 + number, 9, 3), dtype=np.uint8)) for number in range(20)]
    pq.write_table(pa.table({"image": sizes, "y": [0, 1] * 10}), tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"row 7 is an image of shape \[3, 12, 9\], and the first has \[3, 11, 9\]; set data.size"
    ):
        ready(tmp_path)
    assert ready(tmp_path, size=[4, 6], channels=1).input_shape == (1, 4, 6)
    assert ready(tmp_path, transforms=[{"Resize": {"size": [8, 8]}}]).input_shape == (3, 8, 8)


def mended(column, row, value):
    return lambda values: values | {column: [*values[column][:row], value, *values[column][row + 1 :]]}


FAULTS = [
    ({"target": "label"}, None, "data.target: .*has no column 'label'"),
    ({"columns": ["xx0"]}, None, "data.columns: .*has no column 'xx0'; did you mean 'x0'"),
    ({"target": "id", "drop": ["y"], "target_kind": "class"}, None, "data.target: there are 70 different labels in 70 rows; for amounts"),
    ({"num_classes": 2, "target": "y"}, None, "data.path: .*row 7 column 'y': holds string, and with data.num_classes"),
    ({"class_names": ["ash", "oak"], "num_classes": 3}, None, "data.num_classes: is 3, but there are 2 class_names"),
    ({"folds": 3}, None, "data.folds: data that are streamed are not cut into folds"),
    ({"num_rows": [70]}, None, "data.num_rows: Parquet files tell their rows"),
    ({"num_streams": 0}, None, "data.num_streams: 0 streams cannot be shared"),
    ({"input_shape": [5]}, None, r"data.input_shape: says \[5\], but an input has shape \[4\]"),
    ({}, mended("x1", 67, None), "row 67 column 'x1': the cell is empty"),
    ({}, mended("x2", 66, float("nan")), "row 66 column 'x2': has a value that is NaN or infinite"),
    ({}, mended("x0", 3, 1e300), "row 3 column 'x0': has a value that is NaN or infinite"),
    ({}, mended("y", 31, None), "row 31 column 'y': the cell is empty"),
    ({}, lambda v: v | {"text": ["a"] * 70}, "column 'text' holds string, neither numbers nor images; leave it out"),
    ({}, lambda v: v | {"x3": [[1.0]] * 70}, "column 'x3' holds an array in each row, which is an input of its own"),
    ({"columns": ["x3"]}, lambda v: v | {"x3": [[1.0, 2.0]] * 40 + [[1.0]] * 30}, "row 40 column 'x3': holds 1 numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "change", "message"), FAULTS)
def test_faults_are_told(tmp_path, settings, change, message):
    values = table(70).to_pydict()
    pq.write_table(pa.table(change(values) if change else values), tmp_path / "a.parquet", row_group_size=10)
    given = {
        "target": "y",
        "drop": ["id"],
        "target_kind": "class",
        "input_kind": "table",
        "input_shape": None,
    } | settings

    def make():
        data = ParquetStream(str(tmp_path), num_workers=0, **{"num_streams": 4} | given)
        data.setup()
        return data

    with pytest.raises(UserError, match=message):
        read_through(make)


def test_faults_of_files_are_told(folder, tmp_path):
    with pytest.raises(UserError, match=r"data.path: there is no file .*nothing"):
        ready(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"holds no file that ends in .parquet or .pq"):
        ready(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    second = tmp_path / "part-1.parquet"
    whole = second.read_bytes()
    second.write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"part-1.parquet cannot be read as a Parquet file"):
        ready(tmp_path)
    second.write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=r"part-1.parquet is not a Parquet file, by its first bytes"):
        ready(tmp_path)
    pq.write_table(table(20).drop_columns(["x2"]), second)
    with pytest.raises(UserError, match=r"part-1.parquet has no column 'x2'"):
        ready(tmp_path)
    other = table(20)
    pq.write_table(other.set_column(1, "x1", pa.array(["a"] * 20)), second)
    with pytest.raises(UserError, match=r"part-1.parquet column 'x1' holds string, and float in .*part-0.parquet"):
        ready(tmp_path)
    damaged = bytearray(whole)
    damaged[200:600] = bytes(400)
    second.write_bytes(damaged)
    with pytest.raises(UserError, match=r"part-1\.parquet"):
        read_through(lambda: ready(tmp_path, drop=["id"]))


def test_only_the_groups_that_are_left_are_read(tmp_path, monkeypatch):
    """From the middle of an epoch on, by what pyarrow is asked for."""
    pq.write_table(table(4000), tmp_path / "a.parquet", row_group_size=50)
    data = ready(tmp_path, drop=["id"], shuffle_buffer=100, batch_size=20, val_fraction=0.0, test_fraction=0.0)
    asked = []
    read = pq.ParquetFile.iter_batches

    def noted(self, size, groups, **more):
        asked.extend(groups)
        return read(self, size, groups, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    whole = list(data._loader("train", 20, lambda: (0, 1)))
    assert sorted(set(asked)) == list(range(80))
    asked.clear()
    rest = list(data._loader("train", 20, lambda: (0, 1), lambda: 150))
    assert len(asked) <= 80 / 4 + 2 * 4
    for one, other in zip(whole[150:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_pattern_from_the_command(command, folder):
    words = ("data=parquet_stream", "data.target=y", "trainer.max_epochs=1", "stages=[info]")
    outcome = command(*words, f'data.path="{folder}/part-*.parquet"', "data.drop=[id]")
    assert outcome.code == 0, outcome.text
    outcome = command(*words, f'data.path="{folder}/shard-*.parquet"')
    assert outcome.code == 1
    assert "shard-*.parquet" in outcome.text
    assert len(outcome.text.strip().splitlines()) == 1


WORDS = (
    "data=parquet_stream",
    "data.target=y",
    "data.drop=[id]",
    "data.shuffle_buffer=64",
    "data.num_streams=4",
    "data.num_workers=0",
)
RUN = (
    *WORDS,
    "data.batch_size=16",
    "trainer.max_epochs=2",
    "logger=[]",
    "model.dropout=0.1",
    "optim.lr=0.03",
    "stages=[fit]",
)
EVERY = "callbacks.resume_points.every_n_steps=3"


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    child = Child(place, *RUN, f"data.path={folder}", EVERY, "output_dir=run")
    assert child.wait() == 0, child.text
    return place / "run"


@pytest.mark.slow
def test_a_run_that_is_killed_inside_an_epoch_goes_on_with_the_same_bits(folder, whole, tmp_path):
    child = Child(tmp_path, *RUN, f"data.path={folder}", EVERY, "output_dir=run", before=kill_at_step(20))
    assert child.wait() == -signal.SIGKILL, child.text
    again = Child(tmp_path, "resume=run")
    assert again.wait() == 0, again.text
    assert differences(whole, tmp_path / "run") == []
    assert json.loads((whole / "results.json").read_text())["task"] == "classification"


def test_predictions_need_no_training_data(folder, whole, tmp_path, capsys):
    from iolaus.predict import predict

    new = table(40)
    pq.write_table(new.select(["y", "x3", "x0", "x2", "x1"]), tmp_path / "new.parquet", row_group_size=7)
    config = whole / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace(str(folder), "/nowhere"))
    predict(whole, [str(tmp_path / "new.parquet")], [], "last", tmp_path / "out.jsonl", [])
    config.write_text(text)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    right = [row["prediction"] == y for row, y in zip(rows, new["y"].to_pylist(), strict=True)]
    assert np.mean(right) > 0.8


@pytest.mark.slow
def test_workers_change_nothing(folder, whole, tmp_path):
    child = Child(tmp_path, *RUN, f"data.path={folder}", EVERY, "output_dir=run", "data.num_workers=2")
    assert child.wait() == 0, child.text
    assert differences(whole, tmp_path / "run") == []


@pytest.mark.slow
def test_two_processes(folder, tmp_path):
    words = [*WORDS, f"data.path={folder}", "trainer.max_epochs=3", "logger=[]", EVERY, "data.num_workers=1"]
    assert_two_train_as_one(tmp_path, words)


def test_streams_that_cannot_be_shared_are_told(folder, monkeypatch):
    monkeypatch.setattr(ParquetStream, "share", (0, 3))
    with pytest.raises(UserError, match="4 streams cannot be shared evenly by 3 processes; set a multiple of 3"):
        ready(folder)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path):
    """537 MB are read with less than half as much above what is there before, 16 MB of it rows that are shuffled together."""
    with pq.ParquetWriter(
        tmp_path / "a.parquet", pa.schema([("x", pa.list_(pa.float32(), 1024)), ("y", pa.int8())])
    ) as file:
        for _ in range(16):
            values = RNG.normal(size=8192 * 1024).astype(np.float32)
            columns = [
                pa.FixedSizeListArray.from_arrays(pa.array(values), 1024),
                pa.array(np.arange(8192) % 2, pa.int8()),
            ]
            file.write_table(pa.table(columns, schema=file.schema))
    assert (tmp_path / "a.parquet").stat().st_size > 500e6

    def read():
        data = ready(tmp_path, shuffle_buffer=4096)
        return sum(len(x) for loader in (data.train_dataloader(), data.val_dataloader()) for x, _ in loader)

    count, more = memory_of(read)
    assert count == 104858
    assert more < 268e6
