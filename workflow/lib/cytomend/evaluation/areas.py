"""Areas of cells: their distribution, not its mean alone.

A fill may have the right mean area and lack every large neuron, when its other cells are a little too large. So the
large cells are counted: those above the 75th and the 90th percentile of the reference's areas. By definition a quarter
and a tenth of the reference's own cells lie above. Beside them stand quantiles of the areas.

All cells of all trials of a size of patch count alike; small and large patches are summed up apart. A bootstrap draws
trials, with all their cells, and takes the percentiles of each draw (Efron 1979).

Cells are read piece by piece. Of ten thousand large patches they would fill the memory, so that only every second or
third trial counts where there are very many cells.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cytomend.evaluation.measurement import KNOWN, ORIGINAL, TRUTH, Row
from cytomend.evaluation.statistics import bootstrap_counts, interval

Float = NDArray[np.float64]

PERCENTILES = (0.75, 0.9)
"""Percentiles of the reference's areas above which a cell is large."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
DRAWS = 1000
MOST_CELLS = 100_000
"""About how many cells of a filler are kept."""

SHARES = {level: f"share above q{100 * level:g}" for level in PERCENTILES}
DENSITIES = {level: f"density above q{100 * level:g}" for level in PERCENTILES}
AREAS = {level: f"area q{100 * level:g}" for level in QUANTILES}
UNITS = {**dict.fromkeys(SHARES.values(), "of 1"), **dict.fromkeys(DENSITIES.values(), "1/mm²")} | dict.fromkeys(
    AREAS.values(), "µm²"
)
"""Unit of every statistic."""

Key = tuple[Hashable, ...]
"""Size, kind, segmenter and filler."""
TRIAL = ["section", "trial"]


class Areas(NamedTuple):
    """The cells of one filler: ``area_um2`` (n,) ascending, and ``trial`` (n,), the number of each cell's trial."""

    area_um2: Float
    trial: NDArray[np.intp]

    @classmethod
    def of(cls, area_um2: Float, trial: NDArray[np.intp]) -> Areas:
        """Return cells in the order of their area."""
        order = np.argsort(area_um2, kind="stable")
        return cls(area_um2[order], trial[order])

    def among(self, trials: NDArray[np.intp]) -> Areas:
        """Return the cells of some trials (m,), whose numbers become 0 to m - 1."""
        place = np.full(max(self.trial.max(initial=-1), trials.max(initial=-1)) + 1, -1, np.intp)
        place[trials] = np.arange(len(trials))
        number = place[self.trial]
        return Areas(self.area_um2[number >= 0], number[number >= 0])


NO_AREAS = Areas(np.zeros(0), np.zeros(0, np.intp))


def summarise_areas(cells: Iterable[pd.DataFrame], measurements: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each size, kind, segmenter, filler, reference and statistic.

    Parameters
    ----------
    cells : the table ``cells`` of one section or of many, piece by piece
    measurements : the table ``measurements``, which says which trials a filler has, and how much is masked in them
    """
    trials = chosen_trials(measurements)
    measured = measurements.assign(number=trials.get_indexer(pd.MultiIndex.from_frame(measurements[TRIAL])))
    areas = _areas_of(cells, trials)
    rows: list[Row] = []
    for (size, kind), of_kind in measured[measured["number"] >= 0].groupby(["size", "kind"], sort=False):
        known = of_kind[of_kind["filler"] == TRUTH]
        for segmenter, part in of_kind[of_kind["segmenter"] != KNOWN].groupby("segmenter", sort=False):
            original = part[part["filler"] == ORIGINAL]
            for filler, own in part.groupby("filler", sort=False):
                found = areas.get((size, kind, segmenter, filler), NO_AREAS)
                for reference, seen_by, called in ((original, segmenter, ORIGINAL), (known, KNOWN, TRUTH)):
                    if len(reference) and filler != called:
                        theirs = areas.get((size, kind, seen_by, called), NO_AREAS)
                        key = {"size": size, "kind": kind, "filler": filler, "segmenter": segmenter}
                        compared = _compared(found, own, theirs, reference)
                        rows += [{**key, "reference": called, **row} for row in compared]
    return pd.DataFrame(rows)


def chosen_trials(measurements: pd.DataFrame) -> pd.MultiIndex:
    """Return section and number of the trials that count: all, or every n-th where a filler has too many cells.

    They are spread over all sections, and the same for all fillers of a size and kind.
    """
    keys = ["size", "kind"]
    most = measurements.groupby([*keys, *TRIAL], sort=False)["cells"].max().reset_index()
    groups = most.groupby(keys, sort=False)
    every = np.maximum(np.ceil(groups["cells"].transform("sum") / MOST_CELLS), 1)
    return pd.MultiIndex.from_frame(most.loc[groups.cumcount() % every == 0, TRIAL])


def _areas_of(cells: Iterable[pd.DataFrame], trials: pd.MultiIndex) -> dict[Key, Areas]:
    """Return the cells of these trials; ``trial`` is the place in their list."""
    found: dict[Key, list[Areas]] = {}
    for piece in cells:
        number = trials.get_indexer(pd.MultiIndex.from_frame(piece[TRIAL]))
        kept = piece.assign(number=number)[number >= 0]
        for key, part in kept.groupby(["size", "kind", "segmenter", "filler"], sort=False):
            some = Areas(part["area_um2"].to_numpy(np.float64), part["number"].to_numpy(np.intp))
            found.setdefault(key, []).append(some)
    return {key: Areas.of(*map(np.concatenate, zip(*parts, strict=True))) for key, parts in found.items()}


def _compared(own: Areas, trials: pd.DataFrame, theirs: Areas, reference: pd.DataFrame) -> Iterator[Row]:
    """Yield the rows of one filler against its reference, on the trials that both have."""
    shared = trials[trials["number"].isin(reference["number"])].drop_duplicates("number")
    found, there = (areas.among(shared["number"].to_numpy(np.intp)) for areas in (own, theirs))
    masked_mm2 = shared["area_mm2"].to_numpy(np.float64)
    now, before = (area_statistics(a, there, np.ones(len(shared)), masked_mm2) for a in (found, there))
    counts = bootstrap_counts(len(shared), times=DRAWS)
    draws = np.array([area_statistics(found, there, weights, masked_mm2) for weights in counts])
    base = np.array([area_statistics(there, there, weights, masked_mm2) for weights in counts])
    with np.errstate(invalid="ignore", divide="ignore"):
        error, errors = (np.where(b > 0, f / b - 1, np.nan) for f, b in ((now, before), (draws, base)))
    for i, (name, unit) in enumerate(UNITS.items()):
        (low, high), (error_low, error_high) = interval(draws[:, i]), interval(errors[:, i])
        yield {
            "statistic": name,
            "unit": unit,
            "trials": len(shared),
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


def area_statistics(cells: Areas, reference: Areas, weights: Float, masked_mm2: Float) -> Float:
    """Return the statistics in the order of `UNITS`; NaN where there is no cell.

    Parameters
    ----------
    cells, reference : of the same trials
    weights : (trials,), how often each trial counts
    masked_mm2 : (trials,), area of each mask in mm²
    """
    own, thresholds = weights[cells.trial], weighted_quantiles(reference, weights, PERCENTILES)
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
