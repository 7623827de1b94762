"""Formats of data files by their first bytes, and the separators of tables."""

import zipfile

from iolaus.errors import UserError

SEPARATORS = {"tab": "\t", "semicolon": ";", "comma": ",", "pipe": "|", "space": " ", "\\t": "\t"}
FIRST_BYTES = {b"PK\x03\x04": "npz", b"\x89HDF\r\n\x1a\n": "hdf5", b"PAR1": "parquet"}
USER_BLOCKS = (0, 512, 1024, 2048)  # where HDF5 may begin


def delimiter(separator: str) -> str:
    r"""The character between two cells: itself, or its name (tab, semicolon, comma, pipe, space), or \t.

    Raises:
        UserError: for anything else.
    """
    found = SEPARATORS.get(str(separator), str(separator))
    if len(found) != 1:
        raise UserError(
            f"data.separator: must be one character or one of {', '.join(SEPARATORS)}; received {separator!r}"
        )
    return found


def file_format(path: str) -> str | None:
    """npz, hdf5 or parquet by a file's first bytes; None for any other."""
    with open(path, "rb") as file:
        for start in USER_BLOCKS:
            file.seek(start)
            found = file.read(8)
            for mark, form in FIRST_BYTES.items():
                if found.startswith(mark) and (start == 0 or form == "hdf5"):
                    return form if form != "npz" or _holds_arrays(path) else None
    return None


def refuse_other_formats(path: str) -> None:
    """Refuse a file that is no text.

    Raises:
        UserError: naming the option for its format, where there is one.
    """
    if (form := file_format(path)) is not None:
        raise UserError(f"data.path: {path} is no text, by its first bytes; take data={form}")
    with open(path, "rb") as file:
        if b"\0" in file.read(1024):
            raise UserError(f"data.path: {path} is no text, by its first bytes; save the table as CSV, in UTF-8")


def _holds_arrays(path: str) -> bool:
    """Whether a zip file is one of numpy's, and not a spreadsheet; one that is cut off is taken for the former."""
    try:
        with zipfile.ZipFile(path) as parts:
            return all(name.endswith(".npy") for name in parts.namelist())
    except zipfile.BadZipFile:
        return True
