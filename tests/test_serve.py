"""The server of a run: asked over HTTP as programs and browsers ask it."""

import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import uvicorn
from forked import finished
from test_export import call, houses

from iolaus import cli
from iolaus.data.csv_table import CsvTable
from iolaus.data.text_file import TextFile
from iolaus.endpoint import application
from iolaus.finished import restored
from iolaus.form import page
from iolaus.predict import predicted
from iolaus.serve import _listening

__all__ = ["call"]
ROW = {"area": 100, "rooms": 3, "city": "Rome"}
LIMIT = 50_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    houses(place / "houses.csv")
    return finished(place, "data=csv", f"data.path={place}/houses.csv", "data.target=price", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def run(made):
    return restored(made, [], "best", [])


@pytest.fixture(scope="module")
def url(made, run):
    """A server in a process of its own: a thread that multiplied and is ending holds a lock of MKL's, which a fork would keep for ever."""
    place = _listening("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(run, made, LIMIT), log_level="error", lifespan="off"))
    pid = os.fork()
    if pid == 0:
        try:
            server.run(sockets=[place])
        finally:
            os._exit(0)
    yield f"http://127.0.0.1:{place.getsockname()[1]}"
    place.close()
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)


def ask(address, body=None, kind="application/json", method=None):
    """The status and what was answered, as JSON where it is."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"content-type": kind}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            text, status = answer.read().decode(), answer.status
    except urllib.error.HTTPError as error:
        text, status = error.read().decode(), error.code
    return status, json.loads(text) if text.startswith(("{", "[")) else text


def upload(address, name, content):
    head = f'--X\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return ask(address, head.encode() + content + b"\r\n--X--\r\n", "multipart/form-data; boundary=X")


def test_rows_and_files_give_what_predict_gives(run, url, tmp_path):
    new = houses(tmp_path / "new.csv", 9)
    expected = list(predicted(run.task, run.data, new))
    status, answer = upload(f"{url}/predict", "../../new.csv", new.read_bytes())
    assert status == 200
    assert answer == {"predictions": [{"file": "new.csv"} | row for row in expected]}
    names, *lines = [line.split(",") for line in new.read_text().splitlines()]
    rows = [dict(zip(names, line, strict=True)) for line in lines]  # the target among them
    status, answer = ask(f"{url}/predict", {"rows": rows})
    assert status == 200
    for found, row in zip(answer["predictions"], expected, strict=True):
        assert found.pop("prediction") == row.pop("prediction")
        assert found == pytest.approx(row, rel=1e-5)
    for content in ([[100, 3, "Rome"]], {"texts": ["100, 3, Rome"]}, {"text": "100,3,Rome"}):
        assert ask(f"{url}/predict", content) == ask(f"{url}/predict", {"rows": [ROW]})
    assert ask(f"{url}/health")[1]["status"] == "ok"


def test_categories_that_the_training_did_not_have_are_told(url):
    """In a list, where there are any: once a column, by the file's own name or the row's number; of a refused request nothing is left."""
    status, answer = upload(f"{url}/predict", "new.csv", b"area,rooms,city\n50,2,Lima\n50,2,Rome\n50,2,Lima\n")
    assert status == 200
    assert len(answer["predictions"]) == 3
    assert answer["warnings"] == [
        "new.csv line 2 column 'city': 'Lima' was not seen in the training (2 rows in all); it is predicted as an unknown category"
    ]
    status, answer = ask(f"{url}/predict", {"rows": [ROW, ROW | {"city": "Ulm"}, ROW | {"city": "Paris"}]})
    assert answer["warnings"] == [
        "number 2 column 'city': 'Ulm', 'Paris' were not seen in the training (2 rows in all); they are predicted as one unknown category"
    ]
    assert ask(f"{url}/predict", {"rows": [ROW | {"city": "Ulm"}, ROW | {"area": "x"}]})[0] == 400
    assert ask(f"{url}/predict", {"rows": [ROW]})[1].keys() == {"predictions"}


def test_several_at_once_do_not_mix(url):
    rows = [{"rows": [ROW | {"area": 30 + i}]} for i in range(20)]
    alone = [ask(f"{url}/predict", row) for row in rows]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: ask(f"{url}/predict", row), rows)) == alone
    assert len({str(answer) for answer in alone}) == 20


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "the request is no JSON; send"),
        (b"[" * 100_00, "the request is no JSON"),
        ({"row": [ROW]}, "neither rows nor texts"),
        ({"rows": []}, "rows: must be a list with one or more"),
        ({"rows": [ROW, {"area": 1, "roms": 3, "city": "Rome"}]}, "rows: number 2: there is no column 'rooms'; did you mean 'roms'"),
        ({"rows": [ROW, ROW | {"area": "x"}]}, "number 2: column 'area': 'x' is not a number"),
        ({"rows": [ROW | {"area": None}]}, "number 1: column 'area': the cell is empty"),
        ({"rows": [ROW | {"area": [1]}]}, "rows: number 1: a row is values by the names of their columns"),
        ({"texts": [3]}, "texts: number 1 is no text"),
        ({"texts": ["1,2"]}, "number 1: the text has 2 values and must have 3: area, rooms, city"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_in_a_line(url, content, says):
    status, answer = ask(f"{url}/predict", content)
    assert status == 400
    assert says in answer["error"]
    assert len(answer["error"].splitlines()) == 1


def test_bad_files_and_large_requests_are_refused(url):
    status, answer = upload(f"{url}/predict", "a.csv", b"area,rooms\n1,2\n")
    assert (status, answer["error"]) == (400, "a.csv has no column 'city'")
    status, answer = upload(f"{url}/predict", "a.csv", b"x" * LIMIT)
    assert status == 413
    assert "the request is larger than" in answer["error"]
    for path, status in (("/predict", 405), ("/nothing", 404)):
        says = f"GET {path}: not answered here; send POST /predict, GET /health, or GET / for a form"
        assert ask(f"{url}{path}") == (status, {"error": says})


def test_the_page_needs_nothing_from_elsewhere(url):
    status, page = ask(url)
    assert status == 200
    assert "http" not in page.replace("HERE", "")
    fields = json.loads(page.partition('id="fields">')[2].partition("</script>")[0])
    assert [c["name"] for c in fields["columns"]] == ["area", "rooms", "city"]
    assert fields["columns"][2]["choices"] == ["Berlin", "Oslo", "Rome"]


def test_the_page_names_the_target_and_asks_for_a_text_where_there_are_no_columns(tmp_path):
    """A text file's encoding is no encoding of columns."""
    table = CsvTable("gone.csv", "price", input_kind="table", input_shape=None, target_kind="real")
    text = TextFile("gone.txt", input_kind="tokens", input_shape=(8,), target_kind="tokens")
    fields = [
        json.loads(page("", data).partition('id="fields">')[2].partition("</script>")[0]) for data in (table, text)
    ]
    assert [found["target"] for found in fields] == ["price", None]
    assert fields[1]["columns"] == []
    assert fields[1]["text"] == "a text to go on from"


def test_wrong_words(made, call):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert call("serve", made, "--port", port) == (
            1,
            f"--port: {port} is in use; choose another, as in --port {port + 1}, or 0 for any\n",
        )
    for words, says in (
        (["--port", "70000"], "--port: must be from 0 to 65535; received 70000"),
        (["--host", "nowhere.invalid"], "--host: nowhere.invalid is no address of this machine"),
        (["--most-mb", "0"], "--most-mb: must be above 0"),
        (["--most-mb", "nan"], "--most-mb: must be above 0 and finite; received nan"),
        (["--port", "0", "--checkpoint", "frist"], "kept are: best, last"),
    ):
        code, text = call("serve", made, *words)
        assert code == 1
        assert says in text
        assert len(text.splitlines()) == 1


@pytest.mark.slow
def test_ctrl_c_ends_it_in_good_order(made, tmp_path):
    log = tmp_path / "terminal.txt"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            cli.main(["serve", str(made), "--port", "0"])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            os._exit(code)
    try:
        assert ask(f"{_address(log)}/health")[0] == 200
        os.kill(pid, signal.SIGINT)
        assert _ended(pid) == 130
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert log.read_text().splitlines()[1:] == ["stopped"]


def _address(log, seconds=60):
    """Where the server answers, once it says so; it listens already."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if log.exists() and "answers at" in (text := log.read_text()):
            return text.split("answers at ")[1].split()[0]
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def _ended(pid, seconds=20):
    """A process's exit code."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    raise AssertionError("it goes on")
