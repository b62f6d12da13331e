"""Statistics inside a mask have the values that can be worked out by hand."""

import numpy as np
import pytest

from cytomend.evaluation.statistics import (
    BANDS,
    STATISTICS,
    SUMS,
    bootstrap_counts,
    grey_histogram,
    histogram_distance,
    interval,
    measure,
    named,
    paired_interval,
    ratios,
    sum_border,
)


def halves(height=64, width=64):
    mask = np.zeros((height, width), bool)
    mask[:, : width // 2] = True
    return mask


def statistics(image, mask, cells=(), pixel_size_um=1.0, dark=100.0):
    table = np.array(cells, float).reshape(-1, 3)
    return named(ratios(measure(image, mask, table, pixel_size_um=pixel_size_um, dark=dark)))


def test_cells_count_by_their_centre_and_neighbours_may_lie_outside():
    cells = [(10, 10, 40.0), (10, 20, 60.0), (10, 31.9, 80.0), (10, 35.9, 100.0)]
    found = statistics(np.zeros((64, 64)), halves(), cells)
    assert found["cell density"] == pytest.approx(3 / (64 * 32 * 1e-6))
    assert found["cell area"] == pytest.approx(60)
    assert found["neighbour distance"] == pytest.approx((10 + 10 + 4) / 3)


def test_lengths_are_in_micrometres():
    found = statistics(np.zeros((64, 64)), halves(), [(5, 5, 40.0), (5, 15, 60.0), (5, 20, 7.0)], pixel_size_um=0.5)
    assert found["cell density"] == pytest.approx(2 / (64 * 32 * 0.25e-6))
    assert found["neighbour distance"] == pytest.approx((10 + 5) / 2)


def test_without_cells_the_density_is_zero_and_their_size_is_not_defined():
    found = statistics(np.zeros((64, 64)), halves())
    assert found["cell density"] == 0
    assert np.isnan(found["cell area"])
    assert np.isnan(found["neighbour distance"])


def test_pairs_are_counted_against_chance():
    rng = np.random.default_rng(3)
    sums = 0
    for _ in range(150):
        cells = rng.random((rng.poisson(45), 3)) * 128
        sums = sums + measure(np.zeros((128, 128)), halves(128, 128), cells, pixel_size_um=1.0, dark=0)
    found = named(ratios(sums))
    assert found["close pairs"] == pytest.approx(1, abs=0.07)
    assert found["nearby pairs"] == pytest.approx(1, abs=0.04)


def test_a_lattice_has_no_close_pairs_and_its_own_nearby_ones():
    y, x = np.mgrid[6:128:12, 6:128:12][:, :-1, :-1]
    cells = np.column_stack([y.ravel(), x.ravel(), np.full(y.size, 80.0)])
    middle = np.zeros((128, 128), bool)
    middle[40:90, 40:90] = True
    found = named(ratios(measure(np.zeros((128, 128)), middle, cells, pixel_size_um=1.0, dark=0)))
    assert found["close pairs"] == 0
    chance = (len(cells) - 1) * np.pi * 25**2 / 128**2
    assert found["nearby pairs"] == pytest.approx(12 / chance)  # 4 at 12 µm, 4 at 17 µm, 4 at 24 µm
    assert found["neighbour distance"] == 12


def test_a_cell_alone_has_no_arrangement():
    found = statistics(np.zeros((64, 64)), halves(), [(10, 10, 40.0)])
    assert np.isnan(found["close pairs"])
    assert np.isnan(found["nearby pairs"])


def test_greys_are_those_inside():
    image = np.full((64, 64), 250.0)
    image[:32, :32], image[32:, :32] = 90, 110
    found = statistics(image, halves())
    assert (found["grey mean"], found["grey std"], found["dark share"]) == (100, 10, 0.5)


@pytest.mark.parametrize("mask", [halves(128, 128), np.ones((128, 128), bool)], ids=["half", "whole"])
def test_the_power_of_white_noise_is_its_variance_in_every_band(mask):
    rng = np.random.default_rng(0)
    sums = sum(
        measure(rng.normal(100, 7, mask.shape), mask, np.zeros((0, 3)), pixel_size_um=1.0, dark=0) for _ in range(20)
    )
    found = named(ratios(sums))
    for band in BANDS:
        assert found[f"power, {band}"] == pytest.approx(49, rel=0.06)


def test_a_wave_has_its_power_in_its_band():
    y, _ = np.mgrid[:128, :128]
    found = statistics(50 * np.sin(2 * np.pi * 0.2 * y), np.ones((128, 128), bool))
    assert max(BANDS, key=lambda band: found[f"power, {band}"]) == "outlines"
    assert found["power, grain"] < 1e-2 * found["power, outlines"]


def test_a_seam_shows_in_step_and_contrast_but_not_in_the_gradient_inside():
    image = np.where(halves(), 130.0, 100.0)
    found = statistics(image, halves())
    assert found["border step"] == 30
    assert found["border contrast"] == pytest.approx(30)
    across = np.sqrt(30**2 / 2)  # two columns of pixels inside, of which the last looks across
    assert found["border gradient"] == pytest.approx(across)
    assert statistics(np.full((64, 64), 9.0), halves())["border step"] == 0


def test_the_rim_of_the_patch_is_no_outline():
    sums = sum_border(np.zeros((64, 64)), halves(), 1.0)
    assert (sums["border_pairs"], sums["border_pixels"], sums["border_places"]) == (64, 128, 64)
    everything = sum_border(np.zeros((64, 64)), np.ones((64, 64), bool), 1.0)
    assert (everything["border_pairs"], everything["border_pixels"], everything["border_places"]) == (0, 0, 0)


def test_pooled_statistics_weigh_cells_and_not_trials():
    few = measure(np.zeros((64, 64)), halves(), np.array([[10, 10, 10.0]]), pixel_size_um=1.0, dark=0)
    many = measure(np.zeros((64, 64)), halves(), np.array([[10, 10, 40.0]] * 3), pixel_size_um=1.0, dark=0)
    assert named(ratios(few + many))["cell area"] == pytest.approx(130 / 4)
    assert ratios(np.stack([few, many])).shape == (2, len(STATISTICS))
    assert len(few) == len(SUMS)


def test_histograms_that_differ_by_a_shift_are_that_far_apart():
    a, b = np.full((8, 8), 100, np.uint8), np.full((8, 8), 107, np.uint8)
    inside = np.ones((8, 8), bool)
    assert histogram_distance(grey_histogram(a, inside), grey_histogram(b, inside)) == 7
    half = np.where(np.arange(8) < 4, a, b)
    assert histogram_distance(grey_histogram(a, inside), grey_histogram(half, inside)) == 3.5


def test_sixteen_bits_fall_into_as_many_classes():
    counts = grey_histogram(np.full((2, 2), 65535, np.uint16), np.ones((2, 2), bool), 65535)
    assert counts[-1] == counts.sum() == 4


def test_the_bootstrap_knows_the_standard_error_of_a_mean():
    values = np.random.default_rng(1).normal(3, 2, 400)
    counts = bootstrap_counts(400)
    assert (counts.sum(1) == 400).all()
    low, high = interval(counts @ values / 400)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert np.array_equal(counts, bootstrap_counts(400))


def test_paired_differences_forget_what_trials_have_in_common():
    rng = np.random.default_rng(2)
    common = rng.normal(0, 100, 200)
    a, b = common + rng.normal(1, 1, 200), common + rng.normal(0, 1, 200)
    b[3] = np.nan
    middle, low, high = paired_interval(a, b)
    assert 0.7 < low < middle < high < 1.3
    assert np.isnan(paired_interval(a * np.nan, b)).all()
