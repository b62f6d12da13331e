"""The samplers: how unknown pixels are drawn, given a denoiser. Arithmetic only; the caller decides what to do.

Every sampler works on arrays of one canvas, ``(n, C, h, w)``, with ``known`` marking the pixels that are given. It
asks for noise by draw number, one field of the canvas a step: noise is added after the windows' predictions were
fused, never in a window of its own, since averaging independently noised tiles shrinks their variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from cytomend.diffusion.precondition import Denoise, diffuse
from cytomend.diffusion.schedule import lookahead, network_calls, resampling_walk, strided_times

Noise = Callable[[int], Tensor]
"""Draw number -> standard normal field, shaped as the canvas."""


def step_down(x: Tensor, x0: Tensor, noise: Tensor, now: Tensor, then: Tensor, eta: float = 1.0) -> Tensor:
    """Go from x_now to x_then, given the expected clean image (Song et al. 2021, Eq. 12 and 16).

    Parameters
    ----------
    x, x0, noise : (n, C, h, w)
    now, then : scalar float64, alpha_bar at the two times, ``now <= then``
    eta : share of fresh noise; 1 draws from the posterior of Ho et al. (2020, Eq. 6, 7), 0 is deterministic
    """
    fresh = eta**2 * (1 - then) / (1 - now) * (1 - now / then)  # variance
    kept = (1 - then - fresh) / (1 - now)
    return then.sqrt() * x0 + kept.clamp(min=0).sqrt() * (x - now.sqrt() * x0) + fresh.sqrt() * noise


def repaint(
    denoise: Denoise, image: Tensor, known: Tensor, alpha_bar: Tensor, times: list[int], walk: list[int], noise: Noise
) -> Iterator[Tensor]:
    """Inpaint by resampling with a network that knows nothing of masks (Lugmayr et al. 2022, Algorithm 1).

    Algorithm 1 prints the known part's noise without the root; Eq. 8a, with sqrt(1 - alpha_bar), is what is meant and
    done.

    Parameters
    ----------
    denoise : expects a constant map of times
    image : (n, C, h, w) in [-1, 1]; only known pixels are read
    known : (n, 1, h, w) bool
    alpha_bar : (T + 1,) float64
    times : the ladder: ``times[rung]`` is the network's time at a rung, ``times[0]`` is 0
    walk : rungs in the order of visit, from the top of the ladder to 0
    noise : one field a draw
    """
    level = [alpha_bar[time] for time in times]
    x = noise(0)
    for draw, (now, then) in enumerate(pairwise(walk), start=1):
        if then < now:
            x0 = denoise(x, torch.full_like(known, times[now], dtype=torch.int64))
            fresh = noise(draw)
            given = diffuse(image, fresh, level[then])  # known region, Eq. 8a
            drawn = step_down(x, x0, fresh, level[now], level[then])  # unknown region, Eq. 8b
            x = torch.where(known, given, drawn)  # Eq. 8c
        else:
            kept = level[then] / level[now]
            x = diffuse(x, noise(draw), kept)  # one forward step, Eq. 2
        yield x
    yield torch.where(known, image, x)


def timemap(
    denoise: Denoise,
    image: Tensor,
    known: Tensor,
    alpha_bar: Tensor,
    times: list[int],
    noise: Noise,
    eta: float = 1.0,
) -> Iterator[Tensor]:
    """Inpaint with a network that sees known pixels clean, at time 0 (TD-Paint, arXiv 2410.09306).

    No resampling is needed: one step after another from noise to image. Parameters as in `repaint`, with ``times``
    falling to 0, and ``eta`` as in `step_down`. Deterministic steps (``eta`` 0) are of second order: the expected clean
    image is taken to change on as it did in the step before (Lu et al. 2022, DPM-Solver++ 2M).
    """
    changes_on = lookahead(alpha_bar, times) if eta == 0 else [0.0] * (len(times) - 1)
    x, before = torch.where(known, image, noise(0)), image
    for draw, (now, then) in enumerate(pairwise(times), start=1):
        x0 = denoise(x, torch.where(known, 0, now))
        ahead = x0 + changes_on[draw - 1] * (x0 - before)
        x = torch.where(known, image, step_down(x, ahead, noise(draw), alpha_bar[now], alpha_bar[then], eta))
        before = x0
        yield x


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampler by name, with its settings: what the configuration says, and what the metadata record.

    ``jump`` and ``resample`` belong to the RePaint walk and are 1 for samplers that do not resample. ``eta`` and
    ``bend`` belong to `timemap`: the share of fresh noise, and how much denser the steps lie towards the clean end.
    """

    name: str
    steps: int
    jump: int = 1
    resample: int = 1
    eta: float = 1.0
    bend: float = 1.0

    @property
    def resamples(self) -> bool:
        """Whether the sampler walks back and forth."""
        return self.name.startswith("repaint")

    @property
    def walk(self) -> list[int]:
        """Rungs of the ladder in the order of visit."""
        return resampling_walk(self.steps, self.jump, self.resample)

    @property
    def calls(self) -> int:
        """Network calls a window."""
        return network_calls(self.walk) if self.resamples else len(strided_times(self.steps, bend=self.bend)) - 1

    def run(self, denoise: Denoise, image: Tensor, known: Tensor, alpha_bar: Tensor, noise: Noise) -> Iterator[Tensor]:
        """Yield the states of the canvas; the last is the mended one."""
        falling = strided_times(self.steps, len(alpha_bar) - 1, self.bend)
        if self.resamples:
            return repaint(denoise, image, known, alpha_bar, falling[::-1], self.walk, noise)
        return timemap(denoise, image, known, alpha_bar, falling, noise, self.eta)


SAMPLERS = {
    "repaint": Sampler("repaint", steps=256, jump=10, resample=10),
    "repaint-strided": Sampler("repaint-strided", steps=50, jump=10, resample=10),
    "timemap": Sampler("timemap", steps=50, eta=0.0, bend=1.5),
}
"""The samplers of the design, with their default settings; ``repaint`` is the paper's."""
