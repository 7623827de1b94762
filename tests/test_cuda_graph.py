"""The bookkeeping of recorded steps, on a processor: its recording calls the step's Python again. tests/test_gpu.py has the real ones."""

import pytest
import torch
from conftest import composed

from iolaus import cuda_graph, fast_loop
from iolaus.build import build
from iolaus.errors import UserError

RATE = 2**-9  # which float32 holds exactly
RUN = ("trainer.max_epochs=3", "callbacks=[]", "logger=[]", f"optim.lr={RATE}")


@pytest.fixture
def recordings(monkeypatch):
    """Where steps are recorded, and how often that was done; a recording computes nothing, as one of CUDA does not."""
    made = []

    def recorded(step, last):
        made.append(step)
        return object(), step

    monkeypatch.setattr(fast_loop, "has_graphs", lambda device: True)
    monkeypatch.setattr(cuda_graph, "recorded", recorded)
    return made


def fit(tmp_path, *overrides):
    config = composed(*RUN, *overrides)
    config.output_dir = str(tmp_path)
    run = build(config)
    run.trainer.fit(run.task, datamodule=run.data)
    return run


CASES = {
    "default": [],
    "dropout and clipping": ["model.dropout=0.3", "trainer.gradient_clip_val=0.1"],
    "batch norm and an average": ["data=digits", "model=cnn", "data.batch_size=256", "callbacks=[ema]"],
    "momentum": ["optim=sgd"],
    "a schedule by steps": [
        "scheduler=step",
        "scheduler._interval_=step",
        "scheduler.step_size=7",
        "scheduler.gamma=0.5",
    ],
    "validations inside an epoch": ["trainer.val_check_interval=0.3"],
    "several inputs": ["experiment=recommend", "trainer.limit_train_batches=6", "trainer.limit_val_batches=2"],
}


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_a_run_of_recorded_steps_is_the_same(tmp_path, recordings, overrides):
    plain = fit(tmp_path / "a", *overrides)
    graphed = fit(tmp_path / "b", "trainer.cuda_graphs=true", *overrides)
    assert graphed.trainer.fit_loop.epoch_loop._graphed.replays > plain.trainer.global_step / 3
    assert plain.trainer.global_step == graphed.trainer.global_step
    assert plain.history.rows == graphed.history.rows
    for (name, value), other in zip(plain.task.state_dict().items(), graphed.task.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    groups = [
        [{k: v for k, v in group.items() if k != "params"} for group in run.trainer.optimizers[0].param_groups]
        for run in (plain, graphed)
    ]
    assert groups[0] == groups[1]  # rates are numbers again


def step_of(model, optimizer):
    def step(batch):
        inputs, target = batch
        output = model(inputs)
        loss = torch.nn.functional.mse_loss(output, target)
        loss.backward()
        optimizer.step()
        return loss, output, target

    return step


def batch(n=4):
    return torch.randn(n, 3), torch.randn(n, 1)


def graphed_linear():
    model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Dropout(0.5))
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    return model, optimizer, cuda_graph.GraphedStep(step_of(model, optimizer), model, optimizer)


def test_it_is_recorded_anew_when_what_it_holds_has_changed(recordings):
    model, optimizer, graphed = graphed_linear()

    def steps(n):
        for _ in range(n):
            graphed(batch())
        return len(recordings)

    graphed.look()
    assert steps(cuda_graph.WARM_UP) == 0
    assert steps(3) == 1
    graphed.look()
    assert steps(3) == 1
    optimizer.param_groups[0]["lr"] = 2 * RATE  # a rate is read by each step
    graphed.look()
    assert steps(3) == 1
    for change in (
        lambda: model[0].weight.data.__class__ and setattr(model[0].weight, "data", model[0].weight.data.clone()),
        lambda: model[0].bias.requires_grad_(False),
        lambda: model.eval(),
        lambda: optimizer.load_state_dict(
            optimizer.state_dict()
            | {"state": {k: {n: v.clone() for n, v in s.items()} for k, s in optimizer.state_dict()["state"].items()}}
        ),
    ):
        before = len(recordings)
        change()
        graphed.look()
        assert steps(cuda_graph.WARM_UP) == before
        assert steps(1) == before + 1


def test_other_settings_that_change_inside_an_epoch_are_followed(recordings, caplog):
    _, optimizer, graphed = graphed_linear()
    for _ in range(5):
        graphed(batch())
    optimizer.param_groups[0]["betas"] = (0.5, 0.9)
    graphed(batch())
    assert "betas of the optimizer changes from step to step" in caplog.text
    for _ in range(5):
        graphed(batch())
    assert len(recordings) == 1


def test_batches_of_other_shapes_are_taken_one_by_one(recordings):
    _, _, graphed = graphed_linear()
    for size in (3, 4, 4, 3, 4, 4, 3, 4, 5, 5, 4):
        loss, output, target = graphed(batch(size))
        assert len(output) == len(target) == size
        assert not loss.requires_grad
    assert graphed.replays == 5
    assert len(recordings) == 2


def test_what_is_given_is_not_written_over(recordings):
    _, _, graphed = graphed_linear()
    results = [graphed(batch()) for _ in range(6)]
    assert len({float(loss) for loss, _, _ in results}) == 6
    assert len({float(target[0, 0]) for _, _, target in results}) == 6


def test_without_a_gpu_it_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"trainer\.cuda_graphs: the training is on cpu.*set trainer\.cuda_graphs=false"
    ):
        fit(tmp_path, "trainer.cuda_graphs=true")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["callbacks=[gradient_norm]"], "GradientNorm among the callbacks"),
        (["trainer.accumulate_grad_batches=2"], "no accumulation"),
        (["gradient=two_point"], "estimated gradients"),
        (["optim=lbfgs"], "LBFGS"),
        (["optim=muon"], "AndAdamW decides on the processor"),
    ],
    ids=str,
)
def test_what_cannot_be_recorded_is_refused(tmp_path, recordings, overrides, message):
    config = composed("trainer.max_epochs=1", "logger=[]", "callbacks=[]", "trainer.cuda_graphs=true", *overrides)
    config.output_dir = str(tmp_path)
    run = build(config)
    with pytest.raises(UserError, match=r"trainer\.cuda_graphs: .*set trainer\.cuda_graphs=false") as raised:
        run.trainer.fit(run.task, datamodule=run.data)
    assert message in str(raised.value)
    assert not recordings


def test_random_numbers_of_the_processor_are_refused(recordings, monkeypatch):
    def recorded(step, last):
        step()
        return object(), step

    monkeypatch.setattr(cuda_graph, "recorded", recorded)
    _, _, graphed = graphed_linear()  # dropout on a processor draws there
    for _ in range(cuda_graph.WARM_UP):
        graphed(batch())
    with pytest.raises(UserError, match="draws random numbers outside the GPU"):
        graphed(batch())


def test_a_step_that_waits_for_the_gpu_is_refused(monkeypatch):
    def recorded(step, last):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "recorded", recorded)
    _, _, graphed = graphed_linear()
    for _ in range(cuda_graph.WARM_UP):
        graphed(batch())
    with pytest.raises(UserError, match=r"cannot be recorded.*: operation not permitted"):
        graphed(batch())
