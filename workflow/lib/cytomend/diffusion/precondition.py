"""D, the denoiser: what the network's answer means. The only place that knows how F is parametrised.

The contract with every sampler is one call, ``denoise(x, time) -> x0``, on values in [-1, 1] and a map of integer
times. F answers with the velocity ``v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0`` (Salimans & Ho 2022,
appendix D), which is as well conditioned at the clean end of the schedule as at the noisy one. Near known pixels it
answers for what these do not foretell.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional

from cytomend.diffusion.foretell import foretell
from cytomend.diffusion.schedule import cosine_alpha_bar

BORDER_PX = 3


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
    """D(x, time) = m + sqrt(alpha_bar) (x - sqrt(alpha_bar) m) - sqrt(1 - alpha_bar) F(x, time), within image range.

    m is what known pixels foretell (`cytomend.diffusion.foretell`), 0 away from them.

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
        """Return the velocity; the network itself predicts that of the image less what known pixels foretell of it."""
        rest: Tensor = self.network(x, time.to(x.dtype) / self.times)
        return rest - (1 - self.alpha_bar[time]).sqrt() * foretell(x, time)

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


def pixel_weights(time: Tensor, border_weight: float = 0.0) -> Tensor:
    """Return how much each pixel counts in the loss: known ones nothing, unknown ones 1 and, near known ones, more.

    Pixels beside known ones can be told best and are few; left to themselves, small networks neglect them, and the
    outline shows. The weight of a pixel changes how capacity is spent, not what a perfect network answers.

    Parameters
    ----------
    time : (n, 1, H, W) int64, 0 where a pixel is known
    border_weight : what is added at the first pixel from a known one, half of it at the second, a quarter at the third

    Returns
    -------
    (n, 1, H, W) float32
    """
    near = (time == 0).float()
    weights = 1 - near
    for pixel in range(BORDER_PX if border_weight else 0):
        reached = functional.max_pool2d(near, 3, 1, 1)
        weights = weights + border_weight / 2**pixel * (reached - near)
        near = reached
    return weights


def velocity_loss(denoiser: Denoiser, x0: Tensor, time: Tensor, noise: Tensor, border_weight: float = 0.0) -> Tensor:
    """Return the weighted mean squared error of v over the pixels that carry noise.

    Parameters
    ----------
    x0 : (n, C, H, W) in [-1, 1]
    time : (n, 1, H, W) int64, the map of times; 0 marks a known pixel, which is shown clean and not scored
    noise : (n, C, H, W), standard normal
    border_weight : see `pixel_weights`
    """
    alpha_bar = denoiser.alpha_bar[time]
    error = denoiser.velocity(diffuse(x0, noise, alpha_bar), time) - velocity_target(x0, noise, alpha_bar)
    weights = pixel_weights(time, border_weight).expand_as(error)
    return (weights * error.square()).sum() / weights.sum().clamp(min=1)
