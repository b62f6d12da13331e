"""The schedule and the walk are data, and have laws."""

from __future__ import annotations

import math
from itertools import groupby, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cytomend.diffusion.schedule import TIMES, cosine_alpha_bar, network_calls, resampling_walk, strided_times

walks = st.tuples(st.integers(1, 80), st.integers(1, 20), st.integers(1, 6))


def published_walk(steps, jump, resample):
    """The schedule of times as appendix B of Lugmayr et al. (2022) and its released code describe it, counted from 0.

    Every ``jump`` times, as long as there is room for a jump below the top, ``resample - 1`` jumps back are due.
    """
    due = dict.fromkeys(range(0, steps - jump, jump), resample - 1)
    time, visited = steps, []
    while time >= 1:
        time -= 1
        visited.append(time)
        if due.get(time, 0) > 0:
            due[time] -= 1
            for _ in range(jump):
                time += 1
                visited.append(time)
    return [*visited, -1]


def test_the_schedule_falls_from_one_to_almost_nothing():
    alpha_bar = cosine_alpha_bar()
    assert alpha_bar.dtype == torch.float64
    assert len(alpha_bar) == TIMES + 1 == 257
    assert alpha_bar[0] == 1
    assert (alpha_bar.diff() < 0).all()
    assert 0 < alpha_bar[-1] < 1e-6


def test_the_schedule_is_the_cosine_of_nichol_and_dhariwal_where_no_beta_is_cut_off():
    alpha_bar, offset = cosine_alpha_bar(), 0.008

    def f(t):
        return math.cos((t / TIMES + offset) / (1 + offset) * math.pi / 2) ** 2

    for t in (1, 17, 128, 255):
        assert alpha_bar[t] == pytest.approx(f(t) / f(0), rel=1e-9)


@given(st.integers(1, 1000))
def test_no_step_of_a_schedule_destroys_more_than_allowed(times):
    alpha_bar = cosine_alpha_bar(times)
    kept = alpha_bar[1:] / alpha_bar[:-1]
    assert (kept >= 0.001 - 1e-12).all()
    assert (kept < 1).all()


@pytest.mark.parametrize(("settings", "calls"), [((256, 10, 10), 2506), ((250, 10, 10), 2410), ((50, 10, 10), 410)])
def test_the_walks_of_the_papers_cost_what_they_say(settings, calls):
    assert network_calls(resampling_walk(*settings)) == calls


@given(walks)
def test_a_walk_is_the_published_one_counted_from_one(settings):
    assert resampling_walk(*settings) == [time + 1 for time in published_walk(*settings)]


@given(walks)
def test_a_walk_falls_from_the_top_to_the_bottom_by_single_rungs(settings):
    walk = resampling_walk(*settings)
    assert (walk[0], walk[-1]) == (settings[0], 0)
    assert all(abs(now - then) == 1 for now, then in pairwise(walk))
    assert 0 not in walk[:-1]
    assert max(walk) == settings[0]


@given(walks)
def test_every_climb_is_as_long_as_a_jump_or_follows_another(settings):
    steps, jump, resample = settings
    moves = [then - now for now, then in pairwise(resampling_walk(*settings))]
    runs = [(move, len(list(run))) for move, run in groupby(moves)]
    assert all(length == jump for move, length in runs if move > 0)
    foots = [now for now, (a, b) in zip(resampling_walk(*settings)[1:], pairwise(moves), strict=False) if a < 0 < b]
    assert all(foots.count(foot) == resample - 1 for foot in foots)
    assert sorted(set(foots)) == (list(range(1, steps - jump + 1, jump)) if resample > 1 else [])


@given(walks)
def test_calls_are_the_steps_and_what_the_climbs_add(settings):
    steps, jump, resample = settings
    climbs = len(range(1, steps - jump + 1, jump)) * (resample - 1)
    walk = resampling_walk(*settings)
    assert network_calls(walk) == steps + climbs * jump
    assert len(walk) - 1 == steps + 2 * climbs * jump


def test_without_repetition_a_walk_only_falls():
    assert resampling_walk(5, 2, 1) == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("settings", [(0, 1, 1), (4, 0, 1), (4, 1, 0)])
def test_a_walk_without_steps_jumps_or_passes_is_refused(settings):
    with pytest.raises(ValueError, match="at least 1"):
        resampling_walk(*settings)


@given(st.integers(1, 600).flatmap(lambda times: st.tuples(st.integers(1, times), st.just(times))))
def test_strided_times_fall_evenly_from_the_last_time_to_zero(settings):
    steps, times = settings
    strided = strided_times(steps, times)
    strides = [now - then for now, then in pairwise(strided)]
    assert (strided[0], strided[-1], len(strided)) == (times, 0, steps + 1)
    assert max(strides) - min(strides) <= 1
    assert min(strides) >= 1


@pytest.mark.parametrize("steps", [0, -1, 257])
def test_more_steps_than_times_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}, expected 1 to 256"):
        strided_times(steps)
