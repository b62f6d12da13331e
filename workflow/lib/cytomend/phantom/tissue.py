"""Phantom tissue: cell-body-stained cortex with known cells, rendered as light through a stained section.

The picture is ``ground * exp(-optical density)``, and everything that lies in the section adds to the density: cells in
focus, cells out of focus, dendrites, fibres, vessels, texture. All of it follows from one seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cytomend.errors import InputError

from .areas import AREAS, Area
from .bodies import Bodies, paint_bodies, shape_bodies
from .exposure import Stain, draw_dye, draw_stain, expose, grey_dye
from .neuropil import Strokes, add_dendrites, add_fibres, add_vessels
from .population import GLIA, INTERNEURON, Frame, Population, Unevenness, draw_population

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Tissue:
    """A phantom and its cells.

    Parameters
    ----------
    image : (H, W) uint8, or (3, H, W) uint8 of a coloured phantom
        Dark cells on light ground.
    cells : pandas.DataFrame
        The cells in focus whose centre lies in the image: ``y_um``, ``x_um`` (from the image's upper left corner),
        ``area_um2``, ``orientation_rad`` (apical or long axis, from +x towards +y, in (-pi, pi]), ``layer`` and
        ``area`` (categories). Cells out of focus are scenery and not listed.
    bodies : Bodies
        What was drawn of those cells, in the same order.
    """

    image: NDArray[np.uint8]
    cells: pd.DataFrame
    bodies: Bodies

    def contours_px(self, points: int = 64) -> Floats:
        """Return the outlines of the cells in their order: (n, points, 2) of (y, x) from the image's corner, in px."""
        return self.bodies.contours_px(points)


def draw_frame(area: Area, size_um: tuple[float, float], rng: np.random.Generator) -> Frame:
    """Place the image in the cortex, so that it holds as much grey matter and as little beyond the pia as it can."""
    pia_rad = float(rng.uniform(-np.pi, np.pi))
    extent = abs(np.sin(pia_rad)) * size_um[0] + abs(np.cos(pia_rad)) * size_um[1]
    bottom = 1.12 * area.thickness_um
    top_depth = float(rng.uniform(0.02 * area.thickness_um, max(0.03 * area.thickness_um, bottom - extent)))
    curvature = float(rng.normal(0, 4e-5))
    return Frame((size_um[0] / 2, size_um[1] / 2), top_depth + extent / 2, pia_rad, curvature)


def render_tissue(
    size: tuple[int, int], seed: int, *, pixel_size_um: float = 1.0, area: str | None = None, stain: str | None = None
) -> Tissue:
    """Render a phantom of cell-body-stained cortex.

    Parameters
    ----------
    size : (int, int)
        Height and width in pixels.
    seed : int
        Decides everything: place in the cortex, stain, cells, texture.
    pixel_size_um : float
        Side of a pixel in µm.
    area : str, optional
        Name of a cytoarchitectonic area (see `AREAS`); the seed chooses one if absent.
    stain : str, optional
        Name of a stain (see `cytomend.stains.STAINS`), for an RGB scan; by default silver on a grey scan. The cells
        are the same in every stain.

    Returns
    -------
    Tissue
        Image and cells.

    Raises
    ------
    InputError
        If there is no such area or stain.
    """
    layout, planes, texture = (np.random.default_rng([seed, stream]) for stream in range(3))
    table = choose_area(area, layout)
    size_um = (size[0] * pixel_size_um, size[1] * pixel_size_um)
    frame, look = draw_frame(table, size_um, layout), draw_stain(layout)
    dye = draw_dye(stain, look, np.random.default_rng([seed, 3])) if stain else grey_dye(look)
    unevenness = Unevenness.draw(layout, contrast=0.36)
    focal = draw_population(table, frame, unevenness, size_um, planes, crowding=1.02)
    hazy = draw_population(table, frame, unevenness, size_um, planes, crowding=1.9 * look.haze)
    density, grainy, bodies = _stain_cells(size, focal, hazy, look, planes, pixel_size_um)
    density += _stain_strokes(size, focal, frame, look, planes, pixel_size_um)
    density += _pale_clefts(size, planes, pixel_size_um)
    image = expose(density, grainy, look, dye, texture)
    inside = _inside(focal, size_um)
    return Tissue(image if stain else image[0], _tabulate(focal.take(inside), table), bodies.take(inside))


def choose_area(name: str | None, rng: np.random.Generator) -> Area:
    """Return the area of this name, or one by chance; the first thing that is drawn for a phantom."""
    if name is None:
        return AREAS[sorted(AREAS)[int(rng.integers(len(AREAS)))]]
    if name not in AREAS:
        raise InputError(f"area {name!r}: expected one of {', '.join(sorted(AREAS))}")
    return AREAS[name]


def _stain_cells(
    size: tuple[int, int],
    focal: Population,
    hazy: Population,
    stain: Stain,
    rng: np.random.Generator,
    pixel_size_um: float,
) -> tuple[Floats, Floats, Bodies]:
    """Return the optical density of all cells, its grainy part, and the bodies of the cells in focus."""
    sharp_um = (0.3 + rng.gamma(1.1, 0.3, len(focal))).astype(np.float32)
    dark = (
        stain.strength
        * (rng.uniform(1.0, 3.6, len(focal)) + focal.area_um2 / 400)
        * np.where(focal.kind == GLIA, 0.75, 1.0)
    )
    soft_um = (0.9 + rng.gamma(2.0, 0.8, len(hazy))).astype(np.float32)
    faint = stain.strength * (0.15 + rng.gamma(1.4, 0.62, len(hazy))) / (0.6 + 0.3 * soft_um)
    smooth, grainy = np.zeros(size, np.float32), np.zeros(size, np.float32)
    drawn = []
    # Out of focus, a body and its dendrites run into one streak along the axis.
    for cells, edge_um, od, stretch in ((focal, sharp_um, dark, 1.0), (hazy, soft_um, faint, 1.7)):
        bodies = shape_bodies(
            cells,
            rng,
            pixel_size_um=pixel_size_um,
            defocus_um=edge_um,
            density=od.astype(np.float32),
            stretch=stretch,
        )
        drawn.append(bodies)
        painted = paint_bodies(size, bodies)
        smooth += painted[0]
        grainy += painted[1]
    return smooth, grainy, drawn[0]


def _pale_clefts(size: tuple[int, int], rng: np.random.Generator, pixel_size_um: float) -> Floats:
    """Return the (negative) density of small clefts around cells and vessels, where light passes unhindered."""
    n = rng.poisson(70 * size[0] * size[1] * pixel_size_um**2 * 1e-6)
    shape = (size[0] * pixel_size_um, size[1] * pixel_size_um)
    clefts = Population(
        (rng.random(n) * shape[0]).astype(np.float32),
        (rng.random(n) * shape[1]).astype(np.float32),
        (28 * np.exp(rng.normal(0, 0.6, n))).astype(np.float32),
        rng.uniform(-np.pi, np.pi, n).astype(np.float32),
        np.zeros(n, np.intp),
        np.full(n, INTERNEURON, np.intp),
    )
    depth = -rng.gamma(2.0, 0.09, n).astype(np.float32)
    edge_um = rng.uniform(0.5, 1.2, n).astype(np.float32)
    bodies = shape_bodies(clefts, rng, pixel_size_um=pixel_size_um, defocus_um=edge_um, density=depth)
    return paint_bodies(size, bodies)[0]


def _stain_strokes(
    size: tuple[int, int],
    focal: Population,
    frame: Frame,
    stain: Stain,
    rng: np.random.Generator,
    pixel_size_um: float,
) -> Floats:
    """Return the optical density of dendrites, fibres and vessels; the vessels' light lumen is negative."""
    strokes = Strokes(size)
    add_dendrites(strokes, focal, stain, rng, pixel_size_um)
    add_fibres(strokes, frame, stain, rng, pixel_size_um)
    add_vessels(strokes, rng, pixel_size_um)
    return strokes.paint()


def _inside(focal: Population, size_um: tuple[float, float]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (
        (focal.y_um >= 0) & (focal.x_um >= 0) & (focal.y_um < size_um[0]) & (focal.x_um < size_um[1])
    )
    return inside


def _tabulate(seen: Population, area: Area) -> pd.DataFrame:
    """List the cells."""
    names = [layer.name for layer in area.layers]
    return pd.DataFrame(
        {
            "y_um": seen.y_um,
            "x_um": seen.x_um,
            "area_um2": seen.area_um2,
            "orientation_rad": seen.orientation_rad,
            "layer": pd.Categorical([names[i] for i in seen.layer], categories=names),
            "area": pd.Categorical([area.name] * len(seen), categories=[area.name]),
        }
    )
