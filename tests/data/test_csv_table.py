"""A user's table: columns told apart, gaps filled by the training rows, scikit-learn as the reference."""

import numpy as np
import pytest
import torch

from iolaus.data.csv_table import CsvTable
from iolaus.errors import UserError

FACTS = {"input_kind": "table", "input_shape": None, "val_fraction": 0.1, "test_fraction": 0.2}


def write(path, rows, header="a,b,colour,y"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def rows(n=50):
    return [f"{i * 0.5},{i % 7},{('red', 'green', 'blue')[i % 3]},{i * 2 + 0.5}" for i in range(n)]


def test_numbers_and_categories(tmp_path):
    data = CsvTable(write(tmp_path / "t.csv", rows()), "y", target_kind="real", **FACTS)
    data.setup()
    inputs, targets = data.datasets["train"].tensors
    assert data.input_shape == (5,)
    assert torch.equal(inputs[:, 0], torch.arange(50) * 0.5)
    assert torch.equal(inputs[:3, 2:], torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]]))  # blue, green, red
    assert torch.equal(targets[:, 0], torch.arange(50) * 2 + 0.5)
    assert {name: len(r) for name, r in data.rows.items()} == {"train": 35, "val": 5, "test": 10}


def test_statistics_are_the_training_rows_and_leave_categories(tmp_path):
    from sklearn.preprocessing import StandardScaler

    data = CsvTable(write(tmp_path / "t.csv", rows()), "y", target_kind="real", **FACTS)
    data.setup()
    mean, deviation = data.statistics()["input"]
    train = data.datasets["train"].tensors[0][data.rows["train"]].numpy()
    reference = StandardScaler().fit(train[:, :2])
    np.testing.assert_allclose(mean[:2], reference.mean_, rtol=1e-6)
    np.testing.assert_allclose(deviation[:2], reference.scale_, rtol=1e-6)
    assert torch.equal(mean[2:], torch.zeros(3))
    assert torch.equal(deviation[2:], torch.ones(3))


