"""Folders of data files: hidden and cache files left out, split folders found by the known spellings of their names."""

import os
import re
from collections.abc import Collection
from itertools import takewhile
from pathlib import Path

from iolaus.errors import UserError

CACHES = frozenset(
    {
        *("__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found", "system volume information"),
        *("thumbs.db", "desktop.ini"),
    }
)
SPELLINGS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
SUFFIXES = "(set|data|split|images?|imgs?)?"  # as in trainset, test_images


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or kept by a program beside the data (.ipynb_checkpoints, __MACOSX)."""
    return name.startswith(".") or name.casefold() in CACHES


def visible_files(folder: Path, endings: Collection[str] = ()) -> list[Path]:
    """List the files in a folder and its subfolders in the order of their names, hidden and cache files left out.

    Args:
        folder: the folder.
        endings: of the files to list, in lower case; none: all files.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(place, name) for name in names if not is_hidden(name)]
    return sorted(file for file in found if not endings or file.suffix.lower() in endings)


def subfolders(folder: Path) -> list[str]:
    """List the names of a folder's subfolders, hidden and cache folders left out."""
    return sorted(f.name for f in folder.iterdir() if f.is_dir() and not is_hidden(f.name))


def find_split_folders(
    folder: Path, endings: Collection[str], has_classes: bool = False, class_names: Collection[str] = ()
) -> dict[str, Path]:
    """Find the folders of train, val and test; empty where no subfolder is spelled like one.

    Args:
        folder: the folder.
        endings: of the data files, in lower case.
        has_classes: whether a subfolder that is no split is a class.
        class_names: names of subfolders that are classes however they are spelled.

    Raises:
        UserError: for two folders of one split, splits without train, and folders that may as well be classes.
    """
    names = [name for name in subfolders(folder) if name not in class_names]
    plain = [name for name in names if "=" not in name]  # env=dev is a partition of a table
    found: dict[str, list[str]] = {}
    for name, short in zip(plain, _without_shared_words(plain), strict=True):
        if (split := split_of(name) or split_of(short)) is not None:
            found.setdefault(split, []).append(name)
    for split, same in found.items():
        if len(same) > 1:
            raise UserError(
                f"data.path: {folder} has {len(same)} folders for the {split} split, {_listed(same)}; "
                "rename or move all but one"
            )
    splits = {split: folder / found[split][0] for split in SPELLINGS if split in found}
    known = sorted(place.name for place in splits.values())
    others = [n for n in names if splits and has_classes and n not in known and visible_files(folder / n, endings)]
    if others and not _share_classes(splits):
        raise UserError(
            f"data.path: {folder} has {_listed(known)}, spelled like a split, beside {_listed(others[:5])}; if all are "
            f"classes, set data.class_names={_pasteable(names)}, else move all but the splits out of {folder}"
        )
    if splits and "train" not in splits:
        raise UserError(
            f"data.path: {folder} has {_listed(known)}, spelled like a split, and no folder for the training split; "
            f"move the training files to {folder / 'train'}"
        )
    return splits


def split_of(name: str) -> str | None:
    """Return the split that a folder's name spells (Training, valid, TEST_SET), or None."""
    letters = "".join(_words(name))
    for split, spellings in SPELLINGS.items():
        if re.fullmatch(f"({'|'.join(spellings)}){SUFFIXES}", letters):
            return split
    return None


def describe_split_folders(folder: Path, splits: dict[str, Path]) -> str:
    """Describe in a line which folder each split is read from, and which folders are left out."""
    known = {place.name for place in splits.values()}
    others = [name for name in subfolders(folder) if name not in known]
    text = ", ".join(f"{split} from {place.name}/" for split, place in splits.items())
    return f"splits: {text}" + (f"; left out: {', '.join(f'{name}/' for name in others)}" if others else "")


def _share_classes(splits: dict[str, Path]) -> bool:
    """Return whether the training split and another one have class folders of the same name."""
    inside = {split: set(subfolders(place)) for split, place in splits.items()}
    return any(inside.get("train", set()) & names for split, names in inside.items() if split != "train")


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.casefold())


def _without_shared_words(names: list[str]) -> list[str]:
    """Names without the words that all of them begin or end with, as in seg_train and seg_test."""
    lists = [_words(name) for name in names]
    if len(lists) < 2:
        return names
    first, last = _count_shared(lists), _count_shared([words[::-1] for words in lists])
    return [" ".join(words[first : max(len(words) - last, first)]) for words in lists]


def _count_shared(lists: list[list[str]]) -> int:
    """Count the words that all lists begin with."""
    return len(list(takewhile(lambda words: len(set(words)) == 1, zip(*lists, strict=False))))


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _pasteable(names: list[str]) -> str:
    """Names as a list that a shell and Hydra read as texts."""
    if all(
        re.fullmatch(r"[A-Za-z_][\w-]*", n) and n.casefold() not in ("true", "false", "null", "nan", "inf")
        for n in names
    ):
        return f"[{','.join(names)}]"
    return "'[" + ",".join(f'"{name}"' for name in names) + "]'"
