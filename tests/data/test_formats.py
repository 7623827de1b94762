"""Arrays and tables in npz, HDF5 and Parquet: files written by the formats' own packages, read where needed, faults told."""

import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from test_csv_table import rows as csv_rows
from test_csv_table import write as write_csv
from test_train import digest

from iolaus.data.csv_table import CsvTable
from iolaus.data.hdf5 import Hdf5
from iolaus.data.loader import KeyedItems, KeyedRows
from iolaus.data.npz import Npz
from iolaus.data.parquet import ParquetTable
from iolaus.data.sniff import told_by_file
from iolaus.errors import UserError

h5py = pytest.importorskip("h5py")
pytest.importorskip("pyarrow")

RNG = np.random.default_rng(0)
READERS = {"npz": Npz, "hdf5": Hdf5}


def write(path, **arrays):
    """By the package that the ending belongs to."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    return str(path)


def path_of(tmp_path, option):
    return tmp_path / ("data.npz" if option == "npz" else "data.h5")


def ready(option, path, **settings):
    """The data as build makes them, with the facts that compose has read off the file."""
    told = told_by_file({"path": path, "inputs": "inputs", "targets": "targets"} | settings)
    data = READERS[option](path, **{"input_shape": None, **told, **settings})
    data.setup()
    return data


def classes(n=90):
    """Rows of three classes, told apart by their means, labelled 2, 10 and 1."""
    kinds = np.arange(n) % 3
    return RNG.normal(kinds[:, None] * 4, 1, (n, 5)), np.array([2, 10, 1])[kinds]


@pytest.mark.parametrize("option", READERS)
def test_whole_numbers_are_classes_in_their_order(tmp_path, option):
    inputs, labels = classes()
    data = ready(option, write(path_of(tmp_path, option), inputs=inputs, targets=labels))
    assert data.class_names == ["1", "2", "10"]
    assert data.num_classes == 3
    assert data.input_kind == "table"
    assert data.input_shape == (5,)
    for row in (0, 1, 2, 40):
        x, y = data.datasets["train"][row]
        np.testing.assert_allclose(x, inputs[row], rtol=1e-6)
        assert data.class_names[int(y)] == str(labels[row])
    shares = [np.bincount([int(data.datasets[s][int(r)][1]) for r in data.rows[s]]) for s in ("train", "test")]
    assert shares[1].tolist() == [6, 6, 6]


@pytest.mark.parametrize("option", READERS)
def test_other_numbers_are_amounts(tmp_path, option):
    """Mean and deviation are those of the training rows, by numpy."""
    inputs, targets = RNG.normal(7, 3, (80, 4)).astype(np.float32), RNG.normal(-2, 5, (80, 2))
    data = ready(option, write(path_of(tmp_path, option), inputs=inputs, targets=targets))
    assert data.target_kind == "real"
    assert data.facts()["num_targets"] == 2
    train = data.rows["train"].numpy()
    found = data.statistics()
    for name, values in (("input", inputs[train]), ("target", targets[train])):
        np.testing.assert_allclose(found[name][0], values.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found[name][1], values.std(0), rtol=1e-5)


@pytest.mark.parametrize("option", READERS)
@pytest.mark.parametrize(("shape", "expected"), [((30, 6, 7), (1, 6, 7)), ((30, 3, 6, 7), (3, 6, 7))])
def test_images(tmp_path, option, shape, expected):
    """Bytes stay bytes, an image without channels has one, each channel has its mean."""
    images, labels = RNG.integers(0, 256, shape, dtype=np.uint8), np.arange(30) % 2
    data = ready(option, write(path_of(tmp_path, option), inputs=images, targets=labels), test_fraction=0.0)
    assert data.input_kind == "image"
    assert data.input_shape == expected
    image, _ = data.datasets["train"][3]
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(images[3]).reshape(expected))
    mean = images.reshape(30, *expected)[data.rows["train"]].mean((0, 2, 3))
    np.testing.assert_allclose(data.statistics()["input"][0].flatten(), mean, rtol=1e-5)


@pytest.mark.parametrize("option", READERS)
def test_names_of_ones_own(tmp_path, option):
    inputs, labels = classes()
    path = write(path_of(tmp_path, option), inputs=inputs, targets=labels % 2)
    data = ready(option, path, class_names=["even", "odd"])
    assert [int(data.datasets["train"][row][1]) for row in range(3)] == [0, 0, 1]
    again = ready(option, path, class_names=["0", "1"], num_classes=2)  # as the saved settings of a run have them
    assert [int(again.datasets["train"][row][1]) for row in range(3)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("option", "more", "kind"),
    [
        pytest.param("npz", [], "image", marks=pytest.mark.slow),
        pytest.param("hdf5", ["model=cnn"], "image", marks=pytest.mark.slow),
        ("npz", [], "table"),
        pytest.param("hdf5", [], "table", marks=pytest.mark.slow),
    ],
)
def test_from_the_command(command, tmp_path, option, more, kind):
    """The task and the kind of inputs are the file's to tell; a run of the saved settings reads the same."""
    inputs, labels = classes(240)
    inputs = inputs if kind == "table" else np.tile(inputs[:, :, None], (1, 2, 10)).astype(np.float32)
    path = write(path_of(tmp_path, option), x=inputs, y=labels)
    outcome = command(
        *(f"data={option}", f"data.path={path}", "data.inputs=x", "data.targets=y", "trainer.max_epochs=12"),
        *("data.batch_size=16", "output_dir=run", "data.num_workers=0", *more),
    )
    assert outcome.code == 0, outcome.text
    assert outcome.results["task"] == "classification"
    assert outcome.results["metrics"]["test"]["accuracy/test"] > 0.9
    assert f"data.input_kind={kind}" in outcome.results["overrides"]
    assert "class_names:\n  - '1'\n  - '2'\n  - '10'" in (outcome.folder / "config.yaml").read_text()


