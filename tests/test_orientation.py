"""Orientation: stripes have their angle, noise has none, and sums of trials pool."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cytomend.evaluation.orientation import (
    GAP_UM,
    ORIENTATION_STATISTICS,
    RIM_UM,
    direction_deg,
    orientation_sums,
    rim_of,
)

SIDE = 160
MASK = np.zeros((SIDE, SIDE), bool)
MASK[48:112, 48:112] = True


def stripes(angle_deg, side=SIDE, period_px=10.0):
    """Lines at an angle from the horizontal, anticlockwise as they are seen on the screen."""
    y, x = np.mgrid[:side, :side]
    angle = np.deg2rad(angle_deg)
    across = x * np.sin(angle) + y * np.cos(angle)
    return 128 + 60 * np.sin(2 * np.pi * across / period_px)


def noise(seed, side=SIDE):
    return np.random.default_rng(seed).normal(128, 30, (side, side))


def filled(fill, around, mask=MASK):
    return np.where(mask, fill, around)


def statistics(sums):
    with np.errstate(invalid="ignore"):
        return {name: np.divide(sums[r.top], sums[r.bottom]) for name, r in ORIENTATION_STATISTICS.items()}


def apart_deg(a, b):
    """Between two directions of lines: at most 90°."""
    return abs((a - b + 90) % 180 - 90)


def test_a_rising_line_has_an_angle_below_90():
    rising = np.flipud(np.eye(SIDE)) * 100  # from lower left to upper right
    sums = orientation_sums(rising, rising, np.ones_like(MASK), 1.0)
    assert direction_deg(sums["orient_cos"], sums["orient_sin"]) == pytest.approx(45, abs=0.5)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 180), st.floats(0, 180))
def test_stripes_have_their_angle_and_full_strength(inside, outside):
    original = stripes(outside)
    sums = orientation_sums(filled(stripes(inside), original), original, MASK, 1.0)
    found = statistics(sums)
    # Steps at the outline of the mask have a direction too.
    assert apart_deg(direction_deg(sums["orient_cos"], sums["orient_sin"]), inside) < 3
    assert apart_deg(direction_deg(sums["rim_orient_cos"], sums["rim_orient_sin"]), outside) < 0.5
    assert found["direction strength"] > 0.85
    twice = np.cos(2 * np.deg2rad(inside - outside))
    assert found["direction kept"] == pytest.approx(twice, abs=0.12)
    assert found["direction of the rim"] == pytest.approx(twice, abs=0.12)


@settings(max_examples=10, deadline=None)
@given(st.floats(0, 180))
def test_stripes_alone_are_exact(angle):
    everywhere = stripes(angle)
    sums = orientation_sums(everywhere, everywhere, MASK, 1.0)
    assert apart_deg(direction_deg(sums["orient_cos"], sums["orient_sin"]), angle) < 0.5
    assert statistics(sums) == pytest.approx(dict.fromkeys(ORIENTATION_STATISTICS, 1.0), abs=0.005)


def test_noise_has_no_direction_over_a_large_mask():
    sums = [orientation_sums(noise(i), noise(100 + i), MASK, 1.0) for i in range(30)]
    strength = [statistics(one)["direction strength"] for one in sums]
    pooled = statistics({name: sum(one[name] for one in sums) for name in sums[0]})
    assert max(strength) < 0.2
    # Random angles agree by chance: cos 2a has the mean 0, and a standard error of 0.13 for 30 trials.
    assert abs(pooled["direction kept"]) < 0.4
    assert abs(pooled["direction of the rim"]) < 0.4
    assert 0.05 < pooled["local coherence"] < 0.6


def test_a_perpendicular_fill_is_told_from_a_random_one_and_from_the_right_one():
    original = stripes(70)
    wrong, any_, right = (
        statistics(orientation_sums(filled(fill, original), original, MASK, 1.0))
        for fill in (stripes(160), noise(0), original)
    )
    assert wrong["direction of the rim"] == pytest.approx(-1, abs=0.02)
    assert right["direction of the rim"] == pytest.approx(1, abs=0.001)
    assert right["direction kept"] == pytest.approx(1)
    assert any_["direction strength"] < 0.2 < right["direction strength"]


def test_two_directions_that_are_perpendicular_cancel_in_the_mask_but_not_locally():
    top = np.arange(SIDE)[:, None] < SIDE // 2
    both = np.where(top, stripes(0), stripes(90))
    found = statistics(orientation_sums(both, both, MASK, 1.0))
    assert found["direction strength"] < 0.1
    assert found["local coherence"] > 0.8


def test_what_lies_beyond_the_mask_does_not_count_inside_and_the_fill_not_in_the_rim():
    fill, names = stripes(30), ("orient_cos", "orient_sin", "gradient_energy", "local_oriented", "local_energy")
    near = rim_of(MASK, 1.0) | MASK  # what lies further off than the gap is changed
    other = np.where(near & (rim_of(MASK, 1.0)), noise(3), fill)
    one, two = (orientation_sums(p, fill, MASK, 1.0) for p in (fill, other))
    assert [one[name] for name in names] == pytest.approx([two[name] for name in names], rel=0.02)
    changed = orientation_sums(filled(noise(4), fill), fill, MASK, 1.0)
    assert changed["rim_orient_cos"] == pytest.approx(one["rim_orient_cos"], rel=0.01)


def test_the_picture_of_finer_pixels_has_the_same_statistics():
    coarse, fine = (
        filled(stripes(20), stripes(80)),
        filled(stripes(20, 2 * SIDE, 20.0), stripes(80, 2 * SIDE, 20.0), np.kron(MASK, np.ones((2, 2))).astype(bool)),
    )
    mask = np.kron(MASK, np.ones((2, 2))).astype(bool)
    one, two = orientation_sums(coarse, coarse, MASK, 1.0), orientation_sums(fine, fine, mask, 0.5)
    assert statistics(one) == pytest.approx(statistics(two), abs=0.05)


def test_the_rim_is_a_ring_with_a_gap():
    rim = rim_of(MASK, 1.0)
    distance = 48 - np.arange(SIDE)[:48]
    np.testing.assert_array_equal(rim[80, :48], (distance > GAP_UM) & (distance <= RIM_UM))
    assert not (rim & MASK).any()
    assert not rim_of(np.zeros_like(MASK), 1.0).any()


@pytest.mark.parametrize("mask", [MASK, np.zeros_like(MASK), np.ones_like(MASK)], ids=["part", "none", "all"])
def test_a_flat_picture_and_an_empty_mask_have_no_direction(mask):
    sums = orientation_sums(np.full((SIDE, SIDE), 7, np.uint8), noise(0), mask, 1.0)
    assert sums["oriented"] == sums["kept"] == sums["rim_shared"] == 0
    assert np.isfinite(list(sums.values())).all()
