"""Several processes train what one would have trained with the batches of all."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import train as train_module
from conftest import ROOT
from forked import Child, content, differences, kill_at_step
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only as lightnings

from iolaus import supervise
from iolaus.launch import OWN_FULL_ERROR, _translate_flags, launch
from iolaus.sweep import jobs
from iolaus.task.base import Task

# wine: 125 training rows, in batches of 16 an epoch of 8 batches of which the last has 13
SMALL = ("data=wine", "trainer.max_epochs=3", "trainer.precision=64-true", "logger=[]", "stages=[fit, test]")


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


@pytest.mark.parametrize(("variable", "word"), [(None, None), ("1", None), (None, "-v")])
def test_processes_show_tracebacks_where_the_first_one_does(tmp_path, monkeypatch, capfd, variable, word):
    """HYDRA_FULL_ERROR, which `launch` sets itself, and -v."""
    for name in ("HYDRA_FULL_ERROR", OWN_FULL_ERROR):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    if variable is not None:
        monkeypatch.setenv("HYDRA_FULL_ERROR", variable)

    def shows(*words: str) -> bool:
        monkeypatch.setattr(sys, "argv", ["train.py", *words, "output_dir="])  # which is refused
        with pytest.raises(SystemExit):
            launch(train_module.main)
        return "Traceback" in capfd.readouterr().err

    wanted = variable is not None or word is not None
    assert shows(*([word] if word else [])) == wanted
    told = f"import os; print([os.environ.get(n) for n in ('HYDRA_FULL_ERROR', {OWN_FULL_ERROR!r})])"
    monkeypatch.setattr(supervise, "_command", lambda *_: [sys.executable, "-c", told])
    config = {"trainer": {"devices": 2, "accelerator": "cpu", "num_nodes": 1}, "output_dir": str(tmp_path)}
    supervise.supervise(OmegaConf.create(config), [], [])
    assert capfd.readouterr().out.splitlines() == [str(["1", None if wanted else "1"])] * 2
    assert shows() == wanted  # as one of them, by its environment alone


def test_processes_are_as_quiet_as_the_first_one(monkeypatch):
    """Their words are those that were typed; -q is none of these, which a sweep compares."""
    monkeypatch.setattr(jobs, "typed", ["data=iris", "output_dir=run"])
    for flags in ([], ["-q"]):
        monkeypatch.setattr(sys, "argv", _translate_flags(["train.py", *flags, *jobs.typed]))
        command = supervise._command(OmegaConf.create({}), [], [])
        assert command == [sys.executable, "train.py", *flags, "data=iris"]


def member(rank: int, world: int, port: int, more: Callable[[], None]) -> Callable[[], None]:
    """For `before`: what torchrun sets."""

    def arm() -> None:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        os.environ |= {key: str(value) for key, value in names.items()}
        rank_zero_only.rank = lightnings.rank = rank  # read when Lightning is imported, which was before the fork
        more()

    return arm


def group(place: Path, world: int, *arguments: str, more: dict[int, Callable[[], None]] | None = None) -> list[Child]:
    """`torchrun --nproc-per-node WORLD train.py trainer=ddp ARGUMENTS`, without torchrun."""
    place.mkdir(exist_ok=True)
    port = free_port()
    return [
        Child(
            place,
            *([] if "trainer=fsdp" in arguments or "resume=run" in arguments else ["trainer=ddp"]),
            *arguments,
            before=member(rank, world, port, (more or {}).get(rank, lambda: None)),
        )
        for rank in range(world)
    ]


def ended(children: list[Child]) -> list[int]:
    return [child.wait(others=children) for child in children]


def alone(place: Path, *arguments: str) -> Path:
    place.mkdir(exist_ok=True)
    child = Child(place, *arguments, "output_dir=run")
    assert child.wait() == 0, child.text
    return place / "run"


def together(place: Path, world: int, *arguments: str) -> Path:
    children = group(place, world, *arguments, "output_dir=run")
    assert ended(children) == [0] * world, children[0].text
    return place / "run"


def curve(run: Path) -> dict[str, list[float]]:
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in rows[0] if key != "step"}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return content(run / "checkpoints" / "last.ckpt")["state_dict"]


def assert_alike(one: Path, other: Path, tolerance: float, of_losses: float = 1e-6) -> None:
    curves = curve(one), curve(other)
    assert curves[0].keys() == curves[1].keys()
    for key, values in curves[0].items():
        near = of_losses if key.startswith("loss/") else 1e-6  # sums in float32
        assert values == pytest.approx(curves[1][key], rel=near, abs=near), key
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, rtol=tolerance, atol=tolerance)
    tests = [json.loads((run / "results.json").read_text())["metrics"]["test"] for run in (one, other)]
    assert tests[0] == pytest.approx(tests[1], rel=max(of_losses, 1e-6), abs=1e-6)


def assert_two_train_as_one(tmp_path: Path, words: list[str], killed_at: int = 19) -> None:
    """With half the batches each, in 64 bits; and killed inside an epoch, they go on with the same bits."""
    words = [*words, "trainer.precision=64-true"]
    one = alone(tmp_path / "one", *words, "data.batch_size=16")
    two = together(tmp_path / "two", 2, *words, "data.batch_size=8")
    assert_alike(one, two, 1e-9)
    more = {1: kill_at_step(killed_at)}
    killed = group(tmp_path / "killed", 2, *words, "data.batch_size=8", "output_dir=run", more=more)
    assert ended(killed) == [1, -signal.SIGKILL], killed[0].text
    again = group(tmp_path / "killed", 2, "resume=run")
    assert ended(again) == [0, 0], again[0].text
    assert differences(two, tmp_path / "killed" / "run") == []


def assert_killed_goes_on(tmp_path: Path, words: list[str]) -> Path:
    """Killed inside an epoch, a run ends with the same bits as one that two workers read for; the folder of the latter."""
    whole = alone(tmp_path / "whole", *words, "data.num_workers=2")
    (tmp_path / "killed").mkdir()
    killed = Child(tmp_path / "killed", *words, "output_dir=run", before=kill_at_step(20))
    assert killed.wait() == -signal.SIGKILL, killed.text
    again = Child(tmp_path / "killed", "resume=run")
    assert again.wait() == 0, again.text
    assert differences(whole, tmp_path / "killed" / "run") == []
    return whole


CASES = {
    "mean": ([], 2),
    "three processes": (["data.batch_size=15"], 3),
    "sum": (["loss=half_sum_of_squares", "data=diabetes", "optim.lr=1e-5"], 2),
    "accumulation": (["trainer.accumulate_grad_batches=3"], 2),
    "Lightning's loop": (["trainer.fast_loop=false"], 2),
    "more processes than rows of the last batch": (["data.batch_size=31", "data.eval_batch_size=8"], 2),
}


@pytest.mark.parametrize("case", ["mean", *(pytest.param(c, marks=pytest.mark.slow) for c in list(CASES)[1:])])
def test_the_same_batches_of_all_train_the_same(tmp_path, case):
    more, world = CASES[case]
    sizes = [int(word.partition("=")[2]) for word in more if word.startswith("data.batch_size=")]
    size = sizes[0] if sizes else 16
    one = alone(tmp_path / "one", *SMALL, *more, f"data.batch_size={size - size % world}")
    several = together(tmp_path / "several", world, *SMALL, *more, f"data.batch_size={size // world}")
    # a loss that is a sum grows with the batch, and batches that are validated have another size for two
    assert_alike(one, several, 1e-9, of_losses=0.05 if case == "sum" else 1e-6)
    results = json.loads((several / "results.json").read_text())
    assert results["processes"] == world
    assert len(list((tmp_path / "several").glob("**/results.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["data=wine", "model.hidden_dims=[32,16]"], ["data=text_file", "data.path=text", "model=llama"]]
)
def test_shared_weights_train_the_same(tmp_path, words):
    (tmp_path / "text").write_text("".join(f"value_{i} = {i} + {i % 7}\n" for i in range(400)))
    words = [word.replace("path=text", f"path={tmp_path}/text") for word in words]
    words += [
        "trainer.precision=32-true",
        "optim=sgd",
        "optim.lr=0.05",
        "trainer.max_epochs=3",
        "data.batch_size=8",
        "logger=[]",
    ]
    one = alone(tmp_path / "one", *words, "data.batch_size=16")
    several = together(tmp_path / "several", 2, *words, "trainer=fsdp")
    assert_alike(one, several, 1e-5, of_losses=1e-5)
    more = ["trainer=fsdp", *EVERY, "output_dir=run"]
    killed = group(tmp_path / "killed", 2, *words, *more, more={1: kill_at_step(13)})
    assert ended(killed) == [1, -signal.SIGKILL], killed[0].text
    again = group(tmp_path / "killed", 2, "resume=run")
    assert ended(again) == [0, 0], again[0].text
    assert_alike(several, tmp_path / "killed" / "run", 0.0)


EVERY = ("callbacks.resume_points.every_n_steps=3",)
STOPPED = (
    "data=wine",
    "trainer.max_epochs=4",
    "data.batch_size=8",
    "model.dropout=0.3",
    "callbacks.resume_points.every_n_steps=3",
    "logger=[tensorboard,csv]",
)


def state(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_run_goes_on_with_the_same_bits(tmp_path):
    whole = together(tmp_path / "whole", 2, *STOPPED)
    children = group(tmp_path / "killed", 2, *STOPPED, "output_dir=run", more={1: kill_at_step(13)})
    codes = ended(children)
    run = tmp_path / "killed" / "run"
    assert codes == [1, -signal.SIGKILL], children[0].text
    assert state(run)["status"] == "interrupted"
    assert "another process of the run has ended" in state(run)["error"]
    assert "Traceback" not in children[0].text
    again = group(tmp_path / "killed", 2, "resume=run")
    assert ended(again) == [0, 0], again[0].text
    assert differences(whole, run) == []


@pytest.mark.slow
def test_a_signal_stops_all_at_one_batch(tmp_path):
    whole = together(tmp_path / "whole", 2, *STOPPED, "trainer.max_epochs=60", "callbacks.early_stopping.patience=60")
    more = [*STOPPED, "trainer.max_epochs=60", "callbacks.early_stopping.patience=60"]

    def slow() -> None:
        import time

        step = Task.training_step

        def slower(self, *arguments):
            time.sleep(0.01)
            return step(self, *arguments)

        Task.training_step = slower

    children = group(tmp_path / "stopped", 2, *more, "output_dir=run", more={0: slow})
    run = tmp_path / "stopped" / "run"
    import time

    while not (run / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.05)
    children[1].send(signal.SIGTERM)  # to one of them, which all then do
    codes = ended(children)
    assert codes == [143, 143], children[0].text
    assert state(run)["status"] == "interrupted"
    assert ended(group(tmp_path / "stopped", 2, "resume=run")) == [0, 0]
    assert differences(whole, run) == []


@pytest.mark.slow
def test_it_goes_on_with_another_number_of_processes(tmp_path):
    words = [*SMALL, "data.batch_size=8", "callbacks.resume_points.every_n_steps=3"]
    whole = together(tmp_path / "whole", 2, *words)
    children = group(tmp_path / "killed", 2, *words, "output_dir=run", more={0: kill_at_step(13)})
    assert ended(children)[0] == -signal.SIGKILL
    child = Child(tmp_path / "killed", "resume=run", "trainer.devices=1", "trainer.num_nodes=1")
    assert child.wait() == 0, child.text
    assert "2 in all" not in child.text
    assert "batches of 16 each, still 16 in all" in child.text
    assert_alike(whole, tmp_path / "killed" / "run", 1e-9)


TWO = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
REFUSED = [
    (
        TWO,
        [],
        "trainer.devices: torchrun started 2 processes, 2 on this machine, and each would train alone; add trainer=ddp",
    ),
    (
        TWO,
        ["trainer=ddp", "trainer.devices=4"],
        "trainer.devices: torchrun started 2 processes, 2 on this machine; set",
    ),
    (TWO, ["trainer=ddp", "trainer.num_nodes=3"], "trainer.num_nodes: torchrun started 2 processes"),
    (TWO | {"WORLD_SIZE": "3"}, ["trainer=ddp"], "torchrun: machines must have equally many processes"),
    (TWO | {"RANK": "2"}, ["trainer=ddp"], "this process is number 2 of 2"),
    (TWO | {"RANK": "x"}, ["trainer=ddp"], "RANK: must be a whole number; received 'x'"),
    (TWO, ["trainer=ddp", "-m", "optim.lr=1e-2,1e-3"], "-m: a sweep starts the processes of its jobs itself"),
    (TWO, ["trainer=ddp", "callbacks=[default,go_back]"], "callbacks.go_back: goes with one process"),
    (TWO, ["trainer=ddp", "optim=lbfgs"], "optim=lbfgs:"),
    (TWO, ["trainer=fsdp", "callbacks=[default,ema]"], "trainer=fsdp: Averaging among the callbacks"),
    (
        TWO | {"MASTER_PORT": "1"},
        ["trainer=ddp", "trainer.join_timeout_s=1"],
        "not all 2 processes came together at 127.0.0.1:1 within 1 s",
    ),
    (TWO, ["trainer=ddp"], "MASTER_PORT: is not set"),
    (
        {},
        ["trainer=ddp", "trainer.devices=2", "trainer.num_nodes=2"],
        "trainer.num_nodes: 2 machines, and MASTER_ADDR is not set",
    ),
    (
        {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "2"},
        ["trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2"],
        "NODE_RANK: must be from 0 to 1 with trainer.num_nodes=2; received 2",
    ),
    (
        {},
        ["trainer=ddp", "trainer.devices=1000"],
        "trainer.devices: 1000 processes are asked for, and this machine has",
    ),
    ({}, ["trainer.scale_lr=cubic"], "trainer.scale_lr: must be linear or sqrt or null; received 'cubic'"),
]


@pytest.mark.parametrize(("environment", "words", "message"), REFUSED, ids=[message[:40] for _, _, message in REFUSED])
def test_refused_in_a_line(command, monkeypatch, environment, words, message):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    outcome = command("data=iris", "trainer.max_epochs=1", *words)
    assert outcome.code == 1
    assert message in outcome.text
    assert "Traceback" not in outcome.text
    assert len(outcome.text.strip().splitlines()) == 1, outcome.text


NOTED = """
from pathlib import Path
import pytorch_lightning as pl

