"""What every option of a group must do, whichever it is: new options are tested by existing."""

import copy
import math

import pytest
import torch
from conftest import CONF, composed, options, read_yaml
from torch.utils._pytree import tree_leaves
from torchmetrics import MetricCollection

from iolaus.build import build, build_task, make
from iolaus.check import plain
from iolaus.preflight import preflight
from iolaus.rules import is_meant

KINDS = {"image": "data=digits", "table": "data=diabetes"}


# Small data of the other kinds, by their inputs, and what their targets are.
OTHERS = {
    "tokens": ["data=stdlib", "data.size=60000", "data.input_shape=[16]"],
    "sentence": ["data=number_words", "data.size=200"],
    "audio": ["data=morse", "data.size=60", "data.num_words=[1,1]"],
    "user_item": [
        "data=interactions",
        "data.num_users=40",
        "data.num_items=60",
        "data.impressions=30",
        "data.num_candidates=10",
    ],
    "point_pair": ["data=distances", "data.num_points=20"],
}
INPUTS = {
    "tokens": "tokens",
    "sentence": "sentence",
    "transcript": "audio",
    "click": "user_item",
    "distance": "point_pair",
}


def built(tmp_path, *overrides):
    config = composed(*overrides)
    config.output_dir = str(tmp_path)
    return build(config)


def first_batch(run):
    return next(iter(run.data.train_dataloader()))


def data_for(node):
    """A data set that a part accepts."""
    accepted = node.get("_accepts_", {})
    if accepted.get("target_kind") == ["real"]:
        return "data=diabetes"
    return "data=iris" if "image" not in accepted.get("input_kind", ["image"]) else "data=digits"


def settings_for(group, option, *more):
    node = read_yaml(CONF / group / f"{option}.yaml")
    if "_accepts_" not in node and node.get("defaults"):
        node = read_yaml(CONF / group / f"{node['defaults'][0]}.yaml")
    return plain(composed(f"{group}={option}", data_for(node), *more))


def a_batch(settings, n=16):
    torch.manual_seed(0)
    inputs = torch.randn(n, *settings["data"]["input_shape"])
    if settings["data"]["target_kind"] == "real":
        return inputs, torch.randn(n, settings["data"]["num_targets"])
    return inputs, torch.randint(settings["data"]["num_classes"], (n,))


def a_step(settings):
    """The task after one optimizer step, and its parameters before."""
    torch.manual_seed(0)
    task = build_task(settings)
    configured = task.configure_optimizers()
    before = copy.deepcopy(task.state_dict())
    loss = task.step(a_batch(settings))[0]
    loss.backward()

    def closure():
        configured["optimizer"].zero_grad()
        again = task.step(a_batch(settings))[0]
        again.backward()
        return again

    configured["optimizer"].step(closure)
    return task, before, loss, configured


LARGE = ("resnet34", "resnet50", "torchvision")  # of the same class as resnet18


