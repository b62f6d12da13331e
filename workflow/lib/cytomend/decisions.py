"""What reviewers decided of regions: the table ``decisions.tsv``, which the page of a section exports.

| column | unit | what |
|---|---|---|
| ``section``, ``region`` | | name, and number as it stood on the page |
| ``y0_px x0_px y1_px x1_px``, ``area_px`` | px | box and size, by which a region is known under another number |
| ``decision`` | | ``accept``, ``leave`` (the scan stays), ``redraw`` (other noise), or empty beside a comment |
| ``comment`` | | free text |
| ``who``, ``when`` | | reviewer; date and time, in UTC where no zone is given |
| ``seen`` | | name of the filling that was looked at; the page writes it |

The table is a history: rows are added, none is replaced. Of several decisions about a region the last by ``when``
counts, of equals the last row; each filling that a ``redraw`` of the past was about counts as one drawing more, so that
what was accepted after it stays. A folder of such tables is read as one, so that what several reviewers send needs no
merging. It is edited in spreadsheets: byte-order mark, quoted cells and empty rows are fine.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.settings import Record, checked, schema
from cytomend.storage.desktop import without_left_behind
from cytomend.table_text import read_table_text

ACCEPT, LEAVE, REDRAW = "accept", "leave", "redraw"

SCAN = "scan"
"""What a reviewer sees in a region that is left, in the column ``seen``."""

MARK = re.compile(r"^'(?='?[=+@-])")
"""What the page writes before a cell that a spreadsheet would reckon."""

MOST_DRAWS = 1000
"""Drawings of a region: number and sample share 16 bits of the noise counter."""

MOST_CHANGED = 2000
"""Regions of a section that are left or redrawn: they are handed to its plan in one command line, of 128 KiB."""

PIXELS = ("y0_px", "x0_px", "y1_px", "x1_px", "area_px")


@dataclass(frozen=True, slots=True)
class Decision:
    """A row of the table; ``decision`` is empty where there is only a comment, ``when`` is of UTC, to the second."""

    section: str
    region: int
    y0_px: int
    x0_px: int
    y1_px: int
    x1_px: int
    area_px: int
    who: str
    when: str
    decision: str = ""
    comment: str = ""
    seen: str = ""

    @property
    def box(self) -> Box:
        """The box of the region."""
        return Box(self.y0_px, self.x0_px, self.y1_px, self.x1_px)

    @property
    def place(self) -> tuple[Box, int]:
        """Box and area, by which a region is known again."""
        return self.box, self.area_px

    @property
    def moment(self) -> datetime:
        """The time of the decision."""
        return moment(self.when)


Decisions = dict[str, tuple[Decision, ...]]
"""The rows of each section, the earliest first."""


def moment(when: str) -> datetime:
    """Return a time that is written as ISO 8601, of UTC where no zone is given.

    >>> moment("2026-07-01 12:30").isoformat()
    '2026-07-01T12:30:00+00:00'
    """
    found = datetime.fromisoformat(when)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def read_decisions(path: Path | None, only: Collection[str] | None = None) -> Decisions:
    """Read the table, or all tables (``*.tsv``) of a folder; a row that stands in several of them is one row.

    Parameters
    ----------
    path : table or folder; None for no decisions
    only : names of the sections that matter; the other rows are not looked at

    Raises
    ------
    InputError
        If it is missing, is no such table, or a row breaks the schema; the sentence names file and row.
    """
    found: dict[str, dict[Decision, None]] = {}
    for file in _files(path):
        for decision in _read_table(file, only):
            found.setdefault(decision.section, {})[decision] = None
    return {section: tuple(sorted(rows, key=lambda row: row.moment)) for section, rows in found.items()}


def section_decisions(path: Path | None, section: str) -> tuple[Decision, ...]:
    """Return the rows of one section, the earliest first."""
    return read_decisions(path, {section}).get(section, ())


def decisions_key(rows: Iterable[Decision]) -> str:
    """Return a short name of all that the page of a section shows of its decisions."""
    record = [asdict(row) for row in rows]
    return hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=20).hexdigest() if record else ""


def changes(rows: Sequence[Decision]) -> list[Record]:
    """Return what reaches pixels, as plain records in the order of boxes: regions that are left or drawn again.

    Each has ``region``, ``box`` [y0, x0, y1, x1], ``area_px``, ``decision`` (``leave`` or ``redraw``), ``draw`` (how
    often it was drawn again; 0 for what is left). Comments, names, times and acceptance are not in it.

    Raises
    ------
    InputError
        If there are more than the noise or a command line can tell apart.
    """
    records: list[Record] = []
    for (box, area_px), its_rows in sorted(by_place(rows).items()):
        decided = [row for row in its_rows if row.decision]
        if not decided:
            continue
        left, draw = decided[-1].decision == LEAVE, draws(its_rows)
        if draw > MOST_DRAWS:
            raise InputError(
                f"section {decided[-1].section!r}: region {decided[-1].region} is to be drawn again {draw} times,"
                f" {MOST_DRAWS} are possible; delete rows of it from the decisions"
            )
        if left or draw:
            # Not of a later acceptance, which reaches nothing, under whatever number.
            number = [row.region for row in decided if row.decision in (LEAVE, REDRAW)][-1]
            records.append(
                {
                    "region": number,
                    "box": [box.y0, box.x0, box.y1, box.x1],
                    "area_px": area_px,
                    "decision": LEAVE if left else REDRAW,
                    "draw": 0 if left else draw,
                }
            )
    if len(records) > MOST_CHANGED:
        raise InputError(
            f"section {rows[0].section!r}: {len(records)} regions are left or drawn again by the decisions,"
            f" {MOST_CHANGED} are possible; take the artefacts that are to stay out of the annotation instead"
        )
    return records


def by_place(rows: Iterable[Decision]) -> dict[tuple[Box, int], list[Decision]]:
    """Return the rows about each region, known by box and area, in their order."""
    places: dict[tuple[Box, int], list[Decision]] = {}
    for row in rows:
        places.setdefault(row.place, []).append(row)
    return places


def draws(rows: Iterable[Decision]) -> int:
    """Return how often a region was to be drawn again: how many of its fillings were rejected.

    A filling is rejected once, whoever says so and however late. Rows that do not tell which one they are about count
    by their moment.
    """
    return len({row.seen if row.seen not in ("", SCAN) else row.moment for row in rows if row.decision == REDRAW})


def _files(path: Path | None) -> list[Path]:
    if path is None:
        return []
    if path.is_dir():
        tables = without_left_behind(f for f in path.iterdir() if f.suffix.lower() == ".tsv")
        return sorted(f for f in tables if not f.name.startswith("."))
    if not path.exists():
        raise InputError(
            f"{path}: no such file, though `decisions` of the configuration names it, seen from {Path.cwd()}; put there"
            " what the page of a section exports, or set decisions to null"
        )
    return [path]


def _read_table(path: Path, only: Collection[str] | None) -> Iterator[Decision]:
    """Yield the rows of a table that say something."""
    columns: list[str] = []
    for number, cells in _rows(path):
        where = f"{path}, row {number}"
        if not columns:
            columns = _header(cells, where)
            continue
        if any(cells[len(columns) :]):
            raise InputError(f"{where}: {len(cells)} cells, expected at most {len(columns)} as in the header")
        record = dict(zip(columns, cells, strict=False))
        if (only is None or record.get("section") in only) and (decision := _decision(record, where)):
            yield decision
    if not columns:
        raise InputError(
            f"{path}: expected a table with the header of its columns, found none; take it out of the decisions if"
            " nothing is decided, or restore it"
        )


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (row number as a spreadsheet counts, cells) of what is neither empty nor a comment."""
    text = read_table_text(path, "the table of decisions")
    number = 0
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True), start=1):
            stripped = [cell.strip() for cell in cells]
            if any(stripped) and not stripped[0].startswith("#"):
                yield number, stripped
    except csv.Error as error:
        raise InputError(
            f"{path}, row {number + 1}: not a row of cells separated by tabs ({error}); write a quotation mark within a"
            " quoted cell twice"
        ) from error


