"""Cell bodies as optical density: every outline is a disc with bumps, drawn in batches of small patches.

In a cell's own frame, with ``t`` the angle from its axis, the outline is::

    rho(t) = radius * (1 + sum_j height_j * exp(sharpness_j * (cos(t - angle_j) - 1)))

One sharp bump makes the apical dendrite of a pyramidal neuron, two blunter ones its base, small broad ones the
irregularity of any cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from .population import GLIA, INTERNEURON, PYRAMIDAL, Population

Floats = NDArray[np.float32]

# Half widths of the patches; a cell takes the smallest that holds it, and the largest cuts off the last faint tips.
HALF_WIDTHS_PX = (8, 12, 18, 26, 40, 60, 90)
BATCH_PIXELS = 120_000
LEAST_RHO = 0.05


@dataclass(frozen=True)
class Bodies:
    """Outlines and staining of n cells; lengths in pixels, ``bump_*`` of shape (n, bumps)."""

    y_px: Floats
    x_px: Floats
    radius_px: Floats
    elongation: Floats
    orientation_rad: Floats
    bump_height: Floats
    bump_angle: Floats
    bump_sharpness: Floats
    edge_px: Floats
    density: Floats
    nucleus: Floats
    grain: Floats

    def reach_px(self) -> Floats:
        """Distance from the centre beyond which a cell leaves no trace."""
        tallest = 1 + self.bump_height.clip(0).max(axis=1) + 0.2
        stretch = np.sqrt(np.maximum(self.elongation, 1 / self.elongation))
        return np.asarray(self.radius_px * tallest * stretch + 4 * self.edge_px + 1, np.float32)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Bodies:
        """Return the chosen cells."""
        return Bodies(*(getattr(self, field.name)[index] for field in fields(self)))

    def contours_px(self, points: int = 64) -> Floats:
        """Return the outlines, where the stain falls to half: (n, points, 2) of (y, x) from the image's corner.

        A place of 0 is the centre of the first pixel, which lies half a pixel from the corner.
        """
        t = np.linspace(0, 2 * np.pi, points, endpoint=False, dtype=np.float32)
        bumps = np.exp(self.bump_sharpness[..., None] * (np.cos(t - self.bump_angle[..., None]) - 1))
        rho = (1 + (self.bump_height[..., None] * bumps).sum(axis=1)).clip(LEAST_RHO)
        stretch = np.sqrt(self.elongation)[:, None]
        along = self.radius_px[:, None] * rho * np.cos(t) * stretch
        across = self.radius_px[:, None] * rho * np.sin(t) / stretch
        cos, sin = np.cos(self.orientation_rad)[:, None], np.sin(self.orientation_rad)[:, None]
        y = self.y_px[:, None] + along * sin + across * cos
        x = self.x_px[:, None] + along * cos - across * sin
        return np.asarray(np.stack([y, x], axis=-1) + 0.5, np.float32)


def shape_bodies(
    cells: Population,
    rng: np.random.Generator,
    *,
    pixel_size_um: float,
    defocus_um: Floats,
    density: Floats,
    stretch: float = 1.0,
) -> Bodies:
    """Give each cell an outline of its kind.

    Parameters
    ----------
    cells : Population
        Kinds, places and sizes.
    rng : numpy.random.Generator
        Source of randomness.
    pixel_size_um : float
        Side of a pixel in µm.
    defocus_um : (n,) float32
        Softness of each cell's edge in µm.
    density : (n,) float32
        Optical density of each body.
    stretch : float
        Extra elongation along each cell's axis.
    """
    n = len(cells)
    height, angle, sharpness = _bumps(cells.kind, rng)
    elongation = np.select(
        [cells.kind == PYRAMIDAL, cells.kind == INTERNEURON],
        [rng.uniform(0.8, 1.35, n), rng.uniform(1.0, 1.8, n)],
        rng.uniform(1.0, 1.4, n),
    )
    radius_um = cells.radius_um / np.sqrt(_area_factor(height, angle, sharpness))
    # Glia and small neurons show their nucleus as a paler, grainy disc; large neurons are black throughout.
    pale = rng.random(n) < np.where(cells.kind == GLIA, 0.6, np.exp(-cells.area_um2 / 140))
    nucleus = np.where(pale, rng.uniform(0.25, 0.75, n), rng.uniform(0.0, 0.25, n))
    grain = np.where(pale, rng.uniform(0.3, 0.9, n), rng.uniform(0.1, 0.5, n))
    return Bodies(
        *(
            values.astype(np.float32)
            for values in (
                cells.y_um / pixel_size_um,
                cells.x_um / pixel_size_um,
                radius_um / pixel_size_um,
                elongation * stretch,
                cells.orientation_rad,
                height,
                angle,
                sharpness,
                defocus_um / pixel_size_um,
                density,
                nucleus,
                grain,
            )
        )
    )


def _bumps(kind: NDArray[np.intp], rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Draw heights, angles and sharpnesses (n, 7): four of the kind's own processes, three of mere irregularity."""
    n = len(kind)
    height = rng.normal(0, 0.14, (n, 7))
    angle = rng.uniform(-np.pi, np.pi, (n, 7))
    sharpness = rng.uniform(2.0, 9.0, (n, 7))
    pyramidal, spindle, glial = kind == PYRAMIDAL, kind == INTERNEURON, kind == GLIA
    side = rng.uniform(1.75, 2.5, (n, 2)) * (1, -1)
    angle[pyramidal, 0] = rng.normal(0, 0.12, n)[pyramidal]
    angle[pyramidal, 1:3] = side[pyramidal]
    height[pyramidal, 0] = rng.gamma(3.0, 0.21, n)[pyramidal]
    height[pyramidal, 1:3] = rng.gamma(1.6, 0.24, (n, 2))[pyramidal]
    sharpness[pyramidal, 0] = rng.uniform(14, 60, n)[pyramidal]
    sharpness[pyramidal, 1:3] = rng.uniform(8, 30, (n, 2))[pyramidal]
    # A broad shoulder below the apical tip makes the body a wedge instead of a ball with a spike.
    angle[pyramidal, 3] = angle[pyramidal, 0]
    height[pyramidal, 3] = rng.uniform(0.1, 0.6, n)[pyramidal]
    sharpness[pyramidal, 3] = rng.uniform(3, 6, n)[pyramidal]
    angle[spindle, 0] = rng.normal(0, 0.2, n)[spindle]
    angle[spindle, 1] = rng.normal(np.pi, 0.3, n)[spindle]
    height[spindle, :2] = rng.gamma(1.5, 0.22, (n, 2))[spindle]
    sharpness[spindle, :2] = rng.uniform(5, 18, (n, 2))[spindle]
    height[glial] *= 0.7
    return height.astype(np.float32), angle.astype(np.float32), sharpness.astype(np.float32)