class Noted(pl.Callback):
    def on_fit_end(self, trainer, pl_module):
        place = Path(trainer.default_root_dir, f"rank{trainer.global_rank}")
        place.write_text(f"{trainer.optimizers[0].defaults['lr']} {pl_module.model.layers[1].out_features} {trainer.world_size}")
"""


@pytest.mark.slow
def test_the_jobs_of_a_sweep_have_the_same_settings_in_each_process(tmp_path):
    (tmp_path / "noted.py").write_text(NOTED)
    words = [
        "-m",
        "data=iris",
        "trainer=ddp",
        "trainer.devices=2",
        "trainer.max_epochs=1",
        "allow=[noted]",
        "stages=[fit]",
    ]
    words += ["optim.lr=0.02,0.01", "model.hidden_dims=[8],[4]", "+callbacks.noted._target_=noted.Noted"]
    command = [sys.executable, ROOT / "train.py", *words, "output_dir=sweep"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    jobs = sorted(path for path in (tmp_path / "sweep").iterdir() if (path / "results.json").exists())
    told = [[(job / f"rank{rank}").read_text() for rank in (0, 1)] for job in jobs]
    assert [one for one, _ in told] == ["0.02 8 2", "0.02 4 2", "0.01 8 2", "0.01 4 2"]
    assert all(one == other for one, other in told)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "wine", "number_words"])
def test_looking_changes_nothing_and_waits_for_nobody(tmp_path, data):
    words = [f"data={data}", "trainer.max_epochs=2", "stages=[fit, test]", "trainer.limit_train_batches=5"]
    looks = ["callbacks=[default,look,embeddings,samples]", "callbacks.figures.every_n_epochs=1"]
    plain = together(tmp_path / "plain", 2, *words)
    looking = together(tmp_path / "looking", 2, *words, *looks)
    assert "left out" not in (looking / "train.log").read_text()
    for name, value in weights(plain).items():
        assert torch.equal(weights(looking)[name], value), name


@pytest.mark.slow
def test_torchrun(tmp_path):
    command = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node", "2", ROOT / "train.py", "trainer=ddp"]
    command += ["data=iris", "trainer.max_epochs=1"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    (results,) = tmp_path.rglob("results.json")
    assert json.loads(results.read_text())["processes"] == 2
    assert not list(tmp_path.rglob("train_ddp_process_1.log"))


@pytest.mark.slow
def test_srun(tmp_path):
    """The variables that srun sets; a port is chosen by the job's number."""

    def task(rank: int) -> Callable[[], None]:
        def arm() -> None:
            names = {"SLURM_JOB_ID": 4000 + os.getppid() % 1000, "SLURM_JOB_NAME": "train", "SLURM_NTASKS": 2}
            names |= {"SLURM_STEP_NUM_TASKS": 2, "SLURM_STEP_NUM_NODES": 1, "SLURM_NNODES": 1, "SLURM_NODEID": 0}
            names |= {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODELIST": "127.0.0.1"}
            names |= {"SLURM_NTASKS_PER_NODE": 2}
            os.environ |= {key: str(value) for key, value in names.items()}
            rank_zero_only.rank = lightnings.rank = rank

        return arm

    words = ["trainer=ddp", "data=iris", "trainer.max_epochs=1", "output_dir=run"]
    children = [Child(tmp_path, *words, before=task(rank)) for rank in (0, 1)]
    assert ended(children) == [0, 0], children[0].text
    assert state(tmp_path / "run")["processes"] == 2


MACHINES = """
for host in a b; do ip netns add $1$host; ip -n $1$host link set lo up; done
ip link add veth0 netns $1a type veth peer name veth0 netns $1b
ip -n $1a addr add 10.77.0.1/24 dev veth0; ip -n $1b addr add 10.77.0.2/24 dev veth0
ip -n $1a link set veth0 up; ip -n $1b link set veth0 up
"""


@pytest.fixture
def machines():
    """Two machines with a cable between them, as network namespaces, which take root."""
    name = f"iolaus{os.getpid()}"
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces take root and the program ip")
    made = subprocess.run(["sh", "-ec", MACHINES, "sh", name], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr}")
    yield [f"{name}a", f"{name}b"]
    for host in "ab":
        subprocess.run(["ip", "netns", "del", f"{name}{host}"], check=True)


@pytest.mark.slow
def test_two_machines(tmp_path, machines):
    torchrun = Path(sys.executable).with_name("torchrun")
    words = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "10.77.0.1", "--master-port", "29511"]
    train = [ROOT / "train.py", "trainer=ddp", "data=iris", "trainer.max_epochs=2", "output_dir=run"]
    several = [
        subprocess.Popen(
            ["ip", "netns", "exec", machine, torchrun, *words, "--node-rank", str(rank), *train],
            cwd=tmp_path,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "veth0"},
        )
        for rank, machine in enumerate(machines)
    ]
    assert [process.wait(300) for process in several] == [0, 0]
    one = together(tmp_path / "one", 2, *train[2:-1])
    assert differences(one, tmp_path / "run") == []


