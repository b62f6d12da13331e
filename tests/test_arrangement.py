"""Arrangement: every estimate against closed forms and simulated point patterns of known K and g.

Patterns are drawn from many fixed seeds; a mean counts as equal to its expectation within four of its standard errors.
"""

import numpy as np
import pytest

from cytomend.evaluation.arrangement import (
    RADII_UM,
    disc_in_rectangle,
    l_minus_r,
    lying_in,
    neighbour_sums,
    pair_correlation,
    ripley_k,
    ripley_l,
)

SIZE = (176.0, 144.0)
SHAPE = (176, 144)
RADII = np.array([4.0, 10.0, 20.0, 40.0])
ERRORS = 4.0


def poisson(rng, density=4e-3, size=SIZE):
    return rng.random((rng.poisson(density * size[0] * size[1]), 2)) * size


def hard_core(rng, least=9.0, tries=500, size=SIZE):
    """Points that come one after another and stay if no earlier one is nearer than ``least``."""
    points = np.zeros((0, 2))
    for point in rng.random((tries, 2)) * size:
        if not len(points) or np.hypot(*(points - point).T).min() >= least:
            points = np.vstack([points, point])
    return points


PARENTS, CHILDREN, SPREAD = 8e-4, 5.0, 5.0


def thomas(rng, size=SIZE):
    """Clusters: Poisson parents, each with Poisson many points about it, normal with deviation ``SPREAD``."""
    margin = 6 * SPREAD
    parents = poisson(rng, PARENTS, (size[0] + 2 * margin, size[1] + 2 * margin)) - margin
    points = np.repeat(parents, rng.poisson(CHILDREN, len(parents)), axis=0)
    points = points + rng.normal(0, SPREAD, points.shape)
    return points[(points >= 0).all(1) & (points < size).all(1)]


def lattice(step=8.0, rows=22, columns=18):
    y, x = np.mgrid[:rows, :columns]
    return (np.column_stack([y.ravel(), x.ravel()]) + 0.5) * step


