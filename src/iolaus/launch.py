"""Start a command: translate its overrides, check every job, then call `hydra.main`."""

import atexit
import inspect
import logging
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from iolaus import ranks, slurm
from iolaus.argv import flags_first, refuse_unknown_flags
from iolaus.compose import check_job, compose_defaults, settle, show_tree
from iolaus.defaults import find_replaced
from iolaus.errors import UserError
from iolaus.normalize import normalize, quote_home
from iolaus.resume import prepare, resume
from iolaus.runs import resume_command
from iolaus.startup import import_lightning
from iolaus.sweep import jobs
from iolaus.terminal import RESULT, nobody_reads, write_leniently

LOGGING = ("job_logging", "hydra_logging")  # of a job, and of what starts it
OWN_FULL_ERROR = "IOLAUS_FULL_ERROR"  # set where HYDRA_FULL_ERROR is not the user's but ours
VERBOSITY = {"verbose=0": ["-q"], "verbose=1": [], "verbose=2": ["-v"]}  # words for options


def launch(main: Callable[[DictConfig], Any]) -> None:
    """Run `main` on the composed settings, once or as a sweep: `hydra.main` with every job checked first.

    `resume=RUN` goes on with a run instead, and so does a job that SLURM has queued again. All mistakes are printed in one message.
    Exit codes: 0 done; 1 refused or failed; 128 and the signal's number when one stopped it. `-v` or HYDRA_FULL_ERROR=1 shows
    tracebacks.

    Args:
        main: takes the settings and returns the objective; the options stand in the folder `conf` beside its file.
    """
    write_leniently()
    sys.argv = [sys.argv[0], *(quote_home(word) for typed in sys.argv[1:] for word in VERBOSITY.get(typed, [typed]))]
    quiet = "-q" in sys.argv
    verbose = "-v" in sys.argv or (os.environ.get("HYDRA_FULL_ERROR") == "1" and OWN_FULL_ERROR not in os.environ)
    sys.path.append(os.getcwd())  # the user's own packages
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, so that errors are printed here
    os.environ.pop(OWN_FULL_ERROR, None)
    if not verbose:
        os.environ[OWN_FULL_ERROR] = "1"  # processes that this one starts tell as it does
    os.environ["IOLAUS_SCRIPT"] = sys.argv[0]  # for jobs that another program starts
    conf = Path(inspect.getfile(main)).resolve().parent / "conf"

    def job(config: DictConfig) -> Any:
        try:
            if slurm.goes_on(Path(config.output_dir)):
                return _resume_requeued_job(config)
            normalize(config)
            check_job(config)
            for line in find_replaced(HydraConfig.get(), config):
                logging.getLogger("iolaus").warning("%s", line)
            import_lightning()  # here and not above: help, completion and messages about settings come without it
            return main(config)
        except (UserError, OSError) as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # Hydra goes on with the other jobs
            if ranks.tells(error):
                text = _message(error, verbose)
                logging.getLogger("iolaus").error("%s", text) if ranks.is_first() else print(text, file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)

    try:
        sys.argv = _reuse_unfinished_sweep(
            _translate_flags(_isolate_nonzero_rank_output(_expand_resumed_sweep(sys.argv)))
        )
        if (earlier := _parse_resume_request(sys.argv)) is not None:
            resume(*earlier, quiet)
            return
        wants_tree = "--tree" in sys.argv
        words = [word for word in sys.argv[1:] if word != "--tree"]
        refuse_unknown_flags(words, lambda known: compose_defaults(known, conf))
        sys.argv = [sys.argv[0], *flags_first(words)]
        arguments = get_args_parser().parse_args()
        if arguments.multirun and (arguments.cfg or arguments.info):
            raise UserError("-m: --cfg and Hydra's --info show one run; leave out -m, and what it varies")
        if not (arguments.help or arguments.hydra_help or arguments.shell_completion):
            sys.argv += settle(arguments, conf)
            if wants_tree:
                print(show_tree(get_args_parser().parse_args(), conf))
                return
        hydra.main(version_base="1.3", config_path=str(conf), config_name="config")(job)()
        sys.stdout.flush()
    except BrokenPipeError:
        nobody_reads()
        sys.exit(141)
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if ranks.tells(error):
            print(_message(error, verbose), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _resume_requeued_job(config: DictConfig) -> float | None:
    """Resume the run of a job that submitit has queued again."""
    settings, job = prepare(Path(config.output_dir), [], list(config.get("allow") or []))
    import_lightning()
    from iolaus.train import train

    return train(settings, job)


def _isolate_nonzero_rank_output(argv: list[str]) -> list[str]:
    """Give non-zero ranks a temporary output directory.

    Raises:
        UserError: for a sweep, whose jobs start processes of their own.
    """
    if ranks.place().launcher and {"-m", "--multirun"} & set(argv):
        raise UserError(
            f"-m: a sweep starts the processes of its jobs itself; start it once, without {ranks.place().launcher}, "
            "as in python train.py -m trainer=ddp trainer.devices=2 ..."
        )
    if ranks.is_first():
        return argv
    folder = tempfile.mkdtemp(prefix="iolaus-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return [
        *(word for word in argv if not word.startswith(("output_dir=", "hydra.run.dir="))),
        f"hydra.run.dir={folder}",
    ]


def _parse_resume_request(argv: list[str]) -> tuple[Path, list[str], list[str]] | None:
    """Return the run to resume, its new overrides and the allowed packages; None for a new run."""
    words = argv[1:]
    named = _values(words, "resume")
    folder = Path(named[-1]) if named else slurm.earlier_run()
    if folder is None:
        return None
    if flags := [word for word in words if word.startswith("-")]:
        raise UserError(f"resume={folder} goes with settings only, not with {' '.join(flags)}")
    allow = [
        name for text in _values(words, "allow") for part in text.strip("[]").split(",") if (name := part.strip(" '\""))
    ]
    overrides = [word for word in words if not word.startswith(("resume=", "allow=", "hydra."))]
    return folder, overrides, allow


def _values(words: Iterable[str], key: str) -> list[str]:
    """Return the values of an override, without quotes and with `~` expanded."""
    texts = [word.partition("=")[2].strip("'\"") for word in words if word.startswith(f"{key}=")]
    return [os.path.expanduser(text) for text in texts]


def _message(error: Exception, verbose: bool) -> str:
    """Return the message of an error, after its traceback if `verbose`."""
    text = (
        f"output_dir: {error.filename}: {error.strerror}"
        if isinstance(error, OSError) and error.filename
        else str(error)
    )
    return "".join(traceback.format_exception(error)) + text if verbose else text


def _translate_flags(argv: list[str]) -> list[str]:
    """Translate our flags and `output_dir=FOLDER` to what Hydra understands."""
    words = ["stages=[info]" if a == "--info" else a for a in argv if a not in ("-v", "-q")]
    words += [f"hydra.{part}.handlers.console.level={RESULT}" for part in LOGGING if "-q" in argv]
    place = "hydra.sweep.dir" if {"-m", "--multirun"} & set(words) else "hydra.run.dir"
    for i, word in enumerate(words):
        if word.startswith("output_dir="):
            (folder,) = _values([word], "output_dir")
            if folder in ("", "null"):
                raise UserError("output_dir: must name a folder, as in output_dir=outputs/my_run")
            if re.search(r"[\"'\\]|\$\{", folder):
                raise UserError(f"output_dir: {folder} has quotes, a backslash or ${{ in its name; choose another one")
            if (Path(folder) / "config.yaml").exists():
                raise UserError(f"output_dir: {folder} holds a run already; choose another folder")
            if (Path(folder) / jobs.PLAN).exists() and jobs.read_plan(Path(folder)).get("words") != jobs.typed:
                raise UserError(
                    f"output_dir: {folder} holds another sweep; choose another folder, or go on with it: {resume_command(Path(folder))}"
                )
            words[i] = f'{place}="{folder}"'  # quoted: paths may hold what Hydra's grammar gives a meaning
    return words


def _expand_resumed_sweep(argv: list[str]) -> list[str]:
    """Replace `resume=SWEEP` by the command that started the sweep, in its folder."""
    named = _values(argv[1:], "resume")
    if "" in named:
        raise UserError("resume: must name a run's folder, or a sweep's, as in resume=outputs/my_run")
    if not named or not (Path(named[-1]) / jobs.PLAN).exists():
        jobs.typed[:] = [word for word in argv[1:] if word not in ("-v", "-q")]
        return argv
    if len(argv) > 2:
        raise UserError(f"resume={named[-1]}: a sweep goes on as it was begun, without other settings")
    _, jobs.typed[:], _ = jobs.begun_command(Path(named[-1]))
    return [argv[0], *(word for word in jobs.typed if not word.startswith("output_dir=")), f"output_dir={named[-1]}"]


def _reuse_unfinished_sweep(argv: list[str]) -> list[str]:
    """Append the directory of the newest unfinished sweep that the same command started."""
    is_placed = any(word.startswith("hydra.sweep.dir=") for word in argv)
    if is_placed or not {"-m", "--multirun"} & set(argv) or (folder := jobs.unfinished(jobs.typed)) is None:
        return argv
    print(f"going on with {folder}, which the same words began")
    return [*argv, f'hydra.sweep.dir="{folder}"']
