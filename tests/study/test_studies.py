"""Studies against closed forms, counts and other people's optimizers."""

import math

import pytest
import torch

from iolaus.study.dimension import Dimension
from iolaus.study.gradient_cost import GradientCost
from iolaus.study.jacobian import Jacobian
from iolaus.study.map_methods import MapMethods
from iolaus.study.worked_function import WorkedFunction, closed_form, function


def test_the_worked_function_by_every_mode():
    """L(e, 4) = 4 + 2 = 6 with the gradient (4 / e, 1) (1 + 1 / 4); every exact mode to 1e-9, the random ones as far off as theory says."""
    point = torch.tensor([math.e, 4.0], dtype=torch.float64)
    assert function(point).item() == pytest.approx(6)
    torch.testing.assert_close(closed_form(point), torch.tensor([5 / math.e, 1.25], dtype=torch.float64))
    study = WorkedFunction(w1=math.e, w2=4.0)
    exhibits = study.run()
    assert exhibits.keys() == {"gradients", "directions", "steps"}
    for name in ("reverse", "forward, along each axis", "finite differences"):
        assert study.values[f"error of {name}"] < 1e-9
    for row in exhibits["gradients"].rows[4:]:
        assert float(row[3]) < 3 * float(row[4]), row[0]
    assert study.values["power of forward"] == pytest.approx(-0.5, abs=0.1)
    assert study.values["power of two_point"] == pytest.approx(-0.5, abs=0.1)
    double, single = (exhibits["steps"].curves[name] for name in ("float64", "float32"))
    assert double.min() < 1e-9 < 1e-6 < single.min() < 1e-3  # neither at an end of the range
    assert 0 < double.argmin() < len(double) - 1


def test_a_point_without_a_gradient_is_refused():
    with pytest.raises(ValueError, match="w1 must be above 1"):
        WorkedFunction(w1=0.5)


@pytest.mark.slow
def test_descent_by_random_directions_takes_n_times_the_steps():
    study = Dimension(dimensions=[8, 16, 32, 64], repeats=5)
    exhibits = study.run()
    assert study.values["power of n, reverse"] == pytest.approx(0, abs=1e-9)
    assert study.values["power of n, forward"] == pytest.approx(1, abs=0.15)
    assert study.values["power of n, two_point"] == pytest.approx(1, abs=0.15)
    steps = exhibits["dimension"].curves["two_point"]
    assert steps[-1] == pytest.approx(64 * math.log(100), rel=0.25)


def test_forward_and_reverse_jacobians_cost_the_same_at_as_many_outputs_as_inputs():
    study = Jacobian(outputs=[1, 50, 100, 200], hidden_dim=16)
    flops = study.run()["operations"].curves
    assert study.values["m / n where the operations are equal"] == 1.0
    assert flops["forward"][2] == flops["reverse"][2]
    assert flops["forward"][0] / flops["reverse"][0] == pytest.approx(100, rel=0.02)


@pytest.mark.slow
def test_the_price_of_a_gradient_has_a_row_for_each_network():
    study = GradientCost(widths=[1, 2], most_differences=100)
    exhibits = study.run()
    assert [row[0] for row in exhibits["prices"].rows] == ["85", "160"]
    assert exhibits["prices"].rows[1][-1] == ""  # too many parameters to be moved one by one
    assert exhibits["cost"].curves["2 d + 1 evaluations"] == [171.0, 321.0]


@pytest.mark.slow
def test_maps_by_every_method():
    """Methods that follow the gradient, and Powell's, find one map; SMACOF is best by its own criterion, and no better by the other."""
    study = MapMethods(num_points=6, repeats=1)
    table = study.run()["methods"]
    square = {row[0]: study.values[f"squared distances, {row[0]}"] for row in table.rows}
    plain = {row[0]: study.values[f"distances, {row[0]}"] for row in table.rows}
    best = square["reverse, L-BFGS"]
    for name in ("reverse, Adam", "finite differences, Adam", "Powell"):
        assert square[name] == pytest.approx(best, rel=1e-3)
    assert min(square.values()) > best * (1 - 1e-6)
    assert plain["SMACOF"] == min(plain.values())
    for name in ("forward, Adam", "two_point, Adam"):
        assert square[name] < 1.1 * best


def test_a_study_is_a_command(command):
    outcome = command("study=jacobian", "study.outputs=[50,100,200]", "study.hidden_dim=8")
    assert outcome.code == 0, outcome.text
    assert "m / n where the operations are equal: 1" in outcome.text
    assert outcome.results["metrics"]["study"]["m / n where the operations are equal"] == 1.0
    assert outcome.results["status"] == "completed"
    assert outcome.folder.parent.name == "jacobian"
    assert "figures/operations.png" in (outcome.folder / "report.md").read_text()
    assert {f.name for f in (outcome.folder / "figures").iterdir()} == {"operations.png", "times.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["study=jacobian", "stages=[fit]"],
            "stages: study goes with stages=[study], which is what study=NAME sets; received ['fit']",
        ),
        (["stages=[study]"], "stages: a study is done alone and by its name, as in study=worked_function"),
        (["study=jacobian", "study.input=3"], "study.input: "),
        (["study=dimension", "study.dimensions=[]"], "study: Dimension: dimensions must be two whole numbers or more"),
        (["study=worked_function", "study.w1=0.5"], "study: WorkedFunction: w1 must be above 1"),
        (
            ["study=map_methods", "study.num_points=100"],
            "study: MapMethods: num_points must be between 3 and the 30 cities",
        ),
    ],
)
def test_wrong_studies_are_told(arguments, message, command):
    outcome = command(*arguments)
    assert outcome.code == 1
    assert message in outcome.text
    assert "Traceback" not in outcome.text