@pytest.mark.slow
def test_regression_from_the_command(command, tmp_path):
    x = RNG.normal(size=(200, 3))
    path = write(tmp_path / "data.h5", inputs=x, targets=x @ RNG.normal(size=(3, 2)) + 5)
    outcome = command(
        *("data=hdf5", f"data.path={path}", "model=linear", "optim.lr=0.05", "trainer.max_epochs=40"), "output_dir=run"
    )
    assert outcome.code == 0, outcome.text
    assert outcome.results["task"] == "regression"
    assert outcome.results["metrics"]["test"]["r2/test"] > 0.99


def test_the_settings_may_say_the_task(command, tmp_path):
    path = write(tmp_path / "data.npz", inputs=RNG.normal(size=(60, 3)), targets=np.arange(60) % 7)
    outcome = command("data=npz", f"data.path={path}", "task=regression", "trainer.max_epochs=1", "output_dir=run")
    assert outcome.code == 0, outcome.text
    assert "mse/test" in outcome.results["metrics"]["test"]


@pytest.mark.slow
def test_memory_and_files_and_workers_give_the_same_weights(command, tmp_path):
    """Arrays in memory, read in the process itself, and by two processes; images with transforms too."""
    inputs = RNG.integers(0, 256, (120, 8, 8), dtype=np.uint8)
    for name in ("data.npz", "data.h5"):
        write(tmp_path / name, inputs=inputs, targets=np.arange(120) % 3)
    settings = ("trainer.max_epochs=2", "data.batch_size=16", "callbacks=[]", "logger=[]", "stages=[fit]")
    settings = (*settings, "callbacks=[resume_points]", "data.transforms=[{Resize: {size: [4, 4]}}]")
    found = {
        digest(command("data=npz", "data.path=data.npz", *settings).folder),
        *(
            digest(command("data=hdf5", "data.path=data.h5", f"data.num_workers={workers}", *settings).folder)
            for workers in (0, 2)
        ),
    }
    assert len(found) == 1


def test_only_what_a_batch_needs_is_read(tmp_path, monkeypatch):
    """A terabyte that was never written, and how often and how much h5py is asked for."""
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file.create_dataset("inputs", (1_000_000, 1_000, 1_000), "u1", chunks=(1, 1_000, 1_000))[0, 0, 0] = 1
        file["targets"] = np.arange(1_000_000, dtype=np.int8) % 3
    asked = []
    read = h5py.Dataset.__getitem__

    def noted(self, key, *more):
        values = read(self, key, *more)
        asked.append((self.name, np.size(values)))
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", noted)
    data = ready("hdf5", str(tmp_path / "large.h5"), num_workers=0, batch_size=5, val_fraction=0.0, test_fraction=0.0)
    assert (
        sum(size for name, size in asked if name == "/inputs") == 2_000_000
    )  # its shape, and whether its pixels differ
    loader = data.train_dataloader()
    asked.clear()
    batch, _ = next(iter(loader))
    assert batch.shape == (5, 1, 1_000, 1_000)
    assert asked == [("/inputs", 5_000_000)]


