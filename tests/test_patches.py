"""What training sees: intact tissue, every sample by its key."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cytomend.diffusion.feed import feed
from cytomend.diffusion.masks import random_mask
from cytomend.diffusion.patches import Patches, Tile, restain, turn

TISSUE = np.tanh(np.random.default_rng(0).standard_normal((1, 96, 96))).astype(np.float32)
INTACT = np.ones((96, 96), bool)


def patches(tiles=None, batch=16, seed=0, **shares):
    return Patches(tiles or [Tile(TISSUE, INTACT)], 32, batch, 256, seed, **shares)


def as_bytes(batch):
    return [t.numpy().tobytes() for t in batch]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_every_mask_leaves_something_to_draw(seed):
    mask = random_mask(np.random.default_rng(seed), 32)
    assert mask.shape == (32, 32)
    assert mask.mean() >= 0.05


def test_masks_cover_little_and_much_in_many_shapes():
    rng = np.random.default_rng(1)
    shares = np.array([random_mask(rng, 32).mean() for _ in range(400)])
    assert 0.05 < (shares == 1).mean() < 0.25
    assert (shares < 0.2).mean() > 0.1
    assert ((shares > 0.5) & (shares < 1)).mean() > 0.1


def test_a_batch_depends_on_seed_and_step_alone():
    assert as_bytes(patches().draw(5)) == as_bytes(patches().draw(5))
    assert as_bytes(patches().draw(5)) != as_bytes(patches().draw(6))
    assert as_bytes(patches().draw(5)) != as_bytes(patches(seed=1).draw(5))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 1000))
def test_how_a_batch_is_shared_changes_nothing_of_it(parts, step):
    whole = patches(batch=12, resample_share=0.5).draw(step)
    for part in range(parts):
        mine = range(part, 12, parts)
        drawn = patches(batch=12, resample_share=0.5).draw(step, mine)
        assert as_bytes(drawn) == [t[list(mine)].numpy().tobytes() for t in whole]


def as_bytes_of_all(batches):
    return [as_bytes(batch) for batch in batches]


def test_batches_drawn_ahead_in_other_processes_are_the_same_in_the_same_order():
    keys = [(step, range(part, 4, 2)) for step in range(5) for part in range(2)]
    alone = as_bytes_of_all(feed(patches(batch=4), lambda: keys, 0, pin=False))
    assert alone == [as_bytes(patches(batch=4).draw(*key)) for key in keys]
    assert as_bytes_of_all(feed(patches(batch=4), lambda: keys, 2, pin=False)) == alone


def test_samples_of_a_batch_and_batches_of_steps_have_noise_of_their_own():
    noise = torch.cat([patches(batch=4).draw(step).noise for step in range(4)]).flatten(1)
    assert abs(torch.corrcoef(noise) - torch.eye(16)).max() < 0.15


def test_a_batch_holds_images_in_range_times_of_the_schedule_and_known_pixels_at_time_zero():
    batch = patches(batch=64).draw(0)
    assert batch.x0.shape == batch.noise.shape == (64, 1, 32, 32)
    assert batch.time.shape == (64, 1, 32, 32)
    assert batch.x0.abs().max() <= 1
    assert batch.noise.std() == pytest.approx(1, abs=0.02)
    for time in batch.time:
        assert len(set(time.unique().tolist()) - {0}) == 1
    latest = batch.time.amax((1, 2, 3))
    assert latest.min() >= 1
    assert latest.max() <= 256
    assert sorted((latest - 1).div(4, rounding_mode="floor").tolist()) == list(range(64))  # every stage of the schedule


@pytest.mark.parametrize("share", [0.34, 0.7, 1.0])
def test_as_many_patches_as_said_are_noised_all_over(share):
    drawn = torch.cat([patches(batch=64, constant_share=share).draw(step).time for step in range(6)])
    whole = (drawn > 0).all(-1).all(-1).float().mean()
    assert share - 0.09 < whole < share + (1 - share) * 0.3 + 0.09  # some masks cover all too


def test_damaged_tissue_is_never_shown():
    intact = INTACT.copy()
    intact[40:44] = False
    spoilt = np.where(intact, 0.25, np.nan).astype(np.float32)[None]
    for step in range(8):
        assert patches([Tile(spoilt, intact)], resample_share=0.5).draw(step).x0.isfinite().all()


def test_the_only_intact_square_of_a_tile_is_found():
    intact = ~INTACT
    intact[11:43, 60:92] = True
    square = Tile(TISSUE, intact).square(np.random.default_rng(0), 32)
    assert np.array_equal(square, TISSUE[:, 11:43, 60:92])


def test_a_tile_without_an_intact_square_is_told():
    with pytest.raises(ValueError, match="no intact square of 32 px"):
        Tile(TISSUE, ~INTACT).square(np.random.default_rng(0), 32)


def test_tiles_are_drawn_by_their_weight():
    tiles = [Tile(np.full((1, 40, 40), v, np.float32), np.ones((40, 40), bool), w) for v, w in ((-0.9, 3), (0.9, 1))]
    means = torch.cat([patches(tiles, batch=64).draw(step).x0.mean((1, 2, 3)) for step in range(6)])
    assert (means < 0).float().mean() == pytest.approx(0.75, abs=0.1)


def test_turning_by_a_quarter_is_exact_and_by_little_stays_close():
    assert np.allclose(turn(TISSUE, np.pi / 2, 1.0, 96), np.rot90(TISSUE, 1, (1, 2)), atol=1e-4) or np.allclose(
        turn(TISSUE, np.pi / 2, 1.0, 96), np.rot90(TISSUE, -1, (1, 2)), atol=1e-4
    )
    assert np.allclose(turn(TISSUE, 0, 1.0, 32), TISSUE[:, 32:64, 32:64], atol=1e-4)


def test_another_stain_keeps_the_range_and_the_order_of_greys():
    greys = np.linspace(-0.7, 0.7, 100, dtype=np.float32).reshape(1, 10, 10)
    for seed in range(20):
        stained = restain(np.random.default_rng(seed), greys).reshape(-1)
        assert (np.diff(stained) > 0).all()
        assert abs(stained).max() <= 1
