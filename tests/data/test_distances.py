"""Distances of points: known distances on the globe, pixels by scipy, a user's own matrix and its faults."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform

from iolaus.data.distance_matrix import DistanceMatrix
from iolaus.data.distances import CITIES, Distances, haversine
from iolaus.errors import UserError

FACTS = {
    "input_kind": "point_pair",
    "input_shape": (),
    "target_kind": "distance",
    "val_fraction": 0.0,
    "test_fraction": 0.0,
}


def ready(data):
    data.setup()
    return data


def write(path, names, matrix, corner="", separator=","):
    lines = [
        separator.join([corner, *names]),
        *(separator.join([n, *(str(v) for v in row)]) for n, row in zip(names, matrix, strict=True)),
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("one", "other", "km"), [("New York", "London", 5570), ("Sydney", "Tokyo", 7822), ("Paris", "London", 344)]
)
def test_distances_by_air(one, other, km):
    places = torch.tensor([CITIES[one], CITIES[other]], dtype=torch.float64)
    assert haversine(places[0], places[1]).item() == pytest.approx(km, rel=2e-3)


def test_great_circles_in_closed_form():
    """A quarter of the equator, pole to pole, and antipodes whose sum of squares is rounded above 1."""
    a = torch.tensor([[0.0, 0.0], [90.0, 0.0], [12.34, 56.78]], dtype=torch.float64)
    b = torch.tensor([[0.0, 90.0], [-90.0, 77.0], [-12.34, 56.78 - 180]], dtype=torch.float64)
    expected = torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64) * np.pi * 6371.0
    torch.testing.assert_close(haversine(a, b), expected)


def test_digits_are_the_distances_of_their_pixels():
    from sklearn.datasets import load_digits

    data = ready(Distances("digits", num_points=40, **FACTS))
    images, digits = load_digits(return_X_y=True)
    i, j, target = data.datasets["train"].tensors
    expected = squareform(pdist(images[:40]))
    np.testing.assert_allclose(target, expected[i, j] ** 2, rtol=1e-6)
    assert torch.equal(torch.stack([i, j]), torch.triu_indices(40, 40, 1))
    assert data.labels == digits[:40].tolist()
    assert data.facts()["num_points"] == 40
    assert data.facts()["batch_size"] == 40 * 39 // 2
    assert data.statistics()["target"][1].item() == pytest.approx((expected[i, j] ** 2).mean(), rel=1e-6)


def test_train_and_test_are_the_same_pairs():
    data = ready(Distances("cities", **FACTS))
    assert {name: len(rows) for name, rows in data.rows.items()} == {"train": 435, "test": 435}
    assert len(data.point_names) == 30


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "citties"}, "data.name: received 'citties'; did you mean 'cities'"),
        ({"name": "cities", "num_points": 31}, "data.num_points: must be from 3 to 30"),
        ({"name": "digits", "num_points": 2}, "data.num_points: must be from 3 to 1797"),
    ],
)
def test_other_names_and_numbers_are_told(settings, words):
    with pytest.raises(UserError, match=words):
        ready(Distances(**settings, **FACTS))


NAMES = ["north", "east", "south"]
GOOD = [[0, 3, 5], [3, 0, 4], [5, 4, 0]]


def changed(row, column, value, mirrored=True):
    matrix = [list(r) for r in GOOD]
    matrix[row][column] = value
    if mirrored:
        matrix[column][row] = value
    return matrix


def test_a_matrix_of_ones_own(tmp_path):
    matrix = changed(0, 1, 3.00001, mirrored=False)
    data = ready(DistanceMatrix(write(tmp_path / "d.csv", NAMES, matrix, "km", ";"), separator="semicolon", **FACTS))
    assert data.point_names == NAMES
    torch.testing.assert_close(data.datasets["train"].tensors[2], torch.tensor([3.000005**2, 25, 16]))


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (changed(0, 1, ""), "d.csv line 2, column 'east': the cell is empty"),
        (changed(0, 1, "far"), "d.csv line 2, column 'east': 'far' is not a number"),
        (changed(2, 1, -4), "d.csv line 3, column 'south': -4 is not a distance"),
        (changed(1, 2, "nan"), "d.csv line 3, column 'south': nan is not a distance"),
        (changed(1, 1, 2), "d.csv line 3, column 'east': the distance of a point to itself is 2; it must be 0"),
        (changed(1, 2, 4.5, mirrored=False), "line 3, column 'south': is 4.5, and line 4, column 'east': is 4; a distance must"),
        (GOOD[:2], "has 2 rows for 3 names"),
        ([[0, 3, 5], [3, 0], [5, 4, 0]], "d.csv line 3: has 2 distances for 3 names; the matrix must be square"),
        ([[0, 0, 0]] * 3, "all distances are 0"),
    ],
)  # fmt: skip
def test_faults_are_told_by_line_and_column(tmp_path, matrix, words):
    names = NAMES[: len(matrix)]
    write(tmp_path / "d.csv", names, matrix)
    if len(matrix) < 3:
        text = (tmp_path / "d.csv").read_text().splitlines()
        (tmp_path / "d.csv").write_text("\n".join(["," + ",".join(NAMES), *text[1:]]))
    with pytest.raises(UserError) as told:
        ready(DistanceMatrix(str(tmp_path / "d.csv"), **FACTS))
    assert str(told.value).startswith("data.path: ")
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: has 0 names; a map needs three points or more"),
        (",a,b\na,0,1\nb,1,0\n", "line 1: has 2 names"),
        (";a;b;c\n", "data.separator=','"),
        (",a,b,a\na,0,1,1\nb,1,0,1\na,1,1,0\n", "line 1: the name 'a' stands twice"),
        (",a,b,c\na,0,1,1\nc,1,0,1\nb,1,1,0\n", "line 3, column 1: the name is 'c', and 'b' in the first row"),
    ],
)
def test_faults_of_names_are_told(tmp_path, text, words):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(UserError) as told:
        ready(DistanceMatrix(str(tmp_path / "d.csv"), **FACTS))
    assert words in str(told.value)


def test_a_missing_file_is_told():
    with pytest.raises(UserError, match=r"data\.path: nowhere\.csv is not a file"):
        ready(DistanceMatrix("nowhere.csv", **FACTS))


def test_new_points_are_read(tmp_path):
    """Columns in any order and among others; what the map is made of comes from the state alone."""
    data = ready(DistanceMatrix(write(tmp_path / "d.csv", NAMES, GOOD), **FACTS))
    other = DistanceMatrix("gone.csv", **FACTS)
    other.load_state_dict(data.state_dict())
    (tmp_path / "new.csv").write_text("name,south,other,north,east\nwest,1,9,2,3\n\nhome,4,9,5,6\n")
    items = list(other.new_items(tmp_path / "new.csv"))
    assert [(name, values.tolist()) for name, values in items] == [("west", [2, 3, 1]), ("home", [5, 6, 4])]
    ((name, values),) = other.new_items("west, 2, 3, 1")
    assert (name, values.tolist()) == ("west", [2, 3, 1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,south,nort,east\nwest,1,2,3\n", "line 1: there is no column 'north'; did you mean 'nort'"),
        ("name,north,east,south\nwest,1,2\n", "line 2: has 3 cells"),
        ("name,north,east,south\nwest,1,,2\n", "line 2, column 'east': the cell is empty"),
        ("name,north,east,south\nwest,1,-3,2\n", "line 2, column 'east': -3 is not a distance"),
    ],
)
def test_faults_of_new_points_are_told(tmp_path, text, words):
    data = ready(DistanceMatrix(write(tmp_path / "d.csv", NAMES, GOOD), **FACTS))
    (tmp_path / "new.csv").write_text(text)
    with pytest.raises(UserError) as told:
        list(data.new_items(tmp_path / "new.csv"))
    assert words in str(told.value)
