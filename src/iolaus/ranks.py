"""The processes that train one run together: which of them this one is, and what they agree on. https://docs.pytorch.org/docs/stable/distributed.html.

They are started by torchrun, by srun, or by train.py itself, which sets the variables that torchrun sets.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from iolaus.errors import UserError

Value = TypeVar("Value")
ERROR = "iolaus/error"  # in the processes' common store: what the first that failed says
TOLD = "iolaus/told"  # how many wanted to say something
WORLD = "iolaus/world"  # how many processes rank 0 expects
SUPERVISED = "IOLAUS_SUPERVISED"  # set for processes that `supervise` watches

_store: Any = None  # that all of them reach, once they have joined
_joined: "Place | None" = None  # this one then


class Lost(UserError):
    """Another process of the run has ended, or does not answer."""


@dataclass(frozen=True)
class Place:
    """One process among those that train together.

    Args:
        rank: its number among all.
        local_rank: its number among those of its machine.
        world: how many there are.
        local_world: how many its machine has.
        launcher: what started it: torchrun, srun, or nothing.
    """

    rank: int = 0
    local_rank: int = 0
    world: int = 1
    local_world: int = 1
    launcher: str = ""


def place() -> Place:
    """This process, as the variables of torchrun or srun tell it.

    Raises:
        UserError: for variables that contradict one another.
    """
    if _joined is not None:
        return _joined
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        rank, local_rank, world, local_world = _numbers(names, (0, 0, 1, os.environ["WORLD_SIZE"]))
        found = Place(rank, local_rank, world, local_world, "torchrun")
    elif "SLURM_STEP_NUM_TASKS" in os.environ and "SLURM_PROCID" in os.environ:
        world, nodes = _numbers(("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"), (1, 1))
        rank, local_rank = _numbers(("SLURM_PROCID", "SLURM_LOCALID"), (0, 0))
        found = Place(rank, local_rank, world, world // max(nodes, 1), "srun")
    else:
        return Place()
    if not 0 <= found.rank < found.world or not 0 <= found.local_rank < found.local_world:
        raise UserError(
            f"{found.launcher}: this process is number {found.rank} of {found.world}, {found.local_rank} of "
            f"{found.local_world} on its machine, counted from 0, which cannot be; set the node's rank below the number of nodes"
        )
    return found if found.world > 1 else Place()


def _numbers(names: tuple[str, ...], defaults: tuple[Any, ...]) -> list[int]:
    """Variables that are whole numbers."""
    found = []
    for name, default in zip(names, defaults, strict=True):
        text = os.environ.get(name, str(default))
        if not text.strip().isdigit():
            raise UserError(f"{name}: must be a whole number; received {text!r}")
        found.append(int(text))
    return found


def is_first() -> bool:
    """Whether this process writes the run's folder and speaks to the user; alone it is."""
    return place().rank == 0


def count() -> int:
    """How many processes train together, once they have joined."""
    return 1 if _joined is None else _joined.world


def rank() -> int:
    """The number of this process among those that train together; 0 alone."""
    return 0 if _joined is None else _joined.rank


def join(timeout_s: float, join_timeout_s: float) -> None:
    """Meet the other processes; nothing where there are none.

    Args:
        timeout_s: after which one that does not answer is taken for lost.
        join_timeout_s: within which all must have come.

    Raises:
        UserError: when the first one is not reached, not all come in time, or expect different numbers of them.
    """
    global _store, _joined
    here = place()
    if here.world == 1 or _store is not None:
        return
    import torch
    from torch import distributed

    _find_master(here)
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if torch.cuda.is_available():
        torch.cuda.set_device(here.local_rank % torch.cuda.device_count())
    limit = timedelta(seconds=join_timeout_s)
    came = f"not all {here.world} processes came together at {address} within {join_timeout_s:g} s"
    try:
        store, _, _ = next(distributed.rendezvous("env://", here.rank, here.world, timeout=limit))
        store.set_timeout(limit)
        if here.rank == 0:
            store.set(WORLD, str(here.world))
        expected = int(store.get(WORLD))
        if expected != here.world:
            raise UserError(
                f"WORLD_SIZE: is {here.world} here and {expected} for rank 0; start all with the same number"
            )
        distributed.init_process_group(
            store=store, rank=here.rank, world_size=here.world, timeout=timedelta(seconds=timeout_s)
        )
        distributed.barrier()
    except UserError:
        raise
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"{came}; is rank 0 there, and were all started?  ({reason})") from error
    _store, _joined = store, here


def _find_master(here: Place) -> None:
    """Where rank 0 is met: as torchrun says, or on the first node of a SLURM job."""
    if here.launcher == "srun":
        from lightning_fabric.plugins.environments import SLURMEnvironment

        cluster = SLURMEnvironment(auto_requeue=False)
        os.environ |= {"MASTER_ADDR": cluster.main_address, "MASTER_PORT": str(cluster.main_port)}
    elif missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UserError(f"{missing[0]}: is not set, and {here.world} processes have to meet; start them by torchrun")


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as asked:
        asked.bind(("", 0))
        return asked.getsockname()[1]


def leave() -> None:
    """Part from the other processes."""
    global _store, _joined
    if _store is not None:
        from torch import distributed

        distributed.destroy_process_group()
        _store = _joined = None


def gather(value: Value) -> list[Value]:
    """The value of each process, plain containers and tensors, by rank."""
    if count() == 1:
        return [value]
    from torch import distributed

    found: list[Any] = [None] * count()
    distributed.all_gather_object(found, value)
    return found


def largest(*values: float) -> list[float]:
    """The largest of each value over all processes."""
    if count() == 1:
        return list(values)
    import torch
    from torch import distributed

    numbers = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
    return numbers.tolist()


def in_turn(act: Callable[[], Any]) -> None:
    """Act once a machine before its other processes do, who may then find done what there was to do."""
    here = place()
    if count() == 1 or here.local_rank == 0:
        act()
    if count() > 1:
        gather(None)
        if here.local_rank != 0:
            act()


def tells(error: BaseException) -> bool:
    """Whether this process is the one that tells the user of an error: the first that asks."""
    try:
        here = place()
    except UserError:  # which may be the error
        return True
    if here.world == 1:
        return True
    if _store is None:  # all have made the same mistake: one a machine tells
        return here.local_rank == 0
    try:
        if isinstance(error, Lost):  # whoever watches them knows which one it was, and why
            return here.rank == 0 and SUPERVISED not in os.environ and first_error() is None
        if _store.add(TOLD, 1) > 1:
            return False
        _store.set(ERROR, str(error))
    except RuntimeError:  # the store has gone with rank 0, which has told what it had to tell
        return False
    return True


def first_error() -> str | None:
    """What the first process that failed said; None where none did, as when it was killed."""
    try:
        return _store.get(ERROR).decode() if _store is not None and _store.check([ERROR]) else None
    except RuntimeError:
        return None


@contextlib.contextmanager
def losses_told() -> Iterator[None]:
    """Errors of the connection between processes as one message.

    Raises:
        Lost: where another process has ended or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_of_connection(error):
            raise
        raise Lost(
            f"another process of the run has ended, or does not answer: {str(error).splitlines()[0][:160]}"
        ) from error


def is_of_connection(error: Exception) -> bool:
    """Whether an error is of the connection between processes."""
    if count() == 1:
        return False
    from torch import distributed

    return isinstance(error, distributed.DistError) or any(word in str(error) for word in ("gloo", "Gloo", "NCCL"))
