"""The linear judge in an evaluation: rows of windows, and verdicts over one section and over many."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from cytomend.evaluation.measurement import FLOOR, ORIGINAL
from cytomend.evaluation.placement import INTACT, LARGE, SMALL, Placement
from cytomend.evaluation.realism_table import FEWEST, MOST_WINDOWS, feature_names, summarise_realism, window_rows
from cytomend.evaluation.tables import DICTIONARY, table
from cytomend.geometry import Box
from cytomend.phantom import render_tissue
from cytomend.report.evaluation_text import realism_table

SIDE = 200
MASK = np.zeros((SIDE, SIDE), bool)
MASK[30:170, 30:170] = True  # room for four windows


def rows_of(section, trials, seed=0):
    """Rows of trials side by side in a tissue of their own, filled by its blur and by itself."""
    image = render_tissue((2 * SIDE, trials * SIDE), 600 + 10 * seed + section).image
    soft = ndimage.gaussian_filter(image.astype(float), 1.0).round().astype(np.uint8)
    rows = []
    for i in range(trials):
        # Above and below in turn, so that real windows do not differ by their place.
        halves = [Box(y, i * SIDE, y + SIDE, (i + 1) * SIDE) for y in (0, SIDE)]
        view, other = halves[:: -1 if i % 2 else 1]
        place = Placement(i, INTACT, view, 0, MASK, other)
        original = image[view.slices]
        blur = np.where(MASK, soft[view.slices], original)
        pictures = {ORIGINAL: original, "blur": blur, "perfect": original, FLOOR: image[other.slices]}
        found = window_rows(place, pictures, image, 1.0)
        rows += [{"section": f"s{section}", **row} for row in found]
    return rows


@pytest.fixture(scope="module")
def windows():
    return table("windows", [row for section in range(4) for row in rows_of(section, 2)])


def test_rows_are_those_of_the_dictionary(windows):
    assert list(windows.columns) == list(DICTIONARY["windows"])
    assert set(feature_names()) < set(windows.columns)
    assert windows.groupby("filler").size().to_dict() == dict.fromkeys((ORIGINAL, "blur", "perfect", FLOOR), 4 * 2 * 4)
    places = windows[(windows["trial"] == 0) & (windows["section"] == "s0")].groupby("filler")["y_um"]
    assert places.min()[FLOOR] >= SIDE > places.max()["blur"]
    assert windows[feature_names()].notna().all(axis=None)


def test_blur_is_told_a_perfect_fill_is_not_and_real_tissue_hardly(windows):
    summary = summarise_realism(windows).set_index("filler")
    assert set(summary.index) == {"blur", "perfect", FLOOR}
    assert summary.loc["blur", "accuracy"] > 0.9
    assert summary.loc["blur", "told_by"].startswith(("grain -", "power, grain -", "power, beyond -", "curvature -"))
    assert summary.loc["perfect", ["accuracy", "low", "high"]].tolist() == [0.5, 0.5, 0.5]
    assert summary.loc[FLOOR, "low"] <= 0.5 <= summary.loc[FLOOR, "high"]
    assert (summary[["window_pairs", "parts"]] == [32, 4]).all(axis=None)
    assert set(summary.reset_index().columns) == set(DICTIONARY["realism_summary"])
    assert "| blur | 32 | 9" in realism_table(summary.reset_index()) or summary.loc["blur", "accuracy"] == 1


def test_a_single_section_is_split_by_place():
    alone = table("windows", rows_of(0, 8))
    row = summarise_realism(alone).set_index("filler").loc["blur"]
    assert 1 < row["parts"] <= 4
    assert row["window_pairs"] < 32, "windows between parts are left out"
    assert row["accuracy"] > 0.9


def test_few_windows_are_not_judged(windows):
    one = windows[(windows["section"] == "s0") | (windows["trial"] == 0) & (windows["section"] == "s1")]
    assert len(one[one["filler"] == "blur"]) == FEWEST
    assert len(summarise_realism(one)) == 3
    assert summarise_realism(one[one["window"] > 0]).empty
    assert summarise_realism(table("windows", [])).empty


def test_a_small_mask_has_no_window():
    place = Placement(0, INTACT, Box(0, 0, SIDE, SIDE), 0, np.zeros((SIDE, SIDE), bool), Box(0, SIDE, SIDE, 2 * SIDE))
    picture = np.zeros((SIDE, SIDE), np.uint8)
    assert window_rows(place, {ORIGINAL: picture}, picture, 1.0) == []


def test_of_a_large_mask_some_windows_are_kept_that_lie_all_over_it():
    side = 64 * 6
    place = Placement(0, INTACT, Box(0, 0, side, side), 0, np.ones((side, side), bool), Box(0, 0, side, side), LARGE)
    picture = np.random.default_rng(0).integers(0, 255, (side, side)).astype(np.uint8)
    rows = table("windows", [{"section": "s", **row} for row in window_rows(place, {ORIGINAL: picture}, picture, 1.0)])
    assert len(rows) == MOST_WINDOWS < 36
    assert set(rows["size"]) == {LARGE}
    assert (rows["y_um"].min(), rows["y_um"].max()) == (0, side - 64)


def test_small_and_large_patches_are_judged_apart(windows):
    large = windows[windows["filler"] != "blur"].assign(size=LARGE, trial=windows["trial"] + 10)
    spoiled = windows[windows["filler"] == "perfect"].assign(filler="blur", size=LARGE, trial=windows["trial"] + 10)
    summary = summarise_realism(pd.concat([windows, large, spoiled])).set_index(["size", "filler"])["accuracy"]
    assert summary[SMALL, "blur"] > 0.9
    assert summary[LARGE, "blur"] == 0.5


def test_features_that_only_some_sections_have_are_left_out(windows):
    short = windows.copy()
    short.loc[short["section"] == "s0", "power, beyond"] = np.nan
    assert summarise_realism(short).set_index("filler").loc["blur", "accuracy"] > 0.9
