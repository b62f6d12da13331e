"""Sizes of cells: the distribution of their areas, not its mean alone.

A fill may have the right mean area and lack every large neuron, when its other cells are a little too large. So the
large cells are counted: those above the 75th and the 90th percentile of the reference's areas. By definition a quarter
and a tenth of the reference's own cells lie above. Beside them stand quantiles of the areas.

All cells of all trials count alike. A bootstrap draws trials, with all their cells, and takes the percentiles anew each
time (Efron 1979).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cytomend.evaluation.measurement import KNOWN, ORIGINAL, TRUTH, Row
from cytomend.evaluation.statistics import bootstrap_counts, interval

Float = NDArray[np.float64]

LARGE = (0.75, 0.9)
"""Percentiles of the reference's areas above which a cell is large."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
DRAWS = 1000

SHARES = {level: f"share above q{100 * level:g}" for level in LARGE}
DENSITIES = {level: f"density above q{100 * level:g}" for level in LARGE}
AREAS = {level: f"area q{100 * level:g}" for level in QUANTILES}
UNITS = {**dict.fromkeys(SHARES.values(), "of 1"), **dict.fromkeys(DENSITIES.values(), "1/mm²")} | dict.fromkeys(
    AREAS.values(), "µm²"
)
"""Unit of every statistic of size."""


class Areas(NamedTuple):
    """The cells of one filler: ``area_um2`` (n,) ascending, and ``trial`` (n,), the number of each cell's trial."""

    area_um2: Float
    trial: NDArray[np.intp]

    @classmethod
    def of(cls, area_um2: Float, trial: NDArray[np.intp]) -> Areas:
        """Return cells in the order of their area."""
        order = np.argsort(area_um2, kind="stable")
        return cls(area_um2[order], trial[order])


def summarise_sizes(cells: pd.DataFrame, measurements: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each kind, segmenter, filler, reference and statistic of size.

    Parameters
    ----------
    cells : the table ``cells``, of one section or of many
    measurements : the table ``measurements``, which says which trials a filler has, and how much is masked in them
    """
    rows: list[Row] = []
    for kind, of_kind in measurements.groupby("kind", sort=False):
        listed = cells[cells["kind"] == kind]
        known = of_kind[of_kind["filler"] == TRUTH]
        for segmenter, part in of_kind[of_kind["segmenter"] != KNOWN].groupby("segmenter", sort=False):
            found = listed[listed["segmenter"] == segmenter]
            original = part[part["filler"] == ORIGINAL]
            for filler, trials in part.groupby("filler", sort=False):
                own = found[found["filler"] == filler]
                for reference, theirs, called in (
                    (original, found[found["filler"] == ORIGINAL], ORIGINAL),
                    (known, listed[listed["filler"] == TRUTH], TRUTH),
                ):
                    if len(reference) and filler != called:
                        key = {"kind": kind, "filler": filler, "segmenter": segmenter, "reference": called}
                        rows += [{**key, **row} for row in _compared(own, trials, theirs, reference)]
    return pd.DataFrame(rows)


def _compared(own: pd.DataFrame, trials: pd.DataFrame, theirs: pd.DataFrame, reference: pd.DataFrame) -> Iterator[Row]:
    """Yield the rows of one filler against its reference, on the trials that both have."""
    keys = ["section", "trial"]
    shared = trials[[*keys, "area_mm2"]].merge(reference[keys]).drop_duplicates(keys)
    index = pd.MultiIndex.from_frame(shared[keys])
    found, there = (_areas(table, index) for table in (own, theirs))
    masked_mm2 = shared["area_mm2"].to_numpy(np.float64)
    now, before = (sizes(a, there, np.ones(len(index)), masked_mm2) for a in (found, there))
    counts = bootstrap_counts(len(index), times=DRAWS)
    draws = np.array([sizes(found, there, weights, masked_mm2) for weights in counts])
    base = np.array([sizes(there, there, weights, masked_mm2) for weights in counts])
    with np.errstate(invalid="ignore", divide="ignore"):
        error, errors = (np.where(b > 0, f / b - 1, np.nan) for f, b in ((now, before), (draws, base)))
    for i, (name, unit) in enumerate(UNITS.items()):
        (low, high), (error_low, error_high) = interval(draws[:, i]), interval(errors[:, i])
        yield {
            "statistic": name,
            "unit": unit,
            "trials": len(index),
            "cells": len(there.area_um2),
            "cells_found": len(found.area_um2),
            "original": float(before[i]),
            "found": float(now[i]),
            "found_low": low,
            "found_high": high,
            "pooled_error": float(error[i]),
            "pooled_low": error_low,
            "pooled_high": error_high,
        }


def _areas(cells: pd.DataFrame, trials: pd.MultiIndex) -> Areas:
    """Return the cells of these trials."""
    number = trials.get_indexer(pd.MultiIndex.from_frame(cells[["section", "trial"]]))
    return Areas.of(cells["area_um2"].to_numpy(np.float64)[number >= 0], number[number >= 0])


def sizes(cells: Areas, reference: Areas, weights: Float, masked_mm2: Float) -> Float:
    """Return the statistics of size in the order of `UNITS`; NaN where there is no cell.

    Parameters
    ----------
    cells, reference : of the same trials
    weights : (trials,), how often each trial counts
    masked_mm2 : (trials,), area of each mask in mm²
    """
    own, thresholds = weights[cells.trial], weighted_quantiles(reference, weights, LARGE)
    total, masked = own.sum(), float(weights @ masked_mm2)
    rest = np.append(own[::-1].cumsum()[::-1], 0.0)  # weight from each cell on
    above = rest[np.searchsorted(cells.area_um2, thresholds, side="right")]
    above = np.where(np.isfinite(thresholds), above, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.concatenate([above / total, above / masked, weighted_quantiles(cells, weights, QUANTILES)])


def weighted_quantiles(cells: Areas, weights: Float, levels: tuple[float, ...]) -> Float:
    """Return the least areas up to which at least these shares of all cells lie; NaN of no cell.

    Parameters
    ----------
    cells : of trials
    weights : (trials,), how often each trial counts
    levels : shares of 1
    """
    reached = weights[cells.trial].cumsum()
    if not len(reached) or reached[-1] <= 0:
        return np.full(len(levels), np.nan)
    # A share of 0.9 of ten cells is nine, although 0.9 is no binary fraction.
    wanted = np.asarray(levels) * reached[-1] * (1 - 1e-12)
    return np.asarray(cells.area_um2[np.searchsorted(reached, wanted)])
