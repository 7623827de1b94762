"""Searches: spaces in Hydra's grammar, conditions, trials that are killed, pruned, without a number, shared by two processes."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from test_processes import SCRIPT, hold

from iolaus.errors import UserError
from iolaus.runs import note_results, read_results
from iolaus.sweep.jobs import Job, jobs_of
from iolaus.sweep.launcher import Sweep
from iolaus.sweep.search import PRUNERS, SAMPLERS, Search, covering, distribution, made, open_storage, suggested
from iolaus.sweep.search_options import ineffective_options

TRAIN = str(ROOT / "train.py")
QUICK = [
    "-m",
    "sweep=optuna",
    "data=iris",
    "model=linear",
    "metrics=[]",
    "stages=[fit]",
    "callbacks=[resume_points,checkpoint]",
    "logger=[]",
]
RATES = "optim.lr=tag(log, interval(1e-4, 1e-1))"


def parsed(*words):
    return OverridesParser.create().parse_overrides(list(words))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a=tag(log, interval(1e-4, 0.1))", FloatDistribution(1e-4, 0.1, log=True)),
        ("a=interval(0, 2.5)", FloatDistribution(0, 2.5)),
        ("a=int(interval(1, 8))", IntDistribution(1, 8)),
        ("a=range(16, 65, 16)", IntDistribution(16, 64, step=16)),
        ("a=range(4)", IntDistribution(0, 3)),
        ("a=choice(mlp, cnn)", CategoricalDistribution(["mlp", "cnn"])),
        ("a=0.1,null,true", CategoricalDistribution([0.1, None, True])),
        ("a=[8],[16,8]", CategoricalDistribution(["[8]", "[16,8]"])),
    ],
)
def test_spaces_in_hydra_s_grammar(word, expected):
    found = distribution(parsed(word)[0])
    if isinstance(expected, CategoricalDistribution):
        assert [str(c) for c in found.choices] == ["null" if c is None else str(c) for c in expected.choices]
    else:
        assert found == expected


@pytest.mark.parametrize(
    "word", ["optim.lr=interval(2.0, 1.0)", "optim.lr=range(3, 3)", "optim.lr=tag(log, interval(0.0, 1.0))"]
)
def test_spaces_without_a_value_are_refused(word):
    with pytest.raises(UserError, match=r"^optim.lr: "):
        distribution(parsed(word)[0])


SPACE = {
    "model": CategoricalDistribution(["mlp", "linear"]),
    "model.hidden_dims": CategoricalDistribution(["[8]", "[16]"]),
}
CONDITIONS = {"model.hidden_dims": {"model": "mlp"}}


def test_settings_that_others_need():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = [suggested(study.ask(), SPACE, [], CONDITIONS) for _ in range(20)]
    assert {choice["model"] for choice in seen} == {"mlp", "linear"}
    assert all(("model.hidden_dims" in choice) == (choice["model"] == "mlp") for choice in seen)
    fixed = suggested(study.ask(), {"model.hidden_dims": SPACE["model.hidden_dims"]}, ["model=mlp"], CONDITIONS)
    assert "model.hidden_dims" in fixed


def test_what_is_checked_covers_every_choice_and_both_ends():
    words = parsed("seed=3", "model=mlp,linear", "model.hidden_dims=[8],[16]", "optim.lr=interval(0.1, 0.2)")
    jobs = list(covering(words, CONDITIONS))
    assert all(job[0] == "seed=3" for job in jobs)
    for word in ("model=linear", "model.hidden_dims=[16]", "optim.lr=0.2"):
        assert any(word in job for job in jobs), word
    assert all("model=mlp" in job for job in jobs if any(w.startswith("model.hidden_dims") for w in job))


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name):
    study = optuna.create_study(sampler=made(optuna.samplers, SAMPLERS, "sampler", name, seed=1))
    for _ in range(3):
        trial = study.ask()
        study.tell(trial, float(suggested(trial, {"a": IntDistribution(0, 9)}, [], {})["a"]))


def test_pruners_and_their_arguments():
    assert made(optuna.pruners, PRUNERS, "pruner", {"name": "median", "n_warmup_steps": 3})._n_warmup_steps == 3
    with pytest.raises(UserError, match=r"hydra.sweeper.pruner: there is no 'meidan'; did you mean 'median'\?"):
        made(optuna.pruners, PRUNERS, "pruner", "meidan")
    with pytest.raises(UserError, match=r"hydra.sweeper.pruner: median: .*steps"):
        made(optuna.pruners, PRUNERS, "pruner", {"name": "median", "steps": 3})


MEDIAN = {"name": "median", "n_startup_trials": 2}


@pytest.mark.parametrize(
    ("options", "fixed", "says"),
    [
        ({"pruner": "median", "objectives": ["max:accuracy/val", "min:num_parameters"]}, {}, "leave one out"),
        (
            {"pruner": MEDIAN, "objectives": ["max:accuracy/val"]},
            {},
            "set objective.monitor and objective.mode instead",
        ),
        (
            {"pruner": "hyperband", "storage": "memory"},
            {},
            "hyperband cannot end a trial with hydra.sweeper.storage=memory",
        ),
        ({"pruner": "median"}, {"stages": "[info]"}, "stages=[info] trains nothing"),
        ({"pruner": "median", "n_trials": 5}, {}, "before 5 are complete, and hydra.sweeper.n_trials=5"),
        ({"pruner": MEDIAN | {"n_warmup_steps": 2}}, {"trainer.max_epochs": "3"}, "in its first 3 epochs"),
        ({"sampler": {"name": "tpe", "n_startup_trials": 20}}, {}, "draws its first 20 trials at random"),
        ({"sampler": "cmaes"}, {}, "here 1 of 3 settings are numbers"),
        ({"sampler": "cmaes", "objectives": ["max:accuracy/val", "min:num_parameters"]}, {}, "for one objective"),
        ({"conditions": {"optim.betas": {"model": "mlp"}}}, {}, "optim.betas is not searched"),
        ({"conditions": {"optim.lr": {"optim": "sgd"}}}, {}, "which the command does not say; add optim=sgd"),
        ({"conditions": {"optim.lr": {"optim": "sgd"}}}, {"optim": "adam"}, "waits for optim=sgd, which is adam"),
        (
            {"conditions": {"optim.lr": {"model": ["cnn", "gru"]}}},
            {},
            "waits for model=cnn or gru, which is mlp or linear",
        ),
        # which have their effect
        ({"pruner": "none", "objectives": ["max:accuracy/val"], "storage": "memory"}, {}, None),
        ({"pruner": MEDIAN | {"n_warmup_steps": 1}}, {"trainer.max_epochs": "3", "stages": "[fit,test]"}, None),
        ({"pruner": "halving", "n_trials": 2, "sampler": "nsgaii"}, {}, None),
        ({"conditions": CONDITIONS | {"optim.lr": {"optim": ["sgd", "adam"]}}}, {"optim": "adam"}, None),
    ],
)
def test_options_that_would_have_no_effect_are_refused(options, fixed, says):
    options = {"n_trials": 20} | options
    pruner = made(optuna.pruners, PRUNERS, "pruner", options.get("pruner") or "none")
    space = SPACE | {"optim.lr": FloatDistribution(1e-4, 1e-1, log=True)}
    found = list(ineffective_options(options, space, fixed, pruner))
    assert len(found) == (says is not None), found
    assert says is None or (says in found[0] and found[0].startswith("hydra.sweeper."))


def test_a_pruner_that_never_ends_a_trial_is_optuna_s_own_rule():
    """What is refused for its waiting is what Optuna's median would never end, however bad a trial is."""
    for trials, warmup, epochs in ((2, 0, 4), (5, 0, 4), (3, 2, 4), (3, 3, 4)):
        pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=warmup)
        study = optuna.create_study(pruner=pruner)
        ended = False
        for number in range(trials):
            trial = study.ask()
            for epoch in range(epochs):
                trial.report(float(number), epoch)
                ended |= trial.should_prune() and epoch < epochs - 1  # at its end it is over anyway
            study.tell(trial, float(number))
        fixed = {"trainer.max_epochs": str(epochs)}
        options = {"n_trials": trials, "pruner": {"name": "median"}}
        assert (not list(ineffective_options(options, SPACE, fixed, pruner))) == ended


