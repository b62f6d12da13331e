"""Errors over many trials, with intervals: what an evaluation says in the end.

Two errors are given for each statistic, filler and bin of mask fractions. The *median error* is that of Kropp et al.
2024: the median over trials of the absolute relative error against the trial's own original. A small mask holds a few
cells, so that it is large for real tissue too: read it beside the floor. The *pooled error* adds up the trials first
and keeps its sign, so that it shows bias where the median shows scatter.

Trials of small and of large patches are summed up apart: a median over both would be of neither.

Intervals are 95 % bootstrap intervals over trials (Efron 1979). Those of a median and of a rate need no drawing: the
bootstrap distribution of both follows from the binomial distribution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom

from cytomend.evaluation.areas import summarise_areas
from cytomend.evaluation.arrangement import RADII_UM, l_minus_r
from cytomend.evaluation.colours import summarise_colours
from cytomend.evaluation.measurement import KNOWN, MEASURED, ORIGINAL, TRUTH, Row
from cytomend.evaluation.realism_table import summarise_realism
from cytomend.evaluation.statistics import CELL_STATISTICS, bootstrap_counts, interval
from cytomend.evaluation.tables import table

Float = NDArray[np.float64]

EDGES = (0.05, 0.14, 0.23, 0.32, 0.41, 0.5)
ALL = "all"
LEVEL = 0.95
DRAWS = 1000
ARRANGED = ("close pairs", "nearby pairs")
"""Statistics of arrangement, which known cells have too."""


def bins() -> Iterator[tuple[str, float, float]]:
    """Yield name, lower and upper mask fraction of every bin, and of all together."""
    yield ALL, 0.0, 1.0
    for low, high in pairwise(EDGES):
        # Masks come within a hundredth of the fraction wanted, so that the outer bins are open.
        yield f"{100 * low:.0f}-{100 * high:.0f} %", 0.0 if low == EDGES[0] else low, 1.0 if high == EDGES[-1] else high


def summaries(tables: Mapping[str, pd.DataFrame], cells: Iterable[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return what is said of all trials of these tables together, of one section or of many.

    Parameters
    ----------
    tables : those of `tables.SUMMED`
    cells : the table ``cells``, piece by piece
    """
    made = {
        "summary": summarise(tables["measurements"]),
        "area_summary": summarise_areas(cells, tables["measurements"]),
        "realism_summary": summarise_realism(tables["windows"]),
        "class_summary": summarise_classes(tables["classes"]),
        "arrangement_summary": summarise_arrangement(tables["arrangement"]),
        "colour_summary": summarise_colours(tables["colours"]),
    }
    return {name: content if len(content) else table(name, []) for name, content in made.items()}