def _header(cells: list[str], where: str) -> list[str]:
    while cells and not cells[-1]:
        cells = cells[:-1]
    known, required = list(schema("decisions")["properties"]), schema("decisions")["required"]
    wrong = [column for column in cells if column not in known or cells.count(column) > 1]
    missing = [column for column in required if column not in cells]
    if wrong or missing:
        found = f"column {wrong[0]!r} is unknown or doubled" if wrong else f"column {missing[0]!r} is missing"
        raise InputError(f"{where}: {found}; known columns, separated by tabs, are {', '.join(known)}")
    return cells


def _decision(cells: dict[str, str], where: str) -> Decision | None:
    """Return a row of the table, checked, or None if it says nothing: a decision that was taken back in the table."""
    if not cells.get("decision") and not cells.get("comment"):
        return None
    record: dict[str, Any] = {column: _typed(column, _plain(text)) for column, text in cells.items() if text}
    if text := record.get("decision"):
        record["decision"] = str(text).lower()
    if not _is_plain(record):
        record = checked(record, "decisions", where)
    try:
        record["when"] = f"{moment(record['when']).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{where}: when is {record['when']!r}, expected date and time as 2026-07-01T12:30:00Z; a spreadsheet may"
            " have rewritten it"
        ) from error
    decision = Decision(**record)
    height, width = decision.box.shape
    if height <= 0 or width <= 0 or decision.area_px > height * width:
        raise InputError(
            f"{where}: a box from y {decision.y0_px}, x {decision.x0_px} to y {decision.y1_px}, x {decision.x1_px}"
            f" holds no region of {decision.area_px} px; copy the row from the page of section {decision.section!r}"
        )
    return decision


def _plain(text: str) -> str:
    """Return a cell as its writer meant it: without the mark that keeps spreadsheets from reckoning, line ends as here.

    >>> _plain("'=1+1")
    '=1+1'
    """
    return MARK.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


PLAIN = {"description", "type", "enum", "default", "minimum", "maximum", "minLength", "maxLength"}
"""What `_is_plain` knows of a schema."""


def _is_plain(record: Record) -> bool:
    """Whether a row keeps to the schema at a glance: asking it about each row of a brain takes more than a minute."""
    rules = schema("decisions")
    return record.keys() >= set(rules["required"]) and all(
        (rule := rules["properties"][column]).keys() <= PLAIN
        and (
            value in rule["enum"]
            if "enum" in rule
            else rule["minimum"] <= value <= rule["maximum"]
            if rule["type"] == "integer" and type(value) is int
            else rule["type"] == "string"
            and type(value) is str
            and rule.get("minLength", 0) <= len(value) <= rule["maxLength"]
        )
        for column, value in record.items()
    )


def _typed(column: str, text: str) -> int | float | str:
    """Return a whole number where one is expected, also as a spreadsheet's 2.0; what does not parse stays text."""
    if column == "region" or column in PIXELS:
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return text