def test_rows_of_a_batch_come_in_their_order(tmp_path):
    """Whatever their order, next to each other or not, and one of them twice."""
    inputs = np.arange(40.0).reshape(20, 2)
    dataset = ready("hdf5", write(tmp_path / "data.h5", inputs=inputs, targets=np.arange(20) % 2)).datasets["train"]
    for rows in ([7], [3, 4, 5], [5, 3, 4], [19, 0, 7], [2, 2, 1]):
        items = KeyedItems(dataset).__getitems__(KeyedRows(rows))
        assert torch.equal(torch.stack([x for x, _ in items]), torch.tensor(inputs[rows], dtype=torch.float32))
        assert [int(y) for _, y in items] == [row % 2 for row in rows]


def test_an_open_file_is_not_handed_on(tmp_path):
    """Neither by pickle nor by fork: a child reads by a file of its own and leaves the parent's as it was."""
    import os

    path = write(tmp_path / "data.h5", inputs=np.arange(40.0).reshape(20, 2), targets=np.arange(20) % 2)
    dataset = ready("hdf5", path).datasets["train"]
    here = dataset[3][0]
    assert dataset._file is not None
    assert pickle.loads(pickle.dumps(dataset))._file is None
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3][0], here)
    inherited = dataset._file
    if (child := os.fork()) == 0:
        good = torch.equal(dataset[3][0], here) and dataset._file is not inherited and not inherited
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert dataset._file is inherited
    assert torch.equal(dataset[3][0], here)


def test_arrays_in_groups(tmp_path):
    inputs, labels = classes()
    path = write(tmp_path / "data.h5", **{"train/x": inputs, "train/y": labels})
    assert ready("hdf5", path, inputs="train/x", targets="train/y").input_shape == (5,)


GOOD = {"inputs": np.zeros((20, 3)), "targets": np.arange(20) % 2}
ARRAY_FAULTS = [
    ({"input": GOOD["inputs"]}, {}, "data.inputs", "has no array 'inputs'; did you mean 'input'?  (it has: "),
    ({}, {"targets": "labels"}, "data.targets", "has no array 'labels'"),
    ({"targets": np.zeros(19)}, {}, "data.targets", "'inputs' has 20 rows and 'targets' has 19"),
    ({"inputs": np.zeros(20)}, {}, "data.inputs", "'inputs' has shape [20]; it must be rows of numbers"),
    ({"inputs": np.zeros((20, 2), "S3")}, {}, "data.inputs", "holds objects or texts (dtype |S3)"),
    ({"inputs": np.array(1.0)}, {}, "data.inputs", "'inputs' is one number"),
    ({"targets": np.zeros(20, int)}, {}, "data.targets", "holds one value alone (0)"),
    ({"targets": np.arange(20)}, {}, "data.targets", "has 20 different values in 20 rows; for amounts choose task=regression"),
    ({"targets": np.linspace(0, 1, 20)}, {"target_kind": "class"}, "data.targets", "row 1 is 0.0526316, which is no label"),
    ({"targets": np.ones((20, 2), int)}, {}, "data.targets", "has shape [20, 2]; labels are (N,)"),
    ({}, {"num_classes": 2, "targets": "more"}, "data.num_classes", "label 2 (row 5 of the train split)"),
    ({}, {"input_kind": "image"}, "data.input_kind", "images are (N, H, W) or (N, C, H, W)"),
]  # fmt: skip


@pytest.mark.parametrize("option", READERS)
@pytest.mark.parametrize(("arrays", "settings", "key", "words"), ARRAY_FAULTS)
def test_faults_of_arrays_are_told(tmp_path, option, arrays, settings, key, words):
    kept = {k: v for k, v in GOOD.items() if k != "inputs" or "input" not in arrays}
    more = np.where(np.arange(20) == 5, 2, np.arange(20) % 2)
    path = write(
        path_of(tmp_path, option), **kept | arrays | {"more": more} if settings.get("num_classes") else kept | arrays
    )
    with pytest.raises(UserError) as told:
        ready(option, path, **settings)
    assert str(told.value).startswith(key)
    assert words in str(told.value)


