"""The sheet of sections and the configuration, joined: what each stage of each section must know.

Read when the workflow is read, so that mistakes are named before any job is queued. Plain dicts, no pandas: a brain
has thousands of rows.
"""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cytomend.decisions import Decision, changes, read_decisions
from cytomend.diffusion.record import ModelSettings, load_settings
from cytomend.errors import InputError
from cytomend.grafts.join import PIXEL_SIZE_TOLERANCE
from cytomend.grafts.settings import GraftSettings
from cytomend.places import model_file
from cytomend.regions.lattice import Lattice
from cytomend.settings import Record, check_pyramid, checked, schema
from cytomend.stains import parse_stain
from cytomend.storage.edition import annotation_roles
from cytomend.storage.frames import file_of, framed
from cytomend.table_text import decimal_comma, plain_cell, read_table_text, table_rows

log = logging.getLogger(__name__)

CLASSES = ("include_classes", "exclude_classes", "tissue_classes")

FILES = ("image", "annotation", "truth", "cells")
"""Columns that name files."""

AUTO = "auto"
"""In place of an annotation: what `cytomend screen-section` proposes."""

STEPS = {"repaint": 256, "repaint-strided": 50, "timemap": 50, "langevin": 20}
GRAFT_STEPS = 25
"""Of `timemap` where the network draws joints alone; more changed no statistic (docs/grafts.md)."""


@dataclass(frozen=True, slots=True)
class SectionSettings:
    """One section: where its files are, and the settings of its stages as plain records.

    ``annotations`` is empty if the artefacts are those that screening proposes.
    """

    section: str
    image: Path
    annotations: tuple[Path, ...]
    shards: int
    model: Path
    plan: Record
    mend: Record
    trials: Record
    evaluate: Record
    screen: Record
    truth: Path | None = None
    cells: Path | None = None
    decisions: tuple[Decision, ...] = ()

    @property
    def planned_files(self) -> dict[str, Path]:
        """The files that a plan is made from, by their role."""
        return {"image": self.image, **annotation_roles(self.annotations)}

    @property
    def is_evaluated(self) -> bool:
        """Whether the section has any trials."""
        return bool(self.trials["trials"] or self.trials["patch_trials"])

    @property
    def known_files(self) -> dict[str, Path]:
        """The files that tell what was there before the damage, by their role; of phantoms."""
        named = {"truth": self.truth, "cells": self.cells}
        return {role: path for role, path in named.items() if path}


def read_sheet(path: Path, config: Record, only: Collection[str] | None = None) -> dict[str, SectionSettings]:
    """Read the sheet and complete each row with the configuration.

    Parameters
    ----------
    path : the sheet
    config : the checked configuration
    only : names of the sections that matter; the other rows are not looked at

    Raises
    ------
    InputError
        If the sheet is missing, has unknown, missing or doubled columns, a row breaks the schema, or a name occurs
        twice.
    """
    check_pyramid(config["pyramid"], block="pyramid.")
    for block in ("evaluate", "report"):
        parse_stain(config[block]["stain"])
    models = cache(_model)
    decided = read_decisions(config["decisions"] and Path(config["decisions"]), only)
    sections = {
        row["section"]: settings_of(row, config, where, models, decided.get(row["section"], ()))
        for where, row in checked_rows(path, only)
    }
    # No error: a sheet often holds a part of the brain, and its reviewers decide of all of it.
    if only is None and (others := sorted(set(decided) - set(sections))):
        log.warning(
            "%s: decisions about %d sections that are not in %s are not used: %s",
            config["decisions"],
            len(others),
            path,
            ", ".join(others[:12]) + (" and others" if len(others) > 12 else ""),
        )
    if not sections and only is None:
        raise InputError(f"{path}: no section in it; expected a header and one row a section")
    return sections


