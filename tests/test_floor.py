"""The floor is other tissue as it stands: as near to the original as real tissue is, and cut nowhere.

What is pasted into the original is cut at the outline. Its halved cells are too many and too small, so that it flatters
every filler that is read beside it.
"""

import numpy as np
import pandas as pd
import pytest
import tifffile
from conftest import blobs, cpu, mend_settings, plan_settings, write_tiff

from cytomend.evaluation.measurement import FLOOR, MEASURED, NO_RIM, ORIGINAL, PASTED, Looks
from cytomend.evaluation.placement import INTACT, LARGE, SMALL, Placement
from cytomend.evaluation.position import RIM_STATISTICS
from cytomend.evaluation.summary import summarise
from cytomend.evaluation.tables import read_table
from cytomend.geometry import Box
from cytomend.phantom import render_tissue
from cytomend.report.evaluation_text import error_table
from cytomend.segmentation.segmenters import open_segmenter
from cytomend.stages import mend_trials as stage
from cytomend.stages.evaluate_section import EvaluateSettings, Sources, evaluate_section
from cytomend.stages.mend_trials import TrialSettings, mend_trials
from cytomend.stages.plan_section import plan_section

SIDE, MARGIN = 176, 32
VIEWS = 4
"""Along the side of a phantom."""


def square(number):
    y, x = divmod(number, VIEWS)
    return Box(y * SIDE, x * SIDE, (y + 1) * SIDE, (x + 1) * SIDE)


def stripes(rng):
    """A mask whose every cell lies near its outline, of a width and at a shift of its own."""
    patch = SIDE - 2 * MARGIN
    width, shift = rng.integers(12, 20), rng.integers(0, 40)
    rows = (np.arange(patch) + shift) // width % 2 == 0
    own = np.broadcast_to(rows[:, None], (patch, patch))
    return np.pad(own if rng.random() < 0.5 else own.T, MARGIN)


@pytest.fixture(scope="module")
def measurements():
    """Originals, floors and pasted patches of two phantoms, as `evaluate_section` measures them."""
    rng, rows = np.random.default_rng(0), []
    segmenters, how = {"cpn": open_segmenter("cpn")}, {"pixel_size_um": 1.0, "value_range": (0.0, 255.0)}
    for seed in range(2):
        tissue = render_tissue((VIEWS * SIDE, VIEWS * SIDE), 930_000 + seed).image
        others = np.roll(order := rng.permutation(VIEWS**2), 1)
        for number, other in zip(order, others, strict=True):
            trial = Placement(int(number), INTACT, square(number), MARGIN, stripes(rng), square(other))
            here, there = (tissue[box.slices] for box in (trial.view, trial.other))
            looks = Looks(trial, here, here, segmenters, **how)
            floor = Looks(trial.at_floor, there, there, segmenters, **how)
            for seen in (
                looks.look(ORIGINAL, "cpn", looks.original),
                floor.as_it_stands(FLOOR, "cpn", here),
                looks.look(PASTED, "cpn", np.where(trial.mask, there, here)),
            ):
                rows.append({"section": f"phantom-{seed}", **seen.measurement})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def errors(measurements):
    summary = summarise(measurements)
    return summary[summary["bin"] == "all"].set_index(["filler", "statistic"])


@pytest.mark.parametrize("statistic", ["cell density", "cell area"])
def test_the_floor_is_without_bias_and_what_is_pasted_is_not(errors, statistic):
    floor, pasted = errors.loc[(FLOOR, statistic)], errors.loc[(PASTED, statistic)]
    assert floor["pooled_low"] < 0 < floor["pooled_high"]
    assert not pasted["pooled_low"] < 0 < pasted["pooled_high"]
    assert abs(pasted["pooled_error"]) > 2 * abs(floor["pooled_error"])


def test_pasting_steps_across_the_outline_and_the_floor_does_not(errors):
    assert abs(errors.loc[(FLOOR, "border step"), "pooled_error"]) < 0.1
    assert errors.loc[(PASTED, "border step"), "pooled_error"] > 1