@pytest.mark.parametrize("option", READERS)
def test_a_row_with_nan_is_told(command, tmp_path, option):
    """Of arrays in memory before the training, of a file's when it is read, by whichever process."""
    inputs = RNG.normal(size=(200, 3))
    inputs[17, 1] = np.nan
    path = write(path_of(tmp_path, option), inputs=inputs, targets=np.arange(200) % 2)
    more = ["data.num_workers=2"] if option == "hdf5" else []
    outcome = command(f"data={option}", f"data.path={path}", "data.batch_size=8", "trainer.max_epochs=1", *more)
    assert outcome.code == 1
    assert "row 17" in outcome.text
    assert "NaN" in outcome.text
    assert "Traceback" not in outcome.text


def test_amounts_that_float32_would_blur_are_refused(tmp_path):
    """As a table's are; near enough ones are read."""
    inputs, noise = RNG.normal(size=(200, 3)), RNG.normal(size=200)
    columns = np.stack(
        [1e-3 * noise, 1e6 * noise, np.full(200, 0.1)], axis=1
    )  # of different units, and one without any change
    for targets, right in ((1e4 + noise, True), (columns, True), (1e9 + noise, False)):
        np.savez(tmp_path / "data.npz", inputs=inputs, targets=targets)
        if right:
            ready("npz", str(tmp_path / "data.npz"))
        else:
            with pytest.raises(UserError, match=r"is about 1e\+09 and varies by .*subtract a constant"):
                ready("npz", str(tmp_path / "data.npz"))


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return print, ("opened",)

    np.savez(tmp_path / "data.npz", inputs=np.array([[Trap()]], dtype=object), targets=np.arange(1))
    with pytest.raises(UserError, match="'inputs' holds objects or texts"):
        ready("npz", str(tmp_path / "data.npz"))


@pytest.mark.parametrize("option", READERS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_that_was_cut_off_is_told(command, tmp_path, option, share):
    inputs, labels = classes()
    path = path_of(tmp_path, option)
    write(path, inputs=inputs, targets=labels)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    outcome = command(f"data={option}", f"data.path={path}")
    assert outcome.code == 1
    assert "data.path: " in outcome.text
    assert path.name in outcome.text
    assert len(outcome.text.splitlines()) <= 8


@pytest.mark.parametrize("option", READERS)
def test_files_of_another_format_are_told(command, tmp_path, option):
    (tmp_path / "t.csv").write_text("a,y\n1,2\n")
    outcome = command(f"data={option}", "data.path=t.csv")
    assert outcome.code == 1
    assert "data.path: t.csv is neither an npz file nor HDF5" in outcome.text
    other = path_of(tmp_path, "hdf5" if option == "npz" else "npz")
    write(other, **GOOD)
    outcome = command(f"data={option}", f"data.path={other}")
    assert outcome.code == 1
    assert f"; take data={'hdf5' if option == 'npz' else 'npz'}" in outcome.text


@pytest.mark.parametrize(("option", "package"), [("hdf5", "h5py"), ("parquet", "pyarrow")])
def test_a_package_that_is_missing_is_told(command, tmp_path, monkeypatch, option, package):
    write(tmp_path / "data.h5", **GOOD)
    pd.DataFrame({"a": [1], "y": [2]}).to_parquet(tmp_path / "data.parquet")
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    path = "data.h5" if option == "hdf5" else "data.parquet"
    outcome = command(f"data={option}", f"data.path={path}", *(["data.target=y"] if option == "parquet" else []))
    assert outcome.code == 1
    assert outcome.text.strip() == f"data={option}: needs the package {package}: pip install {package}"


def test_text_and_parquet_give_the_same_tensors(tmp_path):
    """The same table in both: numbers, categories, gaps filled by the training rows, dictionaries and truth values."""
    lines = csv_rows()
    lines[9] = "," + lines[9].partition(",")[2]
    path = write_csv(tmp_path / "t.csv", lines)
    frame = pd.read_csv(path).assign(flag=lambda f: f.b > 3)
    frame.to_csv(path, index=False)
    frame.astype({"colour": "category"}).to_parquet(tmp_path / "t.parquet")
    facts = {"input_kind": "table", "input_shape": None, "target_kind": "real", "missing": "mean"}
    text, parquet = CsvTable(path, "y", **facts), ParquetTable(str(tmp_path / "t.parquet"), "y", **facts)
    text.setup()
    parquet.setup()
    assert parquet.encoding == text.encoding
    for mine, theirs in zip(parquet.datasets["train"].tensors, text.datasets["train"].tensors, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "b"] * 20, "class"),
        ([True, False] * 20, "class"),
        ([1, 2, None, 2] * 10, "class"),
        ([0.5, 1.5] * 20, "real"),
        (list(range(40)), "real"),
        (pd.Categorical(["a", "b"] * 20), "class"),
    ],
)
def test_the_column_of_a_parquet_file_tells_the_task(tmp_path, values, kind):
    pd.DataFrame({"y": values}).to_parquet(tmp_path / "t.parquet")
    assert told_by_file({"path": str(tmp_path / "t.parquet"), "target": "y"}) == {"target_kind": kind}


