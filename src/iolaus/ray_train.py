"""A run trained by the workers of a Ray cluster, which this process starts and watches. https://docs.ray.io/en/latest/train/train.html.

Ray gives the processes and tells them of one another; the training in them is that of any several processes. Lines of the first one,
and the signals that ask it to stop, go through files in the run's folder, which all machines of the cluster must see.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from iolaus import ranks
from iolaus.errors import UserError
from iolaus.rules import target_of
from iolaus.runs import note_results, read_results, resume_command
from iolaus.signals import Stopped, requests
from iolaus.strict_json import to_json
from iolaus.terminal import FILE_ONLY

log = logging.getLogger("iolaus")

PLACE = ".ray"  # in the run's folder, while it is trained
LINES, STOP = "lines", "stop"  # files in it
TICK_S = 0.2
KNOCK_S = 5.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # which would tell Ray's makers of every cluster
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

Settings = dict[str, Any]
Train = Callable[[Settings, dict[str, Any]], None]


def is_due(settings: Settings) -> bool:
    """Whether Ray is to start the processes that train, and this is none of them."""
    is_asked = target_of(settings["trainer"].get("strategy")).endswith(".RayDataParallel")
    return is_asked and not ranks.place().launcher and ranks.SUPERVISED not in os.environ


def launch(settings: Settings, job: dict[str, Any], train: Train) -> float | None:
    """Train on the workers and wait for them.

    A signal is passed on to them: they finish the batch, save, and end.

    Args:
        settings: checked, plain.
        job: what the user asked for, plain.
        train: what each worker calls with these two.

    Returns:
        the objective's best value.

    Raises:
        UserError: what a worker says; for one that was killed, with how to go on.
        Stopped: where a signal stopped the run.
    """
    folder = Path(settings["output_dir"]).resolve()
    settings = settings | {"output_dir": str(folder)}
    place = folder / PLACE
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / LINES).touch()
    received: list[int] = []

    def passed_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        (place / STOP).write_text(str(number))

    try:
        with _cluster(settings["trainer"]):
            before = {number: signal.signal(number, passed_on) for number in SIGNALS} if _is_main() else {}
            error = _watched(settings, job, train, place)
            for number, handler in before.items():
                signal.signal(number, handler)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    results = read_results(folder)
    if received and results.get("status") != "completed":
        raise Stopped(received[0])
    if error is not None:
        raise _told(error, folder, results)
    return (results.get("objective") or {}).get("value")


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _watched(settings: Settings, job: dict[str, Any], train: Train, place: Path) -> BaseException | None:
    """Run the workers from a thread, as Ray takes Ctrl-C for itself in the main one; meanwhile say what the first one says."""
    ended: list[BaseException | None] = []

    def fit() -> None:
        try:
            _fit(settings, job, train, place)
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=fit, name="ray")
    thread.start()
    with (place / LINES).open(encoding="utf-8") as lines:
        while thread.is_alive():
            thread.join(TICK_S)
            _say(lines.readlines())
        _say(lines.readlines())
    return ended[0]


def _say(lines: list[str]) -> None:
    for line in lines:
        level, text, is_file_only = json.loads(line)
        log.log(level, "%s", text, extra=FILE_ONLY if is_file_only else None)


@contextlib.contextmanager
def _cluster(trainer: Settings) -> Iterator[None]:
    """Start Ray here, or join the cluster that is there; in the main thread, as Ray handles signals until others do.

    Raises:
        UserError: where no cluster answers.
    """
    os.environ |= {key: value for key, value in QUIET.items() if key not in os.environ}
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    began, address = not ray.is_initialized(), os.environ.get("RAY_ADDRESS")
    workers = _number(trainer["devices"]) * trainer["strategy"]["cpus_per_worker"]
    own = {} if address else {"num_cpus": max(os.cpu_count() or 1, workers), "include_dashboard": False}
    try:
        if began:
            _knock(address or "")
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **own)
    except (OSError, RuntimeError, ValueError) as error:
        where = f"no cluster at RAY_ADDRESS={address}" if address else "Ray does not start"
        raise UserError(f"trainer=ray: {where}: {str(error).splitlines()[0][:160]}") from error
    try:
        yield
    finally:
        if began:
            ray.shutdown()


def _knock(address: str) -> None:
    """Reach a cluster's machine, for which Ray would wait more than a minute.

    Raises:
        OSError: where nothing answers.
    """
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def _fit(settings: Settings, job: dict[str, Any], train: Train, place: Path) -> None:
    """Have the cluster train.

    Raises:
        UserError: for more workers than it has room for.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = settings["trainer"]
    there, cpus = ray.cluster_resources(), trainer["strategy"]["cpus_per_worker"]
    on_gpus = trainer["accelerator"] != "cpu" and there.get("GPU", 0) >= 1
    number = _number(trainer["devices"]) or int(there["GPU"] if on_gpus else 1)
    kind, each = ("GPU", 1) if on_gpus else ("CPU", cpus)
    if there.get(kind, 0) < number * each:
        raise UserError(
            f"trainer.devices: {number} processes with {each} {kind} each are asked for, and the Ray cluster has "
            f"{there.get(kind, 0):g}"
        )
    arguments = {"settings": settings, "job": job, "place": str(place), "directory": os.getcwd(), "words": sys.argv}
    TorchTrainer(
        _worker,
        train_loop_config=arguments | {"train": train},
        # its group only tells where to meet; ours takes its place
        torch_config=TorchConfig(backend="gloo", timeout_s=int(trainer["join_timeout_s"]) + 1),
        scaling_config=ScalingConfig(
            num_workers=number, use_gpu=on_gpus, resources_per_worker={"CPU": cpus} | ({"GPU": 1} if on_gpus else {})
        ),
        run_config=RunConfig(name="run", storage_path=str(place), failure_config=FailureConfig(max_failures=0)),
    ).fit()


