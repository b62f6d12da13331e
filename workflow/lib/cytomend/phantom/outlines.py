"""Where a phantom is damaged: random outlines of every kind of artefact, as polygons in pixels, x before y."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

# Damage keeps off the very rim with its middle, so that something of it always lies in the image.
INNER = (0.2, 0.8)


def tear(shape: tuple[int, int], pixel_size_um: float, rng: np.random.Generator) -> BaseGeometry:
    """Draw a long gap with ragged lips that closes towards both ends."""
    length_px = _length_px(shape, pixel_size_um, rng)
    half_width_px = min(rng.uniform(8, 28) / pixel_size_um, 0.12 * min(shape))
    path = _path(shape, length_px, rng, step_px=9.0, unrest_rad=0.22)
    opening = np.sin(np.linspace(0, np.pi, len(path))) ** 0.6
    ragged = np.exp(rng.normal(0, 0.3, (2, len(path))))
    return _strip(path, half_width_px * opening * ragged)


def fold(shape: tuple[int, int], pixel_size_um: float, rng: np.random.Generator) -> BaseGeometry:
    """Draw a smooth band of even width, pointed at its ends."""
    length_px = _length_px(shape, pixel_size_um, rng)
    half_width_px = min(rng.uniform(16, 42) / pixel_size_um, 0.12 * min(shape))
    path = _path(shape, length_px, rng, step_px=12.0, unrest_rad=0.06)
    band = np.sin(np.linspace(0, np.pi, len(path))) ** 0.35
    drift = np.exp(np.cumsum(rng.normal(0, 0.04, (2, len(path))), axis=1))
    return _strip(path, half_width_px * band * drift.clip(0.6, 1.5))


def missing_tissue(shape: tuple[int, int], pixel_size_um: float, rng: np.random.Generator) -> BaseGeometry:
    """Draw a round hole with an uneven rim."""
    # On coarse pixels a hole is kept large enough to need a canvas of its own.
    radius_px = min(max(rng.uniform(50, 120) / pixel_size_um, 45.0), 0.2 * min(shape))
    around = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    order = np.arange(2, 14)
    waves = rng.normal(0, 0.28 / order)[:, None] * np.cos(
        order[:, None] * around + rng.uniform(0, 7, len(order))[:, None]
    )
    radius = radius_px * np.exp(waves.sum(axis=0))
    middle = _middle(shape, rng)
    ring = middle + np.column_stack([radius * np.cos(around), radius * np.sin(around)])
    return shapely.make_valid(shapely.Polygon(ring))


def precipitate(shape: tuple[int, int], pixel_size_um: float, rng: np.random.Generator) -> BaseGeometry:
    """Draw a cloud of grains, a few of them needles."""
    spread_px = min(rng.uniform(18, 55) / pixel_size_um, 0.12 * min(shape))
    places = _middle(shape, rng) + rng.normal(0, spread_px, (int(rng.integers(25, 80)), 2))
    radii_px = (np.exp(rng.normal(0.7, 0.55, len(places))) / pixel_size_um).clip(0.8, 9)
    grains = shapely.buffer(shapely.points(places), radii_px)
    needles = int(rng.integers(0, 8))
    heading = rng.uniform(0, np.pi, needles)
    reach = (rng.uniform(5, 16, needles) / pixel_size_um)[:, None] * np.column_stack([np.cos(heading), np.sin(heading)])
    ends = np.stack([places[:needles] - reach, places[:needles] + reach], axis=1)
    bristles = shapely.buffer(shapely.linestrings(ends), 0.9)
    return shapely.union_all(np.concatenate([grains, bristles]))


def scratch(shape: tuple[int, int], pixel_size_um: float, rng: np.random.Generator) -> BaseGeometry:
    """Draw a thin, nearly straight line across the image."""
    half_width_px = max(rng.uniform(1.4, 3.2) / pixel_size_um, 1.0)
    path = _path(shape, 1.6 * max(shape), rng, step_px=0.05 * max(shape), unrest_rad=0.012)
    return shapely.buffer(shapely.LineString(path), half_width_px, cap_style="round")


def _length_px(shape: tuple[int, int], pixel_size_um: float, rng: np.random.Generator) -> float:
    return float(min(rng.uniform(250, 900) / pixel_size_um, rng.uniform(0.4, 0.75) * max(shape)))


def _middle(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the middle of an artefact, (x, y)."""
    return rng.uniform(*INNER, 2) * (shape[1], shape[0])


def _path(
    shape: tuple[int, int], length_px: float, rng: np.random.Generator, *, step_px: float, unrest_rad: float
) -> NDArray[np.float64]:
    """Walk a curve with its middle inside the image; returns (n, 2)."""
    count = max(6, round(length_px / step_px))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, unrest_rad, count))
    steps = np.column_stack([np.cos(heading), np.sin(heading)]) * (length_px / count)
    path: NDArray[np.float64] = np.cumsum(steps, axis=0)
    path += _middle(shape, rng) - path[count // 2]
    return path


def _strip(path: NDArray[np.float64], half_width_px: NDArray[np.float64]) -> BaseGeometry:
    """Widen a path to both sides, by half_width_px of shape (2, n)."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.column_stack([-along[:, 1], along[:, 0]])
    left, right = (path + side * width[:, None] * across for side, width in zip((1, -1), half_width_px, strict=True))
    return shapely.make_valid(shapely.Polygon(np.concatenate([left, right[::-1]])))
