"""The tables of an evaluation: what each column means, and how they are written and read.

Every table is written twice: as Parquet, and tab-separated with a header for those who open it in a spreadsheet.
``dictionary.tsv`` beside them says of every column of every table what it is, in which unit, and what of. Tables with
a row a trial or more are written piece by piece (`TableFiles`): the cells of ten thousand large patches fill no memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.evaluation.measurement import MEASURED, Row
from cytomend.evaluation.orientation import VECTOR_SUMS
from cytomend.evaluation.placement import ARTEFACT, INTACT
from cytomend.evaluation.realism_table import feature_names

FACTS = "evaluation.json"
PIECE_ROWS = 1 << 17
MOST_CELLS = 200_000
"""Cells of a filler whose areas a figure shows."""


class Column(NamedTuple):
    """What a column holds."""

    unit: str
    meaning: str


TRIAL = {
    "section": Column("", "name of the section"),
    "trial": Column("", "number of the trial within the section"),
    "kind": Column(
        "", "intact: a mask laid over intact tissue; artefact: a real artefact under which the truth is known"
    ),
    "size": Column(
        "", "of the patch; small: some windows of the model wide; large: evaluate.patch_um wide; never pooled"
    ),
    "fraction": Column("of 1", "share of the patch that is masked"),
}
PICTURE = {
    "filler": Column(
        "",
        "what filled the mask: a sampler, a control, original, or truth (cells that are known); floor: not filled, the"
        " mask lies on other tissue as it stands",
    ),
    "segmenter": Column("", "what found the cells"),
}
CELL = {
    "y_um": Column("µm", "centre of the cell, from the upper edge of the section; of the floor where that lies"),
    "x_um": Column("µm", "centre of the cell, from the left edge of the section"),
    "area_um2": Column("µm²", "area of its profile"),
}
BIN = {
    "bin": Column("", "bin of mask fractions, or all"),
    "low_fraction": Column("of 1", "lower bound of the bin"),
    "high_fraction": Column("of 1", "upper bound of the bin"),
    "trials": Column("", "number of trials"),
}
STATISTIC = {
    name: Column(ratio.unit, f"{ratio.top} / {ratio.bottom}" + (", root of it" if ratio.root else ""))
    for name, ratio in MEASURED.items()
}
SUM = {
    name: Column(
        "",
        "sum over the mask, or over the rim around it, of which the statistics are ratios; the floor has"
        " none of the rim's cells",
    )
    for ratio in MEASURED.values()
    for name in (ratio.top, ratio.bottom)
}
VECTOR = {
    name: Column(
        "",
        "sum over the mask, or over the rim (rim_), of the structure tensor: its energy, or cosine and sine of twice"
        " the angle of the lines; pools by adding up",
    )
    for name in VECTOR_SUMS
}
DICTIONARY: Mapping[str, Mapping[str, Column]] = {
    "trials": {
        **TRIAL,
        "y0_px": Column("px", "upper edge of the patch in the section"),
        "x0_px": Column("px", "left edge of the patch in the section"),
        "patch_px": Column("px", "side of the patch"),
        "margin_px": Column("px", "margin of tissue around it that segmenters see"),
        "masked_px": Column("px", "pixels of the mask"),
        "other_y0_px": Column("px", "upper edge of the patch that is the floor"),
        "other_x0_px": Column("px", "left edge of the patch that is the floor"),
    },
    "measurements": {**TRIAL, **PICTURE, **SUM, **VECTOR, **STATISTIC},
    "arrangement": {
        **TRIAL,
        **PICTURE,
        "radius_um": Column("µm", "distance r"),
        "pairs": Column("", "cells within r of the cells of the mask, summed over these"),
        "pairs_expected": Column("", "how many there would be at random, at the density of the picture"),
    },
    "cells": {**TRIAL, **PICTURE, **CELL},
    "classes": {
        **TRIAL,
        "filler": PICTURE["filler"],
        "classifier": Column("", "what classified the patch"),
        "top1": Column("", "class with the highest probability"),
        "top2": Column("", "class with the second highest probability"),
        "margin": Column("of 1", "difference of these two probabilities"),
    },
    "colours": {
        **TRIAL,
        "filler": PICTURE["filler"],
        "channel": Column("", "red, green or blue; grey sections have no rows"),
        "pixels": Column("", "pixels of the mask"),
        "value": Column("grey", "sum of the channel's values over them"),
    },
    "windows": {
        **TRIAL,
        "filler": PICTURE["filler"],
        "window": Column("", "number of the window within the trial"),
        "y_um": Column("µm", "upper edge of the window in the section; of the floor where that lies"),
        "x_um": Column("µm", "left edge of the window in the section"),
        **{
            name: Column(
                "", "feature of the window, of grey values scaled by the mean and deviation of the tissue around"
            )
            for name in feature_names()
        },
    },
    "summary": {
        "size": TRIAL["size"],
        "kind": TRIAL["kind"],
        **PICTURE,
        **BIN,
        "reference": Column(
            "", "what errors are taken against: original (by the same segmenter), or truth (known cells)"
        ),
        "statistic": Column("", "what is compared"),
        "unit": Column("", "unit of original and found"),
        "original": Column("as unit", "statistic of the reference, all trials together"),
        "found": Column("as unit", "statistic of the filled pictures, all trials together"),
        "pooled_error": Column("of 1", "found / original - 1"),
        "pooled_low": Column("of 1", "lower end of its 95 % bootstrap interval"),
        "pooled_high": Column("of 1", "upper end of its 95 % bootstrap interval"),
        "median_trials": Column("", "trials whose original has the statistic"),
        "median_error": Column("of 1", "median over these of the absolute relative error"),
        "median_low": Column("of 1", "lower end of its 95 % bootstrap interval"),
        "median_high": Column("of 1", "upper end of its 95 % bootstrap interval"),
    },
    "area_summary": {
        "size": TRIAL["size"],
        "kind": TRIAL["kind"],
        **PICTURE,
        "reference": Column(
            "",
            "whose percentiles and cells count as right: original (by the same segmenter), or truth (known cells)",
        ),
        "statistic": Column(
            "",
            "share and density of cells above a percentile of the reference's areas (q75, q90); quantiles of the areas",
        ),
        "unit": Column("", "unit of original and found"),
        "trials": Column("", "number of trials; every second or third if there are very many cells"),
        "cells": Column("", "cells of the reference in the masks"),
        "cells_found": Column("", "cells of the filled pictures in the masks"),
        "original": Column("as unit", "statistic of the reference, all trials together"),
        "found": Column("as unit", "statistic of the filled pictures, all trials together"),
        "found_low": Column("as unit", "lower end of its 95 % bootstrap interval"),
        "found_high": Column("as unit", "upper end of its 95 % bootstrap interval"),
        "pooled_error": Column("of 1", "found / original - 1"),
        "pooled_low": Column("of 1", "lower end of its 95 % bootstrap interval"),
        "pooled_high": Column("of 1", "upper end of its 95 % bootstrap interval"),
    },
    "class_summary": {
        "size": TRIAL["size"],
        "kind": TRIAL["kind"],
        "filler": PICTURE["filler"],
        **BIN,
        "classifier": Column("", "what classified the patches"),
        "flip_rate": Column("of 1", "share of trials whose class changes"),
        "flip_low": Column("of 1", "lower end of its 95 % bootstrap interval"),
        "flip_high": Column("of 1", "upper end of its 95 % bootstrap interval"),
        "top2_rate": Column("of 1", "share of trials whose original class is among the first two choices afterwards"),
        "top2_low": Column("of 1", "lower end of its 95 % bootstrap interval"),
        "top2_high": Column("of 1", "upper end of its 95 % bootstrap interval"),
        "margin_change": Column("of 1", "median change of the margin between first and second choice"),
    },
    "realism_summary": {
        "size": TRIAL["size"],
        "kind": TRIAL["kind"],
        "filler": PICTURE["filler"],
        "window_pairs": Column(
            "", "windows of the filler that were judged, each with the original's in the same place"
        ),
        "parts": Column("", "sections, or parts of the only section: none is judged by what was learned of itself"),
        "accuracy": Column("of 1", "share of windows that the linear judge told right: 0.5 if it cannot tell"),
        "low": Column("of 1", "lower end of its 95 % bootstrap interval"),
        "high": Column("of 1", "upper end of its 95 % bootstrap interval"),
        "told_by": Column("", "features that differ most, and by how many standard deviations"),
    },
    "colour_summary": {
        "size": TRIAL["size"],
        "kind": TRIAL["kind"],
        "filler": PICTURE["filler"],
        "channel": Column("", "red, green or blue"),
        "trials": Column("", "number of trials"),
        "original": Column("grey", "mean value of the channel in the masks of the originals, all trials together"),
        "found": Column("grey", "mean value in the filled pictures"),
        "shift": Column("grey", "found - original"),
        "shift_low": Column("grey", "lower end of its 95 % bootstrap interval"),
        "shift_high": Column("grey", "upper end of its 95 % bootstrap interval"),
    },
    "arrangement_summary": {
        "size": TRIAL["size"],
        **PICTURE,
        "radius_um": Column("µm", "distance r"),
        "trials": Column("", "number of trials"),
        "l_minus_r_um": Column("µm", "L(r) - r, all trials together: 0 at random, above 0 clustered, below 0 apart"),
        "low": Column("µm", "lower end of its 95 % bootstrap interval"),
        "high": Column("µm", "upper end of its 95 % bootstrap interval"),
    },
}
"""By table and column. Rows of ``trials`` are trials; of ``measurements`` a trial, filler and segmenter; of
``arrangement`` these and a radius; of ``cells`` a cell in a mask; of ``classes`` a trial and filler; of ``colours``
these and a channel; of ``windows`` these and a window."""

GATHERED = ("trials", "measurements", "arrangement", "cells", "classes", "colours", "windows")
"""Tables with a row a trial or more, of which the others are made."""

SUMMED = tuple(name for name in GATHERED if name not in ("trials", "cells"))
"""Those of them that are summed up, and so read as a whole."""


TEXTS = {
    "section",
    "kind",
    "size",
    "filler",
    "segmenter",
    "channel",
    "classifier",
    "top1",
    "top2",
    "bin",
    "reference",
    "statistic",
    "unit",
    "told_by",
}
WHOLE = {"trial", "trials", "median_trials", "window", "window_pairs", "parts"}


def table(name: str, rows: list[Row]) -> pd.DataFrame:
    """Return a table of rows, with the columns that the dictionary knows, in its order; also of no rows."""
    known = [column for column in DICTIONARY[name] if not rows or column in rows[0]]
    types = {column: "int64" if column in WHOLE or column.endswith("_px") else "float64" for column in {*known} - TEXTS}
    return pd.DataFrame(rows, columns=known).astype(types)


class TableFiles:
    """Writes tables into a folder piece by piece, each as Parquet and as TSV.

    A table of which no row came is written empty at the end.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names
        self.columns: dict[str, list[str]] = {}
        self._files: dict[str, pq.ParquetWriter] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None:
            for name in self.names:
                if name not in self._files:
                    self._write(name, table(name, []))
        for file in self._files.values():
            file.close()

    def add(self, name: str, content: pd.DataFrame) -> None:
        """Write the next rows of a table."""
        if len(content):
            self._write(name, content)

    def _write(self, name: str, content: pd.DataFrame) -> None:
        first = name not in self._files
        if first:
            self.columns[name] = list(content.columns)
            schema = pa.Schema.from_pandas(content, preserve_index=False)
            self._files[name] = pq.ParquetWriter(self.folder / f"{name}.parquet", schema)
        file = self._files[name]
        file.write_table(pa.Table.from_pandas(content, schema=file.schema, preserve_index=False))
        content.to_csv(
            self.folder / f"{name}.tsv",
            sep="\t",
            index=False,
            float_format="%.6g",
            mode="w" if first else "a",
            header=first,
        )


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame], written: Mapping[str, Sequence[str]]) -> None:
    """Write tables into a folder, each as Parquet and as TSV, and the dictionary of all.

    Parameters
    ----------
    folder : of the evaluation
    tables : by name
    written : columns of the tables that lie there already, by name
    """
    with TableFiles(folder, tuple(tables)) as files:
        for name, content in tables.items():
            files.add(name, content)
    dictionary = [
        {"table": name, "column": column, **DICTIONARY[name][column]._asdict()}
        for name, columns in {**written, **files.columns}.items()
        for column in columns
    ]
    pd.DataFrame(dictionary).to_csv(folder / "dictionary.tsv", sep="\t", index=False)


