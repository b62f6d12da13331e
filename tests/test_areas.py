"""Areas of cells: shares of large ones and quantiles, on tables whose values can be worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from cytomend.evaluation import areas as stage
from cytomend.evaluation.areas import (
    PERCENTILES,
    QUANTILES,
    UNITS,
    Areas,
    area_statistics,
    summarise_areas,
    weighted_quantiles,
)
from cytomend.evaluation.measurement import KNOWN, ORIGINAL, TRUTH
from cytomend.evaluation.placement import LARGE, SMALL
from cytomend.evaluation.tables import DICTIONARY, table


def rows_of(areas, filler, segmenter="any", section="s", size=SMALL, first=0):
    """Cells of trials, a list of areas each; and the trials themselves, of 0.5 mm² each."""
    key = {
        "section": section,
        "size": size,
        "kind": "intact",
        "filler": filler,
        "segmenter": segmenter,
        "fraction": 0.2,
    }
    cells = [{**key, "trial": t, "area_um2": float(a)} for t, own in enumerate(areas, first) for a in own]
    return cells, [{**key, "trial": t, "area_mm2": 0.5, "cells": len(own)} for t, own in enumerate(areas, first)]


def summarised(**areas):
    """A summary of fillers by name, a list of trials each."""
    parts = [rows_of(own, {"original": ORIGINAL}.get(name, name)) for name, own in areas.items()]
    return summary_of(parts)


def summary_of(parts):
    """A summary of rows of cells and of trials; cells come a few at a time."""
    columns = ["section", "trial", "size", "kind", "filler", "segmenter", "fraction", "area_um2"]
    cells = pd.DataFrame([row for part in parts for row in part[0]], columns=columns)
    pieces = (cells[start : start + 7] for start in range(0, max(len(cells), 1), 7))
    return summarise_areas(pieces, pd.DataFrame([row for part in parts for row in part[1]]))


def found(summary, statistic, filler="mine"):
    return summary[(summary["statistic"] == statistic) & (summary["filler"] == filler)].iloc[0]


HUNDRED = [range(1, 51), range(51, 101)]


def test_shares_of_large_cells_are_exact():
    mine = [[10, 20, 76], [80, 90, 91, 91, 100, 75, 3]]  # 6 of 10 above 75, 3 of 10 above 90
    summary = summarised(original=HUNDRED, mine=mine)
    row = found(summary, "share above q75")
    assert (row["original"], row["found"], row["pooled_error"]) == pytest.approx((0.25, 0.6, 1.4))
    assert (row["trials"], row["cells"], row["cells_found"]) == (2, 100, 10)
    assert found(summary, "share above q90")["found"] == pytest.approx(0.3)
    density = found(summary, "density above q75")
    assert (density["original"], density["found"], density["pooled_error"]) == pytest.approx((25, 6, 6 / 25 - 1))


def test_a_fill_of_fragments_has_its_large_cells_still():
    """Small cells on top change the share of large ones, not how many there are."""
    mine = [[*own, *[0.5] * 50] for own in HUNDRED]
    summary = summarised(original=HUNDRED, mine=mine)
    assert found(summary, "density above q90")["pooled_error"] == pytest.approx(0)
    assert found(summary, "share above q90")["found"] == pytest.approx(0.05)


def test_the_original_against_itself_has_no_error_whatever_is_drawn():
    summary = summarised(original=HUNDRED, same=HUNDRED)
    errors = summary[["pooled_error", "pooled_low", "pooled_high"]]
    assert (errors == 0).all(axis=None)
    assert set(summary["statistic"]) == set(UNITS)
    assert set(summary["filler"]) == {"same"}


def test_quantiles_are_those_of_all_cells_together():
    summary = summarised(original=HUNDRED, mine=[range(1, 11), range(11, 21)])
    for level in QUANTILES:
        row = found(summary, f"area q{100 * level:g}")
        assert (row["original"], row["found"]) == (100 * level, 20 * level)


def test_the_interval_is_that_of_a_bootstrap_over_trials():
    rng = np.random.default_rng(0)
    original = [rng.gamma(4, 25, 8) for _ in range(120)]
    mine = [0.7 * rng.gamma(4, 25, 8) for _ in range(120)]
    row = found(summarised(original=original, mine=mine), "share above q75")
    drawn = np.random.default_rng(1).integers(120, size=(2000, 120))
    shares = [
        np.mean(np.concatenate([mine[t] for t in own]) > np.quantile(np.concatenate([original[t] for t in own]), 0.75))
        for own in drawn
    ]
    assert (row["found_low"], row["found_high"]) == pytest.approx(np.quantile(shares, (0.025, 0.975)), abs=0.01)
    assert row["found_low"] < row["found"] < row["found_high"]


def test_only_trials_that_both_have_count_also_those_without_a_cell():
    summary = summarised(original=[[10, 20], [1000], []], mine=[[15], []])
    row = found(summary, "area q50")
    assert (row["trials"], row["cells"], row["cells_found"], row["original"], row["found"]) == (2, 3, 1, 20, 15)


def test_without_cells_nothing_is_defined_and_no_large_cell_is_counted():
    summary = summarised(original=HUNDRED, mine=[[], []])
    assert np.isnan(found(summary, "share above q75")["found"])
    assert np.isnan(found(summary, "area q50")["pooled_error"])
    assert found(summary, "density above q75")["found"] == 0
    nothing = summarised(original=[[], []], mine=HUNDRED)
    assert np.isnan(found(nothing, "density above q75")["found"])


def test_sections_of_the_same_trial_number_are_not_mixed_up():
    parts = [rows_of([[a]], filler, section=s) for s, filler, a in
             [("a", ORIGINAL, 10), ("b", ORIGINAL, 20), ("b", "mine", 30)]]  # fmt: skip
    summary = summary_of(parts)
    assert (found(summary, "area q50")["original"], found(summary, "area q50")["trials"]) == (20, 1)


def test_known_cells_are_a_reference_of_their_own():
    parts = [rows_of(HUNDRED, ORIGINAL), rows_of([[60], [70]], "mine"), rows_of([[50], [60]], TRUTH, KNOWN)]
    summary = summary_of(parts)
    against = summary[summary["reference"] == TRUTH]
    assert set(against["filler"]) == {ORIGINAL, "mine"}
    row = against[(against["filler"] == "mine") & (against["statistic"] == "area q50")].iloc[0]
    assert (row["original"], row["found"], row["segmenter"]) == (50, 60, "any")


def test_small_and_large_patches_are_never_pooled():
    small, large = {"size": SMALL}, {"size": LARGE, "first": 2}
    parts = [rows_of([[10], [20]], ORIGINAL, **small), rows_of([[30], [40]], "mine", **small),
             rows_of([[500]], ORIGINAL, **large), rows_of([[700]], "mine", **large)]  # fmt: skip
    median = summary_of(parts)[lambda rows: rows["statistic"] == "area q50"].set_index("size")
    assert median[["original", "found", "trials"]].to_dict("index") == {
        SMALL: {"original": 10, "found": 30, "trials": 2},
        LARGE: {"original": 500, "found": 700, "trials": 1},
    }


def test_of_very_many_cells_every_second_trial_counts_for_all_fillers(monkeypatch):
    monkeypatch.setattr(stage, "MOST_CELLS", 7)
    row = found(summarised(original=[[1, 2], [3, 4], [5, 6]], mine=[[1], [2, 3, 4], [9, 9, 9]]), "area q95")
    assert (row["trials"], row["cells"], row["cells_found"], row["original"], row["found"]) == (2, 4, 4, 6, 9)
    monkeypatch.setattr(stage, "MOST_CELLS", 8)
    row = found(summarised(original=[[1, 2], [3, 4], [5, 6]], mine=[[1], [2, 3, 4], [9, 9, 9]]), "area q95")
    assert row["trials"] == 3


def test_weights_count_cells_as_often():
    cells = Areas.of(np.array([3.0, 1.0, 2.0, 4.0]), np.array([1, 0, 1, 0]))
    twice = weighted_quantiles(cells, np.array([0.0, 2.0]), (0.5, 0.75))
    assert twice.tolist() == [2, 3]
    assert np.isnan(weighted_quantiles(cells, np.zeros(2), PERCENTILES)).all()
    assert area_statistics(cells, cells, np.ones(2), np.ones(2))[:2].tolist() == [0.25, 0.0]


def test_every_column_is_in_the_dictionary():
    summary = summarised(original=HUNDRED, mine=HUNDRED)
    assert list(table("area_summary", summary.to_dict("records")).columns) == list(DICTIONARY["area_summary"])
    assert set(summary.columns) == set(DICTIONARY["area_summary"])
