"""Recommendation from end to end: the figures of a run from its saved weights, what is recommended and shown."""

import csv

import numpy as np
import pytest
import torch
from conftest import composed
from sklearn.metrics import ndcg_score, roc_auc_score

from iolaus.build import build
from iolaus.errors import UserError
from iolaus.task.ranking import Ranking

SMALL = (
    "data=interactions",
    *(
        f"data.{name}={value}"
        for name, value in {"num_users": 150, "num_items": 60, "impressions": 45, "num_candidates": 20}.items()
    ),
    "trainer.max_epochs=2",
)


def rebuilt(folder, *arguments):
    """The run's data, and its weights by name."""
    config = composed(*arguments)
    config.output_dir = str(folder)
    run = build(config)
    state = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    run.task.load_state_dict(state["state_dict"])
    return run, {name: value.double().numpy() for name, value in state["state_dict"].items()}, state


def factorized(weights, users, items):
    """mu + b_u + b_i + <p_u, q_i>, in float64."""
    p, q = weights["model.user.weight"][users], weights["model.item.weight"][items]
    biases = weights["model.user_bias.weight"][users] + weights["model.item_bias.weight"][items][..., 0]
    return weights["model.bias"] + biases + np.einsum("bd,bcd->bc", p, q)


def test_a_run_and_its_figures_from_the_saved_weights(command, tmp_path):
    outcome = command(*SMALL, "data.eval_batch_size=32", "output_dir=run")
    assert outcome.code == 0, outcome.text
    run, weights, state = rebuilt(outcome.folder, *SMALL)
    held = run.data.datasets["test"]
    users, items, target = (part.numpy() for part in held.take(torch.arange(len(held))))
    scores = factorized(weights, users, items)
    clicked = scores[target > 0][:, None]
    rank = (scores > clicked).sum(1) + 1
    others = scores[target == 0].reshape(len(users), -1)
    expected = {
        "hit_rate/test": np.mean(rank <= 5),
        "mrr/test": np.mean(1 / rank),
        "ndcg/test": ndcg_score(target, scores, k=5),
        "auc/test": roc_auc_score(target.flatten(), scores.flatten()),
        "click_through_rate/test": np.mean(rank == 1),
        "loss/test": np.mean(np.logaddexp(0, others - clicked)),
    }
    assert outcome.results["metrics"]["test"] == pytest.approx(expected, abs=1e-5)
    assert outcome.results["choices"]["model"] == "matrix_factorization"

    with (outcome.folder / "samples/recommendations.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 5
    for row in table:
        user = run.data.numbers([row["user"]])
        every = factorized(weights, user.numpy(), np.arange(60)[None])[0]
        known = run.data.clicked.padded(user, 0)[0][0].numpy()
        every[known] = -np.inf
        best = [run.data.items[i] for i in np.argsort(-every)[:5]]
        assert [name.rpartition(" (")[0] for name in row["recommended (score)"].split(", ")] == best
        held_out = run.data.items.index(row["held out"])
        assert int(row["its rank"]) == (every > every[held_out]).sum() + 1
        assert int(row["of"]) == 60 - len(known)
    assert (outcome.folder / "figures/hit_rate.png").is_file()

    # predictions from the checkpoint's own state, by data that read nothing else
    fresh = type(run.data)(num_users=150, num_items=60, impressions=45, num_candidates=20, **FACTS)
    fresh.load_state_dict(state["Interactions"])
    assert fresh.datasets == {}
    rows = run.task.predict(list(fresh.new_items("user 2,user 150")), fresh)
    for name in ("user 2", "user 150"):
        every = factorized(weights, fresh.numbers([name]).numpy(), np.arange(60)[None])[0]
        known = {item for user, item in zip(*clicked_names(run.data), strict=True) if user == name}
        allowed = [i for i in np.argsort(-every) if fresh.items[i] not in known]
        found = [row for row in rows if row["user"] == name]
        assert known
        assert [row["item"] for row in found] == [fresh.items[i] for i in allowed[:5]]
        assert [row["rank"] for row in found] == [1, 2, 3, 4, 5]
        assert [row["score"] for row in found] == pytest.approx([every[i] for i in allowed[:5]], abs=1e-5)
    with pytest.raises(UserError, match="did you mean 'user 150'"):
        run.task.predict(["user150"], fresh)


FACTS = {"input_kind": "user_item", "input_shape": None, "target_kind": "click", "standardize": False}


def clicked_names(data):
    train = data.datasets["train"]
    return [data.users[u] for u in train.users.tolist()], [data.items[i] for i in train.items.tolist()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        ["model=two_towers", "loss=sampled_softmax"],
        ["loss=binary_cross_entropy", "objective.monitor=mrr/val", "objective.mode=max"],
    ],
    ids=lambda c: c[0],
)
def test_other_models_and_losses(command, changed):
    outcome = command(*SMALL, *changed, "output_dir=run")
    assert outcome.code == 0, outcome.text
    losses = [outcome.results["metrics"][which]["loss/train"] for which in ("best", "last")]
    assert losses[1] <= losses[0]
    assert set(outcome.results["metrics"]["test"]) == {
        f"{n}/test" for n in ("loss", "hit_rate", "mrr", "ndcg", "auc", "click_through_rate")
    }


