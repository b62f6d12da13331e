"""Copying: a planted copy is found at its place, in every pose, and never where tissue is unknown."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cytomend.errors import InputError
from cytomend.evaluation.copying import (
    COPY,
    POSES,
    Correlator,
    Source,
    Tissue,
    block_means,
    box_sums,
    pose,
    source_use,
    unposed,
)
from cytomend.phantom import render_tissue

SIDE = 32
IMAGE = render_tissue((300, 340), 31).image
OTHER = render_tissue((300, 340), 32).image
KNOWN = np.zeros(IMAGE.shape, bool)


@pytest.fixture(scope="module")
def tissue():
    return Tissue(IMAGE, SIDE, KNOWN)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 300 - SIDE), st.integers(0, 340 - SIDE), st.integers(0, POSES - 1))
def test_a_planted_copy_is_found_at_its_place_in_its_pose(y, x, number):
    query = unposed(IMAGE[y : y + SIDE, x : x + SIDE], number)
    found = Tissue(IMAGE, SIDE, KNOWN).nearest(query)
    assert found == (pytest.approx(1, abs=1e-4), y, x, number)


@pytest.mark.parametrize("side", [16, 24, 45, 64])
def test_windows_of_any_size_are_found(side):
    query = IMAGE[101 : 101 + side, 67 : 67 + side]
    assert Tissue(IMAGE, side, KNOWN).nearest(query)[1:] == (101, 67, 0)


def test_another_brightness_and_a_little_noise_hide_no_copy(tissue):
    noise = np.random.default_rng(0).normal(0, 4, (SIDE, SIDE))
    found = tissue.nearest(IMAGE[150:182, 203:235] * 0.6 + 70 + noise)
    assert found[1:] == (150, 203, 0)
    assert COPY < found.correlation < 1


def test_other_tissue_is_no_copy(tissue):
    found = [tissue.nearest(OTHER[y : y + SIDE, y : y + SIDE]) for y in range(0, 260, 52)]
    assert max(source.correlation for source in found) < 0.8


def test_coarse_to_fine_finds_nearly_what_the_whole_search_finds(tissue):
    whole = Correlator(IMAGE.astype(np.float32), SIDE)
    for y in range(0, 260, 52):
        query = OTHER[y : y + SIDE, y : y + SIDE].astype(np.float32)
        best, quick = whole.nearest(query), tissue.nearest(query)
        assert best.correlation - 0.1 <= quick.correlation <= best.correlation + 1e-4


def test_unknown_pixels_are_no_source_and_what_lies_under_them_is_not_seen():
    unknown = KNOWN.copy()
    unknown[100:160, 100:160] = True
    query = IMAGE[110:142, 110:142]
    found = Tissue(IMAGE, SIDE, unknown).nearest(query)
    assert not unknown[found.y : found.y + SIDE, found.x : found.x + SIDE].any()
    assert found.correlation < COPY
    assert found == Tissue(np.where(unknown, np.uint8(0), IMAGE), SIDE, unknown).nearest(query)


def test_a_source_beside_unknown_pixels_is_found_to_the_pixel():
    unknown = KNOWN.copy()
    unknown[100:160, 100:161] = True
    for y, x in ((100 - SIDE, 120), (160, 101), (121, 161), (120, 100 - SIDE)):
        assert Tissue(IMAGE, SIDE, unknown).nearest(IMAGE[y : y + SIDE, x : x + SIDE])[1:] == (y, x, 0)


def test_glass_is_no_source_of_flat_windows_or_noise():
    half = IMAGE.copy()
    half[:, 170:] = 240
    found = Tissue(half, SIDE, KNOWN).nearest(np.random.default_rng(0).normal(size=(SIDE, SIDE)))
    assert found.x < 170
    assert found.correlation < 0.6
    assert np.isfinite(Tissue(half, SIDE, KNOWN).nearest(np.full((SIDE, SIDE), 9)).correlation)


def test_without_intact_tissue_the_search_is_refused():
    with pytest.raises(InputError, match="found none in \\(300, 340\\) px"):
        Tissue(IMAGE, SIDE, ~KNOWN)
    with pytest.raises(InputError, match="windows of 400 px"):
        Tissue(IMAGE, 400, KNOWN)


@pytest.mark.parametrize("number", range(POSES))
def test_poses_are_undone(number):
    square = np.arange(9.0).reshape(3, 3)
    np.testing.assert_array_equal(unposed(pose(square, number), number), square)


def test_correlation_is_that_of_the_definition():
    image = IMAGE[:80, :90].astype(np.float32)
    query = OTHER[:20, :20].astype(np.float32)
    found = Correlator(image, 20).correlate(query)
    for y, x in ((0, 0), (60, 70), (13, 41)):
        expected = np.corrcoef(image[y : y + 20, x : x + 20].ravel(), query.ravel())[0, 1]
        assert found[y, x] == pytest.approx(expected, abs=1e-4)


def test_sums_and_means_are_exact():
    values = np.arange(20.0).reshape(4, 5)
    np.testing.assert_array_equal(box_sums(values, 2), [[12, 16, 20, 24], [32, 36, 40, 44], [52, 56, 60, 64]])
    np.testing.assert_array_equal(block_means(values.astype(np.float32), 2), [[3, 5], [13, 15]])


def test_reuse_counts_pixels_of_sources():
    once, again, half = Source(1, 0, 0, 0), Source(1, 0, 0, 3), Source(1, 0, 5, 0)
    assert source_use([once], 10) == (100, 100, 1)
    assert source_use([once, again], 10) == (200, 100, 2)
    assert source_use([once, half], 10) == (200, 150, 2)
    assert source_use([], 10) == (0, 0, 0)
