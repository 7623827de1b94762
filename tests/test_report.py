"""The report of a run: everything in one page, from the folder's files alone, also where these are a stranger's."""

import base64
import csv
import html
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from conftest import CONF
from forked import copy_of, finished
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from iolaus import cli, pages
from iolaus.defaults import changed_by
from iolaus.pages import Page, Picture, Table, Words, markdown, page_html
from iolaus.resume import prepare


class Parser(HTMLParser):
    """Notes what a page refers to, its texts, and tags that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.words, self.open, self.cells = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return finished(
        tmp_path_factory.mktemp("made"), "data=iris", "trainer.max_epochs=3", "optim.lr=0.01", "model=linear"
    )


@pytest.fixture
def run(made, tmp_path):
    return copy_of(made, tmp_path / "run")


def results_of(run):
    return json.loads((run / "results.json").read_text())


def report(run, monkeypatch, capfd):
    """`iolaus report run`, from the folder beside it: exit code, what it says, the page."""
    monkeypatch.chdir(run.parent)
    code = 0
    try:
        cli.main(["report", run.name])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capfd.readouterr()
    return code, captured.out + captured.err, Parser((run / "report.html").read_text())


def test_the_page_holds_everything(made):
    text, results = (made / "report.html").read_text(), results_of(made)
    page = Parser(text)
    assert page.open == []
    embedded = [base64.b64decode(source.partition("base64,")[2]) for source in page.sources]
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert sorted(embedded) == sorted(file.read_bytes() for file in (made / "figures").glob("*.png"))
    words = " ".join(page.words)
    for metrics in results["metrics"].values():
        for value in metrics.values():
            assert f"{value:.4f}" in page.cells
    for told in (
        results["versions"]["torch"],
        results["framework"]["commit"],
        results["machine"]["cpu"],
        "checkpoints/best.ckpt",
    ):
        assert told in words
    assert "python train.py data=iris trainer.max_epochs=3 optim.lr=0.01 model=linear" in words
    assert (made / "config.yaml").read_text().rstrip() in words
    assert (made / "model.txt").read_text().rstrip() in words
    beside = (made / "report.md").read_text()
    assert set(re.findall(r"\((figures/\w+\.png)\)", beside)) == {
        f"figures/{f.name}" for f in (made / "figures").glob("*")
    }


def test_settings_that_differ_are_told_with_the_defaults(made):
    assert results_of(made)["changed"] == {
        "data": {"default": "digits", "value": "iris"},
        "model": {"default": "mlp", "value": "linear"},
        "optim.lr": {"default": 0.001, "value": 0.01},
        "trainer.max_epochs": {"default": 100, "value": 3},
    }
    assert "| optim.lr | 0.001 | 0.01 |" in (made / "report.md").read_text()


def changed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        settings = config.hydra
        with open_dict(config):
            config.pop("hydra")
        return changed_by(settings, config)()


def test_what_an_experiment_or_the_data_choose():
    assert changed() == {}
    assert changed("data=morse") == {
        "data": {"default": "digits", "value": "morse"}
    }  # which brings a model and a schedule
    found = changed("experiment=iris_mlp", "~callbacks.early_stopping", "+optim._groups_.rest={match: x}")
    assert found.pop("callbacks.early_stopping").keys() == {"default"}
    assert found == {
        "experiment": {"default": None, "value": "iris_mlp"},
        "data": {"default": "digits", "value": "iris"},
        "model.hidden_dims": {"default": [128, 64], "value": [16]},
        "optim.lr": {"default": 0.001, "value": 0.01},
        "optim._groups_": {"value": {"rest": {"match": "x"}}},
    }


def test_a_run_that_goes_on_changes_more(run):
    _, job = prepare(run, ["trainer.max_epochs=5", "trainer.gradient_clip_val=1"], [])
    now = job.changed()
    assert now["trainer.max_epochs"] == {"default": 100, "value": 5}
    assert now["trainer.gradient_clip_val"] == {"default": None, "value": 1}
    assert now["optim.lr"] == {"default": 0.001, "value": 0.01}
    (run / "results.json").write_text(json.dumps(results_of(run) | {"changed": None, "status": "running"}))
    _, job = prepare(run, [], [])
    assert job.changed()["optim.lr"] == {"value": "0.01"}


def test_the_report_again(run, monkeypatch, capfd):
    written = [(run / name).read_text() for name in ("report.md", "report.html")]
    for name in ("report.md", "report.html"):
        (run / name).unlink()
    code, text, _ = report(run, monkeypatch, capfd)
    assert code == 0, text
    assert [(run / name).read_text() for name in ("report.md", "report.html")] == written
    assert f"{results_of(run)['metrics']['test']['loss/test']:.4f}" in text
    assert "report: run/report.html" in text


def test_without_torch_and_when_nobody_reads(run):
    """In a process of its own, whose output goes into a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    code = (
        "import sys\nfrom iolaus import cli\ntry:\n    cli.main(['report', 'run'])\nfinally:\n"
        "    print(sorted({'torch', 'matplotlib', 'numpy', 'pytorch_lightning'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=run.parent, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "[]\n")


def test_a_run_that_was_killed(run, monkeypatch, capfd):
    """What results.json does not say yet, metrics.csv does; a line that is half written is left out."""
    results = results_of(run)
    told = {"status": "running", "metrics": {"best": {}, "last": {}, "test": {}}, "best_epoch": None, "epochs": 0}
    told |= {"objective": results["objective"] | {"value": None}, "shown": [], "changed": None}
    (run / "results.json").write_text(json.dumps(results | told))
    shutil.rmtree(run / "figures")
    with (run / "metrics.csv").open("a") as file:
        file.write("4,5")
    code, text, page = report(run, monkeypatch, capfd)
    assert code == 0, text
    assert "Status: killed" in " ".join(page.words)  # no process holds the folder
    with (run / "metrics.csv").open() as file:
        losses = [float(row["loss/val"]) for row in csv.DictReader(file) if row["loss/val"]]
    assert f"Best epoch {losses.index(min(losses)) + 1} of 3 by loss/val = {min(losses):.6g} (min)" in " ".join(
        page.words
    )
    assert [source[:14] for source in page.sources] == ["data:image/png"]  # the learning curves


def test_numbers_of_many_decimals_are_rounded(run, monkeypatch, capfd):
    (run / "samples").mkdir()
    (run / "samples" / "found.csv").write_text("a,b,c,d\n4477.570850650058,22682144,2026.11.24,1.2345678e-07\n")
    code, text, page = report(run, monkeypatch, capfd)
    assert code == 0, text
    assert {"4477.57", "22682144", "2026.11.24", "1.23457e-07"} <= set(page.cells)
    assert "4477.570850650058" not in page.cells


def test_a_stranger_s_folder(run, monkeypatch, capfd, tmp_path):
    """Texts are shown as texts, and no file outside the folder is read."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"\x89PNG secret, which no page may hold")
    (run / "figures" / "link.png").symlink_to(secret)
    (run / "model.txt").unlink()
    (run / "model.txt").symlink_to(secret)
    evil = "<script>alert(1)</script>"
    (run / "report.html.partial").symlink_to(secret)
    (run / "samples").mkdir()
    (run / "samples" / "evil.txt").write_text(evil)
    (run / "samples" / "evil.csv").write_text(f'a,b\n"{evil}",2\n')
    shown = [{"file": "../secret.png"}, {"file": str(secret)}, {"file": "samples/evil.csv", "caption": evil}]
    told = {"name": evil, "command": evil, "error": evil, "shown": shown, "overrides": [evil]}
    (run / "results.json").write_text(json.dumps(results_of(run) | told | {"changed": {evil: {"value": evil}}}))
    code, text, page = report(run, monkeypatch, capfd)
    assert code == 0, text
    written = (run / "report.html").read_text()
    assert "script" not in re.findall(r"<(\w+)", written)
    assert page.words.count(evil) >= 6
    assert base64.b64encode(secret.read_bytes()).decode()[:30] not in written
    assert "secret" not in " ".join(page.words)
    assert secret.read_bytes() == b"\x89PNG secret, which no page may hold"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "holds no results to report"),
        ('{"steps": [3]}', "not what a run wrote"),
        ('{"seconds": {"total": "x"}, "status": 1}', "not what"),
    ],
)
def test_results_that_no_run_wrote(run, monkeypatch, capfd, content, says):
    (run / "results.json").write_text(content)
    code, text, _ = report(run, monkeypatch, capfd)
    assert code == 1
    assert says in text
    assert len(text.splitlines()) == 1


def test_a_page_is_bounded_and_right_in_both_forms(tmp_path, monkeypatch):
    sound, large = b"RIFF" + bytes(40), b"GIF89a" + (1000).to_bytes(2, "little") + bytes(90)
    (tmp_path / "a.wav").write_bytes(sound)
    (tmp_path / "b.gif").write_bytes(large)
    rows = [["x | y", "1.5"], ["`z`", "-2 ± 0.1"]]
    page = Page(
        "t",
        [
            Words("see `a<b`"),
            Table(["n", "v"], rows),
            Picture("a.wav", "A"),
            Picture("b.gif", "B"),
            Picture("c.png", "C"),
        ],
    )
    whole = page_html(page, tmp_path)
    assert f'<audio controls src="data:audio/wav;base64,{base64.b64encode(sound).decode()}">' in whole
    assert 'style="min-width: 420px"' in whole
    assert "see <code>a&lt;b</code>" in whole
    assert "<td class=number>-2 ± 0.1</td>" in whole
    assert "c.png is not there any more" in whole
    monkeypatch.setattr(pages, "MOST_BYTES", 60)
    assert '<a href="b.gif">B</a>' in page_html(page, tmp_path)
    assert base64.b64encode(sound).decode() in page_html(page, tmp_path)
    lines = markdown(page).splitlines()
    assert r"| x \| y | 1.5 |" in lines
    assert "[A](a.wav)" in lines
    assert "![B](b.gif)" in lines


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it_without_scrolling_sideways(run, width, tmp_path):
    """Chromium's own measure of the page inside a frame of that width, and of its pictures."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    text = (run / "report.html").read_text()
    if browser is None:
        assert Parser(text).open == []
        return
    outer = tmp_path / "outer.html"
    script = (
        "f.onload = () => { const d = f.contentDocument; document.title = [d.documentElement.scrollWidth,"
        "[...d.images].filter(i => i.complete && i.naturalWidth > 0).length].join() }"
    )
    outer.write_text(
        f'<iframe id=f width={width} height=900 style="border:0" srcdoc="{html.escape(text)}"></iframe><script>{script}</script>'
    )
    quiet = [
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            *quiet,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            outer.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = re.search(r"<title>(\d+),(\d+)</title>", done.stdout)
    assert title, done.stdout[-500:]
    assert int(title[1]) <= width
    assert int(title[2]) == len(list((run / "figures").glob("*.png")))
