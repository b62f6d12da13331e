"""Noise that belongs to the place: the published numbers, the normal law, and the same pixel whatever the cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cytomend.diffusion.noise import PlaceNoise, philox

SIDE = 8
corner = st.tuples(st.integers(-50, 50), st.integers(-50, 50)).map(lambda at: (at[0] * SIDE, at[1] * SIDE))


def field(seed=0, draw=0, cells=((0, 0),), cell_px=128, channels=1, samples=None):
    drawn = None if samples is None else torch.tensor(samples)
    return PlaceNoise(seed, torch.tensor(cells), cell_px, channels, drawn)(draw)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    words = philox(tuple(torch.tensor([int(word, 16)]) for word in counter.split()), [int(k, 16) for k in key.split()])
    assert [int(word) for word in words] == [int(word, 16) for word in expected.split()]


def test_the_field_is_standard_normal_to_its_tails():
    values = torch.cat([field(draw=draw, cell_px=256).reshape(-1) for draw in range(8)]).numpy()  # half a million
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert abs(values.mean()) < 4.5 / np.sqrt(len(values))
    assert abs(values.var() - 1) < 4.5 * np.sqrt(2 / len(values))
    assert stats.kurtosis(values) == pytest.approx(0, abs=4.5 * np.sqrt(24 / len(values)))
    assert 4 < abs(values).max() < 5.9
    assert np.isfinite(values).all()


def test_neighbouring_pixels_of_a_field_are_independent():
    values = field(cell_px=512)[0, 0]
    for dy, dx in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (4, 4)):
        a, b = values[dy:, dx:], values[: 512 - dy, : 512 - dx]
        for f in (torch.clone, torch.square):  # of one Box-Muller pair, the squares would tell
            assert abs(np.corrcoef(f(a).reshape(-1), f(b).reshape(-1))[0, 1]) < 4.5 / 512


@pytest.mark.parametrize(
    "other",
    [
        {"draw": 1},
        {"seed": 1},
        {"seed": 1 << 32},
        {"seed": 1 << 63},
        {"cells": ((0, 512),)},
        {"cells": ((-512, 0),)},
        {"samples": [1]},
        {"samples": [63]},
    ],
)
def test_draws_seeds_and_places_are_independent_of_one_another(other):
    a, b = field(cell_px=512), field(cell_px=512, **other)
    assert abs(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1]) < 4.5 / 512


def test_channels_are_independent_of_one_another():
    values = field(cell_px=256, channels=3)[0].flatten(1).numpy()
    assert abs(np.corrcoef(values) - np.eye(3)).max() < 4.5 / 256


def test_sample_0_is_what_is_drawn_without_samples():
    assert torch.equal(field(seed=3, draw=7, channels=3, samples=[0]), field(seed=3, draw=7, channels=3))


def test_a_cell_draws_the_same_whatever_samples_it_is_drawn_with():
    together = field(cells=[(0, 0)] * 4, channels=3, samples=[2, 0, 1, 2])
    assert torch.equal(together[0], together[3])
    for i, sample in enumerate([2, 0, 1]):
        assert torch.equal(together[i], field(channels=3, samples=[sample])[0])
    flat = together[:3].flatten(0, 1).flatten(1).numpy()  # three samples of three channels
    assert abs(np.corrcoef(flat) - np.eye(9)).max() < 4.5 / 128


@settings(max_examples=50, deadline=None)
@given(st.lists(corner, min_size=1, max_size=6, unique=True), st.integers(0, 3000), st.integers(0, 2**64 - 1))
def test_a_pixel_draws_the_same_whatever_cells_it_is_drawn_with(corners, draw, seed):
    together = field(seed, draw, corners, SIDE, 2)
    for i, at in enumerate(corners):
        assert torch.equal(together[i], field(seed, draw, [at], SIDE, 2)[0])
        assert torch.equal(together[i, :1], field(seed, draw, [at], SIDE, 1)[0])


@pytest.mark.parametrize("corner", [(0, 0), (-64, -128), (192, -64), (1 << 20, 1 << 20)])
def test_a_pixel_draws_the_same_whatever_the_size_of_cells(corner):
    y, x = corner
    whole = field(5, 9, [corner], 64)[0, 0]
    parts = field(5, 9, [(y + dy, x + dx) for dy in range(0, 64, 16) for dx in range(0, 64, 16)], 16)[:, 0]
    assert torch.equal(whole, parts.view(4, 4, 16, 16).permute(0, 2, 1, 3).reshape(64, 64))


def test_places_left_of_the_origin_do_not_mirror_those_to_the_right():
    values = field(cells=[(0, 0), (0, -128), (-128, 0), (-128, -128)])
    flat = values.flatten(1).numpy()
    assert abs(np.corrcoef(flat) - np.eye(4)).max() < 4.5 / 128
    assert abs(np.corrcoef(values[0].reshape(-1), values[1].flip(-1).reshape(-1))[0, 1]) < 4.5 / 128


def test_only_the_lowest_64_bits_of_a_seed_count():
    assert torch.equal(field(seed=7), field(seed=7 + (1 << 64)))
    assert torch.equal(field(seed=-1), field(seed=(1 << 64) - 1))


@pytest.mark.parametrize(("cell_px", "corner"), [(6, (0, 0)), (8, (0, 2))])
def test_cells_that_would_cut_a_block_of_four_are_refused(cell_px, corner):
    with pytest.raises(ValueError, match="not aligned to 4 px"):
        PlaceNoise(0, torch.tensor([corner]), cell_px, 1)
