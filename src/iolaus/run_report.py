"""The report of a run, report.md and report.html, made from the files in its folder alone."""

import csv
import math
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iolaus.commands import run_command, script_of, train_command
from iolaus.errors import UserError
from iolaus.files import size, write
from iolaus.pages import Code, Folded, Heading, Items, Page, Part, Picture, Table, Words, markdown, page_html
from iolaus.runs import MOST_BYTES, is_training, own_packages, read_results
from iolaus.tables import metrics_table, short
from iolaus.user_code import warn_on_failure

MOST_ROWS = 20  # of a table in the report; its file holds all
MOST_LETTERS = 20_000  # of a text in the report; its file holds all
MOST_SHOWN = 100  # figures and samples
TEXTS = (".txt", ".csv")
UNSAID: dict[str, Any] = {  # of a run that did not come to say it
    "status": "unknown",
    "command": "unknown",
    "metrics": {},
    "objective": {},
    "best_epoch": None,
    "epochs": 0,
    "steps": 0,
    "seconds": {"total": 0.0, "fit": 0.0},
}
SUFFIXES = {"figures": (".png", ".gif"), "samples": (".txt", ".csv", ".wav")}


def report_run(folder: Path) -> tuple[dict[str, Any], Path]:
    """Write a run's report again; figures that are missing are drawn where metrics.csv is enough.

    Args:
        folder: the run's, which may be a stranger's: nothing outside it is read, and all texts are shown as texts.

    Returns:
        the results, with what metrics.csv tells where the run did not end; and report.html, report.md stands beside it.

    Raises:
        UserError: for a folder that holds no run, or cannot be written to.
    """
    results = read_results(folder)
    if not results:
        raise UserError(f"{folder}: holds no results to report, {folder / 'results.json'} is missing or unreadable")
    try:
        results = _with_rows(folder, UNSAID | results)
        if results["status"] == "running" and not is_training(folder):
            results = results | {"status": "killed"}
        _draw_curves(folder, results)
        write_report(folder, results)
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written: {error.filename}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / 'results.json'}: not what a run wrote: {type(error).__name__}: {str(error)[:100]}"
        ) from None
    return results, folder / "report.html"


def write_report(folder: Path, results: dict[str, Any]) -> None:
    """Write report.md and report.html.

    Args:
        folder: the run's, with all its files.
        results: as in results.json.
    """
    page = Page(str(results.get("name") or folder.name), list(_parts(folder, results)))
    write(folder / "report.md", markdown(page))
    write(folder / "report.html", page_html(page, folder))


