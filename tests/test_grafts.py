"""Grafts: laws 1, 2 and 9 of what is copied, and what choosing, cutting and joining promise, on arrays alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.grafts import context, region
from cytomend.grafts.context import context_map, continued
from cytomend.grafts.cut import cut, cut_by_squares
from cytomend.grafts.joints import joints
from cytomend.grafts.match import Matcher, Squares, lowest, windows_within
from cytomend.grafts.quilt import Area, block_px, faded, places, quilt
from cytomend.grafts.region import Tissue, graft_region, wide_part
from cytomend.grafts.settings import GraftSettings

SMALL = GraftSettings(block_um=24, step_um=16, search_um=80, joint_um=2, narrow_um=8, apart_um=30)


def texture(shape, seed=0, channels=1):
    """A picture with blobs of the size of cells, on a grainy ground, (C, H, W) uint8."""
    rng = np.random.default_rng(seed)
    rough = ndimage.gaussian_filter(rng.normal(size=(channels, *shape)), (0, 2.5, 2.5))
    grey = 170 + 400 * np.minimum(rough, 0.05) + 6 * rng.normal(size=(channels, *shape))
    return np.clip(grey, 0, 255).astype(np.uint8)


def disk(shape, centre, radius):
    y, x = np.indices(shape)
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def area_of(pixels, hole, barred=None, corner=(0, 0)):
    """A search area whose hole holds values that nobody may copy."""
    damaged = hole if barred is None else hole | barred
    y, x = corner
    height, width = hole.shape
    shown = np.where(hole, np.uint8(255), pixels)
    return Area(Box(y, x, y + height, x + width), shown, hole, ~damaged, ~damaged)


def tissue_of(pixels, damaged, barred=None, pixel_size_um=1.0):
    """A section of which some pixels are damaged, and more may not be copied."""
    barred = damaged if barred is None else damaged | barred
    return Tissue(
        lambda box: pixels[(slice(None), *box.slices)],
        lambda box: damaged[box.slices],
        lambda box: barred[box.slices],
        damaged.shape,
        pixel_size_um,
        (0.0, 255.0),
    )


def assert_copies(done, pixels, forbidden):
    """Every kept pixel equals its source, and no source pixel is forbidden."""
    y0, x0 = done.box.y0, done.box.x0
    seen = 0
    for graft in done.grafts:
        here = np.s_[graft.y - y0 : graft.y - y0 + graft.side_px, graft.x - x0 : graft.x - x0 + graft.side_px]
        there = np.s_[graft.source_y : graft.source_y + graft.side_px, graft.source_x : graft.source_x + graft.side_px]
        own = done.number[here] == graft.number
        copied, source = done.pixels[(slice(None), *here)], pixels[(slice(None), *there)]
        assert np.array_equal(copied[:, own], source[:, own])
        assert not forbidden[there][own].any()
        seen += int(own.sum())
    assert seen == (done.number > 0).sum()


# --- choosing


@given(
    shape=st.tuples(st.integers(3, 20), st.integers(3, 20)),
    side=st.integers(1, 6),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=30)
def test_windows_within_are_those_whose_every_pixel_is(shape, side, seed):
    mask = np.random.default_rng(seed).random(shape) > 0.05
    expected = np.zeros(shape, bool)
    for y in range(shape[0] - side + 1):
        for x in range(shape[1] - side + 1):
            expected[y, x] = mask[y : y + side, x : x + side].all()
    assert np.array_equal(windows_within(mask, side), expected)


def test_squares_are_sums_of_squared_differences_at_every_place():
    rng = np.random.default_rng(0)
    large, small = rng.normal(size=(3, 17, 23)), rng.normal(size=(3, 5, 4))
    expected = [[((large[:, y : y + 5, x : x + 4] - small) ** 2).sum() for x in range(20)] for y in range(13)]
    np.testing.assert_allclose(Squares(large).squared(small), expected, atol=1e-9)


def test_the_context_map_is_the_same_strip_by_strip(monkeypatch):
    pixels, intact = texture((300, 90)), ~disk((300, 90), (150, 40), 30)
    whole = context_map(pixels, intact, 1.0)
    monkeypatch.setattr(context, "STRIP", 32)
    for one, other in zip(whole[1:], context_map(pixels, intact, 1.0)[1:], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@given(seed=st.integers(0, 1000), radius=st.integers(14, 36), y=st.integers(40, 88), x=st.integers(40, 88))
@settings(deadline=None, max_examples=8, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_law_9_every_copied_pixel_equals_its_intact_source(seed, radius, y, x):
    pixels, hole = texture((128, 128), seed), disk((128, 128), (y, x), radius)
    barred = disk((128, 128), (10, 110), 18)
    done = quilt(area_of(pixels, hole, barred), hole, 1.0, SMALL, seed, 0)
    assert done.grafts
    own, intact = hole[done.box.slices], (~hole & ~barred)[done.box.slices]
    assert own.sum() == hole.sum()
    assert np.array_equal(done.number > 0, own)
    assert np.array_equal(done.pixels[:, intact], pixels[:, *done.box.slices][:, intact])
    assert_copies(done, pixels, hole | barred)


def test_what_stands_in_the_hole_is_not_seen():
    pixels, hole = texture((128, 128)), disk((128, 128), (64, 64), 25)
    area = area_of(pixels, hole)
    other = area._replace(pixels=np.where(hole, np.uint8(3), area.pixels))
    assert quilt(area, hole, 1.0, SMALL, 0, 0).grafts == quilt(other, hole, 1.0, SMALL, 0, 0).grafts


def test_seed_and_sample_choose_among_places_that_fit_alike():
    pixels, hole = texture((160, 160)), disk((160, 160), (80, 80), 30)
    area = area_of(pixels, hole)
    sources = {
        key: [(g.source_y, g.source_x) for g in quilt(area, hole, 1.0, SMALL, *key).grafts]
        for key in ((0, 0), (0, 1), (1, 0))
    }
    assert sources[0, 0] != sources[0, 1]
    assert sources[0, 0] != sources[1, 0]


def test_no_place_is_copied_twice_or_beside_itself_while_there_is_other_tissue():
    pixels, hole = texture((256, 256)), disk((256, 256), (128, 128), 40)
    grafts = quilt(area_of(pixels, hole), hole, 1.0, SMALL, 0, 0).grafts
    used = np.zeros((256, 256), int)
    for graft in grafts:
        used[graft.source_y : graft.source_y + graft.side_px, graft.source_x : graft.source_x + graft.side_px] += 1
        assert max(abs(graft.source_y - graft.y), abs(graft.source_x - graft.x)) >= SMALL.apart_um - 4
    assert (used > 1).sum() < 0.2 * (used > 0).sum()


def test_a_planted_copy_of_what_is_there_is_found_at_its_very_pixel():
    pixels = texture((160, 160)).astype(np.float32)
    have = np.ones((24, 24), bool)
    have[8:, 8:] = False
    target = (96, 104)
    block = pixels[:, 96:120, 104:128].copy()
    pixels[:, 21:45, 37:61] = np.where(have, block, texture((24, 24), 9))
    intact = np.ones((160, 160), bool)
    intact[96:120, 104:128] = False
    matcher = Matcher(pixels, intact, context_map(pixels, intact, 1.0), 24, 1.0, 0.0)
    nothing = np.zeros_like(matcher.possible)
    best = matcher.candidates(block, have, target, nothing)[0]
    assert (best.y, best.x) == (21, 37)
    assert best.cost == pytest.approx(0, abs=1e-4)


def test_sources_have_the_contrast_of_what_is_there():
    """The plain difference takes faint sources for some blocks of full contrast, and never the other way round."""
    pixels, intact = texture((256, 256)).astype(np.float32), np.ones((256, 256), bool)
    mean = pixels.mean()
    pixels[:, :, 128:] = mean + 0.4 * (pixels[:, :, 128:] - mean)
    matcher = Matcher(pixels, intact, context_map(pixels, intact, 1.0), 24, 1.0, 0.0)
    have, nothing = np.ones((24, 24), bool), np.zeros_like(matcher.possible)
    have[:12] = False
    blocks = [texture((24, 24), seed).astype(np.float32) for seed in range(1, 31)]

    def share_of_faint(contrast):
        shown = [mean + contrast * (block - mean) for block in blocks]
        return np.mean([matcher.candidates(block, have, (0, 0), nothing)[0].x >= 128 for block in shown])

    assert share_of_faint(1.0) < 0.1
    assert share_of_faint(0.4) > 0.9


def test_sources_follow_the_context_map():
    """Left of the hole cells are dense, right of it sparse: grafts of each half come from their own side."""
    dense, sparse = texture((192, 192), 1), texture((192, 192), 2)
    sparse = np.maximum(sparse, 160)
    pixels = np.where(np.arange(192) < 96, dense, sparse)
    hole = disk((192, 192), (96, 96), 44)
    done = quilt(area_of(pixels, hole), hole, 1.0, SMALL, 0, 0)
    left = [g.source_x < 96 for g in done.grafts if g.x + 12 < 76]
    right = [g.source_x >= 84 for g in done.grafts if g.x + 12 > 116]
    assert np.mean(left) > 0.8
    assert np.mean(right) > 0.8


def test_the_context_map_continues_straight_from_rim_to_rim():
    ramp = np.tile(np.linspace(0, 1, 31), (9, 1))
    given = np.ones((9, 31), bool)
    given[:, 5:26] = False
    assert np.allclose(continued(np.where(given, ramp, -7.0)[None], given)[0], ramp)


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_the_context_map_stays_between_the_least_and_the_most_that_is_given(seed):
    rng = np.random.default_rng(seed)
    values, known = rng.random((2, 12, 14)), rng.random((12, 14)) < 0.5
    known[0, 0] = True
    whole = continued(values, known)
    for one, all_of in zip(values, whole, strict=True):
        assert one[known].min() - 1e-9 <= all_of.min()
        assert all_of.max() <= one[known].max() + 1e-9
        assert np.array_equal(all_of[known], one[known])


def test_windows_within_a_mask_are_those_that_it_holds_whole():
    mask = np.ones((12, 10), bool)
    mask[5, 5] = False
    found = windows_within(mask, 3)
    expected = [[y <= 9 and x <= 7 and not (y <= 5 < y + 3 and x <= 5 < x + 3) for x in range(10)] for y in range(12)]
    assert np.array_equal(found, np.array(expected))
    assert not windows_within(np.ones((3, 3), bool), 4).any()


def test_lowest_costs_are_given_apart_and_never_infinite_ones():
    cost = np.full((5, 5), np.inf, np.float32)
    cost[1, 1], cost[1, 2], cost[4, 4] = 1, 2, 3
    assert lowest(cost, 9) == [(1, 1), (4, 4)]


# --- cutting and joining


@given(seed=st.integers(0, 1000), depth=st.integers(4, 12))
@settings(deadline=None, max_examples=20)
def test_a_cut_takes_all_that_is_missing_and_nothing_from_the_core(seed, depth):
    rng = np.random.default_rng(seed)
    have = np.zeros((32, 32), bool)
    have[: rng.integers(6, 20)] = True
    have[:, : rng.integers(0, 16)] = True
    taken = cut(rng.random((32, 32)), have, depth)
    assert taken[~have].all()
    core = ndimage.distance_transform_edt(have) >= min(depth, ndimage.distance_transform_edt(have).max() - 1)
    assert not taken[core & have].any()


def test_a_cut_runs_along_the_path_of_least_difference():
    difference = np.full((32, 32), 100.0)
    difference[np.arange(32) // 8 + 6, np.arange(32)] = 0.0
    for x in range(7, 31, 8):  # joined at its steps
        difference[x // 8 + 6 : x // 8 + 8, x] = 0.0
    have = np.zeros((32, 32), bool)
    have[:16] = True
    taken = cut(difference, have, 14)
    edges = np.abs(np.diff(taken.astype(int), axis=0)).astype(bool)
    rows = [np.flatnonzero(edges[:, x]) for x in range(32)]
    assert all(abs(int(row[0]) - (x // 8 + 6)) <= 1 for x, row in enumerate(rows))


def test_a_cut_by_squares_is_the_cut_of_their_means():
    rng = np.random.default_rng(0)
    difference, have = rng.random((16, 16)), np.zeros((16, 16), bool)
    have[:9] = True
    fine, rough = np.repeat(np.repeat(difference, 2, 0), 2, 1), np.repeat(np.repeat(have, 2, 0), 2, 1)
    expected = np.repeat(np.repeat(cut(difference, have, 7), 2, 0), 2, 1)
    assert np.array_equal(cut_by_squares(fine, rough, 14, 2), expected)
    rough[18, 3] = True  # a pixel more, of a square that is not there
    assert cut_by_squares(fine, rough, 14, 2)[~rough].all()


def test_joints_lie_beside_cuts_and_inside_the_outline_and_nowhere_else():
    hole = np.zeros((30, 40), bool)
    hole[5:25, 5:35] = True
    number = np.where(hole, np.where(np.arange(40) < 20, 1, 2), 0).astype(np.uint32)
    found = joints(number, hole, 3)
    expected = np.zeros_like(hole)
    expected[5:8, 5:35] = expected[22:25, 5:35] = expected[5:25, 5:8] = expected[5:25, 32:35] = True
    expected[5:25, 17:23] = True
    assert np.array_equal(found, expected)


def test_a_block_fades_into_what_was_there_up_to_its_own_edge():
    new, old = np.full((1, 24, 24), 200, np.uint8), np.full((1, 24, 24), 100, np.uint8)
    taken, have = np.ones((24, 24), bool), np.ones((24, 24), bool)
    have[:, 12:] = False  # nothing was there: the block is whole
    fade = faded(new, old, taken, have, 4.0)[0]
    assert (fade[:, 12:] == 200).all()
    assert (fade[:, 0] < 150).all()
    assert (fade[0, :8] < 150).all()
    assert fade[12, 8] > 190


def test_a_block_that_is_taken_where_nothing_was_fades_beside_that():
    new, old = np.full((1, 24, 24), 200, np.uint8), np.full((1, 24, 24), 100, np.uint8)
    have = np.ones((24, 24), bool)
    have[:, 12:] = False
    row = faded(new, old, ~have, have, 4.0)[0, 12].astype(int)
    assert (row[12:] == 200).all()
    assert (row[:6] == 100).all()
    assert (np.diff(row) <= 50).all()


def test_where_nothing_could_be_copied_all_is_joint():
    hole = disk((30, 30), (15, 15), 8)
    assert np.array_equal(joints(np.zeros((30, 30), np.uint32), hole, 2), hole)


# --- a region


def test_narrow_regions_are_drawn():
    pixels, hole = texture((128, 128)), np.zeros((128, 128), bool)
    hole[60:67, 10:118] = True
    box = Box(60, 10, 67, 118)
    assert graft_region(tissue_of(pixels, hole), box, hole[box.slices], SMALL, 0, 0) is None


def test_only_the_wide_part_of_a_region_is_grafted():
    hole = np.zeros((128, 160), bool)
    hole[60:66, 4:156] = True
    hole |= disk(hole.shape, (63, 40), 20)
    pixels, box = texture(hole.shape), Box(43, 4, 84, 156)
    done = graft_region(tissue_of(pixels, hole), box, hole[box.slices], SMALL, 0, 0)
    assert done is not None
    kept = np.zeros_like(hole)
    kept[done.box.slices] = done.kept
    assert kept[:, 20:60].any()
    assert not kept[:, 70:].any()
    assert not kept[~hole].any()


@given(width=st.integers(2, 20), length=st.integers(22, 60))
@settings(deadline=None, max_examples=20)
def test_the_wide_part_of_a_band_is_all_of_it_or_nothing_but_its_corners(width, length):
    hole = np.zeros((40, 70), bool)
    hole[10 : 10 + width, 4 : 4 + length] = True
    wide = wide_part(hole, 10)
    if width < 10:
        assert not wide.any()
    if width > 12:
        assert wide[10 : 10 + width, 12 : length - 6].all()
    assert not wide[~hole].any()


def test_other_damage_glass_and_what_lies_outside_of_tissue_are_never_copied():
    pixels, hole = texture((200, 200)), disk((200, 200), (100, 100), 30)
    damage, outside = disk((200, 200), (40, 150), 25), np.zeros((200, 200), bool)
    outside[:, :40] = True
    glass = np.zeros((200, 200), bool)
    glass[160:] = True
    pixels = np.where(glass, np.uint8(240), pixels)
    shown = np.where(hole | damage, np.uint8(0), pixels)
    box = Box(70, 70, 131, 131)
    done = graft_region(tissue_of(shown, hole | damage, outside), box, hole[box.slices], SMALL, 0, 0)
    assert done is not None
    assert_copies(done, shown, hole | damage | outside | glass)


def test_the_search_goes_wider_where_too_little_nearby_is_intact():
    pixels, hole = texture((256, 400)), disk((256, 400), (128, 60), 24)
    damage = disk((256, 400), (128, 60), 110) & ~hole
    box = Box(104, 36, 153, 85)
    done = graft_region(tissue_of(pixels, hole | damage), box, hole[box.slices], SMALL, 0, 0)
    assert done is not None
    assert max(graft.source_x for graft in done.grafts) > box.x1 + SMALL.search_um
    assert_copies(done, pixels, hole | damage)


def test_a_large_search_goes_no_wider_while_a_block_has_room(monkeypatch):
    pixels, hole = texture((256, 400)), disk((256, 400), (128, 60), 24)
    damage = disk((256, 400), (128, 60), 80) & ~hole
    box = Box(104, 36, 153, 85)

    def farthest():
        done = graft_region(tissue_of(pixels, hole | damage), box, hole[box.slices], SMALL, 0, 0)
        assert done is not None
        return max(graft.source_x + graft.side_px for graft in done.grafts)

    assert farthest() > box.x1 + SMALL.search_um + 16  # the grid of the context map rounds up
    monkeypatch.setattr(region, "MOST_PX", 1)
    assert farthest() <= box.x1 + SMALL.search_um + 16


def test_a_region_without_any_intact_tissue_to_copy_is_drawn():
    pixels, hole = texture((64, 64)), disk((64, 64), (32, 32), 20)
    nothing = np.ones((64, 64), bool)
    box = Box(12, 12, 53, 53)
    assert graft_region(tissue_of(pixels, hole, nothing), box, hole[box.slices], SMALL, 0, 0) is None


def test_blocks_are_smaller_where_larger_ones_have_no_room():
    pixels, hole = texture((64, 120)), disk((64, 120), (32, 60), 24)
    big = GraftSettings(block_um=48, step_um=32, search_um=200, joint_um=2, narrow_um=8, apart_um=30)
    box = Box(8, 36, 57, 85)
    done = graft_region(tissue_of(pixels, hole), box, hole[box.slices], big, 0, 0)
    assert done is not None
    assert {graft.side_px for graft in done.grafts} == {24}
    assert_copies(done, pixels, hole)


def test_lengths_are_in_micrometres():
    assert block_px(GraftSettings(), 1.0) == 128
    assert block_px(GraftSettings(), 0.5) == 256
    assert block_px(GraftSettings(), 0.25) == 512
    assert block_px(GraftSettings(), 2.0) == 64


def test_blocks_lie_on_a_lattice_of_the_section_and_cover_the_hole():
    hole = disk((128, 128), (60, 70), 33)
    area = area_of(texture((128, 128)), hole, corner=(7, 9))
    covered = np.zeros_like(hole)
    for y, x in places(area, hole, 16, 24):
        assert ((y + 4 + 7) % 16, (x + 4 + 9) % 16) == (0, 0)
        covered[y : y + 24, x : x + 24] = True
    assert covered[hole].all()


def test_blocks_that_do_not_overlap_are_refused():
    with pytest.raises(InputError, match="expected a step below the block's side"):
        GraftSettings(block_um=64, step_um=64)
