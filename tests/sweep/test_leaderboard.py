"""A sweep's folder, read and ranked: what varies, who is best, what became of the others."""

import csv
import fcntl
import json
import statistics
import subprocess
import sys

import pytest
from sweep.folders import job, sweep_file

from iolaus import cli
from iolaus.errors import UserError
from iolaus.sweep.importance import importance
from iolaus.sweep.leaderboard import leaderboard
from iolaus.sweep.report import report_sweep
from iolaus.sweep.scale import codes, is_log, names


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "multirun.yaml").touch()  # as Hydra leaves it, also where another launcher ran the jobs
    return folder


def numbers(board):
    return [row.number for row in board.rows]


def test_the_settings_that_vary_and_no_others(sweep):
    """A group is one column, whatever follows from its choice; what all jobs have alike is none; values are those of config.yaml."""
    for number, (model, lr) in enumerate([("mlp", "1e-3"), ("cnn", "1e-3"), ("mlp", "0.01"), ("cnn", "0.01")]):
        overrides = ["data=digits", f"model={model}", f"optim.lr={lr}", "data.batch_size=64", "model.hidden_dims=[128]"]
        job(sweep, number, overrides, value=float(number))
    board = leaderboard(sweep)
    assert board.keys == ["model", "optim.lr"]
    assert [row.settings for row in board.rows][:2] == [
        {"model": "mlp", "optim.lr": 0.001},
        {"model": "cnn", "optim.lr": 0.001},
    ]
    assert numbers(board) == [0, 1, 2, 3]
    assert board.metrics == ["accuracy/test"]


def test_jobs_without_overrides_are_told_apart_by_their_settings(sweep):
    """Runs that were gathered in a folder: the seed, and not the data's seed that follows it, nor paths into each folder."""
    for number in range(4):
        entry = job(sweep, number, [f"seed={number // 2}", f"model={('mlp', 'cnn')[number % 2]}"], value=1.0)
        file = sweep / f"{number}_job" / "results.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"overrides": []}))
        assert entry["number"] == number
    assert leaderboard(sweep).keys == ["model", "seed"]


