"""The rules of the layout: imports go one way, every component has its option, options are written alike."""

import ast
import inspect
from pathlib import Path

import pytest
from conftest import CONF, ROOT, nodes, read_yaml

from iolaus.build import make
from iolaus.rules import OWN_KEYS, given

SOURCE = ROOT / "src" / "iolaus"
FILES = sorted(SOURCE.rglob("*.py"))
OPTIONS = sorted(CONF.rglob("*.yaml"))
LEAVES = {"model", "loss", "metrics", "gradient", "optim", "scheduler", "augment", "init"}
# Lower numbers may not import higher ones.
LAYERS = {
    **dict.fromkeys(
        [
            "argv",
            "commands",
            "suggestions",
            "normalize",
            "errors",
            "exhibits",
            "interpolations",
            "overrides",
            "random_state",
            "strict_json",
            "signals",
            "slurm",
            "terminal",
        ],
        0,
    ),
    "files": 0.5,
    "normalize": 0.5,
    "suggestions": 0.5,
    "argv": 8,
    **dict.fromkeys(["signature", "rules", "startup", "functional", "runs", "checkpoint", "divergence", "tables"], 1),
    "ranks": 0.5,
    "unwritten": 0.6,
    "run_log": 0.65,
    "user_code": 0.7,
    "sharded": 0.7,
    "pages": 1.5,
    "defaults": 2,
    "results": 1.6,
    "run_report": 3.3,
    "claim": 1.5,
    "closing": 3.4,
    "init_from": 4,
    "preview": 5.5,
    "memory": 5.5,
    "diagnosis": 3.1,
    "finder": 5.8,
    "show": 4.5,
    "consistency": 2,
    "sweep": 3.2,
    "compare": 3.4,
    **dict.fromkeys(["sweep/vectorized", "sweep/together"], 7),
    "sweep/server": 8,  # a process of its own, that has imported whatever a job needs
    **dict.fromkeys(LEAVES, 2),
    "undisturbed": 2.5,
    "board": 3.2,
    "history": 3.3,
    "cuda_graph": 3.2,
    **dict.fromkeys(["task", "data", "logger", "figures"], 3),
    **dict.fromkeys(["callbacks", "study"], 3.5),
    **dict.fromkeys(["check", "explain", "fast_loop"], 4),
    **dict.fromkeys(["trainer"], 4.5),
    "references": 0.5,
    "schedule_ends": 1.5,
    "small_batch": 4.5,
    **dict.fromkeys(["build"], 5),
    **dict.fromkeys(["preflight", "report"], 6),
    "strategy": 3.4,
    **dict.fromkeys(["supervise", "ray_train"], 6.5),
    **dict.fromkeys(["train"], 7),
    "portable": 6,
    "finished": 7.5,
    **dict.fromkeys(["curvature", "predict", "resume"], 8),
    "form": 1,
    "endpoint": 8.1,
    **dict.fromkeys(["export", "serve"], 8.2),
    "compose": 9,
    "launch": 9.3,
    **dict.fromkeys(["cli"], 9.6),
    **dict.fromkeys(["__main__"], 10),
}
# Files that serve the others of their folder and are no option.
SUPPORT = {
    "augment/base",
    "data/base",
    "data/arrays",
    "data/bad_files",
    "data/arrow_stream",
    "data/arrow_rows",
    "data/clicks",
    "data/clips",
    "data/facts",
    "data/folders",
    "data/image_values",
    "data/loader",
    "data/memory",
    "data/order",
    "data/picture",
    "data/cells",
    "data/columns",
    "data/file_format",
    "data/score_warnings",
    "data/statistics",
    "data/transformed",
    "data/sniff",
    "data/stream_loader",
    "data/stream_order",
    "data/streaming",
    "data/table",
    "data/table_columns",
    "data/text_table",
    "data/unseen",
    "task/base",
    "gradient/base",
    "study/base",
    "callbacks/base",
    "callbacks/rows",
    "callbacks/longer_schedule",
    "callbacks/monitor_check",
    "gradient/directions",
    "data/sentence_pairs",
    "metrics/moments",
    "metrics/scores",
    "logger/dropping",
    "logger/files",
    "logger/service",
}


