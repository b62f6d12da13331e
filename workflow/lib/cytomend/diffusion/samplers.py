"""The samplers: how unknown pixels are drawn, given a denoiser. Arithmetic only; the caller decides what to do.

Every sampler works on arrays of one canvas, ``(n, C, h, w)``, with ``known`` marking the pixels that are given. It
asks for noise by draw number, one field of the canvas a step: noise is added after the windows' predictions were
fused, never in a window of its own, since averaging independently noised tiles shrinks their variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Protocol

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
        fresh = noise(draw) if eta else torch.zeros_like(x)
        x = torch.where(known, image, step_down(x, ahead, fresh, alpha_bar[now], alpha_bar[then], eta))
        before = x0
        yield x


def langevin(
    denoise: Denoise,
    image: Tensor,
    known: Tensor,
    alpha_bar: Tensor,
    times: list[int],
    looks: int,
    noise: Noise,
    guidance: float = 8.0,
    pace: float = 0.5,
) -> Iterator[Tensor]:
    """Inpaint by Langevin steps at every noise level, with a network that knows nothing of masks.

    After LanPaint (arXiv 2502.03491). The control for samplers that need training for masks: it asks any diffusion
    model, by a constant map of times. Its two ideas are those of LanPaint. Known pixels are not forced to their noisy
    values but drawn to them, beyond them where the network expects something else, so that both sides of the outline
    give way (the bidirectional guided score); and several steps at a level let them agree before the noise falls. Its
    integrator is another: plain Langevin steps with averaged noise, which keep the variance of a Gaussian field exactly
    (Leimkuhler & Matthews 2013, arXiv 1203.5428), in place of underdamped ones.

    What it is good for: in 100 calls the Gaussian field of ``tests/test_samplers.py`` follows its known pixels more
    closely than under `repaint-strided` in 410, at the right variance. But ``guidance`` is finite, so that known pixels
    count a little too little, and few steps at a level do not quite settle: a fair control, no reference.

    Parameters
    ----------
    denoise, image, known, alpha_bar, times, noise : as in `repaint`, with ``times`` falling to 0
    looks : network calls a level: all but the last are Langevin steps, the last goes down
    guidance : how far beyond the given value a known pixel is drawn where the network disagrees
    pace : step of the unknown pixels, in units of the level's noise variance; below 1 is stable
    """
    x, before, draws = noise(0), noise(1), count(2)
    step = torch.where(known, pace / (1 + guidance), pace)  # known pixels are held by a spring 1 + guidance as stiff
    for now, then in pairwise(times):
        level, time = alpha_bar[now], torch.full_like(known, now, dtype=torch.int64)
        grain = (step / 2 * (1 - level)).sqrt()  # averaged noise: half of it is met again in the next step
        for _ in range(looks - 1):
            x0, fresh = denoise(x, time), noise(next(draws))
            drawn_to = torch.where(known, image + guidance * (image - x0), x0)  # bidirectional guided score
            x = x + step * (level.sqrt() * drawn_to - x) + grain * (before + fresh)
            before = fresh
            yield x
        x0 = torch.where(known, image, denoise(x, time))
        x = step_down(x, x0, before, level, alpha_bar[then], eta=0)
        yield x


class Draws(Protocol):
    """What filling a canvas asks of a sampler: `Sampler` has it, and so may a developer's own."""

    @property
    def calls(self) -> int:
        """Network calls a window."""
        ...

    def run(self, denoise: Denoise, image: Tensor, known: Tensor, alpha_bar: Tensor, noise: Noise) -> Iterator[Tensor]:
        """Yield the states of the canvas; the last is the mended one."""
        ...


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampler by name, with its settings: what the configuration says, and what the metadata record.

    ``jump`` belongs to the RePaint walk. ``resample`` is how often it passes each stretch, and how often `langevin`
    asks the network at each level; it is 1 for `timemap`. ``eta`` belongs to `timemap`: the share of fresh noise.
    ``bend`` belongs to both: how much denser the steps lie towards the clean end.
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
        if self.resamples:
            return network_calls(self.walk)
        return (len(strided_times(self.steps, bend=self.bend)) - 1) * self.resample

    def run(self, denoise: Denoise, image: Tensor, known: Tensor, alpha_bar: Tensor, noise: Noise) -> Iterator[Tensor]:
        """Yield the states of the canvas; the last is the mended one."""
        falling = strided_times(self.steps, len(alpha_bar) - 1, self.bend)
        if self.resamples:
            return repaint(denoise, image, known, alpha_bar, falling[::-1], self.walk, noise)
        if self.name == "langevin":
            return langevin(denoise, image, known, alpha_bar, falling, self.resample, noise)
        return timemap(denoise, image, known, alpha_bar, falling, noise, self.eta)


SAMPLERS = {
    "repaint": Sampler("repaint", steps=256, jump=10, resample=10),
    "repaint-strided": Sampler("repaint-strided", steps=50, jump=10, resample=10),
    "timemap": Sampler("timemap", steps=50, eta=0.0, bend=1.5),
    "langevin": Sampler("langevin", steps=20, resample=5, eta=0.0, bend=1.5),
}
"""The samplers by name, with their default settings; ``repaint`` is the paper's, ``langevin`` a control."""