def start(place: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, TRAIN, *QUICK, RATES, *words],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    text, _ = process.communicate(timeout=400)
    assert process.returncode == code, text
    return text


def trials(journal: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="iolaus", storage=open_storage(str(journal))).get_trials()


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again(tmp_path):
    """Thirty trials in the end, each with values of its own; what was running is gone on with; the best is found among good rates."""
    words = (
        "hydra.sweeper.n_trials=30",
        "hydra.sweeper.pruner={name: median, n_startup_trials: 3}",
        "trainer.max_epochs=6",
        "output_dir=search",
    )
    process = start(tmp_path, *words)
    journal = tmp_path / "search/study.journal"
    end = time.monotonic() + 120
    while time.monotonic() < end and not (
        (tmp_path / "search/sweep.yaml").exists() and sum(t.state.is_finished() for t in trials(journal)) >= 6
    ):
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    begun = trials(journal)
    running = [t.number for t in begun if not t.state.is_finished()]
    assert running
    text = finish(start(tmp_path, *words))
    found = trials(journal)
    assert len(found) == 30
    assert len({t.params["optim.lr"] for t in found}) == 30
    assert all(t.state.name in ("COMPLETE", "PRUNED") for t in found)
    assert [t.params for t in found[: len(begun)]] == [t.params for t in begun]
    assert {job.state for job in jobs_of(tmp_path / "search")} <= {"completed", "pruned"}
    assert any(t.state.name == "PRUNED" for t in found)
    best = min((t for t in found if t.values), key=lambda t: t.value)
    assert best.params["optim.lr"] > 0.01
    assert "30" in text


