"""What goes with what: every pair is tried, and either trains two steps or is refused by the check with a reason."""

import itertools
import re

import pytest
from conftest import CONF, ROOT, composed, options, read_yaml

from iolaus.build import build
from iolaus.check import check
from iolaus.errors import ConfigError
from iolaus.preflight import preflight

# Data sets that need no download, small where they have a size.
DATA = dict.fromkeys(("breast_cancer", "diabetes", "digits", "iris", "line", "wine", "zero"), ()) | {
    "stdlib": ("data.size=60000", "data.input_shape=[16]"),
    "number_words": ("data.size=200",),
    "morse": ("data.size=60", "data.num_words=[1,1]"),
    "interactions": ("data.num_users=40", "data.num_items=60", "data.impressions=30", "data.num_candidates=10"),
    "distances": ("data.num_points=20",),
}
FEW = ("digits",)  # which the fast tests try; the contract tests try a table too
MODELS = options("model")
LOSSES = options("loss")
TABLE = ROOT / "docs" / "combinations.md"
# Large networks are tried by the slow tests.
LARGE = {"resnet34", "resnet50"}
SMALLER = {"mlp": ["model.hidden_dims=[8]"], "cnn": ["model.hidden_dim=8"], "resnet18": ["data.batch_size=16"]}
NEEDED = {
    "model=additive optim=sparse_adam": ["model.sparse=true"],
    "optim=sparse_adam": ["model=additive", "model.sparse=true"],
    "loss=poisson_nll": ["data.standardize=false"],
}


def reason(*overrides):
    """Why the check refuses these settings; None when it does not."""
    config = composed(*overrides)
    try:
        check(config, dict(o.split("=") for o in overrides if "." not in o.split("=")[0]), [CONF])
    except ConfigError as error:
        return "; ".join(error.problems)
    return None


def trains(tmp_path, *overrides):
    """Two steps, with the trial batch before; losses that are not finite or shapes that do not fit raise."""
    config = composed(
        *overrides, "trainer.max_steps=2", "logger=[]", "+callbacks.none=null", "objective.monitor=loss/train"
    )
    config.callbacks = {k: v for k, v in config.callbacks.items() if k in ("swa", "ema")}
    config.output_dir = str(tmp_path)
    run = build(config)
    preflight(run)
    before = {name: value.clone() for name, value in run.task.named_parameters()}
    run.trainer.fit(run.task, datamodule=run.data)
    assert run.trainer.global_step == 2
    assert any((before[name] != value).any() for name, value in run.task.named_parameters())


@pytest.mark.parametrize("model", [pytest.param(m, marks=[pytest.mark.slow] if m in LARGE else []) for m in MODELS])
@pytest.mark.parametrize("data", [pytest.param(d, marks=[] if d in FEW else [pytest.mark.slow]) for d in DATA])
def test_models_and_data(model, data, tmp_path):
    why = reason(f"model={model}", f"data={data}", "objective.monitor=loss/train")
    accepted, facts = composed(f"model={model}")["model"]["_accepts_"], composed(f"data={data}").data
    if all(facts[fact] in kinds for fact, kinds in accepted.items()):
        assert why is None
        trains(tmp_path, f"model={model}", f"data={data}", *DATA[data], *SMALLER.get(model, []))
    else:
        assert why is not None
        assert f"model={model} with data={data}: it wants" in why


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("data", [pytest.param("iris", marks=pytest.mark.slow), "diabetes"])
def test_losses_and_tasks(loss, data, tmp_path):
    more = NEEDED.get(f"loss={loss}", [])
    why = reason(f"data={data}", f"loss={loss}", *more)
    if composed(f"data={data}").data.target_kind in read_accepted(loss):
        assert why is None
        trains(tmp_path, f"data={data}", f"loss={loss}", *more)
    else:
        assert why is not None
        assert f"loss={loss} with data={data}: it wants" in why
        assert re.search(r"try loss=(cross_entropy|mse)", why)


def read_accepted(loss):
    node = read_yaml(CONF / "loss" / f"{loss}.yaml")
    if "_accepts_" not in node:
        node = read_yaml(CONF / "loss" / f"{node['defaults'][0]}.yaml")
    return node["_accepts_"]["target_kind"]


