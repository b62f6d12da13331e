"""Noise that belongs to the place: a counter-based generator keyed by seed, sample, draw and absolute pixel position.

A pixel draws the same numbers whatever the batch, shard, window or retry it is computed in, and overlapping windows
agree. The generator is Philox4x32-10 (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011); one
block of four 32-bit words gives four neighbouring pixels of a row their normal deviates by Box and Muller's
transform.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

QUAD = 4
"""Pixels of a row that share one Philox block."""

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_SAMPLE = 1 << 16
"""Channels and samples share a word of the counter: sample 0 is what a single sample draws."""


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four pseudo-random 32-bit words for each counter (Salmon et al. 2011, section 3.3).

    Parameters
    ----------
    counter : four int64 tensors of one shape, values in [0, 2**32)
    key : two integers in [0, 2**32)
    """
    a, b, c, d = counter
    low, high = key
    for _ in range(_ROUNDS):
        # The product of two 32-bit words fills 64 bits; int64 wraps, and the masks give back the unsigned halves.
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (second >> 32 & _WORD) ^ b ^ low, second & _WORD, (first >> 32 & _WORD) ^ d ^ high, first & _WORD
        low, high = low + _WEYL[0] & _WORD, high + _WEYL[1] & _WORD
    return a, b, c, d


class PlaceNoise:
    """Standard normal fields over cells of the section's lattice.

    Parameters
    ----------
    seed : any integer; its lowest 64 bits are the key
    corners : (n, 2) int64, absolute (y, x) pixel of each cell's corner, negative ones included; x a multiple of four
    cell_px : side of a cell, a multiple of four
    channels : image channels
    samples : (n,) int64 below 2**16, to which sample each cell belongs; by default all to sample 0
    """

    def __init__(self, seed: int, corners: Tensor, cell_px: int, channels: int, samples: Tensor | None = None) -> None:
        if cell_px % QUAD or bool((corners[:, 1] % QUAD).any()):
            raise ValueError(f"cells of {cell_px} px at {corners.tolist()[:4]}... are not aligned to {QUAD} px")
        self.key = (seed & _WORD, seed >> 32 & _WORD)
        self.shape = (len(corners), channels, cell_px, cell_px)
        ys = corners[:, 0, None] + torch.arange(cell_px, device=corners.device)  # (n, c)
        quads = corners[:, 1, None] // QUAD + torch.arange(cell_px // QUAD, device=corners.device)  # (n, c / 4)
        grid = (len(corners), channels, cell_px, cell_px // QUAD)
        self.y = (ys & _WORD)[:, None, :, None].expand(grid)
        self.quad = (quads & _WORD)[:, None, None, :].expand(grid)
        sample = torch.zeros_like(corners[:, 0]) if samples is None else samples
        channel = torch.arange(channels, device=corners.device)
        self.channel = (sample[:, None] * _SAMPLE + channel)[:, :, None, None].expand(grid)

    def __call__(self, draw: int) -> Tensor:
        """Return draw number ``draw`` as (n, channels, cell_px, cell_px) float32."""
        words = philox((self.y, self.quad, torch.full_like(self.y, draw), self.channel), self.key)
        # 24 bits are what float32 resolves; half a step keeps the logarithm finite.
        uniform = [((word >> 8).to(torch.float32) + 0.5) * 2.0**-24 for word in words]
        radius = [torch.sqrt(-2 * torch.log(u)) for u in uniform[::2]]
        angle = [2 * math.pi * u for u in uniform[1::2]]
        normal = [f(a) * r for r, a in zip(radius, angle, strict=True) for f in (torch.cos, torch.sin)]
        return torch.stack(normal, dim=-1).reshape(self.shape)
