"""The benchmark of realism takes pairs of pictures with a mask, and names what does not fit."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import realism

from cytomend.errors import InputError
from cytomend.evaluation.placement import ARTEFACT, INTACT, LARGE, SMALL, Placement
from cytomend.evaluation.realism import LinearLearner
from cytomend.evaluation.trial_store import write_trials
from cytomend.evaluation.window_pairs import ELSEWHERE, REAL, SAME
from cytomend.geometry import Box
from cytomend.phantom import render_tissue
from cytomend.storage.publish import one_writer, publish

MASK = np.zeros((320, 320), bool)
MASK[60:220, 60:220] = True


def options(*pictures):
    return SimpleNamespace(
        pixel_size_um=1.0, window_um=64.0, covered=0.75, trials=[], evaluation=[], size=SMALL, fillers=["local mean"],
        pictures=[list(map(str, paths)) for paths in pictures],
    )  # fmt: skip


@pytest.fixture
def pictures(tmp_path):
    """Three sections, their middles blurred: original, filled, mask."""
    found = []
    for section in range(3):
        image = render_tissue(MASK.shape, 800 + section).image
        soft = ndimage.gaussian_filter(image.astype(float), 1.5).astype(np.uint8)
        paths = [tmp_path / f"{name}-{section}.tif" for name in ("original", "filled", "mask")]
        for path, pixels in zip(paths, (image, np.where(MASK, soft, image), MASK.astype(np.uint8)), strict=True):
            tifffile.imwrite(path, pixels)
        found.append(paths)
    return found


def test_blurred_pictures_are_told_apart_and_reported(pictures):
    windows = realism.gather(options(*pictures))
    table, told = realism.verdicts(windows, [LinearLearner()], 0), realism.features(windows)
    accuracy = table.set_index(["filler", "against"])["accuracy"]
    assert set(accuracy.index) == {(REAL, SAME), *((f, a) for f in ("fill", "local mean") for a in (SAME, ELSEWHERE))}
    assert accuracy["fill", SAME] > 0.9
    assert accuracy["local mean", SAME] > 0.9
    assert (table["parts"] == 3).all()
    assert (table["pairs"] >= 12).all()
    text = realism.report(table, told)
    assert "| fill | same place | " in text
    assert "power, grain -" in text


def test_every_window_has_other_tissue_that_is_intact_and_its_own(pictures):
    shown = list(realism.of_pictures(0, pictures[0], 64, 0.75, []))
    original = tifffile.imread(pictures[0][0])
    others = [one.other_corner for one in shown]
    assert len(others) == len(set(others)) > 3
    for one in shown:
        y, x = one.other_corner
        assert not MASK[y : y + 64, x : x + 64].any()
        np.testing.assert_array_equal(one.other[0], original[y : y + 64, x : x + 64])


def test_intact_trials_of_a_store_are_shown_beside_their_floor(pictures, tmp_path):
    original, view, other = tifffile.imread(pictures[0][0]), Box(40, 40, 140, 140), Box(200, 200, 300, 300)
    mask = MASK[view.slices]
    places = [Placement(i, kind, view, 8, mask, other) for i, kind in enumerate((INTACT, ARTEFACT))]
    large = [Placement(2, INTACT, other, 8, mask, view, LARGE)]
    fills = {"mine": {0: np.where(mask, np.uint8(9), np.uint8(0))[None], 1: np.zeros((1, 100, 100), np.uint8)}}
    with one_writer(tmp_path / "trials.zarr") as work:
        write_trials(work / "store", {SMALL: places, LARGE: large}, fills, 1, np.dtype(np.uint8), {})
        publish(work / "store", tmp_path / "trials.zarr", {})
    (shown,) = realism.of_store(3, tmp_path / "trials.zarr", pictures[0][0], SMALL, ["local mean"])
    assert (shown.section, shown.corner, shown.other_corner) == (3, (40, 40), (200, 200))
    np.testing.assert_array_equal(shown.original[0], original[view.slices])
    np.testing.assert_array_equal(shown.other[0], original[other.slices])
    np.testing.assert_array_equal(shown.fills["mine"][0], np.where(mask, 9, original[view.slices]))
    assert set(shown.fills) == {"mine", "local mean"}
    (apart,) = realism.of_store(3, tmp_path / "trials.zarr", pictures[0][0], LARGE, [])
    assert (apart.corner, apart.fills) == ((200, 200), {})


def test_pictures_that_do_not_fit_are_named(pictures, tmp_path):
    original, filled, mask = pictures[0]
    tifffile.imwrite(tmp_path / "small.tif", np.zeros((100, 100), np.uint8))
    tifffile.imwrite(tmp_path / "none.tif", np.zeros(MASK.shape, np.uint8))
    with pytest.raises(InputError, match=r"small\.tif: expected \(320, 320\) px"):
        realism.gather(options((original, tmp_path / "small.tif", mask)))
    with pytest.raises(InputError, match=r"filled-0\.tif: \d+ px beside the mask"):
        realism.gather(options((original, filled, tmp_path / "none.tif")))
    with pytest.raises(InputError, match="expected --evaluation, --trials or --pictures"):
        realism.gather(options())
