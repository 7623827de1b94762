"""New files to predict for: read as the training's were, with nothing known but the settings and what the checkpoint holds."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import composed
from PIL import Image
from test_csv_table import rows as csv_rows
from test_csv_table import write as write_csv

from iolaus.build import build, make
from iolaus.check import plain
from iolaus.data.csv_table import CsvTable
from iolaus.data.hdf5 import Hdf5
from iolaus.data.image_folder import ImageFolder
from iolaus.data.npz import Npz
from iolaus.data.parquet import ParquetTable
from iolaus.data.scikit_learn import ScikitLearn
from iolaus.data.torchvision_images import TorchvisionImages
from iolaus.errors import UserError

RNG = np.random.default_rng(0)
REAL_TABLE = {"input_kind": "table", "input_shape": None, "target_kind": "real"}


def restored(data, cls, *positional, **settings):
    """A module that knows what the checkpoint of `data` holds, as plain containers, and nothing else."""
    state = json.loads(json.dumps(data.state_dict()))
    other = cls(*positional, **settings)
    other.load_state_dict(state)
    return other


def a_table(tmp_path, cls=CsvTable, **settings):
    path = write_csv(tmp_path / "t.csv", csv_rows())
    if cls is ParquetTable:
        path = str(tmp_path / "t.parquet")
        pd.read_csv(tmp_path / "t.csv").to_parquet(path)
    data = cls(path, "y", **REAL_TABLE, **settings)
    data.setup()
    return data, restored(data, cls, "gone", "y", **REAL_TABLE, **settings)


@pytest.mark.parametrize("cls", [CsvTable, ParquetTable])
def test_rows_of_a_table(tmp_path, cls):
    """The training's own file gives the training's own inputs; columns may stand in another order, the target be left out."""
    data, other = a_table(tmp_path, cls)
    inputs = data.datasets["train"].tensors[0]
    assert torch.equal(torch.stack(list(other.new_items(type(tmp_path)(data.path)))), inputs)
    frame = pd.read_csv(tmp_path / "t.csv")[["colour", "b", "a"]].assign(more=1)
    if cls is CsvTable:
        frame.to_csv(tmp_path / "new.csv", index=False)
    else:
        frame.to_parquet(tmp_path / "new.csv")
    assert torch.equal(torch.stack(list(other.new_items(tmp_path / "new.csv"))), inputs)
    (item,) = other.new_items("1.5, 3, green")
    assert torch.equal(item, torch.tensor([1.5, 3, 0, 1, 0]))


def test_gaps_and_unknown_categories_of_new_rows(tmp_path):
    """Filled with what the training rows gave where the run fills; a new category is none of the known ones."""
    data, other = a_table(tmp_path, missing="mean")
    (tmp_path / "new.csv").write_text("a,b,colour\n,3,violet\n1,NA,?\n")
    items = torch.stack(list(other.new_items(tmp_path / "new.csv")))
    mean = data.datasets["train"].tensors[0][data.rows["train"]].mean(0)
    torch.testing.assert_close(items, torch.tensor([[mean[0], 3, 0, 0, 0], [1, mean[1], 0, 0, 0]]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,colour\n1,red\n", "new.csv has no column 'b'"),
        ("a,bb,colour\n1,2,red\n", "new.csv has no column 'b'; did you mean 'bb'"),
        ("a,b,colour\n1,,red\n", "new.csv line 2, column 'b': the cell is empty"),
        ("a,b,colour\n1,2,red\n1,x,red\n", "new.csv line 3, column 'b': 'x' is not a number"),
        ("a,b,colour\n", "new.csv has column names and no rows"),
        ("", "new.csv is empty"),
    ],
)
def test_faults_of_new_rows_are_told(tmp_path, text, words):
    _, other = a_table(tmp_path)
    (tmp_path / "new.csv").write_text(text)
    with pytest.raises(UserError) as told:
        list(other.new_items(tmp_path / "new.csv"))
    assert words in str(told.value)
    assert "data.path" not in str(told.value)


def test_faults_of_a_row_given_as_text_are_told(tmp_path):
    _, other = a_table(tmp_path)
    with pytest.raises(UserError, match="the text has 2 values and must have 3: a, b, colour"):
        list(other.new_items("1,2"))
    with pytest.raises(UserError, match="the text: line 1, column 'b': 'x' is not a number"):
        list(other.new_items("1,x,red"))


def pictures(folder, n=6):
    for label, level in (("cat", 60), ("dog", 190)):
        (folder / label).mkdir(parents=True)
        for i in range(n):
            pixels = RNG.normal(level, 20, (20 + i, 30)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert(("L", "RGB", "RGBA", "P")[i % 4]).save(folder / label / f"{i}.png")


@pytest.mark.parametrize("transforms", [[], [{"Resize": {"size": [5, 5]}}]])
def test_images_of_a_folder(tmp_path, transforms):
    """The training's own files give the training's own inputs, and class names need no folder."""
    pictures(tmp_path / "train")
    settings = {
        "size": (10, 12),
        "channels": 3,
        "input_kind": "image",
        "target_kind": "class",
        "transforms": transforms,
    }
    settings |= {"input_shape": (3, 10, 12)}
    data = ImageFolder(str(tmp_path / "train"), **settings)
    data.setup()
    other = restored(data, ImageFolder, "gone", **settings)
    assert other.class_names == ["cat", "dog"]
    items = torch.stack(list(other.new_items(tmp_path / "train")))
    assert torch.equal(items, data.datasets["train"].tensors[0])
    (item,) = other.new_items(tmp_path / "train" / "dog" / "2.png")
    assert torch.equal(item, items[8])


def test_faults_of_new_images_are_told(tmp_path):
    other = ImageFolder("gone", input_kind="image", input_shape=(3, 64, 64), target_kind="class")
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    for source, words in (
        (tmp_path / "bad.png", "bad.png cannot be read as an image"),
        (tmp_path / "empty", "empty holds no image"),
        ("a cat", "predict: give image files"),
    ):
        with pytest.raises(UserError, match=words):
            list(other.new_items(source))


@pytest.mark.parametrize(("name", "shape"), [("MNIST", (1, 28, 28)), ("CIFAR10", (3, 32, 32))])
def test_images_for_torchvisions_data_sets(tmp_path, name, shape):
    """An image of the data set's own size keeps its bytes; any other is resized, as by PIL."""
    pixels = RNG.integers(0, 256, (*shape[1:], shape[0]), dtype=np.uint8).squeeze()
    Image.fromarray(pixels).save(tmp_path / "0.png")
    Image.fromarray(pixels).resize((50, 40)).save(tmp_path / "1.png")
    data = TorchvisionImages(name, input_kind="image", input_shape=shape, target_kind="class")
    own, resized = data.new_items(tmp_path)
    assert torch.equal(own, torch.from_numpy(pixels.reshape(*shape[1:], -1)).permute(2, 0, 1))
    expected = np.asarray(Image.fromarray(pixels).resize((50, 40)).resize(shape[:0:-1], Image.Resampling.BILINEAR))
    assert torch.equal(resized, torch.from_numpy(expected.reshape(*shape[1:], -1).copy()).permute(2, 0, 1))


