"""iolaus compare: all runs below a folder, ranked, whatever became of some of them, and without anything heavy."""

import csv
import html
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import CONF
from hydra import compose, initialize_config_dir
from sweep.folders import job, sweep_file

from iolaus import cli
from iolaus.compare.curves import learning_curves, read_curve
from iolaus.compare.find import runs_below
from iolaus.compare.tables import Wanted, tables
from iolaus.defaults import several
from iolaus.runs import option_text
from iolaus.sweep.leaderboard import LISTED

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def call(capfd, *words):
    code = 0
    try:
        cli.main(["compare", *map(str, words)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capfd.readouterr()
    return code, captured.out + captured.err


def made(folder, number, overrides=(), value=None, curve=(), data="digits", task="classification", **more):
    """A run's folder like those that train.py leaves; returns it."""
    job(folder, number, overrides, value, **more)
    run = folder / f"{number}_job"
    (run / "train.log").touch()
    (run / "metrics.csv").write_text(
        "epoch,step,loss/val\n" + "".join(f"{n},{n},{v}\n" for n, v in enumerate(curve, 1))
    )
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["objective"] = {"monitor": more.get("monitor", "loss/val"), "mode": more.get("mode", "min")}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    file = run / "results.json"
    if file.is_file():
        results = json.loads(file.read_text())
        results["choices"] |= {"data": data, "task": task}
        file.write_text(json.dumps(results))
    return run


def compared(folder, *words, **wanted):
    runs, notes = runs_below([folder], *words)
    return tables(runs, Wanted(**wanted), folder), notes


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs"
    folder.mkdir()
    return folder


def values(table):
    return [row.objective for row in table.board.rows]


def test_a_table_for_each_data_set_and_objective_the_best_first(outputs):
    for number, value in enumerate([0.5, 0.1, 0.3]):
        made(outputs / "a" / "deep", number, [f"optim.lr={number}"], value)
    for number, value in enumerate([0.6, 0.9]):
        made(outputs / "b", number, [f"optim.lr={number}"], value, monitor="accuracy/val", mode="max")
    made(outputs / "c", 0, ["data=diabetes"], 7.0, data="diabetes", task="regression")
    found, notes = compared(outputs)
    assert notes == []
    told = {(t.data, t.task, t.board.monitor): (values(t), t.order) for t in found}
    assert told == {
        ("digits", "classification", "loss/val"): ([0.1, 0.3, 0.5], "loss/val, lowest first"),
        ("digits", "classification", "accuracy/val"): ([0.9, 0.6], "accuracy/val, highest first"),
        ("diabetes", "regression", "loss/val"): ([7.0], "loss/val, lowest first"),
    }
    assert {tuple(t.board.keys) for t in found} == {("optim.lr",), ()}


def test_defaults_that_differ_are_columns_and_what_another_version_lacks_is_none(outputs):
    """Nobody said weight_decay; a run of an earlier version has no dropout, one of a later has a setting more, and results too."""
    for number, value in enumerate([0.1, 0.2, 0.3]):
        run = made(outputs, number, [f"optim.lr={number}"], value, samples_of_the_future={"a": [1]})
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["optim"]["weight_decay"] = 0.5 * (number == 2)
        if number == 0:
            del config["model"]["dropout"]
            config["new_key"] = {"x": 1}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    ((table,), _) = compared(outputs)
    assert table.board.keys == ["optim.lr", "optim.weight_decay"]
    assert [row.settings["optim.weight_decay"] for row in table.board.rows] == [0.0, 0.0, 0.5]


def test_runs_that_differ_in_the_seed_alone_are_joined(outputs, capfd):
    found = {"mlp": [0.3, 0.5, 0.4], "cnn": [0.1, 0.3, None]}
    number = 0
    for model, objectives in found.items():
        for seed, value in enumerate(objectives):
            made(
                outputs,
                number,
                [f"model={model}", f"seed={seed}"],
                value,
                status="failed" if value is None else "completed",
            )
            number += 1
    code, text = call(capfd)
    assert code == 0
    kept = found["cnn"][:2]
    assert "cnn" in text, text
    line = next(line for line in text.splitlines() if "cnn" in line)
    assert f"{statistics.fmean(kept):.4g} ± {statistics.stdev(kept):.2g}" in line
    assert "2 of 3" in line
    assert "2 completed, 1 failed" in line
    assert text.index("cnn") < text.index("mlp")
    _, text = call(capfd, "--json", "--filter", "model=mlp")
    (joined,) = json.loads(text)["tables"][0]["joined"]
    assert joined["mean"]["objective"] == pytest.approx(statistics.fmean(found["mlp"]))
    assert joined["deviation"]["objective"] == pytest.approx(statistics.stdev(found["mlp"]))
    _, text = call(capfd, "--each")
    assert "±" not in text
    assert text.count("mlp") == 3


def test_what_is_broken_is_told_and_hides_nothing(outputs, capfd):
    made(outputs, 0, [], 0.2)
    made(outputs, 1, [], float("nan"))
    made(outputs, 2, [], status="failed", error="Diverged: no\nmore")
    made(outputs, 3, [], status="running")
    made(outputs, 4, [], status="interrupted", error="stopped by SIGTERM")
    made(outputs, 5, [], status=None)
    (made(outputs, 6, [], 0.1) / "results.json").write_text('{"status": "comp')
    (made(outputs, 7, [], 0.3) / "config.yaml").write_text("{")
    (outputs / "stranger").mkdir()
    (outputs / "stranger" / "results.json").write_text('{"answer": 42}')
    (outputs / "options").mkdir()
    (outputs / "options" / "config.yaml").write_text("a: ${b}\n")
    code, text = call(capfd)
    assert code == 0, text
    assert "8 runs, 3 completed, 2 killed, 1 interrupted, 1 failed, 1 unreadable" in text
    assert "0_job" in text.split("   2  ")[0]
    assert "failed: outputs/2_job: Diverged: no\n" in text
    assert "note: outputs/6_job/results.json: is no JSON that a run wrote, or was cut off" in text
    assert "note: outputs/7_job/config.yaml: not plain YAML" in text
    assert "stranger" not in text
    assert "options" not in text
    _, text = call(capfd, "--json")  # where NaN is none
    (table,) = json.loads(text)["tables"]
    assert [run["objective"] for run in table["runs"]][:2] == [0.2, 0.3]
    assert any(run["objective"] is None and run["state"] == "completed" for run in table["runs"])


def test_sweeps_jobs_are_runs_and_what_was_repeated_is_asked_for(outputs):
    sweep = outputs / "sweeps" / "one"
    entries = [job(sweep, n, [f"optim.lr={n}"], float(n)) for n in range(3)]
    entries.append(job(sweep, 3, ["optim.lr=3"], status="absent"))
    sweep_file(sweep, entries)
    made(sweep / "earlier", 2, ["optim.lr=2"], status="failed")
    made(outputs, 9, ["optim.lr=9"], 0.5)
    ((table,), _) = compared(outputs)
    assert [row.state for row in table.board.rows] == ["completed"] * 4 + ["missing"]
    assert values(table)[:4] == [0.0, 0.5, 1.0, 2.0]
    ((table,), _) = compared(outputs, True)
    assert len(table.board.rows) == 6


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["callbacks=[default,ema]", "logger=csv"], {"callbacks": ["default", "ema"], "logger": ["csv"]}),
        (["callbacks=[]", "logger=[csv]"], {"callbacks": [], "logger": ["csv"]}),
        (["experiment=residual_spectrum"], {"callbacks": ["default", "curvature"]}),  # which its file says
        (["experiment=residual_spectrum", "logger=[]"], {"callbacks": ["default", "curvature"], "logger": []}),
    ],
)
def test_lists_of_options_are_told(words, expected):
    """What an absent choice of earlier versions stands for is the default of config.yaml."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", words, return_hydra_config=True)
        assert several(config.hydra) == LISTED | expected


def test_lists_of_options_are_written_as_in_a_command():
    written = [option_text(choice) for choice in (["a"], ["a", "b"], [], "a", "[a]", "[a, b]", "[]", None)]
    assert written == ["a", "[a,b]", "[]", "a", "a", "[a,b]", "[]", None]


def test_a_choice_that_earlier_versions_did_not_write_is_no_difference(outputs, capfd):
    """Two runs of them, one that chose callbacks, and three of this version."""
    ema = ["default", "ema"]
    for number, (words, listed) in enumerate(
        [
            ([], None),
            (["callbacks=[default,ema]"], None),
            ([], ["default"]),
            (["callbacks=[default,ema]"], ema),
            ([], ema),
        ]
    ):
        run = made(outputs, number, words, 0.1 * number)
        results = json.loads((run / "results.json").read_text())
        del results["choices"]["callbacks"]
        if listed is not None:
            results["choices"] |= {"callbacks": listed, "logger": ["tensorboard"], "augment": []}
        (run / "results.json").write_text(json.dumps(results))
    ((table,), _) = compared(outputs)
    assert table.board.keys == ["callbacks"]
    with_ema = "[default,ema]"
    assert [row.settings["callbacks"] for row in table.board.rows] == [
        "default",
        with_ema,
        "default",
        with_ema,
        with_ema,
    ]
    code, text = call(capfd)
    assert code == 0, text
    assert "null" not in text
    ((table,), _) = compared(outputs, filters=[f"callbacks={with_ema}"])
    assert len(table.board.rows) == 3


def test_the_columns_are_those_in_which_the_first_rows_differ(outputs, capfd):
    for number, words in enumerate([["lr=1"], ["lr=2"], ["lr=2", "weight_decay=1"]]):
        for seed in (0, 1):
            overrides = [f"seed={seed}", *(f"optim.{word}" for word in words), *(["loss=mae"] if number == 2 else [])]
            made(outputs, 2 * number + seed, overrides, 0.1 * number, choices={"loss": "mae" if number == 2 else "mse"})
    keys = {}
    for top in (None, 3, 2, 1):
        ((table,), _) = compared(outputs, top=top)
        keys[top] = set(table.board.keys)
        assert all(set(row.settings) == keys[top] for row in table.board.rows)
        assert all(set(group.settings) == keys[top] - {"seed"} for group in table.board.repeats)
    everything = {"seed", "optim.lr", "optim.weight_decay", "loss"}
    assert keys == {
        None: everything,
        3: everything,
        2: {"seed", "optim.lr"},
        1: everything,
    }  # the winner, and all it won by
    ((table,), _) = compared(outputs, top=3, is_joined=False)
    assert set(table.board.keys) == {"seed", "optim.lr"}
    _, text = call(capfd, "--top", "2")
    assert "weight_decay" not in text
    assert "different loss" not in text  # of those that are shown


def test_runs_that_were_not_to_train_are_no_rows(outputs, capfd):
    made(outputs, 0, [], 0.2)
    for number, stages in enumerate(
        ["[lr_find]", "[lr_find]", "[batch_size_find]", "[info]", "[lr_find, fit]", "[test]"], 1
    ):
        run = made(outputs, number, [], 0.3 if number > 4 else None)
        config = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump(config | {"stages": yaml.safe_load(stages)}))
    code, text = call(capfd)
    assert code == 0, text
    assert "3 runs, 3 completed" in text
    assert "note: left out: 2 that looked for a setting (stages=[lr_find])\n" in text
    assert "note: left out: 1 that looked for a setting (stages=[batch_size_find])\n" in text
    assert "note: left out: 1 that showed what was to be done (stages=[info])\n" in text
    code, text = call(capfd, "outputs/1_job")
    assert code == 1
    assert text.startswith("outputs/1_job: no run was found there\nleft out: 1 that looked for a setting")


def test_a_folder_of_mixed_runs_is_no_sweep(outputs, capfd):
    """A sweep has a plan, or multirun.yaml where another launcher ran it; so its report is not that of whatever lies together."""
    made(outputs / "digits-mlp", 0, ["optim.lr=1"], 0.2)
    made(outputs / "digits-mlp", 1, ["optim.lr=2"], 0.1)
    for folder in ("outputs", "outputs/digits-mlp"):
        with pytest.raises(SystemExit) as stop:
            cli.main(["report", folder])
        assert stop.value.code == 1
        said = capfd.readouterr().err
        assert (
            said == f"{folder}: is no sweep's folder and no run's; to rank all runs below it: iolaus compare {folder}\n"
        )
        assert not (outputs.parent / folder / "leaderboard.csv").exists()
    (outputs / "digits-mlp" / "multirun.yaml").touch()
    cli.main(["report", "outputs/digits-mlp"])
    assert "sweep: 2 completed" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model=mlp"], {0, 1}),
        (["model!=mlp"], {2, 3}),
        (["optim.lr<0.01"], {0, 2}),
        (["lr>=1e-2"], {1, 3}),
        (["optim.lr=1e-3", "model=c*"], {2}),
        (["state=completed"], {0, 1, 2}),
        (["hidden_dims=[128]"], {0, 1, 2, 3}),
        (["accuracy/test>0.98"], {0}),
        (["folder=*/1_job"], {1}),
        (["optim.weight_decay=0"], {0, 1, 2, 3}),
    ],
)
def test_filters(outputs, words, expected):
    number = 0
    for model in ("mlp", "cnn"):
        for lr in (0.001, 0.01):
            status = "failed" if number == 3 else "completed"
            made(
                outputs,
                number,
                [f"model={model}", f"optim.lr={lr}"],
                None if number == 3 else 0.1 + number / 5,
                status=status,
            )
            number += 1
    (table,), _ = compared(outputs, filters=words)
    assert {int(row.folder.name[0]) for row in table.board.rows} == expected


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ({}, [1, 2, 0]),
        ({"reverse": True}, [0, 2, 1]),
        ({"sort": "lr"}, [0, 1, 2]),
        ({"sort": "-optim.lr"}, [2, 1, 0]),
        ({"sort": "-optim.lr", "reverse": True}, [0, 1, 2]),
        ({"sort": "seconds"}, [2, 1, 0]),
        ({"sort": "-objective"}, [0, 2, 1]),
        ({"sort": "accuracy/test"}, [1, 2, 0]),  # the higher the better, as its class says
        ({"sort": "objective", "top": 2}, [1, 2]),
    ],
)
def test_orders(outputs, sort, expected):
    for number, value in enumerate([0.3, 0.1, 0.2]):
        run = made(outputs, number, [f"optim.lr={number}"], value, seconds={"total": 9.0 - number})
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["metrics"] = {"accuracy": {"_target_": "torchmetrics.classification.MulticlassAccuracy"}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    made(outputs, 3, ["optim.lr=3"], status="failed", seconds=None)
    (table,), _ = compared(outputs, filters=["lr<3"], **sort)
    assert [int(row.folder.name[0]) for row in table.board.rows] == expected
    assert table.more == 3 - len(expected)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "nowhere: there is no such folder"),
        (["empty"], "empty: no run was found there"),
        (
            ["--sort", "acuracy/val"],
            "--sort acuracy/val: no run has such a metric or setting; did you mean 'accuracy/val'?",
        ),
        (["--sort", "-acuracy/val"], "did you mean 'accuracy/val'?"),
        (["--filter", "modle=mlp"], "--filter modle: no run has such a metric or setting; did you mean 'model'?"),
        (["--filter", "optim.lrr<1"], "did you mean 'optim.lr'?"),
        (["--filter", "model"], "--filter model: write KEY=VALUE"),
        (["--filter", "optim.lr<much"], "< compares numbers; received 'much'"),
        (["--filter", "model=rnn"], "--filter model=rnn: none of the 2 runs is left"),
        (["--filter", "_target_=M"], "--filter _target_: may be data._target_, model._target_, optim._target_"),
        (["--columns", "model,losss"], "--columns losss: no run has such a metric or setting"),
        (["--top", "0"], "--top: must be at least 1; received 0"),
        (["--csv", "nowhere/a.csv"], "--csv nowhere/a.csv: cannot be written"),
        (["--csv", ""], "--csv: . is a folder; name a file"),
        (["--figure", "a.pdf"], "--figure: a.pdf must end in .png"),
        (["--figure", "a.png"], "--figure: no run has logged its objective"),
    ],
)
def test_mistakes_are_told_in_a_line(outputs, capfd, words, says):
    (outputs.parent / "empty").mkdir()
    for number in range(2):
        made(outputs, number, [f"optim.lr={number}"], 0.1)
    code, text = call(capfd, *words)
    assert code == 1
    assert says in text
    assert len(text.splitlines()) == 1


def test_what_sorts_is_shown_on_a_narrow_terminal(outputs, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    for number, value in enumerate([0.3, 0.1]):
        run = made(outputs, number, [f"optim.lr={number}", "model=mlp"], value)
        results = json.loads((run / "results.json").read_text())
        results["metrics"]["test"] = {f"{name}/test": value for name in ("accuracy", "auroc", "f1", "recall")}
        (run / "results.json").write_text(json.dumps(results))
    for key in ("recall/test", "model"):  # a metric that would be the first to go, and a setting that does not differ
        code, text = call(capfd, "--sort", key)
        assert code == 0, text
        shown, hidden = text.split("not shown for want of room")
        assert f" {key} " in shown
        assert key not in hidden


def test_files_for_programs_and_people(outputs, capfd):
    for number, value in enumerate([0.3, 0.1]):
        words = [f"optim.lr={number}", f"stages=[{'test,' * number}fit]"]
        run = made(outputs, number, words, value, curve=[0.9, float("nan"), value])
        (run / "report.md").touch()
    made(outputs, 2, ["data=diabetes"], 7.0, curve=[8.0, 7.0], data="diabetes", task="regression")
    place = outputs.parent / "pages"
    place.mkdir()
    code, text = call(capfd, "outputs", "--csv", "a.csv", "--html", "pages/a.html", "--figure", "a.png")
    assert code == 0, text
    with open("a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["data"], row["objective"], row["optim.lr"], row["stages"]) for row in rows] == [
        ("diabetes", "7.0", "0.001", "[fit, test]"),
        ("digits", "0.1", "1", "[test,fit]"),
        ("digits", "0.3", "0", "[fit]"),
    ]
    page = (place / "a.html").read_text()
    assert 'href="../outputs/1_job/report.md"' in page
    assert 'src="data:image/png;base64,' in page
    assert "http" not in page  # nothing is fetched
    assert (outputs.parent / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no browser")
def test_wide_tables_use_the_width_of_the_window(outputs, capfd):
    """Chromium's own measure: the table is as wide as a wide window lets it be, text is not, and no window is scrolled sideways."""
    for number in range(3):
        run = made(outputs, number, [f"optim.lr={number}"], 0.1 * number)
        results = json.loads((run / "results.json").read_text())
        results["metrics"]["test"] = {f"a_metric_of_a_long_name_{n}/test": 0.5 for n in range(8)}
        (run / "results.json").write_text(json.dumps(results))
    call(capfd, "--html", "page.html")
    page, widths = html.escape(Path("page.html").read_text()), (400, 1000, 1600)
    frames = "".join(f'<iframe width={width} height=900 style="border:0" srcdoc="{page}"></iframe>' for width in widths)
    script = """onload = () => document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
        const d = frame.contentDocument, wide = name => d.querySelector(name).getBoundingClientRect().width;
        return [d.documentElement.scrollWidth, wide(".wide"), wide("p"), wide("table")] }))"""
    Path("frames.html").write_text(f"{frames}<script>{script}</script>")
    quiet = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    words = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        *quiet,
        "--disable-sync",
        f"--user-data-dir={Path.cwd() / 'profile'}",
    ]
    words += ["--dump-dom", Path("frames.html").resolve().as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    title = re.search("<title>(.*)</title>", done.stdout)
    assert title, done.stdout[-500:]
    for width, (scrolled, room, text, table) in zip(widths, json.loads(title[1]), strict=True):
        assert table > 1600  # wider than any of them
        assert scrolled <= width
        assert width - 60 < room < width  # all of it but the margins, and a scroll bar
        assert text <= 960


def test_curves_hold_what_was_logged(outputs):
    for number in range(3):
        made(
            outputs,
            number,
            [f"model={'mlp' if number < 2 else 'cnn'}", f"seed={number}"],
            0.1 * number + 0.1,
            curve=[1, 0.5],
        )
    epochs, logged = read_curve(outputs / "0_job" / "metrics.csv", "loss/val")
    assert (epochs, logged) == ([1.0, 2.0], [1.0, 0.5])
    (outputs / "0_job" / "metrics.csv").write_text("epoch,step,loss/val\n0,0,9\n1,1,nan\n2,2,\n3,3,0.4\n4,4")
    assert read_curve(outputs / "0_job" / "metrics.csv", "loss/val") == ([3.0], [0.4])
    assert read_curve(outputs / "nowhere.csv", "loss/val") == ([], [])
    found, _ = compared(outputs)
    (ax,) = learning_curves(found).axes
    curves = [line for line in ax.get_lines() if len(line.get_xdata()) > 1]
    assert all(math.isfinite(v) for line in ax.get_lines() for v in line.get_ydata())
    assert len(curves) == 2  # that of a single epoch is a dot
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["1: model mlp", "2: model cnn"]


def test_the_table_needs_nothing_heavy(outputs):
    for number in range(30):
        data = ("digits", "iris", "diabetes")[number % 3]
        made(outputs, number, [f"data={data}", f"optim.lr={number}"], 0.1 * number, data=data)
    script = (
        "import sys; from iolaus.cli import main; main(['compare', '--sort', 'seconds']);"
        "print(sorted({'torch', 'pytorch_lightning', 'matplotlib', 'numpy', 'hydra'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    assert "30 runs, 30 completed" in result.stdout


def test_of_settings_with_the_same_last_part_the_shortest_is_meant(tmp_path, capfd):
    """One run has parameter groups with rates of their own."""
    made(tmp_path, 0, ["optim.lr=0.1"], 0.5)
    made(tmp_path, 1, ["optim.lr=0.2", "+optim._groups_.head.lr=0.3"], 0.4)
    made(tmp_path, 2, ["optim.lr=0.3", "+optim._groups_.head.lr=0.4"], 0.3)
    for number, groups in ((1, {"head": {"lr": 0.3}}), (2, {"head": {"lr": 0.4}})):
        file = tmp_path / f"{number}_job" / "config.yaml"
        config = yaml.safe_load(file.read_text())
        config["optim"]["_groups_"] = groups
        file.write_text(yaml.safe_dump(config))
    code, text = call(capfd, tmp_path, "--sort", "-lr", "--columns", "model,lr,seconds")
    assert code == 0, text
    assert "by optim.lr, highest first" in text
    assert [float(rate) for rate in re.findall(r"│ +(0\.[123]) ", text)] == [0.3, 0.2, 0.1]
    assert call(capfd, tmp_path, "--sort", "-seconds", "--columns", "model,lr,seconds")[0] == 0
    code, text = call(capfd, tmp_path, "--columns", "optim.lrr")
    assert (code, "did you mean 'optim.lr'" in text) == (1, True)
    code, text = call(capfd, tmp_path, "--columns", "secnds")
    assert (code, "did you mean 'seconds'" in text) == (1, True)
