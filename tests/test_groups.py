"""Regions that are mended together: nothing lost, nothing doubled, nothing larger than allowed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomend.regions.groups import grouped, turns
from cytomend.regions.spread import Spread

regions = st.lists(st.integers(1, 30), max_size=20).map(lambda costs: list(enumerate(costs, start=1)))


@given(regions, st.integers(1, 4), st.integers(1, 60))
def test_groups_hold_every_turn_once_in_order_and_no_more_windows_than_allowed(regions, samples, most):
    groups = list(grouped(turns(regions, samples), most))
    assert [turn[:2] for group in groups for turn in group] == [(n, s) for n, _ in regions for s in range(samples)]
    for group in groups:
        assert sum(turn.windows for turn in group) <= most or len(group) == 1
    for one, following in pairwise(groups):  # none is smaller than it must be
        assert sum(turn.windows for turn in one) + following[0].windows > most


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_spread_of_samples_is_their_standard_deviation(dtype, channels):
    chance = np.random.default_rng(0)
    samples = chance.integers(0, np.iinfo(dtype).max, (5, 7, channels, 8, 8), endpoint=True).astype(dtype)
    spread = Spread()
    for sample in samples:
        spread.add(sample)
    found = spread.deviation(np.dtype(dtype))
    assert found.dtype == dtype
    expected = np.sqrt(samples.astype(float).var(axis=0, ddof=1).mean(axis=1))
    assert np.array_equal(found, np.rint(expected).astype(dtype))


def test_samples_that_agree_have_no_spread_and_the_largest_fits_its_type():
    same, opposite = Spread(), Spread()
    for value in (0, 255):
        same.add(np.full((1, 1, 4, 4), 200, np.uint8))
        opposite.add(np.full((1, 1, 4, 4), value, np.uint8))
    assert same.deviation(np.dtype(np.uint8)).max() == 0
    assert opposite.deviation(np.dtype(np.uint8)).tolist() == [[[180] * 4] * 4]