def test_images_for_the_digits(tmp_path):
    """scikit-learn's pixels go from 0 to 16; an image file of one gives it back."""
    from sklearn.datasets import load_digits

    data = ScikitLearn("digits", input_kind="image", input_shape=(1, 8, 8), target_kind="class", num_classes=10)
    digit = load_digits().images[5]
    Image.fromarray(np.round(digit / 16 * 255).astype(np.uint8)).save(tmp_path / "five.png")
    (item,) = data.new_items(tmp_path / "five.png")
    np.testing.assert_allclose(item[0], digit, atol=0.04)
    (tmp_path / "five.csv").write_text(",".join(map(str, digit.ravel())))
    (item,) = data.new_items(tmp_path / "five.csv")
    np.testing.assert_array_equal(item[0], digit)


@pytest.mark.parametrize(
    "text", ["5.1,3.5,1.4,0.2\n4.9,3.0,1.4,0.2\n", "a b c d\n5.1 3.5 1.4 0.2\n\n4.9  3.0 1.4 0.2", "5.1;3.5;1.4;0.2\n4.9 ;3.0;1.4;0.2"]
)  # fmt: skip
def test_rows_of_numbers(tmp_path, text):
    data = ScikitLearn("iris", input_kind="table", input_shape=(4,), target_kind="class", num_classes=3)
    (tmp_path / "new.txt").write_text(text)
    expected = torch.tensor([[5.1, 3.5, 1.4, 0.2], [4.9, 3.0, 1.4, 0.2]])
    assert torch.equal(torch.stack(list(data.new_items(tmp_path / "new.txt"))), expected)
    assert torch.equal(torch.stack(list(data.new_items("5.1, 3.5, 1.4, 0.2"))), expected[:1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2,3,4\n1,2,3\n", "new.txt line 2: has 3 values; an input is 4 numbers"),
        ("1,2,x,4\n", "new.txt line 1: 'x' is not a number"),
        ("1,2,nan,4\n", "new.txt line 1: 'nan' is not a number"),
        ("a,b,c,d\n", "new.txt: holds no row of 4 numbers"),
    ],
)
def test_faults_of_rows_of_numbers_are_told(tmp_path, text, words):
    data = ScikitLearn("iris", input_kind="table", input_shape=(4,), target_kind="class", num_classes=3)
    (tmp_path / "new.txt").write_text(text)
    with pytest.raises(UserError) as told:
        list(data.new_items(tmp_path / "new.txt"))
    assert words in str(told.value)


