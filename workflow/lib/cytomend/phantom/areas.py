"""What a cortical area is made of: its layers as tables, from the pia to the white matter.

The three areas are caricatures of textbook types (agranular, granular, eulaminate), not of any brain. Densities are
numbers of cells in focus per area of section, as an observer would count them, so they already contain the section's
thickness.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Layer:
    """One layer of an area.

    Parameters
    ----------
    name : str
        Roman number, or ``WM`` for the white matter.
    thickness : float
        Share of the cortical thickness; the white matter takes whatever lies below.
    density_mm2 : float
        Cells in focus per mm² of section.
    soma_um2 : float
        Median area of the neurons' profiles, in µm².
    soma_spread : float
        Standard deviation of the logarithm of that area.
    pyramidal, glial : float
        Shares of pyramidal neurons and of glia among the cells; the rest are interneurons.
    tilt_rad : float
        Standard deviation of the apical direction around the pial normal.
    """

    name: str
    thickness: float
    density_mm2: float
    soma_um2: float
    soma_spread: float
    pyramidal: float
    glial: float
    tilt_rad: float


@dataclass(frozen=True)
class Area:
    """A cytoarchitectonic area: its cortical thickness in µm and its layers from the pia downwards."""

    name: str
    thickness_um: float
    layers: tuple[Layer, ...]

    def layer_index(self, depth_um: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return the index of the layer at each depth below the pia; what lies above the pia counts as layer I."""
        lower_rims = np.cumsum([layer.thickness for layer in self.layers[:-1]]) * self.thickness_um
        index: NDArray[np.intp] = np.searchsorted(lower_rims, depth_um, side="right")
        return index


AGRANULAR = Area(
    "phantom-a",
    2600.0,
    (
        Layer("I", 0.07, 420, 70, 0.35, 0.00, 0.70, 0.80),
        Layer("II", 0.10, 1750, 105, 0.40, 0.60, 0.22, 0.30),
        Layer("III", 0.30, 1250, 165, 0.52, 0.56, 0.22, 0.38),
        Layer("V", 0.28, 1150, 215, 0.66, 0.54, 0.24, 0.38),
        Layer("VI", 0.25, 1400, 125, 0.45, 0.52, 0.28, 0.45),
        Layer("WM", 0.00, 620, 60, 0.35, 0.04, 0.86, 0.90),
    ),
)
GRANULAR = Area(
    "phantom-b",
    1900.0,
    (
        Layer("I", 0.10, 450, 60, 0.35, 0.00, 0.70, 0.80),
        Layer("II", 0.11, 2300, 75, 0.35, 0.50, 0.20, 0.35),
        Layer("III", 0.24, 1750, 110, 0.45, 0.54, 0.22, 0.38),
        Layer("IV", 0.21, 3000, 62, 0.30, 0.15, 0.20, 0.50),
        Layer("V", 0.14, 1150, 135, 0.55, 0.52, 0.26, 0.38),
        Layer("VI", 0.20, 1900, 95, 0.42, 0.50, 0.27, 0.45),
        Layer("WM", 0.00, 700, 55, 0.35, 0.04, 0.86, 0.90),
    ),
)
EULAMINATE = Area(
    "phantom-c",
    2400.0,
    (
        Layer("I", 0.08, 430, 65, 0.35, 0.00, 0.70, 0.80),
        Layer("II", 0.10, 2000, 90, 0.38, 0.55, 0.21, 0.30),
        Layer("III", 0.32, 1400, 150, 0.55, 0.56, 0.22, 0.38),
        Layer("IV", 0.10, 2350, 75, 0.33, 0.25, 0.20, 0.45),
        Layer("V", 0.18, 1250, 165, 0.58, 0.54, 0.25, 0.38),
        Layer("VI", 0.22, 1550, 115, 0.45, 0.52, 0.28, 0.45),
        Layer("WM", 0.00, 660, 58, 0.35, 0.04, 0.86, 0.90),
    ),
)
AREAS: dict[str, Area] = {area.name: area for area in (AGRANULAR, GRANULAR, EULAMINATE)}