@pytest.mark.parametrize("missing", ["mean", "median"])
def test_gaps_are_filled_from_the_training_rows(tmp_path, missing):
    table = rows()
    for i in range(0, 50, 9):
        table[i] = "," + table[i].split(",", 1)[1]
    data = CsvTable(write(tmp_path / "t.csv", table), "y", missing=missing, target_kind="real", **FACTS)
    data.setup()
    column = data.datasets["train"].tensors[0][:, 0]
    known = [i for i in data.rows["train"].tolist() if i % 9]
    expected = (
        np.mean([i * 0.5 for i in known])
        if missing == "mean"
        else sorted(i * 0.5 for i in known)[(len(known) - 1) // 2]
    )
    assert column[0] == pytest.approx(expected)
    assert column[1] == 0.5


def test_rows_with_gaps_are_dropped(tmp_path):
    table = rows()
    table[3] = "1.5,,red,2"
    data = CsvTable(write(tmp_path / "t.csv", table), "y", missing="drop", target_kind="real", **FACTS)
    data.setup()
    assert len(data.datasets["train"]) == 49


def test_labels_are_ordered_as_numbers(tmp_path):
    table = [f"{i},{i % 5},red,{(2, 10, 1)[i % 3]}" for i in range(40)]
    data = CsvTable(write(tmp_path / "t.csv", table), "y", target_kind="class", **FACTS)
    data.setup()
    assert data.class_names == ["1", "2", "10"]
    assert data.datasets["train"].tensors[1][:3].tolist() == [1, 2, 0]


def test_a_table_of_its_own_for_the_test(tmp_path):
    train = write(tmp_path / "train.csv", rows())
    test = write(tmp_path / "test.csv", ["1,2,violet,3", "4,5,red,6"])
    data = CsvTable(train, "y", test_path=test, target_kind="real", **FACTS)
    data.setup()
    assert data.datasets["test"].tensors[0].tolist() == [[1, 2, 0, 0, 0], [4, 5, 0, 0, 1]]
    assert len(data.rows["val"]) == 5


def test_times_keep_their_digits(tmp_path):
    """Seconds since 1970 are beyond float32's seven digits; what varies is kept."""
    table = [f"{1_700_000_000 + i},{i}" for i in range(60)]
    data = CsvTable(write(tmp_path / "t.csv", table, "t,y"), "y", target_kind="real", **FACTS)
    data.setup()
    column = data.datasets["train"].tensors[0][:, 0]
    assert torch.equal(column - column[0], torch.arange(60.0))


def test_columns_named_by_numbers(tmp_path):
    data = CsvTable(write(tmp_path / "t.csv", ["1,2,3"] * 30, "1,2,3"), 3, drop=[1], target_kind="real", **FACTS)
    data.setup()
    assert list(data.encoding) == ["2"]


@pytest.mark.parametrize(("separator", "char"), [("tab", "\t"), ("\\t", "\t"), ("semicolon", ";"), ("|", "|")])
def test_separators_by_name(tmp_path, separator, char):
    (tmp_path / "t.csv").write_text(f"a{char}y\n" + f"1{char}2\n" * 30)
    data = CsvTable(str(tmp_path / "t.csv"), "y", separator=separator, target_kind="real", **FACTS)
    data.setup()
    assert data.input_shape == (1,)


def test_what_was_learned_travels(tmp_path):
    data = CsvTable(write(tmp_path / "t.csv", rows()), "y", target_kind="real", **FACTS)
    data.setup()
    other = CsvTable("elsewhere.csv", "y", target_kind="real", **FACTS)
    other.load_state_dict(data.state_dict())
    import pandas as pd

    new = pd.DataFrame({"a": ["1.5"], "b": ["2"], "colour": ["green"]})
    assert torch.equal(other.encode(new, "new"), data.encode(new, "new"))


def test_separators_and_byte_order_marks(tmp_path):
    (tmp_path / "t.csv").write_bytes("a;y\n".encode("utf-8-sig") + "".join(f"{i};{i}\n" for i in range(30)).encode())
    data = CsvTable(str(tmp_path / "t.csv"), "y", separator=";", target_kind="real", **FACTS)
    data.setup()
    assert data.input_shape == (1,)


def test_a_separator_that_is_another_one_is_told(tmp_path):
    (tmp_path / "t.csv").write_text("a;y\n1;2\n")
    data = CsvTable(str(tmp_path / "t.csv"), "y", target_kind="real", **FACTS)
    with pytest.raises(UserError, match=r"set data\.separator=semicolon"):
        data.setup()


def test_categories_that_the_training_did_not_have_are_told_once_a_column(tmp_path, caplog):
    """Whatever the number of rows; empty cells that are filled in are none, and what was taken is forgotten."""
    data = CsvTable(write(tmp_path / "t.csv", rows()), "y", missing="mean", target_kind="real", **FACTS)
    data.setup()
    assert not caplog.records
    new = write(
        tmp_path / "new.csv", ["1,2,red,3", "1,2,,3", *(f"1,2,{c},3" for c in ("violet", "pink") * 3000), "1,2,x,3"]
    )
    assert len(list(data.new_items(tmp_path / "new.csv"))) == 6003
    assert data.unseen.take() == [
        f"{new} line 4 column 'colour': 'violet', 'pink', 'x' were not seen in the training (6001 rows in all); they are predicted as one "
        "unknown category"
    ]
    assert data.unseen.take() == []
    many = write(tmp_path / "many.csv", [f"1,2,{i:050},3" for i in range(9)])
    list(data.new_items(tmp_path / "many.csv"))
    (line,) = data.unseen.take()
    shown = ", ".join(f"'{0:040}'" for _ in range(4))
    assert line.startswith(
        f"{many} line 2 column 'colour': {shown} and others were not seen in the training (9 rows in all)"
    )


def test_other_files_are_encoded_as_those_that_were_learned_from(tmp_path, caplog):
    """Numbers for categories, fill values and the order of columns are the training's, not the new file's."""
    gaps = ["1e3,,red,3", *rows()]
    data = CsvTable(write(tmp_path / "t.csv", gaps), "y", missing="mean", target_kind="real", **FACTS)
    data.setup()
    fill = float(data.datasets["train"].tensors[0][0, 1])
    lines = [f"{c},9,{b},{b or 0}" for c in ("red", "azure", "green") for b in (*range(9), "")]
    other = write(tmp_path / "o.csv", lines, "colour,more,b,y")
    again = CsvTable(other, "y", columns=["colour", "b"], missing="mean", target_kind="real", **FACTS)
    again.load_state_dict(data.state_dict())
    with pytest.raises(UserError, match=r"data\.path: .*o\.csv has no column 'a'"):
        again.setup()
    other = write(tmp_path / "o.csv", [f"{line},7" for line in lines], "colour,more,b,y,a")
    again.setup()
    inputs = again.datasets["train"].tensors[0]
    assert inputs[:, 0].unique().tolist() == [7]
    torch.testing.assert_close(inputs[:, 1].view(3, 10), torch.tensor([*range(9), fill]).expand(3, 10))
    colours = [[0, 0, 1], [0, 0, 0], [0, 1, 0]]  # of blue, green, red
    assert torch.equal(inputs[:, 2:], torch.tensor(colours).repeat_interleave(10, 0))
    assert [record.getMessage() for record in caplog.records] == [
        f"data.path: {other} line 12 column 'colour': 'azure' was not seen in the training (10 rows in all); it is predicted as an "
        "unknown category"
    ]