def write_arrays(path, **arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    return path


@pytest.mark.parametrize(("cls", "name"), [(Npz, "a.npz"), (Hdf5, "a.h5")])
@pytest.mark.parametrize("transforms", [[], [{"Resize": {"size": [4, 4]}}]])
def test_rows_of_arrays(tmp_path, cls, name, transforms):
    """Over several blocks, by the names of the run's arrays; targets need not be there."""
    inputs = RNG.integers(0, 256, (600, 6, 6), dtype=np.uint8)
    path = write_arrays(tmp_path / name, x=inputs, targets=np.arange(600) % 4)
    settings = {
        "inputs": "x",
        "input_kind": "image",
        "input_shape": None,
        "target_kind": "class",
        "transforms": transforms,
    }
    data = cls(str(path), **settings)
    data.setup()
    other = restored(data, cls, "gone", **settings | {"input_shape": (1, 6, 6)})
    assert other.class_names == ["0", "1", "2", "3"]
    new = write_arrays(tmp_path / f"new_{name}", x=inputs)
    items = torch.stack(list(other.new_items(new)))
    assert torch.equal(items, torch.stack([data.datasets["train"][row][0] for row in range(600)]))


@pytest.mark.parametrize(("cls", "name"), [(Npz, "a.npz"), (Hdf5, "a.h5")])
def test_faults_of_new_arrays_are_told(tmp_path, cls, name):
    data = cls("gone", input_kind="table", input_shape=(3,), target_kind="real")
    nan = np.zeros((300, 3))
    nan[270, 0] = np.nan
    for arrays, words in (
        ({"input": nan}, "has no array 'inputs'; did you mean 'input'"),
        ({"inputs": np.zeros((5, 4))}, r"'inputs' has shape \[5, 4\]; its rows must have the shape \[3\]"),
        ({"inputs": nan}, "row 270 of 'inputs' has a value that is NaN"),
    ):
        with pytest.raises(UserError, match=words):
            list(data.new_items(write_arrays(tmp_path / name, **arrays)))
    (tmp_path / "t.csv").write_text("1,2,3\n")
    with pytest.raises(UserError, match=r"t\.csv is not an? .* by its first bytes"):
        list(data.new_items(tmp_path / "t.csv"))
    with pytest.raises(UserError, match="give a file with the array 'inputs'"):
        list(data.new_items("1,2,3"))


@pytest.mark.parametrize("option", ["iris", "diabetes", "digits"])
def test_items_are_what_the_task_predicts_for(tmp_path, option):
    """A row that the data set has gives the prediction that it has there."""
    config = composed(f"data={option}")
    config.output_dir = str(tmp_path)
    run = build(config)
    inputs, _ = run.data.datasets["train"][7]
    (tmp_path / "new.csv").write_text(",".join(str(x) for x in inputs.flatten().tolist()))
    items = list(make(plain(config.data), "data").new_items(tmp_path / "new.csv"))
    (row,) = run.task.predict(items, run.data)
    preds = run.task.to_preds(run.task(inputs[None]))[0]
    if option == "diabetes":
        assert row["prediction"] == pytest.approx(preds.item(), rel=1e-5)
    else:
        assert row["prediction"] == run.data.class_names[int(preds.argmax())]
        assert row["probability"] == pytest.approx(preds.max().item(), rel=1e-5)
