"""The `iolaus` command: what one does with a finished run."""

import argparse
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from iolaus.check import plain
from iolaus.closing import outcome
from iolaus.compare.report import Outputs, compare
from iolaus.compare.tables import Wanted
from iolaus.curvature import curvature
from iolaus.errors import UserError, did_you_mean
from iolaus.export import FORMATS, export
from iolaus.finished import checked
from iolaus.normalize import home_path, quote_home
from iolaus.predict import predict
from iolaus.resume import resume
from iolaus.run_report import report_run
from iolaus.runs import installed
from iolaus.serve import serve
from iolaus.startup import import_lightning
from iolaus.strict_json import to_json
from iolaus.sweep.jobs import PLAN, begun_command
from iolaus.sweep.report import report_sweep
from iolaus.tables import table_text
from iolaus.terminal import nobody_reads, write_leniently
from iolaus.unwritten import is_of_disk
from iolaus.user_code import user_errors_located


def main(arguments: list[str] | None = None) -> None:
    """Run one command; the user's mistakes end with exit code 1 and one message, a reader that is gone with 141."""
    write_leniently()
    try:
        _main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        nobody_reads()
        sys.exit(141)
    except OSError as error:
        if not is_of_disk(error):
            raise
        print(f"{error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
        nobody_reads()
        sys.exit(1)


def _main(arguments: list[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="iolaus", description="What one does with a finished run of train.py.")
    numbers = [
        f"{package} {installed(package) or 'from a folder'}" for package in ("iolaus", "torch", "pytorch-lightning")
    ]
    parser.add_argument("--version", action="version", version=", ".join(numbers))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    test = commands.add_parser(
        "test",
        help="evaluate a run again",
        description="Evaluate a run's weights on its test split, or on other data or devices by overrides.",
        epilog="example: iolaus test outputs/digits-mlp/2026-01-31_12-00-00-000000 --checkpoint last trainer.accelerator=cpu",
    )
    test.add_argument(
        "--checkpoint", type=os.path.expanduser, default="best", help="best (the default), last, or a file"
    )
    test.add_argument("--json", action="store_true", help="the metrics with all their digits, for programs")
    go_on = commands.add_parser(
        "resume",
        help="go on with a run that was killed or stopped, bit for bit",
        description="Go on with a run from its newest resume point; the same as python train.py resume=RUN.",
        epilog="example: iolaus resume outputs/digits-mlp/2026-01-31_12-00-00-000000 trainer.max_epochs=200",
    )
    go_on.add_argument("-q", "--quiet", action="store_true", help="tell errors and the result alone")
    foresee = commands.add_parser(
        "predict",
        help="predict for new files: rows, images, texts, sounds, users",
        description="Predict by a run's weights for new files in the form of its data, or for a text; rows go to the terminal as CSV, "
        "or to a file. The data that the run was trained on are not needed.",
        epilog="examples: iolaus predict RUN new_rows.csv --output predictions.csv;  iolaus predict RUN --text 'def ' task.temperature=0.5",
    )
    foresee.add_argument(
        "--checkpoint", type=os.path.expanduser, default="best", help="best (the default), last, or a file"
    )
    foresee.add_argument(
        "--text", action="append", default=[], help="a text in place of a file; may be given several times"
    )
    foresee.add_argument(
        "--output", type=home_path, metavar="FILE", help="where rows are written: FILE.csv or FILE.jsonl"
    )
    foresee.add_argument(
        "--top",
        type=int,
        metavar="K",
        help="the K likeliest classes of each row alone; in tables of more than 20 classes 5",
    )
    foresee.add_argument("--strict", action="store_true", help="stop at the first file or row that cannot be read")
    hand_on = commands.add_parser(
        "export",
        help="write the model for other programs: ONNX, a program of torch, or weights alone",
        description="Write what predicts, standardisation and probabilities included, as one file that is compared with the run "
        "before it is kept, and FILE.json with what its inputs and outputs are.",
        epilog="example: iolaus export outputs/digits-mlp/2026-01-31_12-00-00-000000 --format onnx --output digits.onnx",
    )
    hand_on.add_argument(
        "--checkpoint", type=os.path.expanduser, default="best", help="best (the default), last, or a file"
    )
    hand_on.add_argument("--format", metavar="FORMAT", help=f"{', '.join(FORMATS)}; as --output ends, or onnx")
    hand_on.add_argument("--output", type=home_path, metavar="FILE", help="RUN/model.FORMAT where it is not given")
    wait = commands.add_parser(
        "serve",
        help="predict over HTTP: for programs, and by a form in the browser",
        description="Answer POST /predict, rows, texts or files in, predictions out, until Ctrl-C; GET / is a form to try it.",
        epilog="example: iolaus serve outputs/digits-mlp/2026-01-31_12-00-00-000000 --port 8000",
    )
    wait.add_argument(
        "--checkpoint", type=os.path.expanduser, default="best", help="best (the default), last, or a file"
    )
    wait.add_argument("--port", type=int, default=8000, help="8000 (the default); 0: any that is free")
    wait.add_argument("--host", default="127.0.0.1", help="127.0.0.1 (the default), this machine alone; 0.0.0.0: all")
    wait.add_argument("--most-mb", type=float, default=32.0, metavar="MB", help="of a request (32)")
    look = commands.add_parser(
        "curvature",
        help="measure the curvature of the loss at a run's checkpoints",
        description="Eigenvalues, trace and spectral density of the Hessian of the training loss, on a part of the training split, at the "
        "weights of a checkpoint: a table, figures/curvature_NAME.png and samples/curvature_NAME.csv in the run's folder.",
        epilog="example: iolaus curvature outputs/digits-mlp/2026-01-31_12-00-00-000000 --checkpoint all",
    )
    look.add_argument(
        "--checkpoint",
        type=os.path.expanduser,
        default="best",
        help="best (the default), last, previous, a file, or all",
    )
    look.add_argument(
        "--samples", type=int, metavar="N", help="of the training split; 512, or all where there are fewer"
    )
    look.add_argument("--steps", type=int, metavar="N", default=40, help="of Lanczos: eigenvalues found at most (40)")
    look.add_argument("--mode", default="train", help="train (the default), what is optimised; or eval")
    for command in (test, go_on, foresee, look, hand_on, wait):
        command.add_argument("run", type=home_path, metavar="RUN", help="the run's folder; every path may begin with ~")
        if command is foresee:
            command.add_argument(
                "words",
                nargs="*",
                default=[],
                metavar="FILE",
                help="files, or folders of them; and KEY=VALUE, settings to change",
            )
        else:
            command.add_argument("words", nargs="*", default=[], metavar="KEY=VALUE", help="settings to change")
        command.add_argument(
            "--allow",
            action="append",
            default=[],
            metavar="PACKAGE",
            help="a package of yours, in this folder or installed, that the run's settings may name",
        )
    reckon = commands.add_parser(
        "memory",
        help="what a training step would need, with each policy of activation checkpointing",
        description="Count the memory and the floating-point operations of a training step without allocating or training anything: "
        "parameters, gradients, optimizer state, activations, for each policy of model.activation_checkpointing.",
        epilog="example: iolaus memory experiment=gpt2_xl",
    )
    reckon.add_argument("--json", action="store_true", help="numbers of bytes and operations, for programs")
    reckon.add_argument("words", nargs="*", metavar="KEY=VALUE", help="settings, as train.py takes them")
    ranking = commands.add_parser(
        "report",
        help="write the report of a run again; rank and draw the jobs of a sweep",
        description="Write a report again from the files of a folder. Of a run: report.md, report.html and a table to the terminal. Of a "
        "sweep: leaderboard.csv and figures too, and all its jobs. Also while it goes on, or when it was killed.",
        epilog="examples: iolaus report outputs/digits-mlp/2026-01-31_12-00-00-000000;  iolaus report outputs/sweeps/2026-01-31_12-00-00",
    )
    ranking.add_argument("folder", type=home_path, metavar="FOLDER", help="of a run, or of a sweep")
    ranking.set_defaults(words=[])
    _add_compare(commands)
    words = _with_values(sys.argv[1:] if arguments is None else arguments)
    there_are = f"  (there are: {', '.join(commands.choices)})"
    if not words:
        parser.error(f"name a command{there_are}")
    if not words[0].startswith("-") and words[0] not in commands.choices:
        parser.error(f"there is no command {words[0]!r}{did_you_mean(words[0], commands.choices)}{there_are}")
    options, rest = parser.parse_known_args(words)
    if unknown := [word for word in rest if word.startswith("-") or options.command in ("report", "compare")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    # words after an option are in `rest`, since argparse does not join them with those before it
    options.words = [quote_home(word) for word in [*options.words, *rest]]
    if getattr(options, "allow", None):  # and not otherwise: this folder may be a stranger's
        sys.path.append(os.getcwd())
    try:
        with user_errors_located({"allow": getattr(options, "allow", [])}):
            _run_command(options)
    except UserError as error:
        print(re.sub(r"add allow=\[(\w+)\]", r"add --allow \1", str(error)), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _run_command(options: argparse.Namespace) -> None:
    if options.command == "test":
        _test(options)
    elif options.command == "memory":
        _memory(options)
    elif options.command == "report":
        print(_report(options.folder))
    elif options.command == "compare":
        _compare(options)
    elif options.command == "predict":
        place = (options.checkpoint, options.output, options.allow, options.top, options.strict)
        predict(options.run, options.words, options.text, *place)
    elif options.command == "export":
        export(options.run, options.words, options.format, options.output, options.checkpoint, options.allow)
    elif options.command == "serve":
        address = (options.host, options.port, options.most_mb)
        serve(options.run, options.words, options.checkpoint, options.allow, *address)
    elif options.command == "curvature":
        measures = (options.checkpoint, options.samples, options.steps, options.mode)
        curvature(options.run, options.words, *measures, options.allow)
    elif (options.run / PLAN).exists():
        _resume_sweep(options)
    else:
        resume(options.run, options.words, options.allow, options.quiet)


def _add_compare(commands: Any) -> None:
    """The command that ranks all runs below some folders."""
    ranking = commands.add_parser(
        "compare",
        help="rank all runs and sweeps below a folder",
        description="Tables of all runs, the best first, with the settings that differ: one for each data set and objective. Runs that "
        "differ in the seed or the fold alone are joined. KEY is a metric, a setting, an option's group, seconds, epoch or state.",
        epilog="examples: iolaus compare --sort accuracy/test --top 10;  iolaus compare outputs --filter model=mlp "
        "--filter 'optim.lr<0.01' --html runs.html;  iolaus compare --sort -seconds --columns model,seconds,state",
    )
    ranking.add_argument(
        "folders", nargs="*", type=home_path, metavar="DIR", default=[Path("outputs")], help="outputs, if there is none"
    )
    ranking.add_argument("--sort", metavar="KEY", help="by this and not by the objective; -KEY: the highest first")
    ranking.add_argument("--reverse", action="store_true", help="the order turned round")
    ranking.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="also != < > <= >=, and * in VALUE; may be given several times",
    )
    ranking.add_argument(
        "--columns", action="append", default=[], metavar="KEY,KEY", help="shown in place of the usual ones"
    )
    ranking.add_argument("--top", type=int, metavar="N", help="the first N rows of each table")
    ranking.add_argument("--each", action="store_true", help="each run in a row of its own, seeds and folds not joined")
    ranking.add_argument("--earlier", action="store_true", help="also the tries that sweeps repeated")
    ranking.add_argument("--csv", type=home_path, metavar="FILE", help="write a row for each run")
    ranking.add_argument(
        "--html", type=home_path, metavar="FILE", help="write one page with tables, links and learning curves"
    )
    ranking.add_argument("--figure", type=home_path, metavar="FILE", help="write the learning curves, a PNG")
    ranking.add_argument("--json", action="store_true", help="everything as JSON, in place of tables")
    ranking.set_defaults(words=[])


def _with_values(words: list[str]) -> list[str]:
    """`--sort -KEY` as argparse reads it, which would take the key for an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--sort" and word.startswith("-") and not word.startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _compare(options: argparse.Namespace) -> None:
    columns = [name.strip() for text in options.columns for name in text.split(",") if name.strip()]
    wanted = Wanted(options.filter, options.sort, options.reverse, columns, options.top, not options.each)
    outputs = Outputs(options.csv, options.html, options.figure, options.json)
    print(compare(options.folders, wanted, outputs, options.earlier))


def _report(folder: Path) -> str:
    """Report a run, or a sweep; what the terminal shows."""
    if (folder / PLAN).exists() or not (folder / "results.json").is_file():
        return report_sweep(folder)
    results, page = report_run(folder)
    return f"{outcome(results)}\n{results['status']}\nreport: {shlex.quote(os.path.relpath(page))}"


def _memory(options: argparse.Namespace) -> None:
    from iolaus.compose import composed, needs_data  # Hydra, which no other command needs

    sys.path.append(os.getcwd())  # the user's own packages, which settings allow by name
    config = composed(options.words, _options())
    import_lightning()
    from iolaus.memory import memory

    with user_errors_located(plain(config, resolve=False)):
        print(memory(config, needs_data(config), options.json))


def _options() -> Path:
    """The folder of the options: beside a train.py of Iolaus in the working directory, or that which this package came with."""
    here, own = Path.cwd(), Path(__file__).parents[2]
    for place in (here, own):
        script, folder = place / "train.py", place / "conf"
        if (folder / "config.yaml").is_file() and script.is_file() and "iolaus" in script.read_text(encoding="utf-8"):
            return folder
    raise UserError(f"memory: there is no train.py with its folder conf in {here}; run it where they are")


def _resume_sweep(options: argparse.Namespace) -> None:
    """Become the command that the sweep was begun with, which runs what is left."""
    if options.words:
        raise UserError(f"{options.run}: a sweep goes on as it was begun, without other settings")
    script, _, directory = begun_command(options.run)
    folder = options.run.resolve()
    os.chdir(directory)
    os.execv(sys.executable, [sys.executable, str(script), f"resume={os.path.relpath(folder)}"])


def _test(options: argparse.Namespace) -> None:
    config, checkpoint = checked(options.run, options.words, options.checkpoint, options.allow)
    import_lightning()
    from iolaus.build import build
    from iolaus.diagnosis import undefined_values, unpredicted_classes

    run = build(config, checkpoint=checkpoint)
    if "test" not in run.data.datasets:
        raise UserError(f"{options.run}: its data set has no test split; set data.test_fraction or another data set")
    run.trainer.test(run.task, datamodule=run.data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    for line in (*undefined_values(run.task, run.history.test), *unpredicted_classes(run.task, run.data.class_names)):
        print(f"warning: {line}", file=sys.stderr)
    if options.json:
        print(to_json({"checkpoint": str(checkpoint), "metrics": run.history.test}, indent=2))
        return
    print(table_text(f"{config.name}: {checkpoint.name}", {"test": run.history.test}))
