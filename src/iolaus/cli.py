"""The `iolaus` command: what one does with a finished run."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from iolaus.check import check
from iolaus.errors import UserError, did_you_mean
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
    test.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    test.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings to change")
    test.add_argument("--checkpoint", default="best", help="best (the default), last, or a file")
    test.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of yours that the run's settings may name",
    )
    options = parser.parse_args(arguments)
    sys.path.append(os.getcwd())  # the user's own packages
    try:
        _test(options)
    except UserError as error:
        print(re.sub(r"add allow=\[(\w+)\]", r"add --allow \1", str(error)), file=sys.stderr)
        sys.exit(1)


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
    """The settings of a run, with overrides and without its callbacks and loggers.

    The folder may be a stranger's: the text is read as plain YAML, and no interpolation, which could read the
    environment, is followed. Packages of one's own are allowed by the caller and never by the folder.

    Raises:
        UserError: for a folder that holds no run, an override of a setting that is not there.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"{folder}: not a run's folder, {file} does not exist")
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not plain YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict) or "${" in str(settings):
        raise UserError(f"{file}: not the resolved settings of a run")
    config = OmegaConf.create(settings)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"{override}: write KEY=VALUE")
        _override(config, key, yaml.safe_load(value))
    with open_dict(config):
        config.update({"output_dir": str(folder), "callbacks": {}, "logger": {}, "allow": allow})
    return config


def _override(config: DictConfig, key: str, value: Any) -> None:
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            names = [str(n) for n in node] if isinstance(node, DictConfig) else []
            raise UserError(f"{key}: the run has no such setting{did_you_mean(part, names)}")
        node = node[part]
    OmegaConf.update(config, key, value)


def find_checkpoint(folder: Path, name: str) -> Path:
    """The file of a checkpoint by name (best, last) or path.

    Raises:
        UserError: when there is none.
    """
    file = folder / "checkpoints" / f"{name}.ckpt" if name in ("best", "last") else Path(name)
    if not file.is_file():
        kept = sorted(f.stem for f in (folder / "checkpoints").glob("*.ckpt"))
        raise UserError(f"--checkpoint {name}: {file} does not exist  (kept are: {', '.join(kept) or 'none'})")
    return file
