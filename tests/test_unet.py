"""The network: shapes, and time that is told pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from conftest import random_network

from cytomend.diffusion.precondition import Denoiser, diffuse, pixel_weights, velocity_loss, velocity_target
from cytomend.diffusion.record import UNetSettings
from cytomend.diffusion.unet import UNet

SIDE = 32


def chance(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "settings",
    [
        UNetSettings(),
        UNetSettings(channels=3, widths=(8, 16), attention=(0, 1), heads=2),
        UNetSettings(widths=(8,), stem=1, attention=(), heads=1, blocks=2),
        UNetSettings(widths=(8, 8, 16), stem=4, heads=2, blocks=2, embedding=8),
    ],
    ids=["default", "colour", "one resolution", "wide stem"],
)
def test_a_network_keeps_the_shape_of_what_it_sees(settings):
    side = settings.divisor_px * 4
    out = UNet(settings)(chance(2, settings.channels, side, side), torch.rand(2, 1, side, side))
    assert out.shape == (2, settings.channels, side, side)


def test_training_starts_from_a_network_that_predicts_nothing():
    assert not UNet(UNetSettings(widths=(8, 16), attention=(1,)))(
        chance(1, 1, SIDE, SIDE), torch.zeros(1, 1, SIDE, SIDE)
    ).any()


@torch.no_grad()
def test_time_is_told_pixel_by_pixel():
    network, x = random_network(), chance(1, 1, SIDE, SIDE)
    time = torch.full((1, 1, SIDE, SIDE), 0.5)
    before = network(x, time)
    time[0, 0, 5, 7] = 0.1
    after = network(x, time)
    assert (before - after).abs()[0, 0, 4:6, 6:8].max() > 1e-4
    assert not torch.equal(before, after)


@torch.no_grad()
def test_where_a_pixel_is_known_matters_not_only_how_many():
    network, x = random_network(), chance(1, 1, SIDE, SIDE)
    left, right = torch.full((2, 1, SIDE, SIDE), 0.5)[:, None].clone()
    left[..., :8], right[..., -8:] = 0, 0
    assert (network(x, left) - network(x, right)).abs().mean() > 1e-3


@torch.no_grad()
def test_windows_of_a_batch_do_not_see_each_other():
    network, x = random_network(), chance(3, 1, SIDE, SIDE)
    time = torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    together = network(x, time)
    for i in range(3):
        assert torch.allclose(together[i], network(x[i : i + 1], time[i : i + 1])[0], atol=1e-5)


@torch.no_grad()
def test_the_denoiser_gives_clean_pixels_back_and_stays_in_range():
    denoiser = Denoiser(random_network(), 256).eval()
    x, time = chance(1, 1, SIDE, SIDE) * 2, torch.full((1, 1, SIDE, SIDE), 200)
    time[..., :16] = 0
    out = denoiser(x, time)
    assert torch.equal(out[..., :16], x[..., :16].clamp(-1, 1))
    assert out.abs().max() <= 1


def test_the_true_velocity_gives_the_clean_image_back_at_every_time():
    x0, noise = chance(1, 1, SIDE, SIDE).clamp(-1, 1), chance(1, 1, SIDE, SIDE, seed=1)
    denoiser = Denoiser(torch.nn.Identity(), 256)
    for t in (1, 30, 128, 255, 256):
        alpha_bar = denoiser.alpha_bar[torch.full((1, 1, SIDE, SIDE), t)]
        v = velocity_target(x0, noise, alpha_bar)
        x0_again = alpha_bar.sqrt() * diffuse(x0, noise, alpha_bar) - (1 - alpha_bar).sqrt() * v
        assert torch.allclose(x0_again, x0, atol=1e-5)


def test_known_pixels_are_not_scored():
    denoiser = Denoiser(random_network(), 256)
    x0, noise, time = chance(2, 1, SIDE, SIDE), chance(2, 1, SIDE, SIDE, seed=1), torch.full((2, 1, SIDE, SIDE), 99)
    time[..., :16] = 0
    other = noise.clone()
    other[..., :16] += 5  # noise at known pixels is neither seen nor scored
    assert torch.equal(velocity_loss(denoiser, x0, time, noise), velocity_loss(denoiser, x0, time, other))
    assert velocity_loss(denoiser, x0, time * 0, noise) == 0


def test_pixels_near_known_ones_count_more():
    time = torch.full((1, 1, 7, 7), 50)
    time[..., 0, 0] = 0
    assert pixel_weights(time, 8)[0, 0].tolist() == [
        [0, 9, 5, 3, 1, 1, 1],
        [9, 9, 5, 3, 1, 1, 1],
        [5, 5, 5, 3, 1, 1, 1],
        [3, 3, 3, 3, 1, 1, 1],
        *[[1] * 7] * 3,
    ]
    assert torch.equal(pixel_weights(time), (time > 0).float())
    assert torch.equal(pixel_weights(torch.full_like(time, 9), 8), torch.ones_like(time).float())


def test_the_loss_is_the_weighted_mean_of_squared_errors():
    denoiser = Denoiser(random_network(), 256)
    x0, noise, time = chance(2, 1, SIDE, SIDE), chance(2, 1, SIDE, SIDE, seed=1), torch.full((2, 1, SIDE, SIDE), 99)
    time[0, :, :, :16] = 0
    alpha_bar = denoiser.alpha_bar[time]
    error = denoiser.velocity(diffuse(x0, noise, alpha_bar), time) - velocity_target(x0, noise, alpha_bar)
    weights = pixel_weights(time, 4)
    expected = (weights * error**2).sum() / weights.sum()
    assert torch.allclose(velocity_loss(denoiser, x0, time, noise, 4), expected)
    assert not torch.allclose(velocity_loss(denoiser, x0, time, noise), expected)
