"""Position: cells of the rim are found again where they stayed, and missed where they did not."""

import numpy as np
import pytest

from cytomend.evaluation.position import REACH_UM, RIM_STATISTICS, RIM_UM, match_cells, rim_of, rim_sums

SHAPE = (120, 120)
MASK = np.zeros(SHAPE, bool)
MASK[42:79, 42:79] = True


def field():
    """Cells every 10 µm: 4 x 4 lie in the mask, 20 in the rim, a row on each side; the next row is too far off."""
    y, x = np.mgrid[5:120:10, 5:120:10].reshape(2, -1) + 0.5
    return np.column_stack([y, x, np.full(len(y), 80.0)])


def in_rim(cells):
    """By the definition, cell by cell."""
    unknown = np.argwhere(MASK) + 0.5
    apart = np.hypot(*(cells[:, None, :2] - unknown).transpose(2, 0, 1)).min(1)
    return (apart <= RIM_UM) & ~MASK[tuple(cells[:, :2].astype(int).T)]


def in_mask(cells):
    return MASK[tuple(cells[:, :2].astype(int).T)]


def statistics(before, after, mask=MASK, pixel_size_um=1.0):
    sums = rim_sums(before, after, mask, pixel_size_um)
    with np.errstate(invalid="ignore"):
        return {name: np.divide(sums[top], sums[bottom]) for name, (top, bottom, *_) in RIM_STATISTICS.items()}


def test_identical_pictures_have_every_cell_in_its_place():
    sums = rim_sums(field(), field(), MASK, 1.0)
    cells = float(in_rim(field()).sum())
    assert cells == 20
    assert sums == {
        "rim_cells": cells,
        "rim_matched": cells,
        "rim_displacement_um": 0.0,
        "rim_area_change": 0.0,
        "rim_new": 0.0,
    }


def test_shifted_and_grown_cells_are_matched_and_measured():
    found = statistics(field(), field() * [1, 1, 1.25] + [1.2, -1.6, 0])
    assert found["rim matched"] == 1
    assert found["rim displacement"] == pytest.approx(2)
    assert found["rim area change"] == pytest.approx(0.25)


def test_shrunk_and_grown_do_not_cancel():
    after = field()
    after[::2, 2] *= 0.5
    after[1::2, 2] *= 1.5
    assert statistics(field(), after)["rim area change"] == pytest.approx(0.5)


def test_cells_that_moved_out_of_reach_are_missed_and_new():
    before = field()
    beside = np.column_stack([np.full(3, 33.0), [44.0, 54.0, 64.0], np.full(3, 80.0)])
    sums = rim_sums(beside, beside - [REACH_UM + 0.1, 0, 0], MASK, 1.0)
    assert (sums["rim_cells"], sums["rim_matched"], sums["rim_new"]) == (3, 0, 3)
    assert rim_sums(before, before - [REACH_UM - 0.1, 0, 0], MASK, 1.0)["rim_matched"] == 20


def test_deleted_cells_are_missed():
    kept = np.ones(144, bool)
    kept[np.flatnonzero(in_rim(field()))[:5]] = False
    sums = rim_sums(field(), field()[kept], MASK, 1.0)
    assert (sums["rim_cells"], sums["rim_matched"], sums["rim_new"]) == (20, 15, 0)
    assert statistics(field(), field()[kept])["rim matched"] == pytest.approx(0.75)


def test_a_split_cell_is_one_found_again_and_one_new():
    before = np.array([[35.0, 60.0, 100.0]])
    after = np.array([[34.0, 59.0, 60.0], [37.0, 62.0, 40.0]])
    sums = rim_sums(before, after, MASK, 1.0)
    assert (sums["rim_matched"], sums["rim_new"]) == (1, 1)
    assert sums["rim_displacement_um"] == pytest.approx(np.sqrt(2))
    assert sums["rim_area_change"] == pytest.approx(0.4)


def test_what_happens_in_the_mask_and_far_off_does_not_count():
    cells = field()
    kept = in_rim(cells)
    assert rim_sums(cells, cells[~in_mask(cells)], MASK, 1.0)["rim_matched"] == 20
    assert rim_sums(cells, cells[kept], MASK, 1.0) == rim_sums(cells, cells, MASK, 1.0)
    assert rim_sums(cells[~in_mask(cells)], cells, MASK, 1.0)["rim_new"] == 0


def test_a_cell_that_crosses_the_outline_is_found_again():
    before, after = np.array([[41.0, 60.0, 80.0]]), np.array([[43.0, 60.0, 90.0]])
    sums = rim_sums(before, after, MASK, 1.0)
    assert (sums["rim_cells"], sums["rim_matched"], sums["rim_displacement_um"], sums["rim_new"]) == (1, 1, 2, 0)


def test_a_cell_of_the_mask_does_not_take_the_place_of_one_beside_it():
    gone, beside = [43.0, 60.0, 80.0], [39.0, 60.0, 80.0]
    sums = rim_sums(np.array([gone, beside]), np.array([[41.9, 60.0, 90.0]]), MASK, 1.0)
    assert (sums["rim_cells"], sums["rim_matched"], sums["rim_new"]) == (1, 1, 0)


def test_as_many_cells_as_possible_are_matched():
    # The nearest of the first is the only one of the second.
    a, b = np.array([[0.0, 0.0], [0.0, 3.0]]), np.array([[0.0, 1.0], [0.0, -3.5]])
    first, second = match_cells(a, b, 4.0)
    assert dict(zip(first.tolist(), second.tolist(), strict=True)) == {0: 1, 1: 0}


def test_nobody_is_matched_twice():
    a, b = np.array([[0.0, 0.0], [0.0, 2.0]]), np.array([[0.0, 1.5]])
    first, second = match_cells(a, b, 4.0)
    assert (first.tolist(), second.tolist()) == ([1], [0])


def test_lengths_are_in_micrometres():
    fine = np.kron(MASK, np.ones((2, 2))).astype(bool)
    shifted = field() + np.array([0, 1, 0])
    assert rim_sums(field(), shifted, fine, 0.5) == pytest.approx(rim_sums(field(), shifted, MASK, 1.0))


def test_the_rim_is_the_ring_outside_the_mask():
    rim = rim_of(MASK, 1.0)
    assert not (rim & MASK).any()
    assert rim[60, 26:42].all()
    assert not rim[60, 25]
    assert not rim[29, 29], "round at the corners"
    assert not rim_of(np.zeros(SHAPE, bool), 1.0).any()


@pytest.mark.parametrize(("before", "after"), [(0, 144), (144, 0), (0, 0)])
def test_empty_tables_have_nothing_to_match(before, after):
    sums = rim_sums(field()[:before], field()[:after], MASK, 1.0)
    assert sums["rim_matched"] == sums["rim_displacement_um"] == 0
    assert (sums["rim_cells"], sums["rim_new"]) == (20 * (before > 0), 20 * (after > 0))