@pytest.mark.slow
def test_parquet_from_the_command(command, tmp_path):
    inputs, labels = classes(240)
    frame = pd.DataFrame(inputs, columns=list("abcde")).assign(kind=np.array(["x", "y", "z"])[labels % 3])
    frame.to_parquet(tmp_path / "t.parquet")
    outcome = command(
        *("data=parquet", "data.path=t.parquet", "data.target=kind", "trainer.max_epochs=12", "data.batch_size=16"),
        "output_dir=run",
    )
    assert outcome.code == 0, outcome.text
    assert outcome.results["task"] == "classification"
    assert outcome.results["metrics"]["test"]["accuracy/test"] > 0.9


FRAME = pd.DataFrame({"a": [0.5 * i for i in range(30)], "b": ["u", "v"] * 15, "y": [1.5 * i for i in range(30)]})


@pytest.mark.parametrize(
    ("change", "words", "more"),
    [
        ({"a": lambda f: f.a.where(f.a != 3.5)}, "t.parquet row 7, column 'a': the cell is empty", []),
        ({"y": lambda f: f.y.where(f.y != 3.0)}, "t.parquet row 2, column 'y': the cell is empty", []),
        ({"a": lambda f: f.a.where(f.a != 3.5, np.inf)}, "t.parquet row 7, column 'a': 'inf' is not a number", []),
        ({"c": lambda f: [[1, 2]] * 30}, "column 'c' holds list<", []),
        (
            {"day": lambda f: pd.date_range("2020-01-01", periods=30)},
            "column 'day': '2020-01-01 00:00:00' is a date or a time",
            [],
        ),
        ({}, "data.target: t.parquet has no column 'yy'; did you mean 'y'", ["data.target=yy"]),
        ({}, "data.drop: t.parquet has no column 'bb'", ["data.drop=[bb]"]),
    ],
)
def test_faults_of_parquet_tables_are_told(command, tmp_path, change, words, more):
    FRAME.assign(**change).to_parquet(tmp_path / "t.parquet")
    outcome = command("data=parquet", "data.path=t.parquet", "data.target=y", "task=regression", *more)
    assert outcome.code == 1
    assert words in outcome.text
    assert len(outcome.text.strip().splitlines()) <= 8


def test_columns_that_are_left_out_may_hold_anything(tmp_path):
    FRAME.assign(c=[[1, 2]] * 30).to_parquet(tmp_path / "t.parquet")
    data = ParquetTable(str(tmp_path / "t.parquet"), "y", drop=["c"], input_kind="table", input_shape=None, target_kind="real")  # fmt: skip
    data.setup()
    assert data.input_shape == (3,)


@pytest.mark.slow
def test_parquet_and_text_are_told_apart(command, tmp_path):
    FRAME.to_parquet(tmp_path / "t.parquet")
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    outcome = command("data=csv", "data.path=t.parquet", "data.target=y")
    assert outcome.code == 1
    assert "data.path: t.parquet is no text, by its first bytes; take data=parquet" in outcome.text
    outcome = command("data=parquet", "data.path=t.csv", "data.target=y")
    assert outcome.code == 1
    assert "data.path: t.csv is not a Parquet file, by its first bytes; a table as text is data=csv" in outcome.text
    content = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(content[:-100])
    outcome = command("data=parquet", "data.path=t.parquet", "data.target=y")
    assert outcome.code == 1
    assert "data.path: t.parquet cannot be read as a Parquet file" in outcome.text
