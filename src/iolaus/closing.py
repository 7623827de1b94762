"""The last words of a run in the terminal: its table, its folder, and the commands to go on with."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iolaus.commands import run_command
from iolaus.run_report import best_columns
from iolaus.tables import table_text


def outcome(results: dict[str, Any]) -> str:
    """What a run came to: the table of its metrics, or the numbers of a study, and its objective."""
    if "study" in results["metrics"]:
        return "\n".join(
            [
                str(results.get("name")),
                *(f"  {name}: {value:.6g}" for name, value in results["metrics"]["study"].items()),
            ]
        )
    best, objective = results["best_epoch"], results["objective"]
    epoch = f"epoch {best}, the best of {results['epochs']}" if best else f"after {results['epochs']} epochs"
    lines = [table_text(f"{results.get('name', 'a run')}: {epoch}", best_columns(results))]
    if objective.get("value") is not None:
        lines.append(f"objective: {objective['monitor']} {objective['value']:.6g}")
    return "\n".join(lines)


def next_steps(
    results: dict[str, Any],
    folder: Path,
    has_tensorboard: bool,
    services: list[str],
    is_resumable: bool,
    is_testable: bool,
    allow: Sequence[str] = (),
) -> str:
    """Where everything is, and what one may do next.

    Args:
        results: as in results.json.
        folder: the run's.
        has_tensorboard: whether there is something for it to show.
        services: the commands that show the run at the services that it is logged to.
        is_resumable: whether the run can go on.
        is_testable: whether its data have a test split.
        allow: packages of the user's own that its settings name.
    """
    place = shlex.quote(os.path.relpath(folder))
    words = [f"{results['status']} in {results['seconds']['total']:.1f} s: {place}"]
    if results["tested"]:
        words.append(f"tested: {results['tested']}")
    if (folder / "report.html").exists():
        words.append(f"report: {place}/report.html")
    steps = []
    if has_tensorboard:
        logdir = shlex.quote(os.path.relpath(folder.parent)) if folder.parent != Path.cwd() else place
        steps.append(f"  tensorboard --logdir {logdir}")
    steps += [f"  {command}" for command in services]
    if results["status"] == "interrupted" and is_resumable:
        steps.append(f"  {run_command('resume', folder, allow)}")
    if results["checkpoint"] and is_testable:
        steps.append(f"  {run_command('test', folder, allow)}")
    if results["checkpoint"]:
        steps.append(f"  {run_command('predict', folder, allow, 'FILE')}")
    return "\n".join([*words, *(["", "next:", *steps] if steps else [])])
