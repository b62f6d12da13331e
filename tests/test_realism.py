"""Realism: a judge cannot tell two samples of one tissue apart, and tells tissue from its blur."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cytomend.errors import InputError
from cytomend.evaluation.judge_network import POSES, JudgeNet, NetworkLearner, pose, posed_at_random
from cytomend.evaluation.realism import (
    LinearLearner,
    feature_weights,
    folds,
    groups_by_place,
    judge,
    nested_draws,
    scaled,
)
from cytomend.evaluation.window_features import describe
from cytomend.evaluation.window_pairs import ELSEWHERE, REAL, SAME, Shown, WindowPairs, covered_corners
from cytomend.phantom import render_tissue

SIDE = 64
SECTIONS = 4
LEARNERS = [LinearLearner(), NetworkLearner(steps=80)]


def by_name(learners):
    return pytest.mark.parametrize("learner", learners, ids=lambda learner: learner.name)


def windows_of(image):
    """All windows side by side, (n, 1, S, S)."""
    count = len(image) // SIDE
    cut = image[: count * SIDE, : count * SIDE].reshape(count, SIDE, count, SIDE)
    return cut.transpose(0, 2, 1, 3).reshape(-1, 1, SIDE, SIDE)


@pytest.fixture(scope="module")
def tissue():
    """Half of the windows of some sections, the other half, their blur, and the sections."""
    one, two, blurred, groups = [], [], [], []
    for section in range(SECTIONS):
        image = render_tissue((448, 448), 700 + section).image
        soft = ndimage.gaussian_filter(image.astype(float), 1.5).round().astype(np.uint8)
        order = np.random.default_rng(section).permutation(49)
        for where, source, chosen in (
            (one, image, order[:24]),
            (two, image, order[24:48]),
            (blurred, soft, order[:24]),
        ):
            where.append(windows_of(source)[chosen])
        groups.append(np.full(24, section))
    return tuple(np.concatenate(part) for part in (one, two, blurred, groups))


@by_name(LEARNERS)
def test_two_samples_of_one_tissue_are_not_told_apart(learner, tissue):
    one, two, _, groups = tissue
    verdict = judge(one, two, groups, 0, learner=learner, pixel_size_um=1.0)
    assert verdict.low <= 0.5 <= verdict.high
    assert verdict.pairs == len(one)


@by_name(LEARNERS)
@pytest.mark.parametrize("place", ["same", "other"])
def test_tissue_is_told_from_its_blur(learner, place, tissue):
    one, two, blurred, groups = tissue
    verdict = judge(blurred, one if place == "same" else two, groups, 0, learner=learner, pixel_size_um=1.0)
    assert verdict.accuracy > 0.9
    assert verdict.low > 0.85


@by_name(LEARNERS)
def test_a_perfect_fill_is_right_half_of_the_time_exactly(learner, tissue):
    one, _, _, groups = tissue
    verdict = judge(one, one, groups, 0, learner=replace(learner, steps=3) if learner.name == "network" else learner,
                    pixel_size_um=1.0)  # fmt: skip
    assert (verdict.accuracy, verdict.low, verdict.high) == (0.5, 0.5, 0.5)


@by_name([LinearLearner(), NetworkLearner(steps=5)])
def test_the_same_seed_gives_the_same_verdict_and_leaves_other_randomness_alone(learner, tissue):
    one, _, blurred, groups = tissue
    state = torch.random.get_rng_state()
    first, again = (judge(blurred, one, groups, 3, learner=learner, pixel_size_um=1.0) for _ in range(2))
    assert first == again
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_fault_that_only_one_section_has_helps_with_no_other(tissue):
    """Sections are left out whole: what a judge learned of one does not make it right there."""
    one, two, _, groups = tissue
    odd = one.copy()
    odd[groups == 0] = 255 - odd[groups == 0]
    told = judge(odd, two, groups, 0, learner=LinearLearner(), pixel_size_um=1.0)
    assert told.accuracy < 0.7


def test_a_stain_that_differs_between_sections_hides_no_fault(tissue):
    one, _, blurred, groups = tissue
    stain = (0.4 + 0.1 * groups)[:, None, None, None]
    verdict = judge(blurred * stain, one * stain, groups, 0, learner=LinearLearner(), pixel_size_um=1.0)
    assert verdict.accuracy > 0.9


def test_the_features_that_give_blur_away_come_first(tissue):
    one, _, blurred, groups = tissue
    weights = feature_weights(blurred, one, groups, 1.0)
    assert {weight.feature for weight in weights[:3]} <= {"grain", "power, grain", "power, beyond", "curvature"}
    assert all(weight.difference < 0 for weight in weights[:3])
    assert [abs(weight.difference) for weight in weights] == sorted((abs(w.difference) for w in weights), reverse=True)


def test_a_colour_that_is_wrong_is_seen_by_both_judges():
    rng = np.random.default_rng(0)
    real = rng.normal(128, 20, (60, 3, 32, 32))
    fill = rng.normal(128, 20, (60, 3, 32, 32)) + np.array([12, 0, -12])[:, None, None]  # the same mean grey
    groups = np.arange(60) % 4
    for learner in (LinearLearner(), NetworkLearner(steps=40)):
        assert judge(fill, real, groups, 0, learner=learner, pixel_size_um=1.0).accuracy > 0.9
    assert feature_weights(fill, real, groups, 1.0)[0].feature.startswith(("red", "blue"))


def test_windows_of_few_sections_say_less_than_as_many_of_many_sections():
    rng = np.random.default_rng(0)
    of_section = np.repeat(rng.normal(0.5, 0.2, 20), 20)
    few = nested_draws(of_section, np.repeat(np.arange(20), 20)).std()
    many = nested_draws(of_section, np.arange(400)).std()
    assert few == pytest.approx(of_section.std() / np.sqrt(20), rel=0.1)
    assert many < few / 3


def test_values_that_are_all_alike_have_no_interval():
    assert np.unique(nested_draws(np.full(30, 0.5), np.arange(30) % 7)).tolist() == [0.5]


# what judges look at


def test_features_are_what_they_are_called():
    y, x = np.mgrid[:SIDE, :SIDE]
    spot = np.where((y - 32) ** 2 + (x - 20) ** 2 < 6.5**2, -3.0, 0.0)
    line = np.sin(2 * np.pi * y / 12)
    names, values = describe(np.stack([spot, line, np.zeros((SIDE, SIDE))])[:, None].astype(np.float32), 1.0)
    found = dict(zip(names, values.T, strict=True))
    assert np.isfinite(values).all()
    assert found["dark bodies"][[0, 2]].tolist() == [1, 0]
    assert found["body area"][0] ** 2 == pytest.approx(np.pi * 6.5**2, rel=0.1)
    assert found["largest body"][0] == found["body area"][0]
    assert found["grey mean"][0] == pytest.approx(spot.mean(), abs=1e-6)
    assert found["skewness"][0] < -2
    assert found["direction strength"][1] > 0.95 > 0.2 > found["direction strength"][0]
    assert len(names) == len(set(names)) == values.shape[1] > 25


def test_specks_are_told_from_bodies_by_their_area_in_micrometres():
    spots = np.zeros((1, 1, SIDE, SIDE), np.float32)
    spots[0, 0, 10:15, 10:15] = spots[0, 0, 40:45, 40:45] = -9  # 25 px
    coarse, fine = (dict(zip(*(part if i == 0 else part[0] for i, part in enumerate(describe(spots, um))), strict=True))
                    for um in (2.0, 0.5))  # fmt: skip
    assert (coarse["dark bodies"] ** 2, coarse["specks"]) == (pytest.approx(2), 0)
    assert (fine["dark bodies"], fine["specks"] ** 2) == (0, pytest.approx(2))


def test_bodies_of_neighbouring_windows_are_not_one():
    dark = np.full((3, 1, 32, 32), -5, np.float32)
    names, values = describe(dark, 1.0)
    assert values[:, names.index("dark bodies")].tolist() == [1, 1, 1]


def test_windows_of_a_section_have_mean_0_and_deviation_1():
    rng = np.random.default_rng(0)
    groups = np.array([0, 0, 1, 1])
    windows = scaled(rng.normal(100, 5, (4, 1, 16, 16)) + 50 * groups[:, None, None, None], groups)
    for group in (0, 1):
        assert windows[groups == group].mean() == pytest.approx(0, abs=1e-5)
        assert windows[groups == group].std() == pytest.approx(1, abs=1e-5)
    assert np.isfinite(scaled(np.full((2, 1, 4, 4), 7), np.zeros(2, int))).all()


def test_eight_poses_are_all_different_and_each_is_drawn():
    window = torch.arange(9.0).reshape(1, 1, 3, 3)
    poses = {tuple(pose(window, i).flatten().tolist()) for i in range(POSES)}
    assert len(poses) == 8
    drawn = posed_at_random(window.expand(200, 1, 3, 3), np.random.default_rng(0))
    assert {tuple(one.flatten().tolist()) for one in drawn} == poses


def test_the_network_is_small_and_takes_windows_of_any_size():
    network = JudgeNet(1)
    assert sum(weights.numel() for weights in network.parameters()) < 5000
    assert network(torch.zeros(2, 1, 64, 64)).shape == network(torch.zeros(2, 1, 100, 100)).shape == (2,)


# which windows, and who judges them


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=60).filter(lambda g: len(set(g)) > 1), st.integers(0, 5))
def test_every_pair_is_judged_once_and_no_section_by_itself(groups, seed):
    groups = np.array(groups)
    held_out = np.stack(list(folds(groups, seed)))
    assert (held_out.sum(0) == 1).all()
    for fold in held_out:
        assert fold.any()
        assert not set(groups[fold]) & set(groups[~fold])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 60), st.floats(0, 100))
def test_parts_of_a_section_keep_their_gap(seed, count, gap_um):
    places = np.random.default_rng(seed).uniform(0, (400, 1000), (count, 2))
    groups = groups_by_place(places, 64.0, gap_um=gap_um)
    assert groups.shape == (count,)
    along = places[:, int(np.argmax(np.ptp(places, axis=0)))]  # few windows may spread further in height than in width
    for i in np.flatnonzero(groups >= 0):
        for j in np.flatnonzero(groups > groups[i]):
            assert along[j] - (along[i] + 64) >= gap_um - 1e-6


def test_windows_that_are_used_together_lie_in_one_part():
    places = np.random.default_rng(0).uniform(0, 2000, (300, 2, 2))
    groups = groups_by_place(places, 64.0)
    parts = [places[groups == g].reshape(-1, 2) for g in range(4) if (groups == g).any()]
    assert len(parts) > 1
    longest = int(np.argmax(np.ptp(places.reshape(-1, 2), axis=0)))
    spans = sorted((part[:, longest].min(), part[:, longest].max() + 64) for part in parts)
    assert all(after[0] - before[1] >= 64 for before, after in pairwise(spans))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(4, 20), st.floats(0.1, 1))
def test_windows_are_covered_and_do_not_overlap(seed, side, least):
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(60, 50)), 6) > 0
    corners, used = covered_corners(mask, side, least), np.zeros(mask.shape, int)
    for y, x in corners:
        assert mask[y : y + side, x : x + side].mean() >= least - 1e-9
        used[y : y + side, x : x + side] += 1
    assert used.max(initial=0) <= 1
    free = ndimage.uniform_filter(mask.astype(float) - side**2 * used, side, mode="constant", cval=-9)
    inner = free[side // 2 : 60 - (side - 1) // 2, side // 2 : 50 - (side - 1) // 2]
    assert inner.max() < least + 1e-9, "no further window fits"


def test_a_window_of_a_fill_is_paired_with_its_own_place_and_with_tissue_elsewhere():
    mask = np.zeros((96, 96), bool)
    mask[8:80, 8:80] = True
    original, other = np.full((1, 96, 96), 10.0), np.full((1, 96, 96), 30.0)
    found = WindowPairs(1.0)
    for section in (0, 1):
        found.add(Shown(section, original, other, mask, {"mine": np.where(mask, 20.0, original)}, (0, 0), (0, 96)))
    for filler, against, greys in (
        ("mine", SAME, (20, 10)),
        ("mine", ELSEWHERE, (20, 30)),
        (REAL, SAME, (30, 10)),
    ):
        pairs = found.pairs(filler, against)
        assert (pairs.fills.mean(), pairs.reals.mean()) == greys
        assert pairs.fills.shape == pairs.reals.shape == (2, 1, 64, 64)
        assert pairs.groups.tolist() == [0, 1]


def test_a_filler_that_skipped_a_trial_is_paired_where_it_filled():
    mask, grey = np.ones((64, 64), bool), np.zeros((1, 64, 64))
    found = WindowPairs(1.0)
    for section, fills in ((0, {"a": grey}), (1, {"a": grey, "b": grey + 5}), (2, {"a": grey})):
        found.add(Shown(section, grey + section, grey, mask, fills, (0, 0), (0, 64)))
    assert found.pairs("b", SAME).groups.tolist() == [1]
    assert found.pairs("b", SAME).reals.mean() == 1
    assert found.pairs("a", SAME).groups.tolist() == [0, 1, 2]


def test_windows_of_one_section_are_grouped_by_place():
    grey = np.zeros((1, 64, 64))
    found = WindowPairs(1.0)
    for x in range(0, 4000, 200):
        found.add(Shown(0, grey, grey, np.ones((64, 64), bool), {"a": grey}, (0, x), (64, x)))
    assert set(found.groups()) >= {0, 1, 2, 3}


def test_what_cannot_be_judged_is_refused():
    grey = np.zeros((4, 1, 8, 8))
    with pytest.raises(InputError, match=r"at least two sections.*found 1"):
        judge(grey, grey, np.zeros(4, int), 0, learner=LinearLearner(), pixel_size_um=1.0)
    with pytest.raises(InputError, match="at least 24 µm, found 8 px of 1 µm"):
        judge(grey, grey, np.arange(4), 0, learner=LinearLearner(), pixel_size_um=1.0)
    with pytest.raises(InputError, match="as many fills as real windows"):
        judge(grey, grey[:3], np.zeros(4, int), 0, learner=LinearLearner(), pixel_size_um=1.0)
    with pytest.raises(InputError, match="mine: expected windows of 64 µm that are filled to 75 %, found none"):
        WindowPairs(1.0).pairs("mine", SAME)