def checked_rows(path: Path, only: Collection[str] | None = None) -> Iterator[tuple[str, Record]]:
    """Yield the rows of a sheet, each with its place for errors, when its files are there and its name is unique.

    Raises
    ------
    InputError
        If the sheet is missing, has unknown, missing or doubled columns, a row breaks the schema, or a name occurs
        twice.
    """
    lines: dict[str, int] = {}
    for line, cells in _rows(path):
        if only is not None and cells.get("section") not in only:
            continue
        where = f"{path}, row {line}"
        typed = _typed(cells)
        _refuse_decimal_commas(typed, where)
        row = checked(typed, "sections", where)
        name = row["section"]
        if (earlier := lines.setdefault(name.lower(), line)) != line:
            raise InputError(
                f"{where}: section {name!r} stands in row {earlier} already; names must be unique, whatever their case"
            )
        for column, file in _files(row, where):
            if set(file) & set("{}"):
                raise InputError(f"{where}: {column} {file}: braces mean wildcards to Snakemake; rename the file")
            if not file_of(Path(file)).exists():
                raise InputError(
                    f"{where}: {column} {file}: no such file or folder, seen from {Path.cwd()}{_other_form(file)}"
                )
        yield where, row


def _other_form(file: str) -> str:
    """Say if a file is there whose name looks the same: accented letters have two forms, and a Mac writes the other."""
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, file)
        if other != file and file_of(Path(other)).exists():
            return f"; one whose name looks the same is written in the form {form}: copy its name from a listing"
    return ""


def _files(row: Record, where: str) -> Iterator[tuple[str, str]]:
    """Yield the files that a row names, each with its column."""
    for column in (column for column in FILES if row[column]):
        if column == "annotation":
            yield from ((column, str(path)) for path in annotations_of(row, where))
        else:
            yield column, row[column]


def annotations_of(row: Record, where: str) -> tuple[Path, ...]:
    """Return the annotations of a row, in an order that does not depend on how they are written; of `AUTO` none.

    Raises
    ------
    InputError
        If the cell names no file, or `AUTO` among others.
    """
    named = sorted({name.strip() for name in row["annotation"].split(";")} - {""})
    if named == [AUTO]:
        if row["include_classes"]:
            raise InputError(
                f"{where}: annotation {AUTO} takes its classes from screen.classes of the configuration, found"
                f" include_classes {row['include_classes']!r}; leave that cell empty"
            )
        return ()
    if not named or AUTO in named:
        raise InputError(
            f"{where}: annotation: expected {AUTO}, or paths separated by semicolons, found {row['annotation']!r}"
            + (f"; a file of that name is ./{AUTO}" if named else "")
        )
    return tuple(map(Path, named))