def test_statistics_of_the_rim_are_not_measured_on_the_floor(measurements, errors):
    floor = measurements[measurements["filler"] == FLOOR]
    assert floor[[*NO_RIM, *RIM_STATISTICS]].isna().all(axis=None)
    assert floor[[name for name in MEASURED if name not in RIM_STATISTICS]].notna().any().all()
    assert measurements.loc[measurements["filler"] == PASTED, "rim matched"].notna().any()
    assert errors.loc[(FLOOR, "rim matched"), ["pooled_error", "median_error"]].isna().all()
    assert errors.loc[(FLOOR, "rim matched"), "median_trials"] == 0
    lines = error_table(errors.reset_index(), "pooled", ["rim matched"]).splitlines()
    assert f"| {FLOOR} | – |" in lines


# in an evaluation


@pytest.fixture
def swapped(tiny_model, tmp_path, monkeypatch):
    """An evaluation of two trials under one mask, each of which is the other's floor."""
    tissue = render_tissue((220, 420), 930_100)
    damaged = blobs(tissue.image.shape, (0, 0, 6, 6))
    write_tiff(tmp_path / "section.tif", np.where(damaged, np.uint8(250), tissue.image))
    tifffile.imwrite(tmp_path / "mask.tif", damaged.astype(np.uint8) * 255)
    plan_section(tmp_path / "section.tif", tmp_path / "mask.tif", plan_settings(), tmp_path / "plan")
    mask = np.pad(blobs((96, 96), (5, 5, 80, 50)), MARGIN)
    one, two = Box(30, 30, 190, 190), Box(50, 240, 210, 400)
    places = [Placement(0, INTACT, one, MARGIN, mask, two), Placement(1, INTACT, two, MARGIN, mask, one)]
    monkeypatch.setattr(stage, "place_trials", lambda *_: {SMALL: places, LARGE: []})
    settings = TrialSettings(trials=2, artefact_trials=0, windows=2, samplers=[], sampler_trials=1, seed=0)
    args = tmp_path / "section.tif", tmp_path / "plan"
    mend_trials(*args, tiny_model(), mend_settings(), settings, cpu(), tmp_path / "trials.zarr")
    looks = EvaluateSettings(["classical"], "layers", [])
    evaluate_section(Sources(args[0]), args[1], tmp_path / "trials.zarr", looks, 1, tmp_path / "evaluation")
    return tmp_path / "evaluation"


def test_a_trials_floor_is_what_the_original_is_at_that_place(swapped):
    for name, columns in {
        "measurements": [column for column in MEASURED if column not in (*RIM_STATISTICS, "direction kept")],
        "arrangement": ["radius_um", "pairs", "pairs_expected"],
        "cells": ["y_um", "x_um", "area_um2"],
        "classes": ["top1", "top2", "margin"],
    }.items():
        rows = read_table(swapped, name)
        for trial in (0, 1):
            floor = rows[(rows["filler"] == FLOOR) & (rows["trial"] == trial)][columns]
            original = rows[(rows["filler"] == ORIGINAL) & (rows["trial"] == 1 - trial)][columns]
            assert len(floor)
            pd.testing.assert_frame_equal(floor.reset_index(drop=True), original.reset_index(drop=True), rtol=1e-5)


def test_the_direction_of_the_floor_is_compared_with_the_original_and_with_its_own_rim(swapped):
    rows = read_table(swapped, "measurements").set_index(["filler", "trial"])
    floor, original = rows.loc[FLOOR], rows.loc[ORIGINAL]
    vectors = original[["orient_cos", "orient_sin"]].to_numpy()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert floor["direction kept"].tolist() == pytest.approx([unit[0] @ unit[1]] * 2)
    assert original["direction kept"].tolist() == pytest.approx([1, 1])
    rim = ["rim_orient_cos", "rim_orient_sin", "rim_gradient_energy"]
    np.testing.assert_allclose(floor[rim].to_numpy()[::-1], original[rim].to_numpy())
    pasted = rows.loc[PASTED]
    assert not np.isclose(pasted[rim[0]], floor[rim[0]]).any(), "what is pasted has the rim of the original"


def test_what_is_pasted_has_a_row_wherever_the_floor_has_one(swapped):
    for name in ("measurements", "arrangement", "classes", "summary", "class_summary", "area_summary"):
        counts = read_table(swapped, name)["filler"].value_counts()
        assert counts[FLOOR] == counts[PASTED] > 0, name