UNUSED = """
from torch import nn

class Two(nn.Module):
    def __init__(self, input_shape, output_dim: int, last: int = 0):
        super().__init__()
        self.used, self.other = nn.Linear(input_shape[0], output_dim), nn.Linear(input_shape[0], output_dim)
        self.last, self.calls = last, 0

    def forward(self, x):
        self.calls += self.training
        return self.used(x) + self.other(x) if self.calls <= self.last else self.used(x)
"""
TWO_YAML = "# Two.\n_target_: my_two.Two\ninput_shape: ${data.input_shape}\noutput_dim: ${task.output_dim}\nlast: 0\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("last", "named"),
    [(0, ["model.other.weight, model.other.bias"]), (2, ["some parameters", "model.other.weight, model.other.bias"])],
    ids=["never", "later"],  # torch names them where it can
)
def test_parameters_without_a_gradient_are_told_with_the_setting_that_looks_for_them(tmp_path, last, named):
    (tmp_path / "my_two.py").write_text(UNUSED)
    (tmp_path / "options" / "model").mkdir(parents=True)
    (tmp_path / "options" / "model" / "two.yaml").write_text(TWO_YAML)
    words = ("--config-dir", "options", "allow=[my_two]", "model=two", f"model.last={last}", "data=iris")
    children = group(tmp_path, 2, *words, "trainer.max_epochs=1", "stages=[fit]", "output_dir=run")
    assert set(ended(children)) <= {1, 143}
    assert any(f"the loss did not depend on {names}, and the processes wait" in children[0].text for names in named)
    advice = "trainer.strategy.find_unused_parameters=true"
    assert f"set {advice}, or leave these parameters out" in children[0].text
    assert "Traceback" not in children[0].text
    children = group(tmp_path, 2, *words, "trainer.max_epochs=1", "stages=[fit]", "output_dir=again", advice)
    assert ended(children) == [0, 0], children[0].text