@pytest.mark.parametrize(
    "option", [pytest.param(o, marks=[pytest.mark.slow] if o in LARGE else []) for o in options("model")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_models(option, kind):
    """Shape, gradients, the same output after a round trip of the weights, no state between two calls."""
    config = composed(f"model={option}", KINDS[kind])
    if kind not in config.model._accepts_.input_kind:
        return
    settings = plain(config)
    torch.manual_seed(0)
    model = make(settings["model"], "model")
    inputs, _ = a_batch(settings)
    output = model(inputs)
    assert output.shape == (len(inputs), settings["task"]["output_dim"])
    output.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all()
    model.eval()
    torch.manual_seed(1)
    other = make(settings["model"], "model").eval()
    assert not torch.equal(other(inputs), model(inputs))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(inputs), model(inputs))
    torch.testing.assert_close(model(inputs)[:3], model(inputs[:3]))


def accepts(option, kind):
    """Whether a model takes data of a kind of inputs, and the targets that go with them; of tokens these are tokens."""
    kinds = read_yaml(CONF / "model" / f"{option}.yaml").get("_accepts_", {})
    targets = ["tokens"] if kind == "tokens" else []
    return kind in kinds.get("input_kind", []) and set(targets) <= set(kinds.get("target_kind", targets))


MODELS_OF_OTHERS = [(option, kind) for option in options("model") for kind in OTHERS if accepts(option, kind)]


@pytest.mark.parametrize(("option", "kind"), MODELS_OF_OTHERS)
def test_models_of_other_kinds(option, kind, tmp_path):
    """As above, on a batch of the data: one or several inputs, one or several outputs."""
    run = built(tmp_path, *OTHERS[kind], f"model={option}")
    inputs = first_batch(run)[:-1]
    model = run.task.model
    leaves = [part for part in tree_leaves(model(*inputs)) if part.is_floating_point()]
    assert all(len(part) == len(inputs[0]) for part in leaves)
    sum(part.square().mean() for part in leaves).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all()
    model.eval()
    torch.manual_seed(1)
    other = make(run.config["model"], "model").eval()
    before = tree_leaves(model(*inputs))
    assert any(not torch.equal(a, b) for a, b in zip(before, tree_leaves(other(*inputs)), strict=True))
    other.load_state_dict(model.state_dict())
    for a, b in zip(before, tree_leaves(other(*inputs)), strict=True):
        assert torch.equal(a, b)
    for whole, part in zip(before, tree_leaves(model(*(i[:3] for i in inputs))), strict=True):
        torch.testing.assert_close(whole[:3], part, rtol=1e-4, atol=1e-5)
    model(*run.task.example(1)[:-1])
    run.task.step(run.task.example(2))


def declared(group, option):
    """What an option accepts, itself or by the one it is based on."""
    node = read_yaml(CONF / group / f"{option}.yaml")
    return node.get("_accepts_") or (declared(group, node["defaults"][0]) if node.get("defaults") else {})


LOSSES = [
    (option, kind) for option in options("loss") for kind in declared("loss", option).get("target_kind", ["class"])
]


@pytest.mark.parametrize(("option", "kind"), LOSSES)
def test_losses(option, kind, tmp_path):
    if kind in INPUTS:
        run = built(tmp_path, *OTHERS[INPUTS[kind]], f"loss={option}")
        loss = run.task.step(first_batch(run))[0]
    else:
        _, _, loss, _ = a_step(settings_for("loss", option))
    assert loss.ndim == 0
    assert loss.isfinite()
    assert loss > 0 or option in ("mean_bias", "poisson_nll")  # which have both signs


@pytest.mark.parametrize("option", options("optim"))
def test_optimizers(option):
    """A step moves every parameter, against the gradient of a small problem."""
    sparse = ["model=additive", "model.sparse=true"] if option == "sparse_adam" else []
    settings = settings_for("optim", option, *sparse)
    task, before, loss, _ = a_step(settings)
    for name, parameter in task.named_parameters():
        touched = parameter.grad.to_dense() != 0 if option == "sparse_adam" else torch.ones_like(parameter).bool()
        assert not torch.equal(before[name][touched], parameter[touched])
        assert torch.equal(before[name][~touched], parameter[~touched])
    assert task.step(a_batch(settings))[0] < loss


@pytest.mark.parametrize("option", options("gradient"))
def test_gradients(option, tmp_path):
    """A step's gradient is finite and never points uphill, the weights stay, and the same position gives the same one."""
    run = built(tmp_path, "data=iris", "model=linear", f"gradient={option}")
    task, batch = run.task, first_batch(run)
    before = copy.deepcopy(task.state_dict())
    found = []
    for estimate in (lambda: task.step(batch), *[lambda: task.gradient(task, task.step, batch, (3, 1))] * 2):
        task.zero_grad()
        estimate()[0].backward()
        found.append(torch.cat([p.grad.reshape(-1) for p in task.parameters()]))
    exact, once, again = found
    assert once.isfinite().all()
    assert torch.equal(once, again)
    assert once @ exact > 0
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


@pytest.mark.parametrize("option", options("scheduler"))
def test_schedules(option):
    """Rates stay positive or reach zero, finite, and a round trip of the state goes on in the same way."""
    settings = settings_for("scheduler", option)
    if "steps_per_epoch" in settings["scheduler"]:
        settings["scheduler"]["steps_per_epoch"] = 4  # the data tell it in a run
    _, _, _, configured = a_step(settings)
    scheduler = configured["lr_scheduler"]["scheduler"]
    takes_metric = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    for _ in range(12):
        scheduler.step(*([1.0] if takes_metric else []))
        rate = configured["optimizer"].param_groups[0]["lr"]
        assert math.isfinite(rate)
        assert 0 <= rate <= settings["optim"]["lr"] * 1.0001
    state = copy.deepcopy(scheduler.state_dict())
    scheduler.load_state_dict(state)
    assert scheduler.state_dict().keys() == state.keys()


REAL_TARGETS = ("regression", "mean_bias", "correlation")


def measured(option, num_classes):
    """Sixty predictions and targets of a group of metrics, and more arguments."""
    torch.manual_seed(0)
    if option in REAL_TARGETS:
        return torch.randn(60, 1), torch.randn(60, 1), {}
    if option == "scaling":
        return torch.rand(60), torch.rand(60), {}
    if option == "language_modeling":
        return torch.randn(60, 5, 10), torch.randint(10, (60, 5)), {}
    if option in ("translation", "speech"):
        words = ["one", "two", "three", "four"]
        texts = [" ".join(words[int(i)] for i in torch.randint(4, (n % 6 + 1,))) for n in range(120)]
        return texts[:60], texts[60:], {}
    if option == "ranking":
        return torch.randn(60), (torch.arange(60) % 5 == 0).long(), {"indexes": torch.arange(60) // 5}
    return torch.randn(60, num_classes).softmax(-1), torch.arange(60) % num_classes, {}


@pytest.mark.parametrize(
    ("option", "data"),
    [(option, "diabetes" if option in REAL_TARGETS else "digits") for option in options("metrics")]
    + [("classification", "breast_cancer")],
)
def test_metrics_give_the_same_for_any_batching(option, data):
    settings = plain(composed(f"data={data}", f"metrics={option}"))
    preds, target, more = measured(option, settings["data"]["num_classes"])
    nodes = {name: node for name, node in settings["metrics"].items() if is_meant(node, settings["data"])}
    assert nodes
    for name, node in nodes.items():
        values = []
        for size in (60, 7, 20):
            metrics = MetricCollection({name: make(node, name)})
            for start in range(0, 60, size):
                part = slice(start, start + size)
                metrics.update(preds[part], target[part], **{key: value[part] for key, value in more.items()})
            values.append(metrics.compute()[name])
        torch.testing.assert_close(values[1], values[0], msg=name)
        torch.testing.assert_close(values[2], values[0], msg=name)


# Those that the default run has are there in nearly every other test; those that look are in tests/callbacks/test_looking.py.
ELSEWHERE = {
    name for preset in ("default", "look") for name in read_yaml(CONF / f"callbacks/{preset}.yaml")["defaults"]
}
ELSEWHERE |= {"look", "embeddings", "samples"}
CALLBACKS = [
    pytest.param(o, marks=pytest.mark.slow) if o in ELSEWHERE else o for o in options("callbacks") if o != "default"
]


@pytest.mark.parametrize("option", CALLBACKS)
def test_callbacks_alone(command, option):
    few = ["callbacks.curvature.lanczos_steps=4"] if option == "curvature" else []
    outcome = command(f"callbacks=[{option}]", "trainer.max_epochs=2", "data=iris", "stages=[fit]", *few)
    assert outcome.code == 0, outcome.text


# Those of services are tested with what they send, in tests/logger.
@pytest.mark.parametrize("option", [o for o in options("logger") if o not in ("wandb", "mlflow", "comet")])
def test_loggers_alone(command, option):
    outcome = command(f"logger=[{option}]", "trainer.max_epochs=1", "data=iris", "stages=[fit]")
    assert outcome.code == 0, outcome.text


@pytest.mark.parametrize("option", [o for o in options("trainer") if o not in ("gpu", "ray", "deepspeed")])
def test_trainers(command, option):
    outcome = command(f"trainer={option}", "data=iris", *([] if option == "one_batch" else ["trainer.max_epochs=1"]))
    assert outcome.code == 0, outcome.text


@pytest.mark.parametrize("kind", OTHERS)
def test_data_of_other_kinds(kind, tmp_path):
    """The order depends on seed and epoch alone, every row comes once, and a trial batch goes through."""
    run = built(tmp_path, *OTHERS[kind])
    first, again = list(run.data.train_dataloader()), list(run.data.train_dataloader())
    assert sum(len(batch[-1]) for batch in first) == len(run.data.rows["train"])
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert "test" in run.data.datasets
    preflight(run)


@pytest.mark.parametrize("option", ["breast_cancer", "diabetes", "digits", "iris", "line", "wine"])
def test_data_sets_at_hand(option, tmp_path):
    """Splits are disjoint and complete, facts are true, the order depends on seed and epoch alone."""
    config = composed(f"data={option}")
    config.output_dir = str(tmp_path)
    run = build(config)
    data = run.data
    rows = torch.cat([data.rows[s] for s in data.rows])
    assert len(rows.unique()) == len(rows) == len(data.datasets["train"])
    if data.target_kind == "class":
        targets = data.datasets["train"].tensors[1]
        shares = [
            torch.bincount(targets[data.rows[s]], minlength=data.num_classes) / len(data.rows[s]) for s in data.rows
        ]
        for share in shares[1:]:
            assert (share - shares[0]).abs().max() < 0.06
    first, again = list(data.train_dataloader()), list(data.train_dataloader())
    assert all(torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    assert sum(len(batch[0]) for batch in first) == len(data.rows["train"])
    if option != "line":
        standardized = run.task.standardize_input(torch.cat([batch[0] for batch in first]))
        assert standardized.mean().abs() < 1e-4
        assert standardized.std() == pytest.approx(1, abs=0.05)
