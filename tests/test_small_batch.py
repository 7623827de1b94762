"""The last, small batch of an epoch: kept where it can be trained on, joined to the batch before where it cannot."""

import itertools

import pytest
import torch
from conftest import composed
from torch import nn
from torch.utils.data import TensorDataset

from iolaus.build import build
from iolaus.data.loader import KeyedBatches, TensorLoader
from iolaus.data.order import count_batches, shares
from iolaus.data.stream_loader import StreamLoader
from iolaus.data.stream_order import Plan, Spans
from iolaus.errors import UserError
from iolaus.preflight import preflight
from iolaus.small_batch import failure

PLAIN = ("data=iris", "callbacks=[]", "logger=[]", "trainer.accelerator=cpu")  # 105 training rows
NORM = ("model.norm=BatchNorm1d", "data.batch_size=13")  # 105 = 8 * 13 + 1


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def built(*overrides):
    return build(composed(*PLAIN, *overrides))


def sizes(run):
    return [len(batch[-1]) for batch in run.data.train_dataloader()]


def test_every_row_comes_once_and_no_batch_is_too_small():
    """Against all sizes: rows, batch sizes, processes and least rows; without a least number, torch's own split."""
    for n, size, world, least in itertools.product(range(1, 26), range(1, 7), (1, 2, 3), (1, 2, 3)):
        parts = [list(shares(torch.arange(n), size, rank, world, least)) for rank in range(world)]
        count = count_batches(n, size, world, least)
        assert {len(part) for part in parts} == {count}
        if world == 1:
            assert sorted(torch.cat(parts[0]).tolist()) == list(range(n))
            if least == 1:
                assert [p.tolist() for p in parts[0]] == [p.tolist() for p in torch.arange(n).split(size)]
        if count > 1 and least <= size and least > 1:
            assert min(len(batch) for part in parts for batch in part) >= least
            assert sorted(torch.cat([torch.cat(part) for part in parts]).tolist()) == list(range(n))
        for start in range(count + 1):  # an epoch that a resumed run begins in the middle, or at its end
            tail = list(shares(torch.arange(n), size, world - 1, world, least, start))
            assert [t.tolist() for t in tail] == [t.tolist() for t in parts[-1][start:]]


@pytest.mark.parametrize("start", [0, 3, 7, 8])
def test_all_loaders_join_alike(start):
    rows, key = torch.arange(105), lambda: (7, 1)
    data = TensorDataset(rows, rows)
    slices = [x.tolist() for x, _ in TensorLoader(data, rows, 13, key, lambda: start, min_rows=2)]
    listed = list(KeyedBatches(rows, 13, key, lambda: start, min_rows=2))
    assert slices == [list(batch) for batch in listed]
    assert [len(batch) for batch in slices] == ([13] * 7 + [14])[start:]

    def read(shard, first, last):
        part = torch.arange(first, last)
        yield part, part

    plan = Plan(Spans.of([60, 45]), 13, streams=4, buffer=8, min_rows=2)
    streamed = [x.tolist() for x, _ in StreamLoader(plan, read, key, lambda: start)]
    assert [len(batch) for batch in streamed] == ([13] * 7 + [14])[start:]
    whole = [x.tolist() for x, _ in StreamLoader(Plan(Spans.of([60, 45]), 13, 4, 8), read, key)]
    left = list(itertools.chain(*whole))[13 * start :] if start < 8 else []
    assert list(itertools.chain(*streamed)) == left


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (NORM, [13] * 7 + [14]),
        (("data.batch_size=13",), [13] * 8 + [1]),  # works without a norm, and keeps its bits
        ((*NORM, "trainer.limit_train_batches=8"), [13] * 8 + [1]),  # is never reached
        ((*NORM, "trainer.max_steps=8"), [13] * 8 + [1]),
        ((*NORM, "trainer.max_steps=8", "trainer.accumulate_grad_batches=2"), [13] * 7 + [14]),
        ((*NORM, "+optim._groups_.norms={match: 'layers.(2|5)', frozen: true}"), [13] * 8 + [1]),
        (("model.norm=BatchNorm1d", "data.batch_size=10"), [10] * 10 + [5]),
        (("model.norm=BatchNorm1d", "data.batch_size=104"), [105]),
        (("data=digits", "model=cnn", "data.batch_size=419"), [419] * 3 + [1]),  # norms over pixels take one image
    ],
)
def test_a_last_batch_is_joined_where_it_cannot_be_trained_on(words, expected):
    run = built(*words, "scheduler=one_cycle")
    found = sizes(run)
    assert found == expected
    accumulated = run.config["trainer"]["accumulate_grad_batches"]
    limited = min(len(found), run.config["trainer"]["limit_train_batches"] or 99)
    assert run.config["scheduler"]["steps_per_epoch"] == -(-limited // accumulated)


def test_it_is_said_and_nothing_else_is_moved(caplog):
    caplog.set_level("INFO", "iolaus")
    run = built(*NORM)
    random = torch.get_rng_state()
    (line,) = [r.getMessage() for r in caplog.records if "joined" in r.getMessage()]
    assert line.startswith("data.batch_size: 105 training rows in batches of 13 leave a last one of 1,")
    assert "Expected more than 1 value per channel" in line
    plain = built("model.norm=BatchNorm1d", "data.batch_size=15")
    assert torch.equal(random, torch.get_rng_state())
    for name, value in plain.task.state_dict().items():
        assert torch.equal(value, run.task.state_dict()[name]), name


class Squeezed(nn.Module):
    """A model of a user's own that forgets that a batch may have one sample."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x.squeeze())


@pytest.mark.filterwarnings("ignore:std")
def test_models_are_tried_and_not_looked_up():
    """Whatever fails: a shape, a norm of one's own whose deviation of one sample is not a number."""
    run = built("data.batch_size=13")
    batch = [part[:1] for part in next(iter(run.data.train_dataloader()))]
    assert failure(run.task, batch, run.config) is None
    run.task.model = Squeezed()
    assert "size" in failure(run.task, batch, run.config)
    forward = run.task.model.forward
    run.task.model.forward = lambda x: run.task.model.layer((x - x.mean(0)) / x.std(0))
    assert failure(run.task, batch, run.config) == "the loss is nan"
    run.task.model.forward = forward
    assert failure(run.task, [torch.cat([part, part]) for part in batch], run.config) is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("data.batch_size=1",), r"^data.batch_size: received 1, and .* set data.batch_size=2 or more$"),
        (
            ("data.batch_size=13", "data.val_fraction=0.5", "data.test_fraction=0.493"),
            r"^data: the train split has 1 row, and",
        ),
    ],
)
def test_a_batch_of_one_that_cannot_be_joined_is_refused(words, says):
    run = built("model.norm=BatchNorm1d", *words)
    with pytest.raises(UserError, match=says) as error:
        preflight(run)
    assert "\n" not in str(error.value)
