"""Multidimensional scaling: points that can be drawn are found, the comparison and the path are what they say."""

import csv

import numpy as np
import pytest
import torch
from forked import Child, differences, kill_at_step
from PIL import Image
from scipy.optimize import minimize
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform

from iolaus.data.distances import CITIES, haversine
from iolaus.exhibits import Animation
from iolaus.model.points import Points
from iolaus.task.scaling import MOST_FRAMES, Scaling, classical, placed, smacof_map, stresses

RNG = np.random.default_rng(0)
PLANE = RNG.normal(size=(12, 2)) * [30, 10]
NAMES = [f"p{i}" for i in range(12)]


def write(path, points):
    rows = [[name, *row] for name, row in zip(NAMES, squareform(pdist(points)).tolist(), strict=True)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["", *NAMES], *rows])


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def a_task(points, scale=1.0):
    """A task whose map is these points."""
    model = Points(len(points), points.shape[1])
    metrics = {"train": {}, "val": {}, "test": {}}
    task = Scaling(model=model, loss=torch.nn.MSELoss(), metrics=metrics, optimizer=torch.optim.SGD)
    task.fit_statistics({"target": (torch.zeros(()), torch.tensor(scale))})
    model.points.data = torch.as_tensor(points / scale**0.5, dtype=torch.float32)
    return task


@pytest.mark.slow
def test_points_in_a_plane_are_found(command, tmp_path):
    """Up to rotation and mirroring, in their own unit; SMACOF finds the same."""
    write(tmp_path / "plane.csv", PLANE)
    outcome = command("data=distance_matrix", "data.path=plane.csv", "data.unit=m", "output_dir=run")
    assert outcome.code == 0, outcome.text
    scores = outcome.results["metrics"]["test"]
    assert scores["stress/test"] < 1e-4
    assert scores["loss/test"] < 1e-6
    assert scores["disparity/test"] < 1e-6
    assert "disparity" in outcome.text
    found = np.array([[float(row["x"]), float(row["y"])] for row in table(outcome.folder / "samples/coordinates.csv")])
    assert procrustes(PLANE, found)[2] < 1e-6
    np.testing.assert_allclose(pdist(found), pdist(PLANE), atol=1e-3 * pdist(PLANE).max())
    assert [row["map"] for row in table(outcome.folder / "samples/stress.csv")] == ["this map", "SMACOF"]
    with Image.open(outcome.folder / "figures/path.gif") as path:
        assert 2 < path.n_frames <= MOST_FRAMES + 2
    assert (outcome.folder / "figures/map.png").exists()
    assert (outcome.folder / "figures/shepard.png").exists()


def test_cities_at_a_stress_that_a_plane_needs(command):
    """The least that scipy finds from the run's end, so that the end is a minimum."""
    outcome = command("data=distances", "data.name=cities", "output_dir=run", "task.smacof_max_iter=0")
    assert outcome.code == 0, outcome.text
    assert "disparity/test" not in outcome.results["metrics"]["test"]
    places = torch.tensor(list(CITIES.values()), dtype=torch.float64)
    given = haversine(places[:, None], places[None]).numpy()[np.triu_indices(30, 1)] ** 2
    scale = given.mean()

    def stress(flat):
        return np.mean((pdist(flat.reshape(30, 2), "sqeuclidean") - given / scale) ** 2)

    weights = torch.load(outcome.folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]["model.points"]
    least = minimize(stress, weights.double().numpy().ravel(), method="BFGS").fun
    assert outcome.results["metrics"]["test"]["loss/test"] == pytest.approx(least, rel=1e-4)


def test_smacof_is_scikit_learns(monkeypatch):
    """From the classical solution it is no worse than scikit-learn's best of several random starts."""
    from sklearn.manifold import MDS

    distances = squareform(pdist(RNG.normal(size=(20, 4))))
    rows, columns = np.triu_indices(20, 1)

    def raw(points):
        return ((pdist(points) - distances[rows, columns]) ** 2).sum()

    arguments = {"n_init": 4, "random_state": 0, "normalized_stress": False, "eps": 1e-9, "max_iter": 1000}
    try:
        reference = MDS(2, metric="precomputed", init="random", **arguments)
    except TypeError:  # older versions
        reference = MDS(2, dissimilarity="precomputed", **arguments)
    assert raw(smacof_map(distances, 2, 1000)) <= 1.05 * raw(reference.fit_transform(distances))
    assert raw(smacof_map(distances, 2, 300)) < raw(classical(distances, 2))


def test_classical_scaling_is_exact_where_it_can_be():
    np.testing.assert_allclose(pdist(classical(squareform(pdist(PLANE)), 2)), pdist(PLANE), rtol=1e-9)


