"""Which cells lie where: the point process of a phantom, laid out in depth below the pia."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .areas import Area

Floats = NDArray[np.float32]

PYRAMIDAL, INTERNEURON, GLIA = 0, 1, 2
# Layers pass into each other over some tens of µm, as in tissue.
LAYER_BLUR_UM = 25.0
# Room around the image from which cells still reach into it.
MARGIN_UM = 45.0
# Clusters are at most this much denser than their layer.
MOST_UNEVEN = 1.7


@dataclass(frozen=True)
class Frame:
    """How the image lies in the cortex: depth below the pia and the apical direction at any place, in µm.

    Parameters
    ----------
    centre_um : (float, float)
        Centre of the image, (y, x).
    centre_depth_um : float
        Depth of that centre below the pia.
    pia_rad : float
        Direction towards the pia, as an angle from +x towards +y.
    curvature_per_um : float
        Curvature of the pia.
    """

    centre_um: tuple[float, float]
    centre_depth_um: float
    pia_rad: float
    curvature_per_um: float

    def depth_um(self, y_um: Floats, x_um: Floats) -> Floats:
        """Return the depth below the pia."""
        dy, dx = y_um - self.centre_um[0], x_um - self.centre_um[1]
        up, along = np.sin(self.pia_rad), np.cos(self.pia_rad)
        tangential = dy * along - dx * up
        depth = self.centre_depth_um - (dy * up + dx * along) + 0.5 * self.curvature_per_um * tangential**2
        return np.asarray(depth, np.float32)

    def apical_rad(self, y_um: Floats, x_um: Floats) -> Floats:
        """Return the direction towards the pia."""
        dy, dx = y_um - self.centre_um[0], x_um - self.centre_um[1]
        tangential = dy * np.cos(self.pia_rad) - dx * np.sin(self.pia_rad)
        return np.asarray(self.pia_rad - np.arctan(self.curvature_per_um * tangential), np.float32)


@dataclass(frozen=True)
class Unevenness:
    """Clusters and gaps: a smooth random field that multiplies the density of cells, drawn as a sum of plane waves.

    Parameters
    ----------
    wave_y, wave_x : (k,) float32
        Wave vectors in radians per µm.
    phase : (k,) float32
        Phases in radians.
    contrast : float
        Standard deviation of the field's logarithm.
    """

    wave_y: Floats
    wave_x: Floats
    phase: Floats
    contrast: float

    @classmethod
    def draw(cls, rng: np.random.Generator, *, contrast: float, waves: int = 24) -> Unevenness:
        """Draw waves of 60 to 300 µm in all directions."""
        number = 2 * np.pi / np.exp(rng.uniform(np.log(60), np.log(300), waves))
        heading = rng.uniform(-np.pi, np.pi, waves)
        phase = rng.uniform(-np.pi, np.pi, waves)
        wave_y, wave_x = number * np.sin(heading), number * np.cos(heading)
        return cls(wave_y.astype(np.float32), wave_x.astype(np.float32), phase.astype(np.float32), contrast)

    def factor(self, y_um: Floats, x_um: Floats) -> Floats:
        """Return the factor on the density at each place, between 0 and `MOST_UNEVEN`."""
        total = np.zeros(len(y_um), np.float32)
        for ky, kx, phase in zip(self.wave_y, self.wave_x, self.phase, strict=True):
            total += np.cos(ky * y_um + kx * x_um + phase)
        exponent = self.contrast * np.sqrt(2 / len(self.phase)) * total - 0.5 * self.contrast**2
        return np.asarray(np.exp(exponent).clip(0, MOST_UNEVEN), np.float32)


@dataclass(frozen=True)
class Population:
    """Cells as parallel arrays: places and sizes in µm, apical or long axis as an angle from +x towards +y."""

    y_um: Floats
    x_um: Floats
    area_um2: Floats
    orientation_rad: Floats
    layer: NDArray[np.intp]
    kind: NDArray[np.intp]

    @property
    def radius_um(self) -> Floats:
        """Radius of the disc of equal area."""
        return np.asarray(np.sqrt(self.area_um2 / np.pi), np.float32)

    def __len__(self) -> int:
        return len(self.y_um)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Population:
        """Return the chosen cells."""
        return Population(
            self.y_um[index],
            self.x_um[index],
            self.area_um2[index],
            self.orientation_rad[index],
            self.layer[index],
            self.kind[index],
        )


def draw_population(
    area: Area,
    frame: Frame,
    unevenness: Unevenness,
    size_um: tuple[float, float],
    rng: np.random.Generator,
    *,
    crowding: float,
) -> Population:
    """Draw cells of one plane of the section: Poisson in place, then thinned where bodies would lie on one another.

    Parameters
    ----------
    area, frame : Area, Frame
        What lies at each depth, and how the image lies in it.
    unevenness : Unevenness
        Clusters and gaps.
    size_um : (float, float)
        Height and width of the image in µm; cells are drawn some way beyond it.
    rng : numpy.random.Generator
        Source of randomness.
    crowding : float
        Factor on the table's density.
    """
    y_um, x_um, layer = _draw_places(area, frame, unevenness, size_um, rng, crowding)
    shares = np.array([[row.pyramidal, 1 - row.pyramidal - row.glial, row.glial] for row in area.layers])
    kind = (rng.random(len(layer))[:, None] > np.cumsum(shares, axis=1)[layer]).sum(axis=1).clip(0, GLIA)
    spread = np.array([row.soma_spread for row in area.layers])[layer]
    median = np.array([row.soma_um2 for row in area.layers])[layer] * np.where(kind == INTERNEURON, 0.72, 1.0)
    median, spread = np.where(kind == GLIA, 46.0, median), np.where(kind == GLIA, 0.28, spread)
    area_um2 = (
        (median * np.exp(spread * rng.standard_normal(len(layer)).clip(-2.4, 2.3))).clip(18, 1000).astype(np.float32)
    )
    tilt = np.array([row.tilt_rad for row in area.layers])[layer] * rng.standard_normal(len(layer))
    free = rng.uniform(-np.pi, np.pi, len(layer))
    turn = np.where(kind == PYRAMIDAL, tilt, np.where(kind == INTERNEURON, tilt * 2.5, free))
    orientation = np.angle(np.exp(1j * (frame.apical_rad(y_um, x_um) + turn))).astype(np.float32)
    return _keep_apart(Population(y_um, x_um, area_um2, orientation, layer, kind), rng)


def _draw_places(
    area: Area,
    frame: Frame,
    unevenness: Unevenness,
    size_um: tuple[float, float],
    rng: np.random.Generator,
    crowding: float,
) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Draw from the densest layer everywhere, then keep each place with its own layer's share of that density."""
    density = np.array([row.density_mm2 for row in area.layers]) * crowding
    height, width = size_um[0] + 2 * MARGIN_UM, size_um[1] + 2 * MARGIN_UM
    most = density.max() * MOST_UNEVEN
    count = rng.poisson(most * height * width * 1e-6)
    y_um = (rng.random(count) * height - MARGIN_UM).astype(np.float32)
    x_um = (rng.random(count) * width - MARGIN_UM).astype(np.float32)
    blur = (LAYER_BLUR_UM * rng.standard_normal(count)).astype(np.float32)
    layer = area.layer_index(frame.depth_um(y_um, x_um) + blur)
    kept = rng.random(count) * most < density[layer] * unevenness.factor(y_um, x_um)
    return y_um[kept], x_um[kept], layer[kept]


def _keep_apart(cells: Population, rng: np.random.Generator) -> Population:
    """Drop the smaller of two bodies that lie on one another; the section is thick, so some overlap stays."""
    if len(cells) < 2:
        return cells
    places = np.column_stack([cells.y_um, cells.x_um])
    radius = cells.radius_um
    pairs = cKDTree(places).query_pairs(float(2 * radius.max()), output_type="ndarray")
    first, second = pairs[:, 0], pairs[:, 1]
    distance = np.hypot(*(places[first] - places[second]).T)
    allowed = rng.uniform(0.55, 1.05, len(pairs)) * (radius[first] + radius[second])
    clash = distance < allowed
    smaller = np.where(radius[first] < radius[second], first, second)[clash]
    kept = np.ones(len(cells), dtype=bool)
    kept[smaller] = False
    return cells.take(kept)
