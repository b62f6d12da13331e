"""The text of tables that people edit in spreadsheets: its encoding, its rows, its cells."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from cytomend.errors import InputError

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_INVISIBLE = str.maketrans("", "", "\ufeff\u200b\u2060")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")


def read_table_text(path: Path, what: str) -> str:
    """Return the text of a table in UTF-8, or in UTF-16 or UTF-32 as spreadsheets save "Unicode text".

    Parameters
    ----------
    path : the table
    what : what it is, for messages

    Raises
    ------
    InputError
        If it cannot be read, or is in another encoding, such as Windows-1252, in which letters cannot be told for sure.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {what} cannot be read ({error})") from error
    encoding = _encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        start = max(error.start, 0)
        row = len(re.findall(rb"\r\n|\r|\n", data[:start])) + 1
        around = data[max(start - 10, 0) : start + 10].decode("cp1252", "replace").strip()
        raise InputError(
            f"{path}, row {row}: {what} is expected in UTF-8, found other letters around {around!r}; save it as text in"
            " UTF-8 (LibreOffice: Text CSV, character set UTF-8) or as Unicode text (Excel), or if it is in"
            f" Windows-1252: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8-{path.name}"
        ) from error


def table_rows(text: str) -> list[str]:
    """Return the rows of a table, whatever ends them; no other sign does, as `str.splitlines` would have it."""
    rows = re.split(r"\r\n|\r|\n", text)
    return rows[:-1] if rows[-1] == "" else rows


def plain_cell(text: str) -> str:
    """Return a cell without blanks around it, invisible signs, and the quotes that a spreadsheet put around it.

    >>> plain_cell(' "a,b" ')
    'a,b'
    """
    cell = text.translate(_INVISIBLE).strip()
    if len(cell) > 1 and cell.startswith('"') and cell.endswith('"'):
        return cell[1:-1].replace('""', '"').strip()
    return cell


def decimal_comma(text: str) -> str | None:
    """Return a number that is written with a comma as it is meant to be written, or None.

    >>> decimal_comma("1,0"), decimal_comma("1.0"), decimal_comma("a,b")
    ('1.0', None, None)
    """
    return text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else None


def _encoding(data: bytes) -> str:
    """Return the encoding that the first bytes tell; half of the bytes of UTF-16 without a mark are zero."""
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return name
    even, odd = data[0:64:2], data[1:64:2]
    if odd and not any(odd) and any(even):
        return "utf-16-le"
    if even and not any(even) and any(odd):
        return "utf-16-be"
    return "utf-8"
