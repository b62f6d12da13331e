"""D, the denoiser: what the network's answer means. The only place that knows how F is parametrised.

The contract with every sampler is one call, ``denoise(x, time) -> x0``, on values in [-1, 1] and a map of integer
times. F answers with the velocity ``v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0`` (Salimans & Ho 2022,
appendix D), which is as well conditioned at the clean end of the schedule as at the noisy one.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from cytomend.diffusion.schedule import cosine_alpha_bar


class Denoise(Protocol):
    """The contract between network and sampler."""

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the expected clean image.

        Parameters
        ----------
        x : (n, C, H, W), noisy values
        time : (n, 1, H, W) int64, 0 where a pixel is clean

        Returns
        -------
        (n, C, H, W)
        """
        ...


class Denoiser(nn.Module):
    """D(x, time) = sqrt(alpha_bar) x - sqrt(1 - alpha_bar) F(x, time), kept within the range of images.

    Parameters
    ----------
    network : F, maps (n, C, H, W) values and (n, 1, H, W) times in [0, 1] to (n, C, H, W)
    times : length of the schedule
    """

    alpha_bar: Tensor

    def __init__(self, network: nn.Module, times: int) -> None:
        super().__init__()
        self.network = network
        self.times = times
        self.register_buffer("alpha_bar", cosine_alpha_bar(times).float(), persistent=False)

    def velocity(self, x: Tensor, time: Tensor) -> Tensor:
        """Return what the network itself predicts."""
        v: Tensor = self.network(x, time.to(x.dtype) / self.times)
        return v

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the expected clean image; see `Denoise`."""
        alpha_bar = self.alpha_bar[time]
        return (alpha_bar.sqrt() * x - (1 - alpha_bar).sqrt() * self.velocity(x, time)).clamp(-1, 1)


def diffuse(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return x_t, the clean image with its share of noise (Ho et al. 2020, Eq. 4)."""
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def velocity_target(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the v that a perfect network would predict (Salimans & Ho 2022)."""
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0


def velocity_loss(denoiser: Denoiser, x0: Tensor, time: Tensor, noise: Tensor) -> Tensor:
    """Return the mean squared error of v over the pixels that carry noise.

    Parameters
    ----------
    x0 : (n, C, H, W) in [-1, 1]
    time : (n, 1, H, W) int64, the map of times; 0 marks a known pixel, which is shown clean and not scored
    noise : (n, C, H, W), standard normal
    """
    alpha_bar = denoiser.alpha_bar[time]
    error = denoiser.velocity(diffuse(x0, noise, alpha_bar), time) - velocity_target(x0, noise, alpha_bar)
    unknown = (time > 0).expand_as(error)
    return torch.where(unknown, error.square(), 0).sum() / unknown.sum().clamp(min=1)
