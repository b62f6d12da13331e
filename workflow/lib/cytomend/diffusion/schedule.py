"""How much noise at each time, and the order in which a sampler visits the times. Data, with laws.

Times are integers: 0 is the clean image, ``T`` (256 by default) is noise. ``alpha_bar[t]`` is the share of signal
variance left at time ``t``, so that ``x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) noise`` (Ho et al. 2020,
Eq. 4).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

TIMES = 256
"""Training steps of the paper's model (Kropp et al., ISBI 2024)."""


def cosine_alpha_bar(times: int = TIMES, offset: float = 0.008, largest_beta: float = 0.999) -> Tensor:
    """Return the cosine schedule of Nichol & Dhariwal (2021, Eq. 17), one-based, with the clean image at index 0.

    Returns
    -------
    (times + 1,) float64, falling from exactly 1
    """
    f = torch.cos((torch.arange(times + 1, dtype=torch.float64) / times + offset) / (1 + offset) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=largest_beta)
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])


def strided_times(steps: int, times: int = TIMES, bend: float = 1.0) -> list[int]:
    """Return ``steps + 1`` times from ``times`` down to 0, evenly spaced or, with ``bend`` above 1, denser towards 0.

    The clean end is where the grain of the tissue is decided. Times are integers, so that a bent ladder of many
    steps may have fewer rungs than asked for.

    Raises
    ------
    ValueError
        If there are more steps than times, or none.

    Examples
    --------
    >>> strided_times(4, 256)
    [256, 192, 128, 64, 0]
    """
    if not 1 <= steps <= times:
        raise ValueError(f"steps is {steps}, expected 1 to {times}")
    return sorted({round(times * (i / steps) ** bend) for i in range(steps + 1)}, reverse=True)


def lookahead(alpha_bar: Tensor, times: list[int]) -> list[float]:
    """Return how far each step extrapolates the clean image along its last change (Lu et al. 2022, DPM-Solver++ 2M).

    Half the ratio of this step to the one before, on the axis of the logarithm of signal over noise; 0 where there is
    no step before, and at the last step, which has no end on that axis.
    """
    log_snr = [float(0.5 * (torch.log(alpha_bar[t]) - torch.log1p(-alpha_bar[t]))) for t in times[:-1]]
    steps = [then - now for now, then in pairwise(log_snr)]
    return [0.0, *(step / (2 * before) for before, step in pairwise(steps)), 0.0][: len(times) - 1]


def resampling_walk(steps: int, jump: int, resample: int) -> list[int]:
    """Return the walk of RePaint (Lugmayr et al. 2022, appendix B) as positions on a ladder of ``steps`` rungs.

    The walk falls from ``steps`` to 0 by single rungs. On its way it climbs ``jump`` rungs back up, ``resample - 1``
    times, from each of the rungs 1, 1 + jump, 1 + 2 jump, ... that leave room below the top. Each move down costs a
    network call: 2,506 for (256, 10, 10), 2,410 for the released (250, 10, 10), 410 for (50, 10, 10).

    Examples
    --------
    >>> resampling_walk(steps=4, jump=2, resample=2)
    [4, 3, 2, 1, 2, 3, 2, 1, 0]
    """
    if steps < 1 or jump < 1 or resample < 1:
        raise ValueError(f"steps, jump and resample must be at least 1, found {steps}, {jump}, {resample}")
    climbs_left = dict.fromkeys(range(1, steps - jump + 1, jump), resample - 1)
    walk = [steps]
    while walk[-1] > 0:
        walk.append(walk[-1] - 1)
        if climbs_left.get(walk[-1], 0) > 0:
            climbs_left[walk[-1]] -= 1
            walk.extend(range(walk[-1] + 1, walk[-1] + jump + 1))
    return walk


def network_calls(walk: list[int]) -> int:
    """Return how many moves of the walk go down, each of which asks the network once."""
    return sum(then < now for now, then in pairwise(walk))
