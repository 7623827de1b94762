"""Signatures read from source against `inspect.signature` of the imported classes."""

import ast
import importlib
import inspect

import pytest

from iolaus.signature import UNKNOWN, Definition, Missing, accepts, attribute, describe, find, signature

MODULES = {
    "torch.optim": "Optimizer",
    "torch.optim.lr_scheduler": "LRScheduler",
    "torch.nn": "Module",
    "torchmetrics.classification": "Metric",
    "torchmetrics.regression": "Metric",
    "torchmetrics.text": "Metric",
    "pytorch_lightning.callbacks": "Callback",
    "pytorch_lightning.loggers": "Logger",
}


def classes():
    for module, base in MODULES.items():
        members = vars(importlib.import_module(module))
        for name, cls in sorted(members.items()):
            if inspect.isclass(cls) and any(b.__name__ == base for b in cls.__mro__) and not name.startswith("_"):
                yield pytest.param(cls, f"{module}.{name}", id=f"{module}.{name}")


ALL = list(classes())


def test_many_classes_are_compared():
    assert len(ALL) > 250


@pytest.mark.parametrize(("cls", "target"), ALL)
def test_no_argument_is_refused_wrongly(cls, target):
    found = find(target)
    if found is None:
        return  # the source does not tell: nothing is judged
    assert isinstance(found, Definition), found
    known = signature(found)
    if known is None:
        return
    parameters = inspect.signature(cls.__init__).parameters.values()
    for p in list(parameters)[1:]:
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            continue
        assert p.name in known.parameters or known.is_open, p.name
        if p.name in known.parameters and p.default is not p.empty:
            assert not known.parameters[p.name].required, p.name


@pytest.mark.parametrize("target", ["torch.optim.Adam", "torch.optim.SGD", "torch.nn.Linear", "torch.nn.MSELoss"])
def test_arguments_are_read_exactly(target):
    module, _, name = target.rpartition(".")
    real = list(inspect.signature(getattr(importlib.import_module(module), name).__init__).parameters)[1:]
    assert list(signature(find(target)).parameters) == real


def test_metrics_know_their_base_class_arguments():
    known = signature(find("torchmetrics.classification.MulticlassAccuracy"))
    assert "dist_sync_on_step" in known.parameters
    assert not known.is_open


@pytest.mark.parametrize(
    ("target", "expected"), [("MulticlassAccuracy", True), ("MulticlassHingeLoss", False), ("MulticlassROC", None)]
)
def test_class_attributes_are_read(target, expected):
    assert attribute(find(f"torchmetrics.classification.{target}"), "higher_is_better") is expected


def test_an_attribute_that_is_not_there():
    assert attribute(find("torch.optim.Adam"), "higher_is_better") is UNKNOWN


def test_missing_names():
    found = find("torch.optim.Adamm")
    assert isinstance(found, Missing)
    assert "Adam" in found.candidates
    assert find("no_such_package.Thing") == Missing("no_such_package", None)


@pytest.mark.parametrize(
    ("annotation", "value", "fits"),
    [
        ("int", 3, True),
        ("int", 3.5, False),
        ("int", True, False),
        ("float", 3, True),
        ("float", "3", False),
        ("bool", 1, False),
        ("str | None", None, True),
        ("Optional[int]", "ten", False),
        ("Union[int, float, None]", 2.5, True),
        ("float | Tensor", "fast", False),
        ("Literal['min', 'max']", "maximum", False),
        ("'Literal[1, 2]'", 2, True),
        ("Sequence[int]", [1, 2], True),
        ("Sequence[int]", [1, "two"], False),
        ("tuple[float, float]", 0.9, False),
        ("Path", "x", None),
        ("Something[int]", 3, None),
    ],
)
def test_values_against_annotations(annotation, value, fits):
    assert accepts(ast.parse(annotation, mode="eval").body, value) is fits


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ("float | Tensor", "a number"),
        ("Optional[int]", "a whole number or null"),
        ("Sequence[int]", "a list of whole numbers"),
        ("Literal['min', 'max']", "min or max"),
    ],
)
def test_annotations_in_words(annotation, words):
    assert describe(ast.parse(annotation, mode="eval").body) == words
