"""Pairs of sentences in a file of your own, a line each with a tab between."""

from pathlib import Path
from typing import Any

from iolaus.data.sentence_pairs import SentencePairs
from iolaus.errors import UserError, unknown_encoding, wrong_encoding


class TsvPairs(SentencePairs):
    """A file whose lines are source, tab, target; more columns, as Tatoeba's files have, are passed over.

    Args:
        path: the file.
        test_path: a file of its own for the test split.
        encoding: of the files, as Python names encodings.
        base: see SentencePairs.

    Raises:
        UserError: with file and line, for a line without a tab, with an empty side, or that is not text.
    """

    def __init__(self, path: str, test_path: str | None = None, encoding: str = "utf-8", **base: Any):
        super().__init__(**base)
        self.path = Path(path)
        self.test_path = Path(test_path) if test_path is not None else None
        self.encoding = encoding

    def read(self) -> dict[str, list[tuple[str, str]]]:
        pairs = {"train": self._lines(self.path, "data.path")}
        if self.test_path is not None:
            pairs["test"] = self._lines(self.test_path, "data.test_path")
        return pairs

    def _lines(self, path: Path, key: str) -> list[tuple[str, str]]:
        if not path.is_file():
            raise UserError(f"{key}: {path} is not a file")
        pairs = []
        try:
            with path.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    line = raw.decode(self.encoding).strip("\r\n\ufeff")
                    if not line.strip():
                        continue
                    cells = line.split("\t")
                    if len(cells) < 2:
                        raise UserError(f"{key}: {path} line {number}: there is no tab; write SOURCE, a tab, TARGET")
                    if not cells[0].strip() or not cells[1].strip():
                        side = "source" if not cells[0].strip() else "target"
                        raise UserError(f"{key}: {path} line {number}: the {side} is empty")
                    pairs.append((cells[0].strip(), cells[1].strip()))
        except LookupError:
            raise unknown_encoding(self.encoding) from None
        except UnicodeDecodeError as error:
            raise wrong_encoding(path, number, self.encoding, error.reason) from None
        if len(pairs) < 3:
            raise UserError(f"{key}: {path} has {len(pairs)} pairs; three at least are needed")
        return pairs