def test_jobs_that_came_to_nothing_stand_last(sweep):
    """Whatever their numbers: by what became of them, each with why in a line; a run that trains is held by its process."""
    kinds = [
        job(sweep, 0, ["optim.lr=0"], status="failed", error="Diverged: loss/train is nan;\nlower the rate"),
        job(sweep, 1, ["optim.lr=1"], status="absent"),
        job(sweep, 2, ["optim.lr=2"], 0.5),
        job(sweep, 3, ["optim.lr=3"], status=None),
        job(sweep, 4, ["optim.lr=4"], 0.1, status="pruned"),
        job(sweep, 5, ["optim.lr=5"], float("nan")),
        job(sweep, 6, ["optim.lr=6"], 0.4),
        job(sweep, 7, ["optim.lr=7"], status="running"),
        job(sweep, 8, ["optim.lr=8"], status="running"),
        job(sweep, 9, ["optim.lr=9"], 0.2, status="interrupted", error="stopped by SIGTERM"),
        job(sweep, 10, ["optim.lr=10"], None),
        job(sweep, 11, ["optim.lr=11"], status="interrupted", error="killed by signal 9 (out of memory?)"),
    ]
    sweep_file(sweep, kinds)
    lock = sweep / "8_job" / ".lock"
    holder = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    training = subprocess.Popen(
        [sys.executable, "-c", holder, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    training.stdout.readline()
    try:
        board = leaderboard(sweep)
    finally:
        training.communicate(b"\n")
    assert numbers(board) == [6, 2, 5, 10, 8, 9, 4, 0, 3, 7, 11, 1]
    states = ["completed"] * 4 + ["running", "interrupted", "pruned", "failed", *["killed"] * 3, "missing"]
    assert [row.state for row in board.rows] == states
    assert board.counts == {
        "completed": 4,
        "running": 1,
        "interrupted": 1,
        "pruned": 1,
        "failed": 1,
        "killed": 3,
        "missing": 1,
    }
    errors = {row.number: row.error for row in board.rows}
    assert errors[0] == "Diverged: loss/train is nan"
    assert errors[1] == "did not start"
    assert "killed" in errors[3]
    assert errors[9] == "stopped by SIGTERM"
    assert board.rows[-1].settings == {"optim.lr": 1}  # of its override, as it has no settings
    assert [row.number for row in board.ranked] == [6, 2]
    assert leaderboard(sweep).counts["killed"] == 4  # once its process is gone


def test_the_largest_is_best_where_the_objective_says_so(sweep):
    for number, value in enumerate([0.7, 0.9, None, 0.8]):
        job(sweep, number, [f"optim.lr={number}"], value, monitor="accuracy/val", mode="max")
    board = leaderboard(sweep)
    assert numbers(board) == [1, 3, 0, 2]
    assert (board.monitor, board.mode) == ("accuracy/val", "max")


def test_a_list_of_objectives_ranks_by_the_first(sweep):
    both = [{"monitor": "a/val", "mode": "max", "value": None}, {"monitor": "b/val", "mode": "min", "value": 0.0}]
    for number, value in enumerate([1.0, 2.0]):
        job(sweep, number, [f"optim.lr={number}"], 1.0, objective=[both[0] | {"value": value}, both[1]])
    assert numbers(leaderboard(sweep)) == [1, 0]


def test_mean_and_spread_over_seeds(sweep):
    """The standard deviation is that of a sample; a job that failed counts for nothing, and that is told."""
    values = {"mlp": [0.3, 0.5, 0.4], "cnn": [0.1, 0.2, None]}
    number = 0
    for model, found in values.items():
        for seed, value in enumerate(found):
            status = "completed" if value is not None else "failed"
            job(sweep, number, [f"model={model}", f"seed={seed}", "sweep=seeds"], value, status)
            number += 1
    board = leaderboard(sweep)
    assert board.keys == ["model", "seed"]
    assert [group.settings for group in board.repeats] == [{"model": "cnn"}, {"model": "mlp"}]
    for group in board.repeats:
        kept = [value for value in values[group.settings["model"]] if value is not None]
        assert group.mean("objective") == pytest.approx(statistics.mean(kept))
        assert group.deviation("objective") == pytest.approx(statistics.stdev(kept))
        assert group.mean("accuracy/test") == pytest.approx(1 - statistics.mean(kept) / 10)
        assert group.mean("nothing/test") is None
    text = report_sweep(sweep)
    assert "mean ± standard deviation over seeds" in text
    assert "2 of 3" in text
    assert (sweep / "figures" / "repeats.png").is_file()


def test_the_best_of_folds_is_run_again_on_all_rows(sweep):
    for number in range(4):
        overrides = [
            f"data.fold={number % 2}",
            "sweep=kfold",
            "data.folds=2",
            f"model={('mlp', 'cnn')[number // 2]}",
            "optim.lr=1",
            "+callbacks.pruning._target_=iolaus.callbacks.pruning.Pruning",
        ]
        job(sweep, number, overrides, float(number))
    text = report_sweep(sweep)
    assert "over folds" in text
    assert "note: of each fold the best epoch is chosen on the fold itself" in text
    assert "\n  python train.py model=mlp optim.lr=1\n" in text


def test_losses_of_different_kinds_are_not_compared_silently(sweep):
    for number, loss in enumerate(["mse", "mae"]):
        job(sweep, number, [f"loss={loss}"], 1.0, choices={"loss": loss})
    assert "loss/val does not compare jobs with different loss" in leaderboard(sweep).notes[0]


def test_other_objectives_are_not_ranked(sweep):
    job(sweep, 0, ["objective.monitor=loss/val"], 0.5)
    job(sweep, 1, ["objective.monitor=loss/val"], 0.4)
    job(sweep, 2, ["objective.monitor=accuracy/val"], 0.1, monitor="accuracy/val", mode="max")
    board = leaderboard(sweep)
    assert [row.number for row in board.ranked] == [1, 0]
    assert numbers(board) == [1, 0, 2]
    assert "different objectives" in board.notes[0]


def test_repeats_of_another_objective_count_for_nothing(sweep):
    for number, (model, monitor) in enumerate([("mlp", "loss/val")] * 3 + [("cnn", "error/val")] * 2):
        job(sweep, number, [f"model={model}", f"seed={number}"], 0.5 if model == "mlp" else 0.1, monitor=monitor)
    assert [group.mean("objective") for group in leaderboard(sweep).repeats] == [0.5, None]
    assert "best: model=mlp, loss/val 0.5 ± 0\n" in report_sweep(sweep)


def test_the_numbers_of_studies_are_shown(sweep):
    for number in range(2):
        job(
            sweep,
            number,
            [f"study.dimension={number}"],
            None,
            metrics={"best": {}, "last": {}, "test": {}, "study": {"error": 1.5}},
        )
    board = leaderboard(sweep)
    assert board.metrics == ["error"]
    assert "1.5" in report_sweep(sweep)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Thirty jobs whose objective follows the rate and hardly the width, one of which failed."""
    sweep = tmp_path_factory.mktemp("large")
    jobs = []
    for number in range(30):
        lr, width = 10 ** (-4 + 4 * ((7 * number) % 30) / 29), (16, 32, 64)[number % 3]
        value = (lr - 0.01) ** 2 + 0.1 + 1e-9 * width
        overrides = [f"optim.lr={lr}", f"model.hidden_dims=[{width}]", "callbacks=[default,ema]"]
        broken = {"status": "failed", "error": "UserError: <b>a | b</b> [red]no[/red]"} if number == 4 else {}
        jobs.append(job(sweep, number, overrides, None if broken else value, **broken))
    sweep_file(sweep, jobs, "python tools/train.py -m optim.lr=1,2")
    return sweep, report_sweep(sweep)


def test_the_report_in_the_terminal(large):
    sweep, text = large
    assert text.startswith("sweep: 29 completed, 1 failed")
    assert "and 10 jobs more" in text
    assert "job 4 failed: UserError: <b>a | b</b> [red]no[/red]" in text
    assert str(sweep.name) + "/4_job" in text
    assert max(map(len, text.split("best: ")[0].splitlines())) <= 120
    best = leaderboard(sweep).rows[0]
    assert f"  python tools/train.py optim.lr={best.settings['optim.lr']} 'model.hidden_dims=" in text
    assert "'callbacks=[default,ema]'" in text
    assert "  tensorboard --logdir " in text


def test_the_files_of_the_report(large):
    """The table holds every job in full; the page holds its pictures, and shows texts of runs as texts."""
    sweep, _ = large
    with (sweep / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    values = [float(row["objective"]) for row in rows[:-1]]
    assert values == sorted(values)
    assert (rows[-1]["job"], rows[-1]["state"], rows[-1]["folder"]) == ("4", "failed", "4_job")
    assert float(rows[0]["optim.lr"]) == leaderboard(sweep).rows[0].settings["optim.lr"]
    page, markdown = (sweep / "report.html").read_text(), (sweep / "report.md").read_text()
    assert "&lt;b&gt;a | b&lt;/b&gt;" in page
    assert "<b>" not in page
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page
    for name in ("history", "slices", "parallel_coordinates", "importance"):
        assert (sweep / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"(figures/{name}.png)" in markdown
    assert not list(sweep.rglob("*.partial"))


def test_importance_finds_what_mattered(large):
    sweep, _ = large
    found = importance(leaderboard(sweep))
    assert found.jobs == 29
    assert found.shares["optim.lr"] > 0.8
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.explained > 0.5


def test_nothing_is_said_of_importance_from_four_jobs(sweep):
    for number in range(4):
        job(sweep, number, [f"optim.lr={number}", f"optim.weight_decay={number % 2}"], float(number))
    assert importance(leaderboard(sweep)) is None


def test_axes():
    assert is_log([1e-4, 1e-3, 1e-2])
    assert not is_log([0.008, 0.1, 0.2, 0.3, 0.4])  # spans as much, and stands evenly as it is
    assert not is_log([0.0, 1.0, 100.0])
    assert not is_log([1, 2, 4])
    assert names([[128], [32], None, [64]]) == ["[32]", "[64]", "[128]", "null"]
    assert codes([True, False, True]) == [1.0, 0.0, 1.0]


def test_a_sweep_that_was_moved_or_is_half_written(sweep, tmp_path):
    """Jobs are found beside sweep.yaml; where that is broken, the subfolders that hold runs are the jobs."""
    jobs = [job(sweep, number, [f"optim.lr={number}"], float(number)) for number in (0, 10, 9)]
    sweep_file(sweep, jobs)
    moved = sweep.rename(tmp_path / "moved")
    assert numbers(leaderboard(moved)) == [0, 9, 10]
    (moved / "sweep.yaml").write_text("jobs: [{number: 0, fol")
    (moved / "0_job" / "results.json").write_text('{"status": "compl')
    (moved / "9_job" / "config.yaml").write_text("{")
    board = leaderboard(moved)
    assert numbers(board) == [9, 10, 0]
    assert board.rows[-1].state == "killed"
    assert report_sweep(moved).startswith("sweep: 2 completed, 1 killed")


def test_a_sweep_of_which_nothing_came(sweep):
    sweep_file(sweep, [job(sweep, n, [f"optim.lr={n}"], status="absent") for n in range(2)])
    text = report_sweep(sweep)
    assert text.startswith("sweep: 2 missing")
    assert "best:" not in text


def test_folders_that_are_no_sweep(sweep, capfd):
    job(sweep, 0, [], 1.0)
    (sweep / "empty").mkdir()
    for folder, says in (
        ("empty", "is no sweep's folder"),
        ("no", "there is no such folder"),
    ):
        with pytest.raises(UserError, match=says):
            leaderboard(sweep / folder)
        with pytest.raises(SystemExit) as stop:
            cli.main(["report", str(sweep / folder)])
        assert stop.value.code == 1
        said = capfd.readouterr().err
        assert says in said
        assert len(said.splitlines()) == 1
    with pytest.raises(UserError, match="is a run and no sweep"):
        leaderboard(sweep / "0_job")
    cli.main(["report", str(sweep / "0_job")])  # which is then told of as a run, though it says little
    assert "objective: loss/val 1\n" in capfd.readouterr().out


def test_a_report_that_cannot_be_written(sweep, capfd):
    job(sweep, 0, [], 1.0)
    (sweep / "figures").write_text("in the way")
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(sweep)])
    assert stop.value.code == 1
    assert "the report cannot be written" in capfd.readouterr().err


def test_the_command_writes_it_again(sweep, capfd):
    for number in range(3):
        job(sweep, number, [f"optim.lr={number}"], float(number))
    cli.main(["report", str(sweep)])
    assert "best: job 0, loss/val 0" in capfd.readouterr().out
    job(sweep, 3, ["optim.lr=3"], -1.0)
    cli.main(["report", str(sweep)])
    assert "best: job 3, loss/val -1" in capfd.readouterr().out


def test_reading_needs_nothing_heavy(large):
    sweep, _ = large
    code = (
        "import sys, pathlib; from iolaus.sweep.leaderboard import leaderboard; leaderboard(pathlib.Path(sys.argv[1]));"
        "print({'torch', 'pandas', 'numpy', 'matplotlib', 'sklearn', 'hydra'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(sweep)], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_reading_takes_no_run_from_its_process(sweep):
    """The lock that tells whether a run is being trained is free again once it was looked at."""
    job(sweep, 0, ["optim.lr=0"], status="running")
    lock = sweep / "0_job" / ".lock"
    lock.write_text("")
    assert leaderboard(sweep).rows[0].state == "killed"
    with lock.open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # reading has let go of it
