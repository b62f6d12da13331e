"""The summary of an evaluation as text: Markdown tables, which are read on a terminal too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from cytomend.evaluation.areas import DENSITIES, SHARES
from cytomend.evaluation.orientation import ORIENTATION_STATISTICS
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


AREAS_SHOWN = (*SHARES.values(), *DENSITIES.values(), "area q50", "area q90")
"""Statistics of cell areas that are printed; the table ``area_summary`` has more."""


def summary_text(
    summary: pd.DataFrame,
    classes: pd.DataFrame,
    colours: pd.DataFrame | None = None,
    areas: pd.DataFrame | None = None,
    realism: pd.DataFrame | None = None,
) -> str:
    """Return the tables of an evaluation over all mask fractions, of small and of large patches apart.

    Parameters
    ----------
    summary, classes, colours, areas, realism : the tables ``summary``, ``class_summary``, ``colour_summary``,
        ``area_summary`` and ``realism_summary``
    """
    parts = []
    whole = summary[summary["bin"] == ALL]
    for key, part in whole.groupby(["size", "kind", "reference", "segmenter"], sort=False):
        size, kind, reference, segmenter = (f"{name!s}" for name in key)
        trials = int(part["trials"].max())
        parts.append(f"### {_heading(size, kind, reference)}; cells by `{segmenter}`; {trials} trials")
        parts.append(f"Median absolute relative error of a trial, %:\n\n{error_table(part, 'median')}")
        parts.append(f"Relative error of all trials together, %:\n\n{error_table(part, 'pooled')}")
        if set(part["statistic"]) & set(ORIENTATION_STATISTICS):
            oriented = error_table(part, "pooled", ORIENTATION_STATISTICS)
            parts.append(f"The same of orientation, %:\n\n{oriented}")
        if areas is not None:
            large = areas[(areas[["size", "kind", "reference", "segmenter"]] == list(key)).all(axis=1)]
            parts.append(f"The same of large cells, %:\n\n{error_table(large, 'pooled', AREAS_SHOWN)}")
    for key, part in classes[classes["bin"] == ALL].groupby(["size", "kind"], sort=False):
        parts.append(f"### Classes, {key[0]} patches, {key[1]} trials\n\n{class_table(part)}")
    for key, part in () if colours is None else colours.groupby(["size", "kind"], sort=False):
        said = f"### Colour, {key[0]} patches, {key[1]} trials: mean value minus that of the original"
        parts.append(f"{said}\n\n{colour_table(part)}")
    for key, part in () if realism is None else realism.groupby(["size", "kind"], sort=False):
        said = f"### Realism, {key[0]} patches, {key[1]} trials: windows told from the original's"
        parts.append(f"{said}\n\n{realism_table(part)}")
    return "\n\n".join(parts) + "\n" if parts else "No trial: the section has too little intact tissue.\n"


def _heading(size: str, kind: str, reference: str) -> str:
    where = {"intact": "On intact tissue", "artefact": "Under known artefacts"}.get(kind, kind)
    return f"{where}, {size} patches, against " + ("known cells" if reference == "truth" else "the original")


def error_table(part: pd.DataFrame, error: str, statistics: Iterable[str] = SHOWN) -> str:
    """Return fillers x statistics with intervals; ``error`` is ``median`` or ``pooled``."""
    cells = {(row["filler"], row["statistic"]): row for _, row in part.iterrows()}
    names = [name for name in statistics if name in set(part["statistic"])]
    fillers = list(dict.fromkeys(part["filler"]))
    rows = [[filler, *(error_text(cells.get((filler, name)), error) for name in names)] for filler in fillers]
    return markdown(["filler", *names], rows)


def bin_table(part: pd.DataFrame, statistic: str) -> str:
    """Return fillers x mask fractions: the median error of one statistic."""
    here = part[part["statistic"] == statistic]
    cells = {(row["filler"], row["bin"]): row for _, row in here.iterrows()}
    names = list(dict.fromkeys(here["bin"]))
    rows = [[f, *(error_text(cells.get((f, name)), "median") for name in names)] for f in dict.fromkeys(here["filler"])]
    return markdown(["filler", *names], rows)


def class_table(part: pd.DataFrame) -> str:
    """Return fillers x (trials, flips, top-2, margin)."""
    rows = [
        [
            str(row["filler"]),
            str(row["trials"]),
            share_text(row["flip_rate"], row["flip_low"], row["flip_high"]),
            share_text(row["top2_rate"], row["top2_low"], row["top2_high"]),
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
            share_text(row["accuracy"], row["low"], row["high"]),
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


def error_text(row: pd.Series | None, error: str) -> str:
    """Return an error of a row of a summary with its interval, in %; ``error`` is ``median`` or ``pooled``."""
    if row is None or not np.isfinite(row[f"{error}_error"]):
        return "–"
    sign = "+" if error == "pooled" else ""
    value, low, high = (100 * row[f"{error}_{end}"] for end in ("error", "low", "high"))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def share_text(value: float, low: float, high: float) -> str:
    """Return a share with its interval, in %."""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a bar in a name is no border."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
