"""The `iolaus` command: what one does with a finished run."""

import argparse
import os
import re
import sys
from pathlib import Path

from omegaconf import DictConfig, open_dict

from iolaus.check import check
from iolaus.errors import UserError
from iolaus.resume import resume
from iolaus.runs import find_checkpoint, overridden, read_settings
from iolaus.startup import import_lightning


def main(arguments: list[str] | None = None) -> None:
    """Run one command; the user's mistakes end with exit code 1 and one message."""
    parser = argparse.ArgumentParser(prog="iolaus", description="What one does with a finished run of train.py.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    test = commands.add_parser(
        "test",
        help="evaluate a run again",
        description="Evaluate a run's weights on its test split, or on other data or devices by overrides.",
        epilog="example: iolaus test outputs/digits-mlp/2026-01-31_12-00-00-000000 --checkpoint last trainer.accelerator=cpu",
    )
    test.add_argument("--checkpoint", default="best", help="best (the default), last, or a file")
    go_on = commands.add_parser(
        "resume",
        help="go on with a run that was killed or stopped, bit for bit",
        description="Go on with a run from its newest resume point; the same as python train.py resume=RUN.",
        epilog="example: iolaus resume outputs/digits-mlp/2026-01-31_12-00-00-000000 trainer.max_epochs=200",
    )
    for command in (test, go_on):
        command.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
        command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings to change")
        command.add_argument(
            "--allow",
            action="append",
            default=[],
            metavar="PACKAGE",
            help="a package of yours, in this folder or installed, that the run's settings may name",
        )
    options = parser.parse_args(arguments)
    if options.allow:  # and not otherwise: this folder may be a stranger's
        sys.path.append(os.getcwd())
    try:
        if options.command == "test":
            _test(options)
        else:
            resume(options.run, options.overrides, options.allow)
    except UserError as error:
        print(re.sub(r"add allow=\[(\w+)\]", r"add --allow \1", str(error)), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _test(options: argparse.Namespace) -> None:
    config = read_run(options.run, options.overrides, options.allow)
    checkpoint = find_checkpoint(options.run, options.checkpoint)
    check(config)
    import_lightning()
    from iolaus.build import build
    from iolaus.report import table_text

    run = build(config)
    if "test" not in run.data.datasets:
        raise UserError(f"{options.run}: its data set has no test split; set data.test_fraction or another data set")
    run.trainer.test(run.task, datamodule=run.data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    print(table_text(f"{config.name}: {checkpoint.name}", {"test": run.history.test}))


def read_run(folder: Path, overrides: list[str], allow: list[str]) -> DictConfig:
    """The settings of a run, with overrides and without its callbacks, loggers and profiler, which would write files.

    Packages of one's own are allowed by the caller and never by the folder.
    """
    settings = read_settings(folder)
    config = overridden(settings, overrides)
    with open_dict(config):
        config.update({"output_dir": str(folder), "callbacks": {}, "logger": {}, "allow": allow})
        config.trainer.profiler = None
    return config