def summarise(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each size, kind, segmenter, filler, reference, statistic and bin (`tables.DICTIONARY`).

    Parameters
    ----------
    measurements : of one section or of many, in which ``section`` and ``trial`` name a trial
    """
    rows: list[Row] = []
    for (size, kind), of_kind in measurements.groupby(["size", "kind"], sort=False):
        known = of_kind[of_kind["filler"] == TRUTH]
        for segmenter, part in of_kind[of_kind["segmenter"] != KNOWN].groupby("segmenter", sort=False):
            original = part[part["filler"] == ORIGINAL]
            for filler, found in part.groupby("filler", sort=False):
                key = {"size": size, "kind": kind, "segmenter": segmenter, "filler": filler}
                if filler != ORIGINAL:
                    rows += [{**key, **row} for row in _errors(found, original, ORIGINAL, tuple(MEASURED))]
                if len(known):
                    shared = tuple(name for name in (*CELL_STATISTICS, *ARRANGED) if name in MEASURED)
                    rows += [{**key, **row} for row in _errors(found, known, TRUTH, shared)]
    return pd.DataFrame(rows)


def _errors(found: pd.DataFrame, reference: pd.DataFrame, called: str, names: tuple[str, ...]) -> Iterator[Row]:
    """Yield the errors of one filler against its reference, on the trials that both have."""
    keys = ["section", "trial"]
    both = found[keys].merge(reference[keys])
    found, reference = (table.set_index(keys).loc[pd.MultiIndex.from_frame(both)] for table in (found, reference))
    for name, low, high in bins():
        inside = ((found["fraction"] >= low) & (found["fraction"] < high)).to_numpy()
        if not inside.any():
            continue
        here, there = found[inside], reference[inside]
        counts = bootstrap_counts(len(here), times=DRAWS)
        for statistic in names:
            yield {
                "reference": called,
                "statistic": statistic,
                "unit": MEASURED[statistic].unit,
                "bin": name,
                "low_fraction": low,
                "high_fraction": high,
                "trials": len(here),
                **_pooled(here, there, statistic, counts),
                **_median(here[statistic].to_numpy(np.float64), there[statistic].to_numpy(np.float64)),
            }


def _pooled(found: pd.DataFrame, reference: pd.DataFrame, statistic: str, counts: Float) -> Row:
    """Return the statistic of all trials together, of both, and its relative error with its interval."""
    ratio = MEASURED[statistic]

    def pooled(table: pd.DataFrame, weights: Float) -> Float:
        top, bottom = (weights @ table[column].to_numpy(np.float64) for column in (ratio.top, ratio.bottom))
        with np.errstate(invalid="ignore", divide="ignore"):
            value = np.where(bottom > 0, top / bottom, np.nan)
        return np.sqrt(value) if ratio.root else value

    once = np.ones((1, len(found)))
    with np.errstate(invalid="ignore", divide="ignore"):
        error, draws = (
            np.where((there := pooled(reference, w)) > 0, pooled(found, w) / there - 1, np.nan) for w in (once, counts)
        )
    low, high = interval(draws, LEVEL)
    return {
        "original": float(pooled(reference, once)[0]),
        "found": float(pooled(found, once)[0]),
        "pooled_error": float(error[0]),
        "pooled_low": low,
        "pooled_high": high,
    }


def _median(found: Float, reference: Float) -> Row:
    """Return the median absolute relative error of a trial, of those whose original has the statistic."""
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.abs(found / np.where(reference > 0, reference, np.nan) - 1)
    middle, low, high = median_interval(errors[np.isfinite(errors)])
    return {
        "median_trials": int(np.isfinite(errors).sum()),
        "median_error": middle,
        "median_low": low,
        "median_high": high,
    }


def median_interval(values: Float) -> tuple[float, float, float]:
    """Return the median with its bootstrap interval, without drawing.

    Of a resample of n, at least half are at most the k-th smallest value with the probability that a binomial variable
    of n draws and chance k / n reaches n / 2.

    Parameters
    ----------
    values : (n,), finite
    """
    if not len(values):
        return np.nan, np.nan, np.nan
    n, ordered = len(values), np.sort(values)
    reached = binom.sf(-(-n // 2) - 1, n, np.arange(1, n + 1) / n)
    low, high = (int(np.searchsorted(reached, p)) for p in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(np.median(ordered)), float(ordered[low]), float(ordered[min(high, n - 1)])


def rate_interval(hits: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return the share of hits with its bootstrap interval, without drawing; NaN of none."""
    n = len(hits)
    if n == 0:
        return np.nan, np.nan, np.nan
    low, high = (float(binom.ppf(p, n, hits.mean())) / n for p in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(hits.mean()), low, high


def summarise_classes(classes: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each size, kind, classifier, filler and bin: flips, top-2 agreement, change of margin.

    A trial flips if the mended patch is held for something else than the original; top-2 agrees if what the original
    is held for is among the first two choices of the mended patch (Kropp et al. 2024).
    """
    keys = ["section", "trial", "size", "kind", "classifier"]
    original = classes[classes["filler"] == ORIGINAL].set_index(keys)[["top1", "margin"]]
    joined = classes[classes["filler"] != ORIGINAL].join(original, on=keys, rsuffix="_before")
    rows: list[Row] = []
    for (size, kind, classifier, filler), part in joined.groupby(["size", "kind", "classifier", "filler"], sort=False):
        for name, low, high in bins():
            here = part[(part["fraction"] >= low) & (part["fraction"] < high)]
            if here.empty:
                continue
            before = here["top1_before"]
            flips = rate_interval((here["top1"] != before).to_numpy())
            top2 = rate_interval(((here["top1"] == before) | (here["top2"] == before)).to_numpy())
            rows.append(
                {
                    "size": size,
                    "kind": kind,
                    "classifier": classifier,
                    "filler": filler,
                    "bin": name,
                    "low_fraction": low,
                    "high_fraction": high,
                    "trials": len(here),
                    **dict(zip(("flip_rate", "flip_low", "flip_high"), flips, strict=True)),
                    **dict(zip(("top2_rate", "top2_low", "top2_high"), top2, strict=True)),
                    "margin_change": float((here["margin"] - here["margin_before"]).median()),
                }
            )
    return pd.DataFrame(rows)


def summarise_arrangement(arrangement: pd.DataFrame) -> pd.DataFrame:
    """Return L(r) - r of every filler over all trials of a size on intact tissue, with its interval, a row a radius."""
    rows: list[Row] = []
    intact = arrangement[arrangement["kind"] == "intact"]
    for (size, filler, segmenter), part in intact.groupby(["size", "filler", "segmenter"], sort=False):
        of_trials = part.set_index(["section", "trial", "radius_um"])[["pairs", "pairs_expected"]].unstack()
        pairs, expected = (of_trials[name].to_numpy(np.float64) for name in ("pairs", "pairs_expected"))
        counts = bootstrap_counts(len(pairs), times=DRAWS)
        curve, draws = (l_minus_r(w @ pairs, w @ expected) for w in (np.ones((1, len(pairs))), counts))
        for i, radius in enumerate(RADII_UM.tolist()):
            low, high = interval(draws[:, i], LEVEL)
            rows.append(
                {
                    "size": size,
                    "filler": filler,
                    "segmenter": segmenter,
                    "radius_um": radius,
                    "trials": len(pairs),
                    "l_minus_r_um": float(curve[0, i]),
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)