def pieces(folder: Path, name: str, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
    """Yield a table of an evaluation piece by piece.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    try:
        with pq.ParquetFile(folder / f"{name}.parquet") as file:
            for part in file.iter_batches(PIECE_ROWS, columns=columns):
                yield part.to_pandas()
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: expected a whole evaluation ({error}); delete it and evaluate again") from error


def cell_areas(folder: Path, segmenter: str, kind: str) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return areas of single cells in µm², by size of the patch and by filler: the first `MOST_CELLS` of each."""
    found: dict[str, dict[str, list[NDArray[np.float64]]]] = {}
    columns = ["size", "kind", "filler", "segmenter", "area_um2"]
    for part in pieces(folder, "cells", columns):
        mine = part[(part["segmenter"] == segmenter) & (part["kind"] == kind)]
        for (size, filler), rows in mine.groupby(["size", "filler"], sort=False):
            of_filler = found.setdefault(str(size), {}).setdefault(str(filler), [])
            room = MOST_CELLS - sum(map(len, of_filler))
            of_filler.append(rows["area_um2"].to_numpy(np.float64)[:room])
    return {size: {name: np.concatenate(a) for name, a in fillers.items()} for size, fillers in found.items()}


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """Read a table of an evaluation.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    try:
        return pd.read_parquet(folder / f"{name}.parquet")
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: expected a whole evaluation ({error}); delete it and evaluate again") from error


def read_facts(folder: Path) -> dict[str, Any]:
    """Read what an evaluation says of itself.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: expected a whole evaluation ({error}); delete it and evaluate again") from error
    return facts


def total_facts(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the facts of the evaluations of many sections: trials added up, and the ways in which they were mended."""
    ways = Counter(f"{f['model']} ({f['checkpoint_sha256'][:12]}), {f['sampler']}" for f in facts)
    return {
        "sections": len(facts),
        "trials": {kind: sum(f["trials"][kind] for f in facts) for kind in (INTACT, ARTEFACT)},
        "wanted": sum(f["wanted"] for f in facts),
        "patches": {
            **{key: sum(f["patches"][key] for f in facts) for key in ("trials", "wanted")},
            "patch_um": max((f["patches"]["patch_um"] for f in facts if f["patches"]["wanted"]), default=0.0),
        },
        "ways": dict(ways),
        "model_fillers": sorted({name for f in facts for name in f["model_fillers"]}),
        "sampler": ", ".join(sorted({f["sampler"] for f in facts})),
    }