def best_columns(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The metrics of the best epoch, or of the last where none is best, by split."""
    metrics = results.get("metrics") or {}
    return _splits(metrics.get("best") or metrics.get("last") or {}) | _named("test", metrics.get("test"))


def _splits(values: dict[str, float], after: str = "") -> dict[str, dict[str, float]]:
    """Values of an epoch by split; splits without any are left out."""
    columns = {f"{s}{after}": {k: v for k, v in values.items() if k.endswith(f"/{s}")} for s in ("train", "val")}
    return {name: column for name, column in columns.items() if column}


def _named(name: str, values: dict[str, float] | None) -> dict[str, dict[str, float]]:
    return {name: values} if values else {}


def _parts(folder: Path, results: dict[str, Any]) -> Iterator[Part]:
    yield Code(str(results.get("command")))
    yield Words(f"Status: {results['status']}{_duration(results)}.")
    if results.get("error"):
        yield Code(str(results["error"]))
    yield from _metrics(results)
    yield from _data(results.get("data"))
    yield from _changed(results.get("changed"))
    yield from _shown(folder, results)
    yield from _model(folder)
    yield from _effort(folder, results)
    yield from _again(folder, results)
    yield from _environment(results)
    if (settings := _text(folder, folder / "config.yaml")) is not None:
        yield Folded("Settings", [Code(settings.rstrip(), aligned=True, language="yaml")])


def _with_rows(folder: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Results of a run that was killed, with what metrics.csv tells of its epochs."""
    if results.get("status") != "running" or not (rows := _rows(folder)):
        return results
    objective = results["objective"]
    monitored = [row for row in rows if not math.isnan(row.get(objective["monitor"], math.nan))]
    choose = min if objective["mode"] == "min" else max
    best = choose(monitored, key=lambda row: row[objective["monitor"]], default=None)
    told = {"best": best or {}, "last": rows[-1], "test": {}}
    value = best[objective["monitor"]] if best else None
    found = {"metrics": told, "epochs": int(rows[-1]["epoch"]), "steps": int(rows[-1]["step"])}
    found |= {"best_epoch": int(best["epoch"]) if best else None, "objective": objective | {"value": value}}
    return results | found


def _rows(folder: Path) -> list[dict[str, float]]:
    """The epochs of metrics.csv; a row of epoch 0, which counts as none, is left out, and so is one that is half written."""
    text = _text(folder, folder / "metrics.csv", most=2**24)
    rows = []
    for row in csv.DictReader((text or "").rpartition("\n")[0].splitlines()):
        try:
            rows.append({key: float(value) for key, value in row.items() if key and value})
        except (TypeError, ValueError):
            continue
    return [row for row in rows if row.get("epoch") and "step" in row]


def _duration(results: dict[str, Any]) -> str:
    seconds = results["seconds"]["total"]
    minutes, hours = int(seconds // 60) % 60, int(seconds // 3600)
    if seconds < 120:
        return f", {seconds:.1f} s"
    return f", {hours} h {minutes} min" if hours else f", {minutes} min {seconds % 60:.0f} s"


def _metrics(results: dict[str, Any]) -> Iterator[Part]:
    """The best epoch's values, the last one's where it is another, the test's; the numbers of a study."""
    objective, best, epochs = results["objective"], results.get("best_epoch"), results.get("epochs")
    if objective.get("value") is not None:
        yield Words(
            f"Best epoch {best} of {epochs} by {objective['monitor']} = {objective['value']:.6g} ({objective['mode']}); "
            f"tested: {results.get('tested') or 'nothing'}."
        )
    elif epochs:
        yield Words(f"{objective['monitor']} was never logged; the table shows the last epoch.")
    columns = best_columns(results)
    test = columns.pop("test", {})
    if best is not None and best != epochs:
        columns = {f"{split}, epoch {best}": values for split, values in columns.items()}
        columns |= _splits(results["metrics"].get("last") or {}, f", epoch {epochs}")
    columns |= _named("test", test)
    if columns:
        yield Table(["metric", *columns], metrics_table(columns))
    if study := results["metrics"].get("study"):
        yield Table(["value", "found"], [[name, f"{value:.6g}"] for name, value in study.items()])


def _data(data: dict[str, Any] | None) -> Iterator[Part]:
    """How the data were understood, and the warnings about them."""
    if data:
        yield Heading("Data")
        yield Items([*map(str, data["description"]), *(f"Warning: {line}" for line in data["warnings"])])


def _changed(changed: dict[str, Any] | None) -> Iterator[Part]:
    """The settings that are not the defaults, with what these are."""
    if changed is None:
        return
    yield Heading("Settings that differ from the defaults")
    if not changed:
        yield Words("None.")
        return
    rows = [
        [
            key,
            _value(told["default"]) if "default" in told else "",
            _value(told["value"]) if "value" in told else "left out",
        ]
        for key, told in changed.items()
    ]
    yield Table(["setting", "default", "here"], rows)


def _value(value: object) -> str:
    """A setting's value; of a part its class."""
    if isinstance(value, dict) and isinstance(value.get("_target_"), str):
        return value["_target_"].rpartition(".")[2]
    return "" if value == "???" else short(value)


def _shown(folder: Path, results: dict[str, Any]) -> Iterator[Part]:
    """Figures and sounds, then texts and tables: of each those that the run lists, in its order, then others in the folder."""
    listed = {str(item["file"]): item for item in results.get("shown") or []}
    found = [
        str(file.relative_to(folder))
        for place, suffixes in SUFFIXES.items()
        for file in sorted((folder / place).glob("*"))
        if file.suffix in suffixes and _is_inside(folder, file)
    ]
    ordered = [name for name in listed if name in found] + [name for name in found if name not in listed]
    ordered.sort(key=lambda name: name.endswith(TEXTS))
    heading = ""
    for name in ordered[:MOST_SHOWN]:
        item = listed.get(name, {})
        title, caption = Path(name).stem.replace("_", " "), str(item.get("caption") or "")
        if name.endswith(TEXTS):
            yield Heading(title.capitalize())
            yield from _sample(folder, folder / name, caption)
        else:
            if not heading:
                heading = "Sounds" if name.endswith(".wav") else "Figures"
                yield Heading(heading)
            yield Picture(name, title, caption)
    if len(ordered) > MOST_SHOWN:
        yield Words(f"And {len(ordered) - MOST_SHOWN} more in `figures` and `samples`.")


def _sample(folder: Path, file: Path, caption: str) -> Iterator[Part]:
    text = _text(folder, file, most=2**24)
    if text is None:
        yield Words(f"`{file.relative_to(folder)}` is too large to be shown.")
    elif file.suffix == ".txt":
        yield Code(text[:MOST_LETTERS] + ("\n..." if len(text) > MOST_LETTERS else ""))
    else:
        columns, *rows = list(csv.reader(text.splitlines(keepends=True))) or [[]]
        shown = [[*map(_rounded, row)] for row in rows[:MOST_ROWS] if len(row) == len(columns)]
        yield Table(columns, shown, caption=caption)
        if len(rows) > MOST_ROWS:
            yield Words(f"{MOST_ROWS} of {len(rows):,} rows; all are in `{file.relative_to(folder)}`.")


def _rounded(text: str) -> str:
    """A number of many decimals with six digits; all else as it is. The file has them all."""
    return f"{float(text):.6g}" if re.fullmatch(r"-?\d+\.\d{6,}(e[+-]?\d+)?", text) else text


def _model(folder: Path) -> Iterator[Part]:
    """The table of layers, and the network's drawing where there is one."""
    table = _text(folder, folder / "model.txt")
    if table is None:
        return
    inside: list[Part] = [Code(table.rstrip(), aligned=True)]
    drawing = folder / "graph.svg"
    if drawing.is_file() and _is_inside(folder, drawing):
        inside.append(Picture("graph.svg", "graph of the network"))
    if table.count("\n") <= MOST_ROWS:
        yield from (Heading("Model"), *inside)
    else:
        yield Folded("Model", inside)


def _effort(folder: Path, results: dict[str, Any]) -> Iterator[Part]:
    """What the run took, and where its weights are."""
    seconds = results["seconds"]
    yield Heading("The run")
    if not results["steps"]:
        items = [f"{seconds['total']:.1f} s, no step"]
    else:
        speed = f"{results.get('samples_per_s') or 0:,.0f} samples/s"
        items = [f"parameters: {results['num_parameters']:,}"] if results.get("num_parameters") is not None else []
        items.append(f"steps: {results['steps']:,} in {seconds['fit']:.1f} s, {speed}; {seconds['total']:.1f} s in all")
    if "together" in results:
        items.append(f"trained together with {results['together']} others, whose training these seconds hold too")
    kept = [f"`checkpoints/{f.name}` ({size(f) / 2**20:.2g} MB)" for f in sorted(folder.glob("checkpoints/*.ckpt"))]
    items.append(f"checkpoints: {', '.join(kept) or 'none was kept'}")
    yield Items([*items, f"folder: `{os.path.relpath(folder)}`"])


def _again(folder: Path, results: dict[str, Any]) -> Iterator[Part]:
    """The commands that do it again: the code, the training, the test."""
    git = results.get("git") or {}
    words = [str(word) for word in results.get("overrides") or []]
    script = script_of(results.get("command")) or "train.py"
    flags = [str(word) for word in results.get("flags") or []]
    lines = [shlex.join(["git", "checkout", str(git["commit"])])] if git.get("commit") else []
    lines.append(train_command(script, flags, words))
    if results.get("checkpoint") and results.get("tested"):  # else the data may have no test split
        lines.append(run_command("test", folder, own_packages(folder)))
    yield Heading("To do it again")
    yield Code("\n".join(lines), language="bash")
    yield from _state(git)
    yield Words("The same versions, seed and kind of machine give the same bits.")


def _state(git: dict[str, Any]) -> Iterator[Part]:
    """What the commit does not hold."""
    if git.get("dirty"):
        yield Words("The code had changes that were not committed.")
    if number := git.get("untracked"):
        yield Words(f"{number} {'file was' if number == 1 else 'files were'} not under version control.")


def _environment(results: dict[str, Any]) -> Iterator[Part]:
    told = {**(results.get("machine") or {}), **(results.get("versions") or {})}
    if (code := results.get("framework") or {}).get("commit"):
        told["iolaus' commit"] = f"{code['commit']}{', with changes' if code.get('dirty') else ''}"
    if told:
        rows = [
            [str(name), ", ".join(map(str, value)) if isinstance(value, list) else str(value)]
            for name, value in told.items()
        ]
        yield Folded("Environment", [Table(["what", "which"], [row for row in rows if row[1]])])


def _text(folder: Path, file: Path, most: int = MOST_BYTES) -> str | None:
    """The text of a file inside the run's folder; None where there is none, or it is too large."""
    if not file.is_file() or not _is_inside(folder, file) or file.stat().st_size > most:
        return None
    return file.read_text(encoding="utf-8", errors="replace")


def _is_inside(folder: Path, file: Path) -> bool:
    """Whether a file lies in the folder, and is no link to one outside."""
    return file.resolve().is_relative_to(folder.resolve())


def _draw_curves(folder: Path, results: dict[str, Any]) -> None:
    """figures/learning_curves.png of a run that did not come to draw it."""
    file, rows = folder / "figures" / "learning_curves.png", _rows(folder)
    if not rows or file.exists() or not _is_inside(folder, file):
        return
    from iolaus.figures import learning_curves, png

    picture = b""
    with warn_on_failure(f"figures/{file.name}"):
        picture = png(learning_curves(rows, results.get("best_epoch")))
    if picture:
        file.parent.mkdir(exist_ok=True)
        write(file, picture)
