"""A user's own recordings: WAV files in a folder, and a table of what is said in them."""

import csv
import logging
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from iolaus.data.bad_files import list_left_out
from iolaus.data.clips import Clips, Sounds, ratio, read_wav, wav_size
from iolaus.data.file_format import delimiter
from iolaus.data.memory import Ragged
from iolaus.data.sniff import header
from iolaus.errors import ConfigError, UserError, did_you_mean

log = logging.getLogger("iolaus")

IN_MEMORY_BYTES = 2**30


class Recordings(Dataset):
    """WAV files that are read when they are asked for.

    Args:
        files: the sounds.
        transcripts: their tokens.
        lengths: samples of each at the rate that it is read with, (N,).
        rate_hz: this rate.

    Shape:
        item: samples (N,) int16, their number, and tokens (L,) int64; batch: as of Clips.
    """

    def __init__(self, files: list[Path], transcripts: Ragged, lengths: torch.Tensor, rate_hz: int):
        self.files = files
        self.transcripts = transcripts
        self.lengths = lengths
        self.rate_hz = rate_hz

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
        samples = read_wav(self.files[row], self.rate_hz)
        first, last = self.transcripts.offsets[row : row + 2].tolist()
        return samples, torch.tensor(len(samples)), self.transcripts.values[first:last].long()

    def kept(self) -> Clips:
        """The same in memory."""
        samples = [read_wav(file, self.rate_hz) for file in self.files]
        ends = torch.tensor([0, *map(len, samples)]).cumsum(0)
        return Clips(Ragged(torch.cat(samples), ends), self.transcripts)

    @staticmethod
    def collate(items: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        """A batch."""
        samples, lengths, target = (list(part) for part in zip(*items, strict=True))
        padded = pad_sequence(target, batch_first=True, padding_value=-100)
        return pad_sequence(samples, batch_first=True), torch.stack(lengths), padded

    def fingerprint(self) -> str:
        """Names and sizes of the files, and the tokens."""
        sizes = "\n".join(f"{file.name} {file.stat().st_size}" for file in self.files)
        return f"{sizes}\n{self.transcripts.values.tolist()} {self.transcripts.offsets.tolist()}"


class SpeechFolder(Sounds):
    """WAV files, and a table with a line for each: its name and what is said in it.

    Files may have 8, 16, 24 or 32 bits or floating-point numbers, and any rate and number of channels; channels are averaged. White space
    in transcripts becomes single spaces. The alphabet is the characters of the training transcripts.

    Args:
        path: the folder of the WAV files.
        rate_hz: samples a second; files of another rate are resampled.
        transcripts: the table, column names in its first line; None: transcripts.csv in the folder.
        test_transcripts: a table of its own for the test split.
        file_column: name of the column of file names, as seen from the folder.
        text_column: name of the column of transcripts.
        separator: what stands between two cells: a character, or tab, semicolon, comma, pipe, space.
        in_memory: read all files once and keep them; None: when they take less than a GiB.
        bad_files: whether a file that is missing or cannot be read is an error, or is left out with a warning (skip), for which all are
            read first.
        base: the settings that every data set of sounds has; see Sounds.

    Raises:
        UserError: naming table and line, for a file that is missing or no sound, an empty transcript, one that is too long for its
            file, a character that is not in the alphabet.
    """

    def __init__(
        self,
        path: str,
        rate_hz: int = 8_000,
        transcripts: str | None = None,
        test_transcripts: str | None = None,
        file_column: str = "file",
        text_column: str = "text",
        separator: str = ",",
        in_memory: bool | None = None,
        bad_files: Literal["error", "skip"] = "error",
        **base: Any,
    ):
        super().__init__(rate_hz=rate_hz, **base)
        self.bad_files: str = bad_files
        self.path = Path(path)
        self.tables = {"train": Path(transcripts) if transcripts is not None else self.path / "transcripts.csv"}
        if test_transcripts is not None:
            self.tables["test"] = Path(test_transcripts)
        self.file_column = str(file_column)
        self.text_column = str(text_column)
        self.separator = separator
        self.in_memory = in_memory
        self.has_own_alphabet = self.characters is not None
        self.lines: dict[str, list[int]] = {}  # of each table, where its rows stand

    def load(self) -> dict[str, Dataset]:
        if not self.path.is_dir():
            raise UserError(f"data.path: {self.path} is not a folder")
        problems: list[str] = []
        rows = {split: self._read(split, problems) for split in self.tables}
        if problems:
            raise ConfigError(problems)
        if self.characters is None:
            self.take_alphabet(sorted(set("".join(text for _, text in rows["train"]))))
        datasets = {split: self._recordings(split, found) for split, found in rows.items()}
        total = sum(int(d.lengths.sum()) for d in datasets.values())
        if self.in_memory is False or (self.in_memory is None and 2 * total >= IN_MEMORY_BYTES):
            return dict(datasets)
        return {split: dataset.kept() for split, dataset in datasets.items()}

    def _read(self, split: str, problems: list[str]) -> list[tuple[Path, str]]:
        """The files of a table and their transcripts; what is wrong with a line goes to the problems."""
        table, setting = self.tables[split], "data.transcripts" if split == "train" else "data.test_transcripts"
        if not table.is_file():
            raise UserError(
                f"{setting}: {table} is not a file; it must name each WAV file and its transcript, in columns "
                f"{self.file_column!r} and {self.text_column!r}"
            )
        names = header(str(table), self.separator)
        wanted = {"data.file_column": self.file_column, "data.text_column": self.text_column}
        for key, name in wanted.items():
            if name not in names:
                hint = did_you_mean(name, names)
                raise UserError(f"{key}: {table} has no column {name!r}{hint}  (it has: {', '.join(names)})")
        places = [names.index(name) for name in wanted.values()]
        found, self.lines[split] = [], []
        left_out: list[str] = []
        try:
            with table.open(newline="", encoding="utf-8-sig") as opened:
                reader = csv.reader(opened, delimiter=delimiter(self.separator))
                next(reader)
                for cells in reader:
                    if not any(cell.strip() for cell in cells):
                        continue
                    name, text = (" ".join(cells[i].split()) if i < len(cells) else "" for i in places)
                    if self.bad_files == "skip" and name and (reason := self._unreadable(name)):
                        left_out.append(f"{table} line {reader.line_num}: {reason}")
                        continue
                    if problem := self._wrong(name, text, cells, len(names)):
                        problems.append(f"{setting}: {table} line {reader.line_num}: {problem}")
                    found.append((self.path / name, text))
                    self.lines[split].append(reader.line_num)
        except UnicodeDecodeError as error:
            raise UserError(f"{setting}: {table} is not text in UTF-8: {error.reason}") from None
        if not found and not left_out:
            raise UserError(f"{setting}: {table} has column names and no rows")
        if not found:
            raise UserError(f"data.bad_files: none of the {len(left_out)} files of {table} can be read: {left_out[0]}")
        self.warnings += list_left_out(left_out, len(found) + len(left_out), "recordings")
        return found

    def _unreadable(self, name: str) -> str | None:
        """Why a file cannot be read."""
        if not (self.path / name).is_file():
            return f"there is no file {name!r} in {self.path}"
        try:
            read_wav(self.path / name, self.rate_hz)
        except UserError as error:
            return str(error)
        return None

    def _wrong(self, name: str, text: str, cells: list[str], columns: int) -> str | None:
        """What is wrong with a line."""
        if len(cells) > columns:
            return f"it has {len(cells)} cells and the table {columns} columns; a text that holds the separator stands in quotes"
        if not name or not (self.path / name).is_file():
            return f"there is no file {name!r} in {self.path}"
        return f"the transcript of {name} is empty" if not text else None

    def _recordings(self, split: str, rows: list[tuple[Path, str]]) -> Recordings:
        """The files of a table, each looked at."""
        table, lines = self.tables[split], self.lines[split]
        assert self.characters is not None
        rates: Counter[int] = Counter()
        lengths, problems = [], []
        for (file, text), line in zip(rows, lines, strict=True):
            if unknown := sorted(set(text) - set(self.characters)):
                problems.append(
                    f"data.characters: {table} line {line}: the transcript has {unknown[0]!r}, "
                    f"which {'they do not have' if self.has_own_alphabet else 'no training transcript has'}"
                )
                continue
            try:
                rate, size = wav_size(file)
            except UserError as error:
                problems.append(f"data.path: {table} line {line}: {error}")
                continue
            rates[rate] += 1
            up, down = ratio(rate, self.rate_hz)
            lengths.append(-(-size * up // down))
        if problems:
            raise ConfigError(problems)
        for rate, count in sorted(rates.items()):
            if rate != self.rate_hz:
                log.info("data.rate_hz: %d of %d files are resampled from %d Hz", count, len(rows), rate)
        transcripts = Ragged.of((self.encode(text) for _, text in rows), torch.int32)
        found = Recordings([file for file, _ in rows], transcripts, torch.tensor(lengths), self.rate_hz)
        if len(short := self.too_short(found.lengths, transcripts)):
            raise ConfigError(
                f"data.frame_s: {table} line {lines[row]}: {rows[row][0].name} has {has} frames of {self.frame_s} s, and CTC needs "
                f"{needs} for its transcript; mend it, or set data.frame_s={self.frame_s / 2:g}"
                for row, has, needs in short.tolist()
            )
        return found

    def fit_splits(self) -> None:
        """Refuse characters of the validation and the test that the training split does not have, so that they cannot be learned."""
        if self.has_own_alphabet:
            return
        assert self.characters is not None
        known = set(_tokens(self.datasets["train"], self.rows["train"]))
        problems = []
        for split in (s for s in self.rows if s != "train"):
            table = self._holder(self.datasets[split])
            for row in self.rows[split].tolist():
                if unknown := sorted(set(_tokens(self.datasets[split], torch.tensor([row]))) - known):
                    place = f"{self.tables[table]} line {self.lines[table][row]}, in the {split} split"
                    problems.append(
                        f"data.transcripts: {place}: it has {self.characters[unknown[0] - 1]!r}, which no training transcript has; "
                        "mend it, or name the whole alphabet by data.characters"
                    )
        if problems:
            raise ConfigError(problems)


def _tokens(dataset: Any, rows: torch.Tensor) -> list[int]:
    """All tokens of some rows' transcripts, each once."""
    tokens = dataset.transcripts.padded(rows, 0)[0].unique().tolist()
    return [token for token in tokens if token > 0]