def a_task(scores, **settings):
    """A task whose model knows the scores of each user and item."""

    class Known(torch.nn.Module):
        def forward(self, users, items):
            return scores[users].gather(1, items)

    metrics = {split: {} for split in ("train", "val", "test")}
    return Ranking(**settings, model=Known(), loss=torch.nn.MSELoss(), metrics=metrics, optimizer=lambda _: None)


def test_a_user_who_has_clicked_nearly_everything_gets_what_is_left():
    from iolaus.data.interactions import Interactions

    data = Interactions(num_users=2, num_items=4, impressions=4, **FACTS)
    clicked = {"items": torch.tensor([0, 1, 3], dtype=torch.int32), "offsets": torch.tensor([0, 3, 3])}
    data.load_state_dict({"users": ["ann", "bob"], "items": ["a", "b", "c", "d"], "clicked": clicked})
    task = a_task(torch.tensor([[4.0, 3, -2, 1], [1.0, 3, -2, 4]]), top_k=3)
    rows = task.predict(["ann", "bob"], data)
    assert [(row["user"], row["rank"], row["item"], row["score"]) for row in rows] == [
        ("ann", 1, "c", -2.0),
        ("bob", 1, "d", 4.0),
        ("bob", 2, "b", 3.0),
        ("bob", 3, "a", 1.0),
    ]


def test_a_model_that_scores_all_alike_hits_by_chance(command):
    """The held-out click stands anywhere among its candidates, and ties are ranked as they come."""
    from iolaus.metrics.ranking import HitRate

    config = composed("data=interactions")
    run = build(config)
    metric = HitRate(5)
    task = a_task(torch.zeros(2000, 400))
    for users, items, target in run.data.test_dataloader():
        preds, clicks, more = task.to_metrics((task(users, items), users), target)
        metric.update(preds, clicks, **more)
    chance = 5 / 101
    assert abs(metric.compute() - chance) < 4 * (chance * (1 - chance) / 2000) ** 0.5


def test_models_of_other_inputs_are_refused(command):
    outcome = command("data=interactions", "model=mlp")
    assert outcome.code == 1
    assert "model=mlp with data=interactions: it wants images or rows of numbers" in outcome.text
    assert "model=matrix_factorization" in outcome.text
    outcome = command("data=digits", "model=two_towers")
    assert outcome.code == 1
    assert "it wants users and items" in outcome.text


def test_nothing_would_be_recommended():
    with pytest.raises(ValueError, match="top_k must be at least 1; received 0"):
        a_task(torch.zeros(1, 1), top_k=0)


@pytest.mark.slow
def test_curves_without_known_preferences(command, tmp_path):
    """A user's own file: no oracle, all else."""
    rows = [f"u{u},i{i}" for u in range(30) for i in range(u % 7, 40, 5)]
    (tmp_path / "clicks.csv").write_text("\n".join(["user,item", *rows]) + "\n")
    outcome = command(
        "data=interactions_csv",
        "data.path=clicks.csv",
        "data.num_candidates=10",
        "trainer.max_epochs=1",
        "output_dir=run",
    )
    assert outcome.code == 0, outcome.text
    config = composed("data=interactions_csv", f"data.path={tmp_path}/clicks.csv", "data.num_candidates=10")
    run = build(config)
    assert config.data.num_users == 30
    with torch.no_grad():
        shown = run.task.show(run.data)["hit_rate"]
    assert set(shown.curves) == {"model", "most clicked items", "chance"}
    assert shown.curves["chance"][4] == pytest.approx(5 / 11)
    assert shown.curves["model"][-1] == 1.0  # all eleven candidates