SEARCHED = ["kind=completed", "a=range(0,100)"]


def search(folder: Path, number: int) -> None:
    """A search with so many trials, each a script that is done at once."""
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}, "overrides": {"hydra": [], "task": []}}})
    with Sweep(config, SimpleNamespace(config_loader=None), n_jobs=1, warm=False) as sweep:

        def job(place: int, overrides: list[str], varying: list[str]) -> Job:
            made = Job(place, list(overrides), folder / str(place), list(varying))
            made.look()
            sweep.jobs.append(made)
            return made

        sweep.job, sweep.script = job, folder.parent / "script.py"
        Search(sweep, {"n_trials": number, "sampler": "random"}, "loss/val", "min").run(SEARCHED)


def test_of_trials_that_were_left_those_of_another_process_are_left_to_it(tmp_path, monkeypatch):
    """One is run by another, which holds its claim; one had ended before the study was told; one is gone on with."""
    (tmp_path / "script.py").write_text(SCRIPT)
    folder = tmp_path / "sweep"
    search(folder, 1)
    study = optuna.load_study(study_name="iolaus", storage=open_storage(str(folder / "study.journal")))
    for _ in range(3):
        trial = study.ask({"a": IntDistribution(0, 99)})
        words = ["kind=completed", f"a={trial.params['a']}"]
        for key, value in {"overrides": words, "varying": [], "process": [os.uname().nodename, 2**30]}.items():
            trial.set_user_attr(key, value)
    note_results(folder / "1", {"status": "running", "of": "another"})
    note_results(folder / "2", {"status": "completed", "objective": {"value": 7.0}, "of": "the killed one"})
    here, there = multiprocessing.Pipe()
    other = multiprocessing.get_context("fork").Process(target=hold, args=(folder, 1, there), daemon=True)
    other.start()
    assert here.recv()
    search(folder, 5)
    found = trials(folder / "study.journal")
    assert [t.state.name for t in found] == ["COMPLETE", "RUNNING", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert found[1].user_attrs["process"] is None
    assert read_results(folder / "1") == {"status": "running", "of": "another"}
    assert [t.value for t in found[2:]] == [7.0, 0.5, 0.5]
    assert read_results(folder / "2")["of"] == "the killed one"
    assert not (folder / "earlier").exists()
    assert [job.state for job in jobs_of(folder)] == ["completed", "running elsewhere", *["completed"] * 3]
    here.send("end")
    other.join()


def test_a_trial_whose_process_was_killed_before_it_had_chosen_is_run(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    folder = tmp_path / "sweep"
    search(folder, 1)
    optuna.load_study(study_name="iolaus", storage=open_storage(str(folder / "study.journal"))).ask()
    search(folder, 3)
    found = trials(folder / "study.journal")
    assert [(t.state.name, list(t.params)) for t in found] == [("COMPLETE", ["a"])] * 3


def test_no_more_trials_than_asked_for_are_begun_by_two_processes(tmp_path, monkeypatch):
    """Also where one asks between another's look at their number and its own asking."""
    asked = Search._asked
    monkeypatch.setattr(Search, "_asked", lambda self: [asked(self), time.sleep(0.1)][0])
    (tmp_path / "script.py").write_text(SCRIPT)
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=search, args=(tmp_path / "sweep", 3), daemon=True) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert [t.state.name for t in trials(tmp_path / "sweep/study.journal")] == ["COMPLETE"] * 3
    assert len(jobs_of(tmp_path / "sweep")) == 3


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path):
    words = (
        "hydra.sweeper.n_trials=10",
        "trainer.max_epochs=2",
        "hydra.sweeper.storage=shared.journal",
        "hydra.launcher.n_jobs=1",
    )
    both = [start(tmp_path, *words, f"output_dir={name}") for name in ("one", "two")]
    for process in both:
        finish(process)
    found = trials(tmp_path / "shared.journal")
    assert len(found) == 10
    assert len({t.params["optim.lr"] for t in found}) == 10
    assert all(len(jobs_of(tmp_path / name)) >= 2 for name in ("one", "two"))