def _area_factor(height: Floats, angle: Floats, sharpness: Floats) -> Floats:
    """Return each outline's area over that of its disc, so that areas come out as drawn."""
    t = np.linspace(-np.pi, np.pi, 48, endpoint=False, dtype=np.float32)
    rho = 1 + (height[..., None] * np.exp(sharpness[..., None] * (np.cos(t - angle[..., None]) - 1))).sum(axis=1)
    return np.asarray(np.mean(rho.clip(0.2) ** 2, axis=1), np.float32)


def paint_bodies(shape: tuple[int, int], bodies: Bodies) -> tuple[Floats, Floats]:
    """Add up the optical density of all bodies.

    Returns
    -------
    smooth : (H, W) float32
        Optical density of the bodies.
    grainy : (H, W) float32
        The part of it that the tissue's grain modulates.
    """
    smooth, grainy = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for half_px, index in _batches(bodies):
        patches = _render(bodies, index, half_px)
        for i, patch in zip(index, patches, strict=True):
            _add(smooth, grainy, patch, bodies, int(i), half_px)
    return smooth, grainy


def _batches(bodies: Bodies) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Group cells by patch size, in batches small enough for the processor's cache."""
    bucket = np.searchsorted(HALF_WIDTHS_PX[:-1], bodies.reach_px())
    for b, half_px in enumerate(HALF_WIDTHS_PX):
        members = np.flatnonzero(bucket == b)
        step = max(1, BATCH_PIXELS // (2 * half_px + 1) ** 2)
        for start in range(0, len(members), step):
            yield half_px, members[start : start + step]


def _render(bodies: Bodies, index: NDArray[np.intp], half_px: int) -> Floats:
    """Draw optical densities (n, p, p), each around the pixel nearest to its cell's centre."""

    def column(values: Floats) -> Floats:
        return values[index][:, None, None]

    offset = np.arange(-half_px, half_px + 1, dtype=np.float32)
    dy = offset[:, None] - column(bodies.y_px - np.rint(bodies.y_px))
    dx = offset[None, :] - column(bodies.x_px - np.rint(bodies.x_px))
    cos, sin = np.cos(column(bodies.orientation_rad)), np.sin(column(bodies.orientation_rad))
    stretch = np.sqrt(column(bodies.elongation))
    u = (dx * cos + dy * sin) / stretch
    v = (dy * cos - dx * sin) * stretch
    distance = np.sqrt(u * u + v * v) + 1e-3
    cos_t, sin_t = u / distance, v / distance
    rho, slope = np.ones_like(distance), np.zeros_like(distance)
    for j in range(bodies.bump_height.shape[1]):
        cos_j, sin_j = np.cos(column(bodies.bump_angle[:, j])), np.sin(column(bodies.bump_angle[:, j]))
        sharpness = column(bodies.bump_sharpness[:, j])
        bump = column(bodies.bump_height[:, j]) * np.exp(sharpness * (cos_t * cos_j + sin_t * sin_j - 1))
        rho += bump
        slope -= bump * sharpness * (sin_t * cos_j - cos_t * sin_j)
    radius = column(bodies.radius_px)
    # First-order distance to the outline: radial distance over the gradient of (distance - rho).
    outside = (distance - radius * rho) / np.sqrt(1 + (radius * slope / distance) ** 2)
    edge = column(bodies.edge_px)
    cover = 1 / (1 + np.exp((outside / edge).clip(-30, 30)))
    # Bodies are thick in the middle and thin at the rim.
    thickness = 0.55 + 0.45 * (-outside / (0.45 * radius)).clip(0, 1)
    nucleus = 1 - column(bodies.nucleus) * np.exp(-((distance / (0.55 * radius)) ** 4))
    rendered: Floats = column(bodies.density) * cover * thickness * nucleus
    return rendered


def _add(smooth: Floats, grainy: Floats, patch: Floats, bodies: Bodies, i: int, half_px: int) -> None:
    """Add a patch to both canvases, cut at their rims."""
    height, width = smooth.shape
    y0, x0 = round(float(bodies.y_px[i])) - half_px, round(float(bodies.x_px[i])) - half_px
    top, left = max(0, y0), max(0, x0)
    bottom, right = min(height, y0 + patch.shape[0]), min(width, x0 + patch.shape[1])
    if top >= bottom or left >= right:
        return
    seen = patch[top - y0 : bottom - y0, left - x0 : right - x0]
    smooth[top:bottom, left:right] += seen
    grainy[top:bottom, left:right] += bodies.grain[i] * seen