def image_of(row: Record, where: str) -> Path:
    """Return the scan of a row, with the frame that is to be read, if the row names one.

    Raises
    ------
    InputError
        If image and frame ask for different ones.
    """
    try:
        return framed(Path(row["image"]), row.get("frame"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def named_rows(path: Path) -> dict[str, Record]:
    """Return the rows of a sheet by section, unchecked: also while a file that they name is missing.

    ``shards`` is always there; what else is empty is left out.

    Raises
    ------
    InputError
        If the sheet is missing, has unknown or doubled columns, or a row has no name.
    """
    rows: dict[str, Record] = {}
    for line, cells in _rows(path):
        row = _typed(cells)
        if "section" not in row:
            raise InputError(f"{path}, row {line}: has no name in the column 'section'; give each section one")
        shards = row.get("shards")
        rows[row["section"]] = {**row, "shards": int(shards) if isinstance(shards, int | float) and shards > 1 else 1}
    return rows


def _model(name: str) -> tuple[Path, ModelSettings]:
    """Return the checkpoint of a model's name, and what it says of itself."""
    path = model_file(name)
    return path, load_settings(path)


def settings_of(
    row: Record,
    config: Record,
    where: str,
    models: Callable[[str], tuple[Path, ModelSettings]] = _model,
    decisions: tuple[Decision, ...] = (),
) -> SectionSettings:
    """Join a checked row with a checked configuration; ``models`` finds the model of a name.

    Raises
    ------
    InputError
        If the row's model cannot be found or used, or its value range is empty.
    """

    def own(key: str, block: str) -> Any:  # noqa: ANN401 - a cell of the sheet
        return config[block][key] if row.get(key) is None else row[key]

    try:
        model, record = models(own("model", "mend"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if own("fill", "mend") == "draw":
        check_pixel_size(float(row["pixel_size_um"]), record.pixel_size_um, where)
    GraftSettings(**config["mend"]["graft"])  # blocks that do not overlap are refused before any job
    annotations = annotations_of(row, where)
    sampler, fill = own("sampler", "mend"), own("fill", "mend")
    steps = own("steps", "mend") or (GRAFT_STEPS if (fill, sampler) == ("graft", "timemap") else STEPS[sampler])
    return SectionSettings(
        section=row["section"],
        image=image_of(row, where),
        annotations=annotations,
        shards=row["shards"],
        model=model,
        plan={
            "section": row["section"],
            "pixel_size_um": float(row["pixel_size_um"]),
            "stain": row["stain"],
            "value_range": value_range(row, where),
            "grow_px": own("grow_px", "mask"),
            "max_covered": float(own("max_covered", "mask")),
            **{name: classes_of(row, name, config["mask"][name]) for name in CLASSES},
            "screened": not annotations,
            "shards": row["shards"],
            "samples": config["mend"]["samples"],
            **_window(record, config["mend"]["stride_px"], where),
            "fill": own("fill", "mend"),
            "decisions": changes(decisions),
        },
        mend={
            "sampler": sampler,
            "steps": steps,
            "jump": config["mend"]["jump"],
            "resample": config["mend"]["resample"],
            "seed": own("seed", "mend"),
            "eta": float(config["mend"]["eta"]),
            "precision": config["mend"]["precision"],
            "fill": fill,
            "graft": {name: float(value) for name, value in config["mend"]["graft"].items()},
        },
        trials={
            "trials": own("trials", "evaluate"),
            "artefact_trials": config["evaluate"]["artefact_trials"] if row["truth"] else 0,
            # A row that wants no trials wants no large ones either.
            "patch_trials": 0 if row.get("trials") == 0 else config["evaluate"]["patch_trials"],
            "patch_um": float(config["evaluate"]["patch_um"]),
            **{key: config["evaluate"][key] for key in ("windows", "samplers", "sampler_trials")},
            **chance(row["section"], config["evaluate"]["seed"]),
        },
        evaluate={key: config["evaluate"][key] for key in ("segmenters", "classifier", "fillers", "stain", "realism")},
        screen={**config["screen"], "value_range": value_range(row, where)},
        truth=Path(row["truth"]) if row["truth"] else None,
        cells=Path(row["cells"]) if row["cells"] else None,
        decisions=decisions,
    )


def classes_of(row: Record, column: str, default: list[str]) -> list[str]:
    """Return the classes that a row names, separated by semicolons, or else those of the configuration."""
    named: str | None = row[column]
    return default if named is None else [name.strip() for name in named.split(";") if name.strip()]


def chance(section: str, seed: int) -> Record:
    """Return seed and offset of a section's masks: others in each, so that few trials a section cover all fractions."""
    digest = hashlib.blake2b(f"{seed} {section}".encode(), digest_size=8).digest()
    return {
        "seed": int.from_bytes(digest[:4], "big"),
        "offset": round(int.from_bytes(digest[4:], "big") / (1 << 32), 6) % 1.0,
    }


def _window(record: ModelSettings, stride_px: int | None, where: str) -> Record:
    """Return what the plan must know of the model."""
    try:
        lattice = Lattice(record.window_px, stride_px or record.window_px * 3 // 4)
    except ValueError as error:
        raise InputError(
            f"{where}: mend.stride_px of the configuration: {error}; the model's window is {record.window_px} px"
        ) from error
    return {
        "window_px": lattice.window_px,
        "stride_px": lattice.stride_px,
        "model_channels": record.unet.channels,
    }


def check_pixel_size(found_um: float, model_um: float, where: str) -> None:
    """Refuse a scan that shows cells at another size than the model's."""
    if not 1 / PIXEL_SIZE_TOLERANCE <= found_um / model_um <= PIXEL_SIZE_TOLERANCE:
        raise InputError(
            f"{where}: pixel_size_um is {found_um:g}, the model was trained at {model_um:g} µm (up to a factor of"
            f" {PIXEL_SIZE_TOLERANCE} is accepted); let mend.fill be graft, or choose or train a model of that"
            " pixel size"
        )


def value_range(row: Record, where: str) -> list[float] | None:
    """Return the values that mean black and white, or None if the row says nothing."""
    low, high = row["value_low"], row["value_high"]
    if low is None and high is None:
        return None
    if low is None or high is None or low >= high:
        raise InputError(
            f"{where}: value_low is {low}, value_high is {high}; expected both, the first below the second, or neither"
        )
    return [float(low), float(high)]


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return (row number in the file, cells) of a tab-separated table."""
    lines = table_rows(read_table_text(path, "the sheet of sections"))
    table = [
        (number, cells)
        for number, row in enumerate(lines, start=1)
        if any(cells := [plain_cell(cell) for cell in row.split("\t")]) and not cells[0].startswith("#")
    ]
    if not table:
        return []
    header = table[0][1]
    _check_header(path, table[0][0], header)
    for number, cells in table[1:]:
        if any(cells[len(header) :]):
            raise InputError(
                f"{path}, row {number}: {len(cells)} cells, expected at most {len(header)} as in the header"
            )
        if nameless := [cell for column, cell in zip(header, cells, strict=False) if cell and not column]:
            raise InputError(
                f"{path}, row {number}: {nameless[0]!r} stands in a column without a name; name the column, or empty"
                " the cell"
            )
    return [
        (number, {column: cell for column, cell in zip(header, cells, strict=False) if column})
        for number, cells in table[1:]
    ]


def _check_header(path: Path, number: int, header: list[str]) -> None:
    """Refuse unknown and doubled columns; columns without a name are ignored while they are empty."""
    known = list(schema("sections")["properties"])
    wrong = [column for column in header if column and (column not in known or header.count(column) > 1)]
    if not wrong:
        return
    sign = next((sign for sign in ";," if set(wrong[0].split(sign)) & set(known) and sign in wrong[0]), None)
    if len(header) == 1 and sign:
        raise InputError(
            f"{path}, row {number}: columns are separated by {sign!r}, expected columns separated by tabs; save the"
            " table as text separated by tabs (Excel: Unicode text; LibreOffice: Text CSV, field delimiter {Tab})"
        )
    alike = [name for name in known if name == wrong[0].lower().replace(" ", "_")]
    raise InputError(
        f"{path}, row {number}: column {wrong[0]!r} is unknown or doubled"
        + (f", write {alike[0]}" if alike and wrong[0] not in known else "")
        + f"; known columns, separated by tabs, are {', '.join(known)}"
    )


def _refuse_decimal_commas(row: Record, where: str) -> None:
    for column, value in row.items():
        if _is_number(column) and isinstance(value, str) and (meant := decimal_comma(value)):
            raise InputError(
                f"{where}: {column}: expected a number with a decimal point, found {value!r}; write {meant} (in a"
                " spreadsheet, choose a language with decimal points before you save)"
            )


def _is_number(column: str) -> bool:
    kinds = schema("sections")["properties"][column].get("type", "string")
    return bool({"number", "integer"} & {*([kinds] if isinstance(kinds, str) else kinds)})


def _typed(cells: dict[str, str]) -> Record:
    """Turn cells into what the schema says they are; empty ones are left out, what does not parse stays text."""
    return {column: _number(text) if _is_number(column) else text for column, text in cells.items() if text}


def _number(text: str) -> int | float | str:
    if "_" in text:  # which Python takes for a thousands separator
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