def part_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(file: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_there_is_something_to_test():
    assert len(FILES) > 30
    assert len(OPTIONS) > 40


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_go_one_way(file):
    own = part_of(file)
    if file.name == "__init__.py":
        assert file.read_text() == ""
        return
    for name in imports(file):
        package, *rest = name.split(".")
        if package == "iolaus":
            other = rest[0]
            layer = LAYERS.get(str(file.relative_to(SOURCE).with_suffix("")), LAYERS[own])
            assert LAYERS[other] < layer or other == own, name
        if package in ("hydra", "omegaconf"):
            assert own in {
                "check",
                "compose",
                "launch",
                "defaults",
                "explain",
                "build",
                "report",
                "runs",
                "supervise",
                "argv",
                "normalize",
                "resume",
                "finished",
                "interpolations",
                "startup",
                "train",
                "memory",
                "sweep",
            }, f"{name} in {own}"
        if package == "pytorch_lightning":
            assert own not in LEAVES, f"{name} in a leaf package"


def test_the_way_in_imports_nothing_heavy_at_module_level():
    heavy = {"torch", "pytorch_lightning", "torchmetrics", "torchvision", "pandas", "sklearn", "matplotlib", "numpy"}
    light = [
        SOURCE / f"{name}.py"
        for name in (
            "errors",
            "signature",
            "rules",
            "check",
            "consistency",
            "compose",
            "launch",
            "explain",
            "startup",
            "cli",
            "runs",
            "curvature",
            "predict",
            "finished",
            "export",
            "serve",
            "resume",
            "slurm",
            "train",
            "data/cells",
            "data/columns",
            "data/file_format",
            "data/folders",
            "data/sniff",
            "data/text_table",
            "tables",
            "terminal",
            "files",
            "argv",
            "commands",
            "suggestions",
            "normalize",
            "overrides",
            "pages",
            "run_report",
            "run_log",
            "user_code",
            "closing",
            "sweep/leaderboard",
            "sweep/report",
            "sweep/figures",
            "sweep/importance",
            "sweep/vectorized",
            "compare/find",
            "compare/tables",
            "compare/report",
            "compare/curves",
        )
    ]
    for file in [ROOT / "train.py", *light]:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [str(node.module)]
                assert not heavy & {n.split(".")[0] for n in names}, f"{file.name}: {names}"


def test_every_component_has_an_option():
    targets = {n["_target_"].rpartition(".")[0] for f in OPTIONS for n in nodes(read_yaml(f))}
    for folder in ("model", "loss", "metrics", "gradient", "data", "augment", "task", "callbacks", "logger", "study"):
        for file in sorted((SOURCE / folder).glob("*.py")):
            name = f"{folder}/{file.stem}"
            if file.stem != "__init__" and name not in SUPPORT:
                assert "iolaus." + name.replace("/", ".") in targets, f"no YAML names {name}"


@pytest.mark.parametrize("file", OPTIONS, ids=lambda f: str(f.relative_to(CONF)))
def test_options_begin_with_what_they_are(file):
    lines = file.read_text().splitlines()
    lines = lines[1:] if lines[0].startswith("# @package") else lines
    assert lines[0].startswith("# "), "the first line says what it is"
    assert len(lines[0]) > 20
    assert file.name == "config.yaml" or "${hydra:" not in file.read_text()


def named_classes():
    for file in OPTIONS:
        content = read_yaml(file)
        for path, node in paths(content, file.parent.name if "_target_" in content else ""):
            yield pytest.param(file, path, node, id=f"{file.relative_to(CONF)}:{node['_target_'].rpartition('.')[2]}")


def paths(node, path):
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from paths(value, f"{path}.{key}" if path else key)


# Arguments that options leave out: torch warns when the deprecated ones are given, the others are rarely changed.
UNSAID = {
    "device",
    "dtype",
    "size_average",
    "reduce",
    "multidim_average",
    "ignore_index",
    "top_k",
    "validate_args",
    "maximize",  # of LBFGS, which torch 2.11 lacks
    "zero_division",
}
SHARED = read_yaml(CONF / "base" / "data.yaml")


def inherited(file):
    """The settings that an option takes from others by its defaults list."""
    settings = {}
    for entry in read_yaml(file).get("defaults", []):
        if isinstance(entry, str) and entry.startswith("/base/"):
            base = CONF / "base" / f"{entry.removeprefix('/base/').partition('@')[0]}.yaml"
            content = read_yaml(base)
            own = {key: value for key, value in content.items() if key != "defaults"}
            settings |= (SHARED if base.stem == "data" else content.get("data", own)) | inherited(base)
        elif isinstance(entry, str) and entry == "auto":
            settings |= read_yaml(file.parent / "auto.yaml")
    return settings


def arguments(cls):
    """The arguments of a class by name; where it hands **kwargs on, those of its base class too."""
    found = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            own = inspect.signature(base.__init__).parameters.values()
            named = {p.name: p for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"}
            found = named | found
            if not any(p.kind == p.VAR_KEYWORD for p in own) or not base.__module__.startswith("iolaus"):
                break
            parent = base.__bases__[0]
            if parent.__name__ in ("Task", "LightningDataModule") or parent.__module__.startswith("torchmetrics"):
                break  # their arguments are handed over by build, or are none
    return found


def own_init(cls):
    return cls.__module__.startswith("iolaus") and "__init__" in vars(cls)


@pytest.mark.parametrize(("file", "path", "node"), list(named_classes()))
def test_options_list_every_argument(file, path, node):
    """With the default of the signature, for classes of our own; others may differ for a reason."""
    module, _, name = node["_target_"].rpartition(".")
    cls = getattr(__import__(module, fromlist=[name]), name)
    found = arguments(cls)
    is_part = (
        file.parent.name == "trainer" and path != "trainer"
    )  # as its strategy, which inherits nothing of the trainer
    settings = node if is_part else inherited(file) | node
    missing = found.keys() - settings.keys() - given(path) - UNSAID
    assert not missing, f"{file.name} does not list {sorted(missing)} of {name}"
    if not module.startswith("iolaus."):
        return
    assert settings.keys() - OWN_KEYS - {"defaults"} <= found.keys()
    own = set().union(*(vars(c)["__init__"].__annotations__ for c in cls.__mro__ if own_init(c)))
    for key in settings.keys() & own - SHARED.keys():
        value, default = settings[key], found[key].default
        if default is None and file.parent.name == "data":
            continue  # a fact, which the option states
        if default is not inspect.Parameter.empty and not (isinstance(value, str) and "${" in value):
            assert value == (list(default) if isinstance(default, tuple) else default), key


def test_make_leaves_plain_values_alone():
    assert make({"a": [1, {"b": None}]}, "x") == {"a": [1, {"b": None}]}