def test_stress_of_both_kinds():
    """A map twice as large: squares are 4 times, distances twice the given ones."""
    squared, plain = stresses(squareform(pdist(PLANE)), 2 * PLANE)
    assert squared == pytest.approx(3)
    assert plain == pytest.approx(1)


def misfit(x, squares):
    """Of a place on the plane to squared distances."""
    return ((((x - PLANE) ** 2).sum(1) - squares) ** 2).sum()


def test_new_points_are_placed():
    """Exactly where distances are those of a place on the map; else no worse than scipy's best of many starts."""
    points = torch.as_tensor(PLANE)
    place = torch.tensor([3.0, -5.0], dtype=torch.float64)
    found, stress = placed(points, (points - place).square().sum(1))
    torch.testing.assert_close(found, place)
    assert stress < 1e-6
    for _ in range(5):
        squares = torch.as_tensor(RNG.uniform(0, 900, len(PLANE)))
        found, _ = placed(points, squares)

        best = min(minimize(misfit, start, squares.numpy()).fun for start in RNG.normal(size=(20, 2)) * 20)
        assert misfit(found.numpy(), squares.numpy()) <= best * (1 + 1e-6)


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_predictions_are_in_the_frame_of_the_map(dim):
    """A point of the map, asked for by its own distances, is placed where the map shows it."""
    points = np.random.default_rng(dim).normal(size=(9, dim)) * 50
    task = a_task(points, scale=400.0)
    distances = torch.as_tensor(squareform(pdist(points))[4])
    (row,) = task.predict([("again", distances)], None)
    name, *where, stress = row.values()
    assert name == "again"
    assert stress < 1e-3
    np.testing.assert_allclose(where, task._axes().place(task._points())[4], atol=0.05)
    assert list(row)[1:-1] == [["x"], ["x", "y"], ["x", "y", "z"], ["x1", "x2", "x3", "x4"]][dim - 1]


def test_the_path_does_not_spin():
    """An earlier map that is this one rotated, mirrored and moved is shown as this one."""
    task = a_task(PLANE)
    angle = 1.0
    turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [-np.sin(angle), -np.cos(angle)]], dtype=torch.float64)
    axes = task._axes()
    turned = axes.turned(torch.as_tensor(PLANE) @ turn + 7)
    np.testing.assert_allclose(axes.place(turned), axes.place(torch.as_tensor(PLANE)), atol=1e-4)


@pytest.mark.slow
def test_few_frames_are_kept(command):
    """Every other one is forgotten when they become many; the first stays."""
    outcome = command(
        "data=distances",
        "data.num_points=5",
        "optim=sgd",
        "optim.lr=0.01",
        "trainer.max_epochs=130",
        "output_dir=run",
        "stages=[fit]",
    )
    assert outcome.code == 0, outcome.text
    path = torch.load(outcome.folder / "checkpoints/last.ckpt", weights_only=True)["map_path"]
    assert path["every"] == 4
    assert path["frames"].shape == (130 // 4 + 1, 5, 2)


@pytest.mark.slow
def test_the_path_survives_a_kill(tmp_path):
    arguments = (
        *("data=distances", "data.num_points=20", "data.batch_size=50", "optim=adam", "trainer.max_epochs=6"),
        *("callbacks.resume_points.every_n_steps=3", "stages=[fit]"),
    )
    assert Child(tmp_path, *arguments, "output_dir=whole").wait() == 0
    assert Child(tmp_path, *arguments, "output_dir=killed", before=kill_at_step(14)).wait() == -9
    assert Child(tmp_path, "resume=killed").wait() == 0
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
    path = torch.load(tmp_path / "killed/checkpoints/last.ckpt", weights_only=True)["map_path"]
    assert path["frames"].shape == (7, 20, 2)


def test_another_model_is_told():
    with pytest.raises(ValueError, match="take model=points"):
        Scaling(model=torch.nn.Linear(2, 2), loss=torch.nn.MSELoss(), metrics={}, optimizer=torch.optim.SGD)


@pytest.mark.slow
def test_other_dimensions(command):
    for dim in (1, 3):
        outcome = command(
            *("data=distances", "data.num_points=8", f"model.dim={dim}", "trainer.max_epochs=1", f"output_dir=run{dim}")
        )
        assert outcome.code == 0, outcome.text
        assert (outcome.folder / "figures/path.gif").exists()


def test_animation_is_an_exhibit():
    """Each frame is the map of then, with its title."""

    class Data:
        point_names, labels, class_names, unit, seed = NAMES, None, None, "m", 0
        distances = torch.as_tensor(squareform(pdist(PLANE)))

    shown = a_task(PLANE).show(Data)
    path = shown["path"]
    assert isinstance(path, Animation)
    (frame,) = path.frames
    assert frame.title == "the map"
    assert frame.names == NAMES
