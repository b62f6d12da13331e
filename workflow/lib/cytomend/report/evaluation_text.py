"""The summary of an evaluation as text: Markdown tables, which are read on a terminal too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from cytomend.evaluation.orientation import ORIENTATION_STATISTICS
from cytomend.evaluation.sizes import DENSITIES, SHARES
from cytomend.evaluation.summary import ALL

SHOWN = (
    "cell density",
    "cell area",
    "neighbour distance",
    "close pairs",
    "rim matched",
    "grey mean",
    "grey std",
    "power, grain",
)


SIZES = (*SHARES.values(), *DENSITIES.values(), "area q50", "area q90")
"""Statistics of size that are printed; the table ``size_summary`` has more."""


def summary_text(
    summary: pd.DataFrame,
    classes: pd.DataFrame,
    colours: pd.DataFrame | None = None,
    sizes: pd.DataFrame | None = None,
    realism: pd.DataFrame | None = None,
) -> str:
    """Return the tables of an evaluation over all mask fractions.

    Parameters
    ----------
    summary, classes, colours, sizes, realism : the tables ``summary``, ``class_summary``, ``colour_summary``,
        ``size_summary`` and ``realism_summary``
    """
    parts = []
    whole = summary[summary["bin"] == ALL]
    for key, part in whole.groupby(["kind", "reference", "segmenter"], sort=False):
        kind, reference, segmenter = (f"{name!s}" for name in key)
        trials = int(part["trials"].max())
        parts.append(f"### {_heading(kind, reference)}; cells by `{segmenter}`; {trials} trials")
        parts.append(f"Median absolute relative error of a trial, %:\n\n{error_table(part, 'median')}")
        parts.append(f"Relative error of all trials together, %:\n\n{error_table(part, 'pooled')}")
        if set(part["statistic"]) & set(ORIENTATION_STATISTICS):
            oriented = error_table(part, "pooled", ORIENTATION_STATISTICS)
            parts.append(f"The same of orientation, %:\n\n{oriented}")
        if sizes is not None:
            large = sizes[(sizes[["kind", "reference", "segmenter"]] == list(key)).all(axis=1)]
            parts.append(f"The same of large cells, %:\n\n{error_table(large, 'pooled', SIZES)}")
    for trials_of, part in classes[classes["bin"] == ALL].groupby("kind", sort=False):
        parts.append(f"### Classes, {trials_of} trials\n\n{class_table(part)}")
    for trials_of, part in () if colours is None else colours.groupby("kind", sort=False):
        parts.append(f"### Colour, {trials_of} trials: mean value minus that of the original\n\n{colour_table(part)}")
    for trials_of, part in () if realism is None else realism.groupby("kind", sort=False):
        parts.append(f"### Realism, {trials_of} trials: windows told from the original's\n\n{realism_table(part)}")
    return "\n\n".join(parts) + "\n" if parts else "No trial: the section has too little intact tissue.\n"


def _heading(kind: str, reference: str) -> str:
    where = {"intact": "On intact tissue", "artefact": "Under known artefacts"}.get(kind, kind)
    return f"{where}, against " + ("known cells" if reference == "truth" else "the original")


def error_table(part: pd.DataFrame, error: str, statistics: Iterable[str] = SHOWN) -> str:
    """Return fillers x statistics with intervals; ``error`` is ``median`` or ``pooled``."""
    cells = {(row["filler"], row["statistic"]): row for _, row in part.iterrows()}
    names = [name for name in statistics if name in set(part["statistic"])]
    fillers = list(dict.fromkeys(part["filler"]))
    rows = [[filler, *(_error(cells.get((filler, name)), error) for name in names)] for filler in fillers]
    return markdown(["filler", *names], rows)


def bin_table(part: pd.DataFrame, statistic: str) -> str:
    """Return fillers x mask fractions: the median error of one statistic."""
    here = part[part["statistic"] == statistic]
    cells = {(row["filler"], row["bin"]): row for _, row in here.iterrows()}
    names = list(dict.fromkeys(here["bin"]))
    rows = [[f, *(_error(cells.get((f, name)), "median") for name in names)] for f in dict.fromkeys(here["filler"])]
    return markdown(["filler", *names], rows)


def class_table(part: pd.DataFrame) -> str:
    """Return fillers x (trials, flips, top-2, margin)."""
    rows = [
        [
            str(row["filler"]),
            str(row["trials"]),
            _share(row["flip_rate"], row["flip_low"], row["flip_high"]),
            _share(row["top2_rate"], row["top2_low"], row["top2_high"]),
            f"{row['margin_change']:+.3f}",
        ]
        for _, row in part.iterrows()
    ]
    return markdown(["filler", "trials", "flips, %", "top-2, %", "margin change"], rows)


def realism_table(part: pd.DataFrame) -> str:
    """Return fillers x (pairs of windows, accuracy of the linear judge, what gives them away)."""
    rows = [
        [
            str(row["filler"]),
            str(row["window_pairs"]),
            _share(row["accuracy"], row["low"], row["high"]),
            str(row["told_by"]),
        ]
        for _, row in part.iterrows()
    ]
    return markdown(["filler", "window pairs", "told right, %", "by, in standard deviations"], rows)


def colour_table(part: pd.DataFrame) -> str:
    """Return fillers x channels: how far each shifts, in values of the scan."""
    shifts = {(row["filler"], row["channel"]): row for _, row in part.iterrows()}
    channels = list(dict.fromkeys(part["channel"]))

    def said(filler: str, channel: str) -> str:
        row = shifts[filler, channel]
        return f"{row['shift']:+.1f} [{row['shift_low']:+.1f}, {row['shift_high']:+.1f}]"

    rows = [[filler, *(said(filler, channel) for channel in channels)] for filler in dict.fromkeys(part["filler"])]
    return markdown(["filler", *channels], rows)


def _error(row: pd.Series | None, error: str) -> str:
    if row is None or not np.isfinite(row[f"{error}_error"]):
        return "–"
    sign = "+" if error == "pooled" else ""
    value, low, high = (100 * row[f"{error}_{end}"] for end in ("error", "low", "high"))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _share(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a bar in a name is no border."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
