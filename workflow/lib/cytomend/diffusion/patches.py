"""Training patches: squares of intact tissue, turned, resampled and re-stained at random, each with a map of times.

Every sample is keyed by (seed, step, index within the step's whole batch) and by nothing else, so that neither a
restart nor the number of processes, parts or workers that share a batch changes what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cytomend.diffusion.masks import random_mask

Float = NDArray[np.float32]


class Tissue(Protocol):
    """Something to cut intact squares from; ``weight`` says how often it is drawn, in proportion."""

    @property
    def weight(self) -> float:
        """Not negative."""
        ...

    def square(self, rng: np.random.Generator, side_px: int) -> Float:
        """Return a random intact (C, side, side) square in [-1, 1]; ValueError if there is none of that size."""
        ...


@dataclass(frozen=True, slots=True)
class Tile:
    """A piece of a section in memory.

    ``image`` (C, h, w) float32 in [-1, 1]; ``intact`` (h, w) bool; ``weight`` how often it is drawn, in proportion.
    """

    image: Float
    intact: NDArray[np.bool_]
    weight: float = 1.0

    def square(self, rng: np.random.Generator, side_px: int, tries: int = 200) -> Float:
        """Return a random (C, side, side) part without damaged pixels.

        Raises
        ------
        ValueError
            If there is none.
        """
        height, width = self.intact.shape
        if side_px <= min(height, width):
            for _ in range(tries):
                y, x = rng.integers(height - side_px + 1), rng.integers(width - side_px + 1)
                if self.intact[y : y + side_px, x : x + side_px].all():
                    return self.image[:, y : y + side_px, x : x + side_px]
            # Rare ones are looked for one by one.
            squares = sliding_window_view(self.intact, (side_px, side_px))
            found = [(y, x) for y, row in enumerate(squares) for x in np.flatnonzero(row.all(axis=(1, 2)))]
            if found:
                y, x = found[rng.integers(len(found))]
                return self.image[:, y : y + side_px, x : x + side_px]
        raise ValueError(f"no intact square of {side_px} px found in a tile of {height} x {width} px")


class Batch(NamedTuple):
    """What one training step sees, or a part of it: ``x0``, ``noise`` (n, C, W, W), ``time`` (n, 1, W, W) int64."""

    x0: Tensor
    time: Tensor
    noise: Tensor


@dataclass(frozen=True, slots=True)
class Patches:
    """Draws batches of intact patches.

    Parameters
    ----------
    tissue : what to cut from
    window_px : side of a patch
    batch : patches a step
    times : length of the schedule
    seed : any integer
    constant_share : share of patches that are noised all over; the rest keep known pixels, as in mending
    resample_share : share of patches that are turned by any angle and scaled by 0.87 to 1.15; the rest keep the pixel
        grid, and with it the sharpness of the scanner
    """

    tissue: Sequence[Tissue]
    window_px: int
    batch: int
    times: int
    seed: int
    constant_share: float = 0.4
    resample_share: float = 0.25
    _until: NDArray[np.float64] = field(init=False, repr=False)
    """Sums of the weights, for drawing."""

    def __post_init__(self) -> None:
        until = np.cumsum([tissue.weight for tissue in self.tissue])
        object.__setattr__(self, "_until", until / until[-1])

    def draw(self, step: int, indices: Iterable[int] | None = None) -> Batch:
        """Return the batch of this step, or those samples of it."""
        # Stratified over the schedule: every whole batch holds early, middle and late times.
        phase = np.random.default_rng([self.seed, step, 0]).random()
        samples = [
            self._sample(np.random.default_rng([self.seed, step, 1 + i]), (phase + i / self.batch) % 1)
            for i in (range(self.batch) if indices is None else indices)
        ]
        x0, time, noise = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True))
        return Batch(x0, time, noise)

    def _sample(self, rng: np.random.Generator, moment: float) -> tuple[Float, NDArray[np.int64], Float]:
        """Return clean patch, map of times and noise, at a moment in [0, 1) of the schedule."""
        drawn = min(int(np.searchsorted(self._until, rng.random(), side="right")), len(self.tissue) - 1)
        x0 = restain(rng, self._cut(rng, self.tissue[drawn]))
        time = np.int64(1 + min(int(moment * self.times), self.times - 1))
        constant = rng.random() < self.constant_share
        mask = np.ones((self.window_px,) * 2, bool) if constant else random_mask(rng, self.window_px)
        return x0, mask[None] * time, rng.standard_normal(x0.shape, dtype=np.float32)

    def _cut(self, rng: np.random.Generator, tissue: Tissue) -> Float:
        """Return an intact square of the tissue, (C, W, W), in one of its eight poses, or turned and scaled freely."""
        if rng.random() < self.resample_share:
            # What a square of 1.15 sides turned by 45 degrees needs, and interpolation.
            margin = round(self.window_px * 0.37)
            with suppress(ValueError):  # there may be room for a window and not for what is around it
                around = tissue.square(rng, self.window_px + 2 * margin)
                return turn(around, rng.uniform(0, 2 * np.pi), rng.uniform(0.87, 1.15), self.window_px)
        square = np.rot90(tissue.square(rng, self.window_px), int(rng.integers(4)), axes=(1, 2))
        return np.ascontiguousarray(square[:, ::-1] if rng.random() < 0.5 else square)


def turn(image: Float, angle_rad: float, scale: float, side_px: int) -> Float:
    """Return the central square of an image turned by an angle and seen at another scale, by bicubic interpolation.

    ``scale`` is source pixels per pixel of the result.
    """
    half = image.shape[-1] / 2
    c, s = np.cos(angle_rad) * scale / half, np.sin(angle_rad) * scale / half
    at = torch.arange(side_px) - (side_px - 1) / 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    grid = torch.stack([c * x - s * y, s * x + c * y], dim=-1).float()
    turned = functional.grid_sample(
        torch.from_numpy(np.ascontiguousarray(image))[None], grid[None], "bicubic", "reflection", align_corners=False
    )
    return turned[0].clamp(-1, 1).numpy()


def restain(rng: np.random.Generator, image: Float) -> Float:
    """Return the patch as a slightly other stain and lamp would show it: contrast, brightness, gamma."""
    light = ((image + 1) / 2) ** np.exp(rng.uniform(-0.15, 0.15))
    mean = light.mean()
    light = mean + (light - mean) * rng.uniform(0.85, 1.15) + rng.uniform(-0.06, 0.06)
    return np.asarray(np.clip(light * 2 - 1, -1, 1), dtype=np.float32)
