"""Values that are not defined and classes that are never predicted: told with the reason, and null in strict JSON."""

import ast
import json
import math

import numpy as np
import pytest
import torch
from conftest import ROOT, composed
from torch.utils.data import TensorDataset

from iolaus import cli
from iolaus.build import build_task
from iolaus.check import plain
from iolaus.data.base import DataModule
from iolaus.diagnosis import undefined_values, unpredicted_classes
from iolaus.errors import UserError
from iolaus.run_report import best_columns
from iolaus.runs import note_results, read_results
from iolaus.strict_json import to_json
from iolaus.tables import table_text


def strictly(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_is_written_in_one_place():
    """json.dumps writes NaN, which only Python reads."""
    for file in [*(ROOT / "src").rglob("*.py"), ROOT / "train.py"]:
        for node in ast.walk(ast.parse(file.read_text())):
            writes = isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps")
            if writes and isinstance(node.value, ast.Name) and node.value.id in ("json", "orjson", "simplejson"):
                assert file.name == "strict_json.py", f"{file}, line {node.lineno}: write JSON by to_json"
            if isinstance(node, ast.ImportFrom) and node.module == "json":
                assert not {alias.name for alias in node.names} & {"dump", "dumps"}, file


def test_numbers_that_are_not_finite_become_null():
    value = {"a": [1.5, math.nan, {"b": (math.inf, -math.inf, None, True)}], "c": np.float64("nan")}
    assert strictly(to_json(value)) == {"a": [1.5, None, {"b": [None, None, None, True]}], "c": None}


def test_results_of_earlier_versions_are_read(tmp_path):
    """They hold bare NaN; results of today hold null."""
    for text in ("NaN", "null"):
        (tmp_path / "results.json").write_text(
            f'{{"metrics": {{"best": null, "test": {{"auroc/test": {text}, "loss/test": 1.5}}}}, "objective": {{"value": null}}}}'
        )
        results = read_results(tmp_path)
        assert math.isnan(results["metrics"]["test"]["auroc/test"])
        assert results["objective"]["value"] is None
        assert "nan" in table_text("a run", best_columns(results))
        note_results(tmp_path, {"status": "failed"})
        assert strictly((tmp_path / "results.json").read_text())["metrics"]["test"] == {
            "auroc/test": None,
            "loss/test": 1.5,
        }


def table(path, labels):
    rows = "".join(f"{number % 7},{number % 3},{label}\n" for number, label in enumerate(labels))
    path.write_text(f"a,b,label\n{rows}")


def test_a_test_split_of_one_class(command, tmp_path, capfd):
    """By the run, and by the test of the finished run."""
    table(tmp_path / "train.csv", ["sick" if number % 8 == 0 else "well" for number in range(80)])
    table(tmp_path / "test.csv", ["well"] * 20)
    outcome = command(
        *("data=csv", "data.path=train.csv", "data.target=label", "data.test_path=test.csv", "model=linear"),
        *("trainer=cpu", "trainer.max_epochs=1", "logger=[]", "callbacks=default", "output_dir=run"),
    )
    assert outcome.code == 0, outcome.text
    assert "auroc/test is not defined (nan; null in JSON): the split has samples of one class only" in outcome.text
    assert "positive_recall/test is not defined" in outcome.text
    assert "; positive: sick" in outcome.text  # the rarer one
    found = strictly((tmp_path / "run/results.json").read_text())["metrics"]["test"]
    undefined = {name for name, value in found.items() if value is None}
    assert undefined >= {"auroc/test", "average_precision/test", "positive_recall/test"}
    capfd.readouterr()
    cli.main(["test", "run", "--json"])
    printed = capfd.readouterr()
    assert strictly(printed.out)["metrics"] == found
    assert "warning: auroc/test is not defined" in printed.err


def task_with(data, outputs, target):
    settings = plain(composed(f"data={data}", "model=linear"))
    task = build_task(settings)
    task.test_scores.add(torch.tensor(1.0), outputs, target, len(target))
    values = task.test_scores.compute()
    task.figures = {"confusion_matrix": values["confusion_matrix"]}
    return task, values


def test_classes_that_are_never_predicted():
    """A class that does not occur need not be."""
    target = torch.tensor([0, 0, 2, 2])
    task, _ = task_with("iris", torch.tensor([[1.0, 0, 0]] * 4), target)
    (line,) = unpredicted_classes(task, ["setosa", "versicolor", "virginica"])
    assert line == "test: never predicted, though the test split has samples of it: class 'virginica'"
    task, _ = task_with("iris", torch.nn.functional.one_hot(target, 3).float(), target)
    assert list(unpredicted_classes(task, None)) == []


def test_every_undefined_value_has_a_reason():
    task, values = task_with("breast_cancer", torch.tensor([[1.0, 0.0]] * 4), torch.tensor([0, 0, 0, 0]))
    numbers = {f"{name}/test": float(v) for name, v in values.items() if torch.is_tensor(v) and v.numel() == 1}
    lines = dict(line.split(" is not defined (nan; null in JSON): ") for line in undefined_values(task, numbers))
    assert lines == {
        "auroc/test": "the split has samples of one class only",
        **dict.fromkeys(
            ("average_precision/test", "positive_f1/test", "positive_recall/test"),
            "the split has no sample of the positive class",
        ),
    }
    (line,) = undefined_values(task, {"loss/val": math.inf, "accuracy/val": 0.5})
    assert line == "loss/val is not defined (inf; null in JSON): look for extreme values in the val split"


class Labels(DataModule):
    """Rows with these labels."""

    def __init__(self, labels, num_classes=2, **base):
        super().__init__("table", [1], "class", num_classes, **base)
        self.labels = torch.tensor(labels)

    def load(self):
        return {"train": TensorDataset(torch.zeros(len(self.labels), 1), self.labels)}


def positive(labels, **settings):
    data = Labels(labels, val_fraction=0, test_fraction=0, **settings)
    data.setup()
    return data.facts()["positive"]


def test_the_positive_class_is_the_rarer_one_or_the_chosen_one():
    names = ["ill", "well"]
    assert positive([0] * 5 + [1] * 20, class_names=names) == "ill"
    assert positive([0] * 20 + [1] * 5, class_names=names) == "well"
    assert positive([0] * 9 + [1] * 9) == "1"
    assert positive([0] * 20 + [1] * 5, class_names=names, positive="ill") == "ill"
    assert positive([0] * 20 + [1] * 5, class_names=["false", "true"], positive=False) == "false"
    assert positive([0, 1, 2] * 5, num_classes=3) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"positive": "il", "class_names": ["ill", "well"]},
            r"no class 'il'; did you mean 'ill'\?  \(there are: ill, well\)",
        ),
        ({"positive": 2}, r"no class 2.*\(there are: 0, 1\)"),
        ({"positive": "1", "num_classes": 3}, "one of two classes, and these data have 3 classes"),
    ],
)
def test_a_positive_class_that_is_none(settings, words):
    with pytest.raises(UserError, match=words):
        positive([0, 1] * 9, **settings)


def test_multi_class_runs_keep_their_scores():
    names = set(composed("data=iris").metrics)
    settings = plain(composed("data=iris"))
    kept = set(build_task(settings).val_scores.metrics)
    assert kept == {"accuracy", "precision", "recall", "f1", "auroc"}
    assert names > kept


def test_labels_outside_memory_need_no_rarer_class():
    data = Labels([0, 1], val_fraction=0, test_fraction=0)
    data._targets = lambda name: None
    assert data.facts()["positive"] == "1"
