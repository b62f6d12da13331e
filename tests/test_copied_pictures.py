"""The benchmark of copying finds the sources of a graft: where they lie, and how often each is used."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import copies
import tifffile

from cytomend.evaluation.placement import ARTEFACT, INTACT, LARGE, SMALL, Placement
from cytomend.evaluation.trial_store import write_trials
from cytomend.evaluation.window_pairs import REAL
from cytomend.geometry import Box
from cytomend.phantom import render_tissue
from cytomend.storage.publish import one_writer, publish

IMAGE = render_tissue((260, 320), 41).image
MASK = np.zeros(IMAGE.shape, bool)
MASK[40:104, 40:104] = True
GRAFT = IMAGE.copy()
GRAFT[40:104, 40:72] = IMAGE[150:214, 200:232]
GRAFT[40:104, 72:104] = IMAGE[150:214, 200:232]


def options(**given):
    usual = {
        "pixel_size_um": 1.0,
        "reach_um": 1500.0,
        "trials": [],
        "evaluation": [],
        "size": SMALL,
        "pictures": [],
        "fillers": [],
    }
    return SimpleNamespace(**{**usual, **given})


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / f"{name}.tif" for name in ("original", "filled", "mask")]
    for path, pixels in zip(paths, (IMAGE, GRAFT, MASK.astype(np.uint8)), strict=True):
        tifffile.imwrite(path, pixels)
    return paths


def searched(args, side_px=32):
    return pd.DataFrame([row for area in copies.areas(args) for row in copies.search(area, side_px, 1.0)])


def test_a_graft_that_is_used_twice_is_found_twice(pictures):
    windows = searched(options(pictures=[pictures]))
    table = copies.tabulate(windows, 32).set_index("filler")
    assert table.loc["fill", "windows"] == 4
    assert table.loc["fill", ["copies", "uses", "most_uses", "turned"]].tolist() == [1, 2, 2, 0]
    assert table.loc[REAL, "copies"] == 0
    assert np.isnan(table.loc[REAL, "distance_um"])
    fill = windows[windows["filler"] == "fill"].sort_values(["y_px", "x_px"])
    assert list(zip(fill["source_y_px"] - fill["y_px"], fill["source_x_px"] - fill["x_px"], strict=True)) == [
        (110, 160), (110, 128), (110, 160), (110, 128)
    ]  # fmt: skip
    assert fill["distance_um"].iloc[0] == pytest.approx(np.hypot(110, 160))
    assert "| fill | 4 | 1.00 |" in copies.report(copies.tabulate(windows, 32))


def test_trials_of_a_store_are_searched_around_their_place_and_named_by_it(pictures, tmp_path):
    view, other = Box(20, 20, 124, 124), Box(130, 20, 234, 124)
    places = [Placement(i, kind, view, 8, MASK[view.slices], other, LARGE) for i, kind in enumerate((INTACT, ARTEFACT))]
    drawn = {i: np.where(MASK, GRAFT, 0)[None][(slice(None), *view.slices)] for i in (0, 1)}
    with one_writer(tmp_path / "trials.zarr") as work:
        write_trials(work / "store", {LARGE: places}, {"graft": drawn}, 1, np.dtype(np.uint8), {})
        publish(work / "store", tmp_path / "trials.zarr", {})
    store = options(trials=[(tmp_path / "trials.zarr", pictures[0])], size=LARGE, reach_um=120.0)
    windows, whole = searched(store), searched(options(pictures=[pictures]))
    keys = ["y_px", "x_px", "source_y_px", "source_x_px", "pose"]
    one, two = (w[w["filler"] == name][keys] for w, name in ((windows, "graft"), (whole, "fill")))
    assert one.to_numpy().tolist() == two.to_numpy().tolist()
    near = searched(options(trials=[(tmp_path / "trials.zarr", pictures[0])], size=LARGE, reach_um=20.0))
    assert near.loc[near["filler"] == "graft", "correlation"].max() < 0.95, "the source lies out of reach"
    small = options(trials=[(tmp_path / "trials.zarr", pictures[0])])
    assert not list(copies.areas(small)), "no small trial is there"