def covering(*axes):
    """Rows that hold every pair of values of two axes at least once, chosen greedily."""
    open_pairs = {
        ((i, a), (j, b))
        for (i, first), (j, second) in itertools.combinations(enumerate(axes), 2)
        for a in first
        for b in second
    }
    every = list(itertools.product(*axes))
    rows = []

    def pairs(row):
        return set(itertools.combinations(enumerate(row), 2))

    while open_pairs:
        best = max(every, key=lambda row: len(pairs(row) & open_pairs))
        rows.append(best)
        open_pairs -= pairs(best)
    return rows


TRIPLES = covering(options("optim"), options("scheduler"), ["none", "ema", "swa"])


def test_every_pair_is_covered():
    for i, j in ((0, 1), (0, 2), (1, 2)):
        axes = (options("optim"), options("scheduler"), ["none", "ema", "swa"])
        assert {(t[i], t[j]) for t in TRIPLES} == set(itertools.product(axes[i], axes[j]))


def first_rows(rows):
    """The rows until every value has been there once; the fast tests try these, the slow ones the rest."""
    seen, found = set(), []
    for row in rows:
        if not seen.issuperset(enumerate(row)):
            found.append(row)
        seen.update(enumerate(row))
    return found


FAST = first_rows(TRIPLES)
# Optimizers without a momentum that one-cycle could cycle.
NO_MOMENTUM = {"adadelta", "adafactor", "adagrad", "asgd", "lbfgs", "muon", "rprop"}


@pytest.mark.parametrize(
    ("optim", "scheduler", "average"),
    [pytest.param(*row, marks=[] if row in FAST else [pytest.mark.slow]) for row in TRIPLES],
)
def test_optimizers_schedules_and_averages(optim, scheduler, average, tmp_path):
    overrides = ["data=wine", f"optim={optim}", f"scheduler={scheduler}", *NEEDED.get(f"optim={optim}", [])]
    if average != "none":
        overrides += [f"callbacks=[{average}]", f"callbacks.{average}.start=0"]
    if scheduler == "one_cycle" and optim in NO_MOMENTUM:
        why = reason(*overrides)
        assert why is not None
        assert "has no momentum to cycle; set scheduler.cycle_momentum=false" in why
        overrides.append("scheduler.cycle_momentum=false")
    assert reason(*overrides) is None
    trains(tmp_path, *overrides, "model.hidden_dims=[8]" if optim != "sparse_adam" else "model.num_bins=4")


def table():
    """The two tables of docs/combinations.md."""

    def rows(names, columns, cell):
        yield "| | " + " | ".join(columns) + " |"
        yield "| --- |" + " --- |" * len(columns)
        for name in names:
            yield f"| `{name}` | " + " | ".join(cell(name, column) for column in columns) + " |"

    def model_cell(model, data):
        return "no" if reason(f"model={model}", f"data={data}", "objective.monitor=loss/train") else "yes"

    def loss_cell(loss, data):
        return "no" if reason(f"data={data}", f"loss={loss}", *NEEDED.get(f"loss={loss}", [])) else "yes"

    return "\n".join(
        [
            "## Models and data",
            "",
            *rows(MODELS, DATA, model_cell),
            "",
            "## Losses and tasks",
            "",
            *rows(
                LOSSES, ("iris", "diabetes", "stdlib", "number_words", "morse", "interactions", "distances"), loss_cell
            ),
        ]
    )


@pytest.mark.slow
def test_the_table_in_the_docs_is_this_one():
    """Written anew by `PYTHONPATH=. python tests/test_combinations.py`."""
    assert table() in TABLE.read_text()


if __name__ == "__main__":
    HEAD = """# What goes with what

Every pair of these is tried by `tests/test_combinations.py`: where it says yes two steps are trained, where it says no the check
refuses the command with the reason, before torch is imported. Optimizers, schedules and averages go together in any combination,
and the test covers every pair of them; one-cycle with an optimizer that has no momentum wants `scheduler.cycle_momentum=false`.
`optim=sparse_adam` wants a model with sparse gradients (`model=additive model.sparse=true`), `loss=poisson_nll` wants
`data.standardize=false`. `data=csv`, `image_folder`, `mnist` and the other image data sets go with what tables and images go with;
`text_file`, `tsv`, `speech_folder`, `interactions_csv` and `distance_matrix` with what the data at hand of their kind go with.

"""
    TABLE.write_text(HEAD + table() + "\n")