@pytest.mark.slow
def test_what_has_no_number_fails_and_stops_nothing(tmp_path):
    """Rates that diverge are failed trials; another space under the same name is refused."""
    words = ("hydra.sweeper.n_trials=4", "hydra.sweeper.sampler=grid", "trainer.max_epochs=2", "output_dir=s")
    rates = ["data=diabetes", "optim=sgd", "optim.lr=0.1,1e20,0.05,1e25"]
    text = subprocess.run(
        [sys.executable, TRAIN, *(word for word in QUICK if word != "data=iris"), *rates, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert text.returncode == 1, text.stdout + text.stderr
    states = [t.state.name for t in trials(tmp_path / "s/study.journal")]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    again = start(tmp_path, words[0], "hydra.sweeper.storage=s/study.journal", "output_dir=other")
    assert (
        "hydra.sweeper.study_name: the study 'iolaus' in s/study.journal searches another space: optim.lr is"
        in finish(again, 1)
    )


@pytest.mark.slow
def test_several_objectives(tmp_path):
    words = (
        "hydra.sweeper.n_trials=3",
        "trainer.max_epochs=2",
        "hydra.sweeper.objectives=[min:loss/val,min:num_parameters]",
        "output_dir=s",
    )
    finish(start(tmp_path, *words))
    assert all(len(t.values) == 2 and t.values[1] == 15 for t in trials(tmp_path / "s/study.journal"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=mlp"], "sweep=optuna: nothing is searched"),
        (["optim.lr=interval(0.1, -0.1)"], "optim.lr"),
        (["optim.lr=interval(-1.0, 0.1)"], "optim.lr: must be above 0; received -1"),
        (["optim.lrr=interval(0.1, 0.2)"], "optim.lrr: torch.optim.Adam has no argument 'lrr'"),
        (["model=mlp,linaer"], "there is no model 'linaer'"),
        ([RATES, "hydra.sweeper.sampler=tpee"], "hydra.sweeper.sampler: there is no 'tpee'; did you mean 'tpe'?"),
        ([RATES, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials: must be at least 1; received 0"),
        (
            [
                RATES,
                "hydra.sweeper.pruner=median",
                "hydra.sweeper.objectives=['max:accuracy/val','min:num_parameters']",
            ],
            "hydra.sweeper.pruner: median ends trials by objective.monitor",
        ),
        (
            [RATES, "hydra.sweeper.objectives=[loss/val]"],
            "hydra.sweeper.objectives: write min:NAME or max:NAME; received 'loss/val'",
        ),
    ],
)
def test_mistakes_are_told_before_any_trial(words, message, command, tmp_path):
    outcome = command("-m", "sweep=optuna", *words, "hydra/launcher=process")
    assert outcome.code == 1
    assert message in outcome.text
    assert "Traceback" not in outcome.text
    assert not list(tmp_path.glob("outputs/sweeps/*/*/config.yaml"))


def test_a_trial_reports_its_epochs_and_is_pruned(tmp_path, command, monkeypatch):
    """A study whose trials so far were far better: the run ends after its second epoch, with its rows, and is no failure."""
    journal = str(tmp_path / "x.journal")
    study = optuna.create_study(
        study_name="iolaus",
        storage=open_storage(journal),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=1),
    )
    for _ in range(2):
        trial = study.ask()
        for epoch in range(5):
            trial.report(-1.0, epoch)
        study.tell(trial, -1.0)
    trial = study.ask()
    told = {
        "storage": journal,
        "study": "iolaus",
        "number": trial.number,
        "monitor": "loss/val",
        "pruner": {"name": "median", "n_startup_trials": 1, "n_warmup_steps": 1},
    }
    monkeypatch.setenv("IOLAUS_TRIAL", json.dumps(told))
    outcome = command("data=iris", "model=linear", "callbacks=[default,pruning]", "trainer.max_epochs=9")
    assert outcome.code == 0, outcome.text
    assert outcome.results["status"] == "pruned"
    assert outcome.results["error"].startswith("pruned after epoch 2: loss/val was")
    assert outcome.results["epochs"] == 2
    values = (
        optuna.load_study(study_name="iolaus", storage=open_storage(journal))
        .get_trials()[trial.number]
        .intermediate_values
    )
    assert list(values) == [0, 1]


@pytest.mark.parametrize("monitor", ["loss/val", "loss/train"])
def test_a_trial_reports_what_is_logged_last_too(monkeypatch, monitor):
    """Values of the training come after the validation, and where there is none; each epoch is reported once."""
    from iolaus.callbacks.pruning import Pruning

    reported = []
    trial = SimpleNamespace(report=lambda value, epoch: reported.append((epoch, value)), should_prune=lambda: False)
    trainer = SimpleNamespace(
        callback_metrics={},
        sanity_checking=False,
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    pruning = Pruning(monitor)
    pruning._trial = trial
    for epoch in range(3):
        trainer.current_epoch = epoch
        pruning.on_train_epoch_start(trainer, None)
        trainer.callback_metrics["loss/val"] = 10.0 + epoch
        pruning.on_validation_end(trainer, None)
        trainer.callback_metrics["loss/train"] = 20.0 + epoch
    assert reported == ([(0, 10.0), (1, 11.0), (2, 12.0)] if monitor == "loss/val" else [(0, 20.0), (1, 21.0)])
