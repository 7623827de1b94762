"""Warnings about tables on which a score means little: a constant target, a column that gives it away, more columns than rows."""

from collections.abc import Mapping

import torch

MIN_ROWS = 20  # fewer rows agree by chance
MAX_ROWS = 20_000  # that columns are compared with the target on
TOLERANCE = 1e-9  # of 1 - r^2, above the rounding of float32 inputs


def score_warnings(
    inputs: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor, columns: Mapping[str, slice], target_kind: str
) -> list[str]:
    """Return a line for each reason why a score on a table says little.

    Args:
        inputs: (N, features) float32.
        targets: (N,) classes or (N, T) numbers.
        rows: of the training split.
        columns: the features that each column became.
        target_kind: class or real.
    """
    warnings = []
    chosen = rows[torch.linspace(0, len(rows) - 1, min(len(rows), MAX_ROWS)).long()].to(inputs.device)
    features, target = inputs.index_select(0, chosen), targets.index_select(0, chosen)
    if target_kind == "real" and bool((targets.index_select(0, rows.to(targets.device)) == targets[rows[0]]).all()):
        warnings.append(
            f"the target is {float(targets[rows[0]].flatten()[0]):g} in every training row, so any model scores well"
        )
    elif len(chosen) >= MIN_ROWS and (target_kind == "class" or target.shape[1] == 1):
        equals = _equals_classes if target_kind == "class" else _is_linear
        for name, features_of in columns.items():
            if equals(features[:, features_of], target):
                warnings.append(
                    f"column {name!r} alone gives the target, so the score says nothing about the other columns"
                )
    if inputs.shape[1] >= len(rows):
        warnings.append(
            f"{inputs.shape[1]:,} features for {len(rows):,} training rows: a model can fit these by chance; trust the test score alone"
        )
    return warnings


def _equals_classes(features: torch.Tensor, labels: torch.Tensor) -> bool:
    """Whether values of a column and classes go with one another one to one."""
    values, codes = features.unique(dim=0, return_inverse=True)
    classes = labels.unique()
    if len(values) != len(classes) or len(classes) < 2:
        return False
    return len(torch.stack([codes, labels.to(codes.device)]).unique(dim=1)[0]) == len(classes)


def _is_linear(features: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether a column of numbers is the target, but for its unit and zero."""
    if features.shape[1] != 1:
        return False
    x, y = (values[:, 0].double() - values[:, 0].double().mean() for values in (features, target))
    scale = x.square().sum() * y.square().sum()
    return bool(scale > 0) and bool(1 - (x * y).sum().square() / scale < TOLERANCE)
