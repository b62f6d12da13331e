"""Regions found tile by tile are the connected components of the whole mask."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from cytomend.geometry import Box
from cytomend.regions import find
from cytomend.regions.find import EIGHT_NEIGHBOURS, find_regions

TILE, CELL = 8, 4


class Painted:
    """A mask held in memory, of which only tiles with damage are offered."""

    warnings: list = []  # noqa: RUF012 - read only

    def __init__(self, mask):
        self.mask, self.shape = mask, mask.shape

    def candidate_boxes(self, tile_px, margin_px=0):  # noqa: ARG002 - grown already
        return (box for box in Box(0, 0, *self.shape).tiles(tile_px) if self.mask[box.slices].any())

    def read(self, box):
        return self.mask[box.slices].copy()


@pytest.fixture(autouse=True, scope="module")
def small_tiles():
    before, find.TILE_PX = find.TILE_PX, TILE
    yield
    find.TILE_PX = before


def found(mask):
    labels = zarr.create_array({}, shape=mask.shape, dtype="uint32", chunks=(TILE, TILE), fill_value=0)
    return find_regions(Painted(mask), labels, CELL), labels[...]


def require_components(mask):
    regions, labels = found(mask)
    components, count = ndimage.label(mask, EIGHT_NEIGHBOURS)
    assert [region.number for region in regions] == list(range(1, count + 1))
    assert np.array_equal(labels > 0, mask)
    for region in regions:
        own = labels == region.number
        assert len(np.unique(components[own])) == 1
        assert (components == components[own][0]).sum() == own.sum() == region.area_px
        y, x = np.nonzero(own)
        assert region.box == Box(y.min(), x.min(), y.max() + 1, x.max() + 1)
        assert region.centre_px == pytest.approx((y.mean(), x.mean()))
        assert region.cells.tolist() == np.unique(np.stack([y, x], 1) // CELL, axis=0).tolist()
    assert [region.box for region in regions] == sorted(region.box for region in regions)


shapes = st.tuples(st.integers(1, 27), st.integers(1, 27))


@settings(deadline=None, max_examples=30)
@given(shapes.flatmap(lambda shape: arrays(bool, shape)))
def test_regions_are_the_components_of_any_mask(mask):
    require_components(mask)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.floats(0.02, 0.98))
def test_regions_are_the_components_of_sparse_and_dense_masks(seed, density):
    require_components(np.random.default_rng(seed).random((27, 30)) < density)


@pytest.mark.parametrize("pixels", [[(7, 7), (8, 8)], [(7, 8), (8, 7)], [(7, 3), (8, 2)], [(3, 7), (4, 8)]])
def test_pixels_that_touch_by_a_corner_across_tiles_are_one_region(pixels):
    mask = np.zeros((16, 16), bool)
    mask[tuple(np.array(pixels).T)] = True
    require_components(mask)
    assert len(found(mask)[0]) == 1


def test_a_region_may_wind_through_many_tiles_and_leave_some_out():
    mask = np.zeros((40, 40), bool)
    for ring in (0, 4, 8, 12, 16):
        mask[ring, ring : 40 - ring] = mask[39 - ring, ring : 40 - ring] = True
        mask[ring : 40 - ring, ring] = mask[ring : 40 - ring, 39 - ring] = True
    require_components(mask)
    assert len(found(mask)[0]) == 5


def test_a_section_without_damage_has_no_regions():
    regions, labels = found(np.zeros((20, 20), bool))
    assert regions == []
    assert not labels.any()
