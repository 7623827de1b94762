"""On SLURM: a run that is warned is queued again and goes on where it was. https://slurm.schedmd.com/sbatch.html."""

import logging
import os
import shlex
import subprocess
import sys
import zlib
from pathlib import Path

log = logging.getLogger("iolaus")

PLACE = Path("outputs/.slurm")  # a small file for each job: the folder of its run


def _pointer() -> Path | None:
    """The file of this job and command; None outside SLURM. A job of several tasks or commands has one for each."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    return PLACE / f"{job}-{os.environ.get('SLURM_PROCID', '0')}-{zlib.crc32(shlex.join(sys.argv).encode()):08x}"


def remember(folder: Path) -> None:
    """Note which folder this job's run has."""
    if pointer := _pointer():
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.write_text(str(folder.resolve()), encoding="utf-8")


def earlier_run() -> Path | None:
    """The run's folder when this job was queued again after it had begun a run."""
    pointer = _pointer()
    if pointer is None or os.environ.get("SLURM_RESTART_COUNT", "0") == "0" or not pointer.exists():
        return None
    folder = Path(pointer.read_text(encoding="utf-8"))
    return folder if (folder / "config.yaml").exists() else None


def by_submitit() -> bool:
    """Whether submitit has started this process: its words name a file of its own, and not what is to be done."""
    return Path(sys.argv[0]).name == "_submit.py"


def goes_on(folder: Path) -> bool:
    """Whether a job of submitit was queued again after it had begun the run in this folder."""
    return by_submitit() and os.environ.get("SLURM_RESTART_COUNT", "0") != "0" and (folder / "config.yaml").exists()


def requeue() -> None:
    """Ask SLURM to queue this job again; does nothing outside SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=20)
        log.info("job %s is queued again; the same command goes on with this run", job)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("job %s could not be queued again: %s", job, getattr(error, "stderr", "") or error)
