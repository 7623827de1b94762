"""Hit rate, mean reciprocal rank and normalised discounted gain of rankings. https://en.wikipedia.org/wiki/Evaluation_measures_(information_retrieval)."""

from abc import ABC
from typing import Any

import torch
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Ranking(Metric, ABC):
    """Candidates of queries, ranked by score at the end; of equal scores the one that came first is ranked first.

    Its lists are those of torchmetrics' retrieval metrics, so that a MetricCollection keeps them once. Those sort without keeping the
    order of equal scores, which come out at random, and their reciprocal rank takes candidates with scores of 0 and below for not clicked,
    which is wrong for logits.

    Args:
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: (N,) scores; target: (N,) clicks, 0 or 1; indexes: (N,) query of each. A query's may come in several batches.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    indexes: list[torch.Tensor]
    preds: list[torch.Tensor]
    target: list[torch.Tensor]

    def __init__(self, top_k: int | None, **base: Any):
        super().__init__(**base)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1; received {top_k}")
        self.top_k = top_k
        for name in ("indexes", "preds", "target"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, preds: torch.Tensor, target: torch.Tensor, indexes: torch.Tensor) -> None:
        """Keep candidates."""
        self.indexes.append(indexes.flatten())
        self.preds.append(preds.flatten().float())
        self.target.append(target.flatten().long())

    def ranked(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, rank from 1 and click of each candidate, by query and rank."""
        indexes, preds, target = dim_zero_cat(self.indexes), dim_zero_cat(self.preds), dim_zero_cat(self.target)
        order = preds.argsort(descending=True, stable=True)
        order = order[indexes[order].argsort(stable=True)]
        queries = indexes[order]
        _, counts = queries.unique_consecutive(return_counts=True)
        before = (counts.cumsum(0) - counts).repeat_interleave(counts)
        return queries, torch.arange(1, len(order) + 1, device=order.device) - before, target[order]

    def first_clicks(self) -> torch.Tensor:
        """Rank of the best ranked click of each query that has one."""
        queries, ranks, clicks = self.ranked()
        queries, ranks = queries[clicks > 0], ranks[clicks > 0]
        is_first = torch.ones_like(queries, dtype=torch.bool)
        is_first[1:] = queries[1:] != queries[:-1]
        return ranks[is_first]

    def is_shown(self, ranks: torch.Tensor) -> torch.Tensor:
        """Which ranks are among the top_k."""
        return ranks > 0 if self.top_k is None else ranks <= self.top_k


class HitRate(Ranking):
    """Share of queries with a click among the top_k best scored candidates, of the queries with a click; 0 without any.

    Args:
        top_k: candidates that are looked at; null: all.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: (N,) scores; target: (N,) clicks, 0 or 1; indexes: (N,) query of each. See Ranking for ties.

    Raises:
        ValueError: if no candidate is looked at.
    """

    def __init__(self, top_k: int | None = 5, **base: Any):
        super().__init__(top_k, **base)

    def compute(self) -> torch.Tensor:
        """The share, a 0-d tensor."""
        ranks = self.first_clicks()
        return self.is_shown(ranks).sum() / max(len(ranks), 1)


class ReciprocalRank(Ranking):
    """Mean of 1 / rank of the best ranked click over queries with a click; 0 without any, and for ranks beyond top_k.

    Args:
        top_k: ranks that are looked at; null: all.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: (N,) scores; target: (N,) clicks, 0 or 1; indexes: (N,) query of each. See Ranking for ties.

    Raises:
        ValueError: if no rank is looked at.
    """

    def __init__(self, top_k: int | None = None, **base: Any):
        super().__init__(top_k, **base)

    def compute(self) -> torch.Tensor:
        """The mean, a 0-d tensor."""
        ranks = self.first_clicks()
        return (self.is_shown(ranks) / ranks).sum() / max(len(ranks), 1)


class NDCG(Ranking):
    """Normalised discounted cumulative gain: sum over clicked ranks r of 1 / log2(r + 1), of the most that as many clicks could have.

    Mean over queries with a click; 0 without any. torchmetrics' own goes through queries one by one, ten times slower at 2,000 of them.

    Args:
        top_k: ranks that count; null: all.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: (N,) scores; target: (N,) clicks, 0 or 1; indexes: (N,) query of each. See Ranking for ties.

    Raises:
        ValueError: if no rank counts.

    Reference:
        Jarvelin and Kekalainen, https://doi.org/10.1145/582415.582418.
    """

    def __init__(self, top_k: int | None = 5, **base: Any):
        super().__init__(top_k, **base)

    def compute(self) -> torch.Tensor:
        """The mean, a 0-d tensor."""
        queries, ranks, clicks = self.ranked()
        _, number, counts = queries.unique_consecutive(return_inverse=True, return_counts=True)
        gains = clicks * self.is_shown(ranks) / (ranks + 1.0).log2()
        found = torch.zeros(len(counts), device=gains.device).index_add(0, number, gains)
        total = torch.zeros_like(counts).index_add(0, number, clicks)
        clicked = total > 0
        if not clicked.any():
            return found.new_zeros(())
        most = int(total.max()) if self.top_k is None else min(self.top_k, int(total.max()))
        best = (1 / torch.arange(2.0, most + 2, device=gains.device).log2()).cumsum(0)
        return (found[clicked] / best[total[clicked].clamp_max(most) - 1]).mean()
