"""Two pixel grids over one section: exact geometry at any ratio, and values that do not depend on the box."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cytomend.geometry import Box
from cytomend.grafts.network_grid import NetworkGrid, averaging, interpolating
from cytomend.regions.lattice import Lattice

LATTICE = Lattice(16, 12)
SIZES = (0.22, 0.25, 0.46, 0.5, 0.65, 1.5, 2.0)
"""Of the scan's pixels in µm; the network's are 1."""


def grid_of(scan_um, shape=(90, 70)):
    return NetworkGrid(shape, scan_um, 1.0, LATTICE)


def whole(grid):
    return Box(0, 0, *grid.shape), Box(0, 0, *grid.network_shape)


def ramp(grid):
    """A plane over the section, whose value at a place in µm is its y plus twice its x, (1, H, W)."""
    y, x = ((np.arange(n) + 0.5) * grid.scan_um for n in grid.shape)
    return (y[:, None] + 2 * x)[None].astype(np.float32)


def test_means_over_pixels_that_share_parts_are_written_out():
    # 1.5 scan pixels to one: the first covers all of pixel 0 and half of 1, the second the rest of 1 and all of 2.
    assert averaging(0, 2, 1.5, 0, 3).toarray() == pytest.approx(np.array([[2, 1, 0], [0, 1, 2]]) / 3)


def test_means_at_the_border_count_only_what_lies_inside():
    assert averaging(1, 2, 1.5, 0, 2).toarray() == pytest.approx(np.array([[0, 1]]))


def test_interpolation_between_centres_is_written_out():
    # Pixels of half the side: their centres lie a quarter before and after those of the others.
    found = interpolating(0, 4, 0.5, 0, 2, 2, 1).toarray()
    assert found == pytest.approx(np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]))


@pytest.mark.parametrize("scan_um", SIZES)
def test_a_constant_stays_what_it_is_on_both_ways(scan_um):
    grid = grid_of(scan_um)
    scan, network = whole(grid)
    there = grid.to_network(network, np.full((1, *grid.shape), 7, np.float32))
    assert there == pytest.approx(np.full((1, *grid.network_shape), 7))
    assert grid.to_scan(scan, there) == pytest.approx(np.full((1, *grid.shape), 7), rel=1e-5)


@pytest.mark.parametrize("scan_um", SIZES)
def test_a_slope_lies_at_the_same_place_on_both_grids(scan_um):
    grid = grid_of(scan_um)
    scan, network = whole(grid)
    there = grid.to_network(network, ramp(grid))
    y, x = ((np.arange(n) + 0.5) * grid.network_um for n in grid.network_shape)
    inner = np.s_[0, 3:-3, 3:-3]
    # A mean counts a pixel of which it covers a part at that pixel's centre: wrong by an eighth of its side at most.
    fine, coarse = min(scan_um, 1), max(scan_um, 1)
    bound = 3 / 8 * fine**2 / coarse + 1e-3
    assert there[inner] == pytest.approx((y[:, None] + 2 * x)[inner[1:]], abs=bound)
    margin = int(np.ceil(4 * max(grid.step, 1)))
    inner = np.s_[0, margin:-margin, margin:-margin]
    assert grid.to_scan(scan, there)[inner] == pytest.approx(ramp(grid)[inner], abs=2 * bound)


@given(
    scan_um=st.sampled_from(SIZES) | st.floats(0.2, 2.5).filter(lambda um: abs(um - 1) > 0.2),
    corner=st.tuples(st.integers(0, 40), st.integers(0, 30)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
@settings(max_examples=40, deadline=None)
def test_values_are_the_same_bit_for_bit_in_every_box(scan_um, corner, size):
    grid = grid_of(scan_um)
    scan, network = whole(grid)
    values = np.random.default_rng(1).normal(size=(2, *grid.shape)).astype(np.float32)
    there = grid.to_network(network, values)
    for box, way, source, read in (
        (network, grid.to_network, values, grid.scan_box),
        (scan, grid.to_scan, there, grid.network_box),
        (scan, grid.share_on_scan, there, grid.network_box),
    ):
        part = Box(*corner, corner[0] + size[0], corner[1] + size[1]).intersect(box)
        if not part.is_empty:
            all_of_it = way(box, source[:, *read(box).slices])
            assert np.array_equal(way(part, source[:, *read(part).slices]), all_of_it[:, *part.slices])


@given(scan_um=st.floats(0.2, 2.5), y=st.integers(0, 89), x=st.integers(0, 69))
@settings(max_examples=60, deadline=None)
def test_the_cells_of_a_pixel_hold_all_that_is_computed_from_it(scan_um, y, x):
    grid = grid_of(scan_um)
    mask = np.zeros(grid.shape, dtype=bool)
    mask[y, x] = True
    _, network = whole(grid)
    touched = np.argwhere(grid.to_network(network, mask[None].astype(np.float32))[0] > 0)
    cells = {tuple(cell) for cell in grid.cells_over(Box(0, 0, *grid.shape), mask)}
    assert len(touched)
    assert {tuple(cell) for cell in touched // LATTICE.cell_px} <= cells


def test_a_widened_mask_consists_of_whole_network_pixels():
    grid = grid_of(0.25, (16, 16))
    mask = np.zeros((9, 9), dtype=bool)
    mask[3, 4] = True
    widened = grid.whole(Box(2, 2, 11, 11), mask)
    expected = np.zeros((9, 9), dtype=bool)
    expected[2:6, 2:6] = True  # the network pixel that covers 4 to 8 of the section
    assert np.array_equal(widened, expected)


@given(scan_um=st.floats(0.2, 0.9), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_widened_mask_leaves_no_network_pixel_that_is_partly_masked(scan_um, seed):
    grid = grid_of(scan_um)
    mask = np.random.default_rng(seed).random(grid.shape) < 0.001
    scan, network = whole(grid)
    widened = grid.whole(scan, mask)
    assert (widened[mask]).all()
    share = grid.to_network(network, mask[None].astype(np.float32))
    covered = grid.to_network(network, widened[None].astype(np.float32))
    assert covered[share > 0] == pytest.approx(1)


def test_a_last_pixel_that_lies_partly_outside_belongs_to_the_section():
    assert grid_of(0.25, (9, 8)).network_shape == (3, 2)
    assert grid_of(2.0, (3, 4)).network_shape == (6, 8)
