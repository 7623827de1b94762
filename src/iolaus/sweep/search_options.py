"""Options of a search that could have no effect, found before its first trial."""

from collections.abc import Iterator
from typing import Any

WAITS = ("n_startup_trials", "n_warmup_steps")


def ineffective_options(
    options: dict[str, Any], space: dict[str, Any], fixed: dict[str, str], pruner: Any
) -> Iterator[str]:
    """Find options of the sweeper that the others make ineffective, each with the reason and what to do.

    Args:
        options: of the sweeper; see conf/hydra/sweeper/optuna.yaml.
        space: what is searched, Optuna's distributions by key.
        fixed: the other settings of the command, by key.
        pruner: Optuna's.
    """
    if (name := _name(options.get("pruner"), "none")) != "none":
        yield from _pruner(name, options, fixed, pruner)
    yield from _sampler(options, space)
    for key, condition in (options.get("conditions") or {}).items():
        yield from _condition(key, condition, space, fixed)


def _name(chosen: Any, default: str) -> str:
    return str(chosen.get("name") if isinstance(chosen, dict) else chosen or default)


def _pruner(name: str, options: dict[str, Any], fixed: dict[str, str], pruner: Any) -> Iterator[str]:
    key = "hydra.sweeper.pruner"
    if objectives := options.get("objectives"):
        advice = (
            "with one objective set objective.monitor and objective.mode instead"
            if len(objectives) == 1
            else "leave one out"
        )
        yield (
            f"{key}: {name} ends trials by objective.monitor, which is not what hydra.sweeper.objectives={objectives} is searched "
            f"for; {advice}"
        )
    if options.get("storage") == "memory":
        yield (
            f"{key}: {name} cannot end a trial with hydra.sweeper.storage=memory, since trials are processes of their own, which cannot "
            "read it; leave one out"
        )
    if fixed.get("stages") and "fit" not in fixed["stages"]:
        yield f"{key}: {name} ends trainings, and stages={fixed['stages']} trains nothing; leave it out"
    startup, warmup = (getattr(pruner, f"_{wait}", 0) for wait in WAITS)
    if startup >= options["n_trials"]:
        yield (
            f"{key}: {name} ends no trial before {startup} are complete, and hydra.sweeper.n_trials={options['n_trials']}; set more "
            f"trials, or {key}={{name: {name}, n_startup_trials: {max(options['n_trials'] // 4, 1)}}}"
        )
    epochs = fixed.get("trainer.max_epochs", "")
    if epochs.isdigit() and warmup >= int(epochs) - 1:
        yield f"{key}: {name} ends no trial in its first {warmup + 1} epochs, and trainer.max_epochs={epochs}; set fewer n_warmup_steps"


def _sampler(options: dict[str, Any], space: dict[str, Any]) -> Iterator[str]:
    chosen = options.get("sampler")
    name, numbers = _name(chosen, "tpe"), sum(not hasattr(values, "choices") for values in space.values())
    startup = chosen.get("n_startup_trials", 0) if isinstance(chosen, dict) else 0
    if startup >= options["n_trials"]:
        yield (
            f"hydra.sweeper.sampler: {name} draws its first {startup} trials at random, and hydra.sweeper.n_trials="
            f"{options['n_trials']}; set fewer n_startup_trials"
        )
    if name == "cmaes" and len(options.get("objectives") or []) > 1:
        yield "hydra.sweeper.sampler: cmaes searches for one objective; choose tpe or nsgaii for several"
    elif name == "cmaes" and numbers < 2:
        yield (
            f"hydra.sweeper.sampler: cmaes searches two numbers or more, and draws choices at random; here {numbers} of "
            f"{len(space)} settings are numbers; choose tpe"
        )


def _condition(key: str, condition: Any, space: dict[str, Any], fixed: dict[str, str]) -> Iterator[str]:
    """A condition of a setting that is not searched, or that is never met."""
    where = f"hydra.sweeper.conditions: {key}"
    if key not in space:
        yield f"{where} is not searched; give it values, or leave the condition out"
        return
    for other, wanted in (condition or {}).items():
        allowed = [str(value) for value in (wanted if isinstance(wanted, list) else [wanted])]
        if other in space and hasattr(space[other], "choices"):
            there = [str(value) for value in space[other].choices]
        elif other in space:
            continue
        elif other in fixed:
            there = [fixed[other]]
        else:
            yield f"{where} waits for {other}, which the command does not say; add {other}={allowed[0]}, or search it"
            continue
        if not set(allowed) & set(there):
            yield f"{where} waits for {other}={' or '.join(allowed)}, which is {' or '.join(there)}; it would never be searched"
