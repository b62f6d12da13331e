"""What lies between the cells: dendrites, fibres and vessels.

Thin things are strokes: points along a curve, dropped on one canvas per width and blurred once, so a thousand fibres
cost as much as ten.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from .exposure import Stain
from .population import PYRAMIDAL, Frame, Population

Floats = NDArray[np.float32]

STROKE_SIGMAS_PX = (0.55, 1.0, 1.8, 3.4)
STEP_PX = 0.8


@dataclass
class Strokes:
    """A canvas for thin curved things, collected as points and painted at once."""

    shape: tuple[int, int]
    _points: list[tuple[Floats, Floats, Floats, Floats]] = field(default_factory=list)

    def add(self, y_px: ArrayLike, x_px: ArrayLike, sigma_px: ArrayLike, density: ArrayLike) -> None:
        """Add points ``STEP_PX`` apart; ``density`` is the optical density at the middle of the stroke."""
        arrays = np.broadcast_arrays(y_px, x_px, sigma_px, density)
        y, x, sigma, od = (np.asarray(array, np.float32).ravel() for array in arrays)
        # A stroke thinner than the finest canvas is drawn on that one, and paler.
        od = od * np.minimum(1, sigma / STROKE_SIGMAS_PX[0])
        self._points.append((y, x, sigma, od))

    def paint(self) -> Floats:
        """Return the optical density (H, W) of all strokes."""
        canvas = np.zeros(self.shape, np.float32)
        if not self._points:
            return canvas
        y, x, sigma, od = (np.concatenate(arrays) for arrays in zip(*self._points, strict=True))
        rank = np.interp(np.log(sigma), np.log(STROKE_SIGMAS_PX), np.arange(len(STROKE_SIGMAS_PX)))
        for i, width in enumerate(STROKE_SIGMAS_PX):
            # A width between two canvases is shared by both.
            share = (1 - np.abs(rank - i)).clip(0)
            used = share > 0
            if used.any():
                dose = (od * share)[used] * (np.sqrt(2 * np.pi) * width * STEP_PX)
                canvas += gaussian_filter(_drop(self.shape, y[used], x[used], dose), width, mode="constant", truncate=3)
        return canvas


def _drop(shape: tuple[int, int], y: Floats, x: Floats, dose: Floats) -> Floats:
    """Drop each point's dose on its four nearest pixels, by bilinear shares."""
    height, width = shape
    inside = (y > 0) & (x > 0) & (y < height - 1) & (x < width - 1)
    y, x, dose = y[inside], x[inside], dose[inside]
    top, left = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    fy, fx = y - top, x - left
    flat = top * width + left
    places = np.concatenate([flat, flat + 1, flat + width, flat + width + 1])
    weights = np.concatenate([dose * (1 - fy) * (1 - fx), dose * (1 - fy) * fx, dose * fy * (1 - fx), dose * fy * fx])
    return np.bincount(places, weights, minlength=height * width).astype(np.float32).reshape(shape)


def wander(
    y_px: Floats, x_px: Floats, heading_rad: Floats, steps: int, rng: np.random.Generator, *, bend_rad: float
) -> tuple[Floats, Floats]:
    """Walk n smooth curves of the given number of steps; returns y and x of shape (n, steps)."""
    n = len(y_px)
    # A slow bend (one turn rate per curve) and a little unrest at each step.
    turn = rng.normal(0, bend_rad, (n, 1)) * STEP_PX / 20 + rng.normal(0, bend_rad * 0.12, (n, steps))
    heading = heading_rad[:, None] + np.cumsum(turn, axis=1)
    y = y_px[:, None] + np.cumsum(np.sin(heading), axis=1) * STEP_PX
    x = x_px[:, None] + np.cumsum(np.cos(heading), axis=1) * STEP_PX
    return y.astype(np.float32), x.astype(np.float32)


def stroke_steps(length_px: float) -> int:
    """Return how many steps make a stroke of this length, at least enough for a slope."""
    return max(4, round(length_px / STEP_PX))


