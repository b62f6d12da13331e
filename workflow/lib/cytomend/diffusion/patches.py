"""Training patches: squares of intact tissue, turned, resampled and re-stained at random, each with a map of times.

All chance is keyed by seed and step, so that a resumed training sees what an undisturbed one would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cytomend.diffusion.masks import random_mask

Float = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tile:
    """A piece of a section to cut patches from.

    ``image`` (C, h, w) float32 in [-1, 1]; ``intact`` (h, w) bool; ``weight`` how often it is drawn, in proportion.
    """

    image: Float
    intact: NDArray[np.bool_]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Batch:
    """What one training step sees: ``x0`` and ``noise`` (n, C, W, W), ``time`` (n, 1, W, W) int64."""

    x0: Tensor
    time: Tensor
    noise: Tensor


@dataclass(frozen=True, slots=True)
class Patches:
    """Draws batches of intact patches.

    Parameters ---------- tiles : pieces of sections window_px : side of a patch batch : patches a step times : length
    of the schedule seed : any integer constant_share : share of patches that are noised all over; the rest keep known
    pixels, as in mending resample_share : share of patches that are turned by any angle and scaled by 0.87 to 1.15;
    the rest keep the pixel grid, and with it
        the sharpness of the scanner
    """

    tiles: Sequence[Tile]
    window_px: int
    batch: int
    times: int
    seed: int
    constant_share: float = 0.4
    resample_share: float = 0.25

    def draw(self, step: int) -> Batch:
        """Return the batch of this step."""
        rng = np.random.default_rng([self.seed, step])
        weights = np.array([tile.weight for tile in self.tiles])
        drawn = rng.choice(len(self.tiles), self.batch, p=weights / weights.sum())
        x0 = np.stack([restain(rng, self._cut(rng, self.tiles[i])) for i in drawn])
        # Stratified over the schedule: every batch holds early, middle and late times.
        times = 1 + ((rng.random() + np.arange(self.batch)) / self.batch % 1 * self.times).astype(np.int64)
        constant = rng.random(self.batch) < self.constant_share
        masks = [np.ones((self.window_px,) * 2, bool) if c else random_mask(rng, self.window_px) for c in constant]
        return Batch(
            x0=torch.from_numpy(x0),
            time=torch.from_numpy(np.stack(masks)[:, None] * times[:, None, None, None]),
            noise=torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32)),
        )

    def _cut(self, rng: np.random.Generator, tile: Tile) -> Float:
        """Return an intact square of the tile, (C, W, W), in one of its eight poses, or turned and scaled freely."""
        margin = round(
            self.window_px * 0.37
        )  # what a square of 1.15 sides turned by 45 degrees needs, and interpolation
        if rng.random() < self.resample_share and min(tile.intact.shape) >= self.window_px + 2 * margin:
            with suppress(ValueError):  # damage may leave room for a window and not for what is around it
                around = intact_square(rng, tile, self.window_px + 2 * margin)
                return turn(around, rng.uniform(0, 2 * np.pi), rng.uniform(0.87, 1.15), self.window_px)
        square = np.rot90(intact_square(rng, tile, self.window_px), int(rng.integers(4)), axes=(1, 2))
        return np.ascontiguousarray(square[:, ::-1] if rng.random() < 0.5 else square)


def intact_square(rng: np.random.Generator, tile: Tile, side_px: int, tries: int = 200) -> Float:
    """Return a random (C, side, side) part of the tile without damaged pixels.

    Raises
    ------
    ValueError
        If there is none: such a tile should not have been offered.
    """
    height, width = tile.intact.shape
    for _ in range(tries):
        y, x = rng.integers(height - side_px + 1), rng.integers(width - side_px + 1)
        if tile.intact[y : y + side_px, x : x + side_px].all():
            return tile.image[:, y : y + side_px, x : x + side_px]
    # Rare ones are looked for one by one.
    squares = sliding_window_view(tile.intact, (side_px, side_px))
    found = [(y, x) for y, row in enumerate(squares) for x in np.flatnonzero(row.all(axis=(1, 2)))]
    if found:
        y, x = found[rng.integers(len(found))]
        return tile.image[:, y : y + side_px, x : x + side_px]
    raise ValueError(f"no intact square of {side_px} px found in a tile of {height} x {width} px")


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