def blob():
    """A mask amid the picture, with tissue around it, round and with a tail."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    return (np.hypot(y - 80, x - 70) < 32) | ((np.abs(y - 100) < 9) & (x > 60) & (x < 118))


def assert_expected(draws, expected):
    """The mean of the draws (n, ...) is what is expected of it, and the draws are many enough to say so."""
    error = draws.std(0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - expected) <= ERRORS * error).all(), (draws.mean(0), expected, error)
    assert (error < 0.1 * np.abs(draws).max(0)).all()


# the reference: all points of a rectangle


def test_k_of_complete_randomness_is_the_area_of_the_disc():
    draws = np.array([ripley_k(poisson(np.random.default_rng(i)), SIZE, RADII) for i in range(300)])
    assert_expected(draws, np.pi * RADII**2)


def test_without_the_correction_for_edges_k_would_be_too_small():
    points = [poisson(np.random.default_rng(i)) for i in range(50)]
    counted = [neighbour_sums(p, np.ones(SHAPE, bool), 1.0, RADII)[0] / len(p) / (len(p) - 1) for p in points]
    naive = np.mean(counted, axis=0) * SIZE[0] * SIZE[1]
    corrected = np.mean([ripley_k(p, SIZE, RADII) for p in points], axis=0)
    assert naive[-1] < 0.9 * np.pi * RADII[-1] ** 2 < 0.95 * corrected[-1]


def test_l_of_complete_randomness_is_the_radius():
    # The root of an unbiased K is biased by its variance; in a large window that is far below the standard error.
    size = (700.0, 600.0)
    draws = np.array([ripley_l(poisson(np.random.default_rng(i), size=size), size, RADII) for i in range(60)])
    assert_expected(draws, RADII)


def test_k_of_a_square_lattice_is_exact():
    points, radii = lattice(), np.array([7.9, 8.1, 11.4, 16.1])
    vectors = np.array([0, 4, 8, 12])  # up to each radius: none, those along the axes, the diagonals, two steps
    n = len(points)
    np.testing.assert_allclose(ripley_k(points, SIZE, radii), vectors * 64.0 * n / (n - 1))


def test_k_and_g_of_clusters_have_their_closed_form():
    # Thomas process (Illian et al. 2008, sect. 6.3.2). Weighed by their pairs, estimates of a random number of points
    # have the expectation density² K.
    density, area = PARENTS * CHILDREN, SIZE[0] * SIZE[1]
    near = np.exp(-(RADII**2) / (4 * SPREAD**2))
    drawn = [thomas(np.random.default_rng(i)) for i in range(400)]
    pairs = np.array([[len(p) * (len(p) - 1)] for p in drawn]) / (density * area) ** 2
    k = np.array([ripley_k(p, SIZE, RADII) for p in drawn])
    assert_expected(pairs * k, np.pi * RADII**2 + (1 - near) / PARENTS)
    g = np.array([pair_correlation(p, SIZE, RADII, 0.5) for p in drawn])
    assert_expected(pairs * g, 1 + near / (4 * np.pi * SPREAD**2 * PARENTS))


def test_g_of_complete_randomness_is_one_at_every_distance():
    draws = np.array([pair_correlation(poisson(np.random.default_rng(i)), SIZE, RADII) for i in range(150)])
    assert_expected(draws, np.ones(len(RADII)))


def test_points_that_keep_apart_have_no_pairs_below_their_distance():
    points = hard_core(np.random.default_rng(0))
    radii = np.array([4.0, 8.9, 12.0, 20.0])
    k = ripley_k(points, SIZE, radii)
    assert (k[:2] == 0).all()
    assert (ripley_l(points, SIZE, radii) < radii).all()
    g = pair_correlation(points, SIZE, np.array([4.0, 7.9, 10.0]), 1.0)
    assert (g[:2] == 0).all()
    assert g[2] > 1, "as they are crowded, neighbours stand just beyond it"


# inside a mask, among the cells around it


@pytest.mark.parametrize(
    ("centre", "radius", "area"),
    [
        ((90, 70), 30, np.pi * 900),
        ((0, 70), 30, np.pi * 450),
        ((176, 144), 30, np.pi * 225),
        ((10, 70), 1000, 176 * 144),
        ((6, 70), 6, np.pi * 36),
    ],
    ids=["inside", "on a side", "on a corner", "all", "touching"],
)
def test_the_area_of_a_disc_in_a_rectangle(centre, radius, area):
    assert disc_in_rectangle(np.array(centre, float), np.array(float(radius)), SIZE) == pytest.approx(area)


def test_the_area_of_any_disc_is_that_of_its_pixels():
    rng = np.random.default_rng(0)
    y, x = (np.mgrid[:1760, :1440] + 0.5) / 10
    for centre, radius in zip(rng.random((25, 2)) * SIZE, rng.uniform(4, 130, 25), strict=True):
        pixels = (np.hypot(y - centre[0], x - centre[1]) <= radius).sum() / 100
        assert disc_in_rectangle(centre, np.array(radius), SIZE) == pytest.approx(pixels, rel=2e-3)


def test_cells_of_chance_have_the_neighbours_of_chance():
    sums = np.array([neighbour_sums(poisson(np.random.default_rng(i)), blob(), 1.0) for i in range(300)])
    assert_expected(sums[:, 0] - sums[:, 1], np.zeros(len(RADII_UM)))
    # Of the pooled sums, L follows within a fifth of a micrometre.
    assert np.abs(l_minus_r(*sums.sum(0))).max() < 0.2


def test_cells_of_chance_at_the_edge_of_the_picture_too():
    corner = np.zeros(SHAPE, bool)
    corner[:50, :50] = True
    sums = np.array([neighbour_sums(poisson(np.random.default_rng(i)), corner, 1.0) for i in range(300)])
    assert_expected(sums[:, 0] - sums[:, 1], np.zeros(len(RADII_UM)))
    whole = np.pi * RADII_UM**2 * 4e-3
    assert sums[:, 1].mean(0)[-1] < 0.8 * 50 * 50 * 4e-3 * whole[-1], "discs are cut by the picture's edge"


def test_cells_that_keep_apart_lie_below_chance():
    sums = sum(np.array(neighbour_sums(hard_core(np.random.default_rng(i)), blob(), 1.0)) for i in range(10))
    found = l_minus_r(*sums)
    below = RADII_UM < 9
    np.testing.assert_array_equal(found[below], -RADII_UM[below])
    assert (found[RADII_UM < 14] < -1).all()


def test_cells_in_clumps_lie_above_chance():
    sums = np.array([neighbour_sums(thomas(np.random.default_rng(i)), blob(), 1.0) for i in range(100)])
    found = l_minus_r(*sums.sum(0))
    k = np.pi * RADII_UM**2 + (1 - np.exp(-(RADII_UM**2) / (4 * SPREAD**2))) / PARENTS
    assert (found > 1).all()
    # The picture's own density knows of the clumps in it, so that a little of the excess is lost.
    close = RADII_UM <= 20
    np.testing.assert_allclose(found[close], (np.sqrt(k / np.pi) - RADII_UM)[close], rtol=0.15)


def test_cells_on_a_lattice_have_its_neighbours():
    cells, mask = lattice(), blob()
    pairs, _ = neighbour_sums(cells, mask, 1.0, np.array([7.9, 8.1, 11.4, 16.1]))
    inside = lying_in(cells, mask, 1.0).sum()
    assert inside > 40
    np.testing.assert_array_equal(pairs, np.array([0, 4, 8, 12]) * inside)


def test_expected_neighbours_follow_the_density_of_the_picture_and_not_of_the_mask():
    cells, mask = lattice(), blob()
    inside = lying_in(cells, mask, 1.0)
    _, expected = neighbour_sums(cells, mask, 1.0, np.array([10.0]))
    assert expected[0] == pytest.approx(inside.sum() * np.pi * 100 * (len(cells) - 1) / (SIZE[0] * SIZE[1]))
    once = np.concatenate([cells[~inside], cells[inside][::2]])
    pairs, expected = neighbour_sums(once, mask, 1.0, np.array([10.0]))
    assert pairs[0] / expected[0] < 0.8 * 4 / (np.pi * 100 / 64)


def test_lengths_are_in_micrometres():
    cells = poisson(np.random.default_rng(0))
    coarse = neighbour_sums(cells, blob()[::2, ::2], 2.0)
    fine = neighbour_sums(cells, np.kron(blob()[::2, ::2], np.ones((2, 2))).astype(bool), 1.0)
    np.testing.assert_allclose(coarse, fine)


def test_without_neighbours_there_is_nothing_to_count():
    for n in (0, 1):
        pairs, expected = neighbour_sums(np.full((n, 3), 80.0), blob(), 1.0)
        assert pairs.shape == expected.shape == RADII_UM.shape
        assert not pairs.any()
        assert not expected.any()
        assert np.isnan(l_minus_r(pairs, expected)).all()


def test_sums_pool_over_trials():
    sums = np.array([neighbour_sums(poisson(np.random.default_rng(i)), blob(), 1.0) for i in range(3)])
    found = l_minus_r(sums[:, 0], sums[:, 1])
    assert found.shape == (3, len(RADII_UM))
    pooled = l_minus_r(*sums.sum(0))
    busy = sums[:, 0].all(0)
    assert ((found.min(0) <= pooled) & (pooled <= found.max(0)))[busy].all()
