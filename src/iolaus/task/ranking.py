"""Recommendation: items ranked for each user by scores learned from clicks. Rendle and others, https://arxiv.org/abs/1205.2618."""

from typing import Any

import torch

from iolaus.exhibits import Curves, Exhibit, Table
from iolaus.metrics.scores import Measured
from iolaus.task.base import Graph, Task

SAMPLES = 5  # users in the table
SHOWN = 6  # of their clicks
DEPTH = 20  # ranks in the curves
BLOCK = 2**18  # scores of users and all items that are computed together


class Ranking(Task):
    """The model scores candidates of each user, the loss compares clicked with unclicked ones.

    A metric's query is a user: a user's candidates are ranked together, in whichever batches they come. Losses that depend on the number of
    candidates, as a softmax does, are larger in validation, which has more of them than training.

    Args:
        top_k: items that are recommended.
        parts: model, loss, metrics, optimizer and scheduler; see Task.

    Shape:
        batch: users (B,) int64, items (B, C) int64, clicks (B, C), 1 or 0; output: scores (B, C) and the users.

    Raises:
        ValueError: where nothing would be recommended.
    """

    def __init__(self, top_k: int = 5, **parts: Any):
        super().__init__(**parts)
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1; received {top_k}")
        self.top_k = top_k

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of items (B, C) for users (B,)."""
        return self.model(users, items)

    def step(self, batch: Any) -> tuple[torch.Tensor, Any, torch.Tensor]:
        users, items, target = batch
        scores = self(users, items)
        return self.loss(scores, target), (scores, users), target

    def to_metrics(self, output: Any, target: torch.Tensor) -> Measured:
        scores, users = output
        queries = users[:, None].expand_as(scores)
        return scores.flatten(), target.flatten().long(), {"indexes": queries.flatten()}

    def example(self, n: int) -> tuple[torch.Tensor, ...]:
        """A user and an item each, which was clicked."""
        users = torch.zeros(n, dtype=torch.int64, device=self.device)
        return users, users[:, None], torch.ones(n, 1, device=self.device)

    def show(self, data: Any, split: str = "test") -> dict[str, Exhibit]:
        """Recommendations for some users of the split, and hit rates at every length of the list beside what needs no model."""
        held, rows = data.datasets[split], data.rows[split]
        rows = rows[torch.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).long()].long()
        users, items, target = (part.cpu() for part in held.take(rows.to(held.users.device)))
        chosen = items[target > 0]
        table = [self._row(data, *pair) for pair in zip(users.tolist(), chosen.tolist(), strict=True)]
        columns = ("user", "some clicks in training", "recommended (score)", "held out", "its rank", "of")
        return {
            "recommendations": Table(columns, table, "Of all items, without those that the user clicked in training."),
            "hit_rate": self._curves(data, split),
        }

    def _row(self, data: Any, user: int, chosen: int) -> list[object]:
        """A user's line of the table."""
        scores = self._all_scores(data, torch.tensor([user]))[0]
        known = data.clicked.padded(torch.tensor([user]), 0)[0][0].tolist()
        step = max(len(known) // SHOWN, 1)
        values, best = scores.topk(min(self.top_k, len(scores) - len(known)))
        named = (f"{data.items[i]} ({v:.2f})" for i, v in zip(best.tolist(), values.tolist(), strict=True))
        liked = ", ".join(data.items[i] for i in known[::step][:SHOWN])
        rank = int((scores > scores[chosen]).sum()) + 1
        return [data.users[user], liked, ", ".join(named), data.items[chosen], rank, len(scores) - len(known)]

    def _curves(self, data: Any, split: str) -> Curves:
        """Share of held-out clicks among the k best of their candidates, for each k."""
        popularity = torch.bincount(data.clicked.values.long(), minlength=len(data.items)).float()
        ranks: dict[str, list[torch.Tensor]] = {"known preferences": [], "model": [], "most clicked items": []}
        for batch in data.loader(split):
            users, items, target = (part.cpu() for part in batch)
            scores = {
                "known preferences": data.preferences(users, items),
                "model": self(users.to(self.device), items.to(self.device)).float().cpu(),
                "most clicked items": popularity[items],
            }
            for name, found in scores.items():
                if found is not None:
                    order = found.argsort(dim=1, descending=True, stable=True)
                    ranks[name].append(target.gather(1, order).argmax(1) + 1)
        depth = min(DEPTH, target.shape[1])
        curves: dict[str, Any] = {
            name: [float((torch.cat(r) <= k).float().mean()) for k in range(1, depth + 1)]
            for name, r in ranks.items()
            if r
        }
        curves["chance"] = [k / target.shape[1] for k in range(1, depth + 1)]
        return Curves(
            list(range(1, depth + 1)),
            curves,
            ("items shown", "hit rate"),
            f"held-out click among the items shown, of {target.shape[1]}",
        )

    @torch.no_grad()
    def _all_scores(self, data: Any, users: torch.Tensor) -> torch.Tensor:
        """Scores (B, num_items) on the processor; -inf for what a user clicked in training."""
        items = torch.arange(len(data.items), device=self.device).expand(len(users), -1)
        scores = self(users.to(self.device), items).float().cpu()
        known, lengths = data.clicked.padded(users, -1)
        rows = torch.arange(len(users)).repeat_interleave(lengths)
        scores[rows, known[known >= 0].long()] = -torch.inf
        return scores

    def graph(self) -> Graph:
        use = (
            "scores of items for a user, higher is better; users and items are numbers, their places in the lists users and items. "
            "Items that the user has clicked already are to be left out by whoever ranks them"
        )
        return Graph(("scores",), use, {"items": {1: "candidates"}})

    def predict(self, items: list[str], data: Any) -> list[dict[str, Any]]:
        """The best items of each user that the user did not click in training, a row each.

        Args:
            items: names of users.
            data: the data module, which knows users, items and clicks.
        """
        found: list[dict[str, Any]] = []
        for block in data.numbers(items).split(max(BLOCK // len(data.items), 1)):
            values, best = self._all_scores(data, block).topk(min(self.top_k, len(data.items)), 1)
            found += [
                {"user": data.users[user], "rank": rank, "item": data.items[item], "score": score}
                for user, row, scores in zip(block.tolist(), best.tolist(), values.tolist(), strict=True)
                for rank, (item, score) in enumerate(zip(row, scores, strict=True), 1)
                if score > float("-inf")
            ]
        return found