def _number(devices: Any) -> int:
    """How many processes are asked for; 0 where the cluster says it."""
    if devices in ("auto", -1, "-1"):
        return 0
    return len(devices) if isinstance(devices, list) else int(devices)


def _told(error: BaseException, folder: Path, results: dict[str, Any]) -> BaseException:
    """What is said of a failure: the words of the worker that failed, not of those that lost it; else how to go on."""
    if isinstance(error, UserError):
        return error
    failures = getattr(error, "worker_failures", None)
    if failures is None:
        return UserError(f"trainer=ray: {str(error).strip().splitlines()[-1][:300]}")
    causes = {rank: getattr(failure, "_base_exc", failure) for rank, failure in failures.items()}
    for cause in causes.values():
        if isinstance(cause, UserError) and not isinstance(cause, ranks.Lost):
            return cause
    of_code = [cause for cause in causes.values() if not isinstance(cause, ranks.Lost) and not _is_rays(cause)]
    if of_code:
        return of_code[0]
    dead = sorted(rank for rank, cause in causes.items() if _is_rays(cause))
    told = f"process {dead[0] if dead else 0} of the run was killed (out of memory?)"
    if results.get("status") != "failed":
        note_results(folder, {"status": "interrupted", "error": told})
    return UserError(f"{told}; to go on with the run: {resume_command(folder)}")


def _is_rays(error: BaseException) -> bool:
    """Whether Ray tells of a worker that has ended."""
    return type(error).__module__.startswith("ray.")


def _worker(arguments: dict[str, Any]) -> None:
    """In a worker: train like any of several processes."""
    os.chdir(arguments["directory"])
    sys.path.append(arguments["directory"])  # the user's own packages
    sys.argv = arguments["words"]
    os.environ |= {ranks.SUPERVISED: "1", "TORCHELASTIC_RUN_ID": "iolaus", "OMP_NUM_THREADS": _threads()}
    place = Path(arguments["place"])
    _leave_rays_group()
    if (here := ranks.place()).rank == 0:
        logging.getLogger().addHandler(_ToParent(place / LINES))
        logging.getLogger().setLevel(logging.INFO)
    if here.world % here.local_world:
        raise UserError(
            f"trainer.devices: Ray placed {here.local_world} of {here.world} processes on a machine; each must have equally many"
        )
    threading.Thread(target=_listen, args=(place / STOP,), daemon=True).start()
    try:
        arguments["train"](arguments["settings"], arguments["job"])
    except Stopped:
        return  # which results.json tells
    except OSError as error:
        raise UserError(f"output_dir: {error.filename}: {error.strerror}" if error.filename else str(error)) from None
    except ranks.Lost:
        raise
    except UserError as error:
        raise UserError(str(error)) from None  # of a kind that Ray can send


def _threads() -> str:
    return os.environ.get("OMP_NUM_THREADS", "1")


def _leave_rays_group() -> None:
    """Agree by the group that Ray has made on where to meet, and leave it: `ranks.join` makes one that tensors of any device go through."""
    from torch import distributed

    from iolaus.startup import import_lightning

    import_lightning()
    told = [ranks.free_port() if distributed.get_rank() == 0 else 0]
    distributed.broadcast_object_list(told, 0)
    distributed.destroy_process_group()
    os.environ["MASTER_PORT"] = str(told[0])


def _listen(file: Path) -> None:
    """Pass a signal that came to the process which started Ray on to the training."""
    while not file.exists():
        time.sleep(TICK_S)
    time.sleep(TICK_S)  # until its number is written
    requests.received_at = time.monotonic()
    requests.received = int(file.read_text())


class _ToParent(logging.Handler):
    """Hands lines to the process that started Ray, which has a terminal."""

    def __init__(self, file: Path):
        super().__init__(logging.INFO)
        self._stream = file.open("a", encoding="utf-8", buffering=1)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line of the log as one of JSON."""
        if record.name.startswith("ray"):
            return
        line = [record.levelno, self.format(record), getattr(record, "is_file_only", False)]
        self._stream.write(to_json(line) + "\n")
