"""Which settings of a sweep mattered: permutation importance of a random forest. Breiman (2001), https://doi.org/10.1023/A:1010933404324."""

from dataclasses import dataclass

from iolaus.sweep.leaderboard import Leaderboard
from iolaus.sweep.scale import codes

FEWEST = 5  # jobs, below which nothing can be said
TREES = 100
SHUFFLES = 20  # of each setting


@dataclass(frozen=True)
class Importance:
    """How much each setting mattered among the jobs of a sweep.

    Args:
        shares: of each setting, adding up to 1.
        explained: R^2 of the forest on the jobs that each tree has not seen; below 0 it explains nothing.
        jobs: number of jobs that it was fitted on.
    """

    shares: dict[str, float]
    explained: float
    jobs: int


def importance(board: Leaderboard) -> Importance | None:
    """The loss in accuracy of a forest that predicts the rank of the objective, when a setting's values are shuffled among the jobs.

    Ranks are predicted and not values, so that a job that diverged does not count for more than all others. None for fewer than five jobs
    with a result, fewer than two settings, and where no setting has any share.
    """
    rows, keys = board.ranked, board.keys
    if len(rows) < FEWEST or len(keys) < 2:
        return None
    import numpy as np
    from scipy.stats import rankdata
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    inputs = np.column_stack([codes([row.settings[key] for row in rows]) for key in keys])
    ranks = rankdata([row.objective for row in rows])
    forest = RandomForestRegressor(TREES, oob_score=True, random_state=0).fit(inputs, ranks)
    found = permutation_importance(forest, inputs, ranks, n_repeats=SHUFFLES, random_state=0)
    shares = np.maximum(found["importances_mean"], 0.0)
    if shares.sum() == 0:
        return None
    shares /= shares.sum()
    return Importance(dict(zip(keys, shares.tolist(), strict=True)), float(forest.oob_score_), len(rows))