def add_dendrites(
    strokes: Strokes, cells: Population, stain: Stain, rng: np.random.Generator, pixel_size_um: float
) -> None:
    """Draw the apical dendrites of pyramidal neurons: thick and dark at the body, thin and pale further up."""
    pyramids = cells.take((cells.kind == PYRAMIDAL) & (rng.random(len(cells)) < 0.55))
    if not len(pyramids):
        return
    y, x = pyramids.y_um / pixel_size_um, pyramids.x_um / pixel_size_um
    steps = stroke_steps(90 / pixel_size_um)
    radius = (pyramids.radius_um / pixel_size_um)[:, None]
    path_y, path_x = wander(y, x, pyramids.orientation_rad, steps, rng, bend_rad=0.25)
    way = np.arange(steps, dtype=np.float32)[None, :] * STEP_PX
    length = radius * rng.gamma(3.0, 0.55, (len(y), 1))
    fade = np.exp(-((way / (radius + length)) ** 2))
    strokes.add(path_y, path_x, 0.5 + 0.14 * radius * fade, stain.strength * rng.uniform(0.5, 1.6, (len(y), 1)) * fade)


def add_fibres(strokes: Strokes, frame: Frame, stain: Stain, rng: np.random.Generator, pixel_size_um: float) -> None:
    """Draw thin fibres in any direction, and soft streaks (dendrites out of focus) towards the pia."""
    height, width = strokes.shape
    square_mm = height * width * pixel_size_um**2 * 1e-6
    for per_mm2, length_um, sigma_um, od, spread in ((1700, 34, 0.5, 0.26, 0.9), (1100, 45, 2.2, 0.20, 0.22)):
        n = rng.poisson(per_mm2 * square_mm)
        y = (rng.random(n) * (height + 40) - 20).astype(np.float32)
        x = (rng.random(n) * (width + 40) - 20).astype(np.float32)
        heading = frame.apical_rad(y * pixel_size_um, x * pixel_size_um) + rng.normal(0, spread, n)
        steps = stroke_steps(length_um / pixel_size_um)
        path_y, path_x = wander(y, x, heading.astype(np.float32), steps, rng, bend_rad=0.28)
        taper = np.sin(np.linspace(0, np.pi, steps, dtype=np.float32))[None, :]
        beads = rng.gamma(1.5, 1 / 1.5, (n, steps))
        strength = stain.strength * rng.gamma(2.0, od / 2, (n, 1)) * taper * beads
        strokes.add(path_y, path_x, sigma_um / pixel_size_um, strength)


def add_vessels(strokes: Strokes, rng: np.random.Generator, pixel_size_um: float) -> None:
    """Draw capillaries: a light lumen between two thin dark walls."""
    height, width = strokes.shape
    n = rng.poisson(26 * height * width * pixel_size_um**2 * 1e-6)
    if not n:
        return
    y = (rng.random(n) * height).astype(np.float32)
    x = (rng.random(n) * width).astype(np.float32)
    heading = rng.uniform(-np.pi, np.pi, n).astype(np.float32)
    steps = stroke_steps(110 / pixel_size_um)
    path_y, path_x = wander(y, x, heading, steps, rng, bend_rad=0.35)
    slope_y, slope_x = np.gradient(path_y, axis=1) / STEP_PX, np.gradient(path_x, axis=1) / STEP_PX
    calibre = np.exp(rng.normal(1.15, 0.32, (n, 1))) / pixel_size_um
    ends = np.sin(np.linspace(0, np.pi, steps, dtype=np.float32))[None, :].clip(0) ** 0.5
    # A vessel dives in and out of focus, so that only parts of it are plain to see.
    focus = gaussian_filter1d(rng.standard_normal((n, steps)), 12 / STEP_PX, axis=1, mode="reflect")
    visible = ends * rng.uniform(0.4, 1.0, (n, 1)) * (0.7 + 2.5 * focus).clip(0.1, 1.3)
    strokes.add(path_y, path_x, 0.45 * calibre, -0.19 * visible)
    for side in (-1, 1):
        strokes.add(path_y + side * calibre * slope_x, path_x - side * calibre * slope_y, 0.8, 0.45 * visible)
