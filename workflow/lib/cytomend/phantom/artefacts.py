"""Damage with a known mask: what tears, folds, holes, precipitate and scratches do to a picture of tissue.

Each kind has an outline (see `outlines`) and a way to alter grey values under it, faded in over a few pixels. The
annotated polygon is the outline grown beyond that fade, so that outside the mask no pixel is altered.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.transform import Affine
from scipy.ndimage import gaussian_filter
from shapely.geometry.base import BaseGeometry

from cytomend.geometry import Box

from . import outlines
from .exposure import coloured_noise

Floats = NDArray[np.float32]
Outline = Callable[[tuple[int, int], float, np.random.Generator], BaseGeometry]
Alteration = Callable[[Floats, Floats, np.random.Generator], Floats]

# A fade of standard deviation s is cut off at FADE_REACH * s; MARGIN_PX more are annotated, as a careful hand would.
FADE_REACH = 3.0
MARGIN_PX = 2.0
COORDINATE_GRID_PX = 0.01
GLASS = 246.0
# Below this side a phantom is a patch and gets one or two artefacts; above, one of each kind and more.
PATCH_PX = 400
ARTEFACTS_PER_MM2 = 1.0
ATTEMPTS = 8
CLEARANCE_PX = 25.0


@dataclass(frozen=True)
class ArtefactKind:
    """One kind of damage.

    Parameters
    ----------
    name : str
        Class of the annotation in QuPath.
    colour : (int, int, int)
        Its colour there.
    outline : callable
        Draws where it lies.
    alter : callable
        Takes grey values (h, w), cover (h, w) in [0, 1] and randomness, and returns grey values; where the cover is
        zero they stay as they are.
    fade_px : float
        Standard deviation of the fade at its rim.
    """

    name: str
    colour: tuple[int, int, int]
    outline: Outline
    alter: Alteration
    fade_px: float


@dataclass(frozen=True)
class Damage:
    """A damaged picture.

    Parameters
    ----------
    image : (H, W) or (3, H, W) uint8
        Equal to the intact picture outside the mask.
    mask : (H, W) bool
        The pixels whose centre lies in an annotated polygon.
    features : list of dict
        The polygons as GeoJSON features, in the manner of QuPath.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    features: list[dict[str, Any]]


def damage(image: NDArray[np.uint8], seed: int, *, pixel_size_um: float = 1.0) -> Damage:
    """Damage a picture of tissue.

    Parameters
    ----------
    image : (H, W) or (3, H, W) uint8
        Intact tissue, dark on light; it is not changed.
    seed : int
        Decides kinds, outlines and looks.
    pixel_size_um : float
        Side of a pixel in µm.
    """
    rng = np.random.default_rng([seed, 101])
    shape = (image.shape[-2], image.shape[-1])
    frame = shapely.box(0, 0, shape[1], shape[0])
    damaged = image.copy()
    planes = damaged.reshape(-1, *shape)  # a view: what is done to it is done to the picture
    features: list[dict[str, Any]] = []
    taken: BaseGeometry = shapely.Polygon()
    for kind in _draw_kinds(shape, pixel_size_um, rng):
        core = _find_place(kind, taken, shape, pixel_size_um, rng)
        outline = _annotate(core, kind, frame)
        if outline.is_empty:
            continue
        taken = shapely.union(taken, outline)
        box = _pixel_box(outline, shape)
        patch = planes[:, *box.slices]
        cover = gaussian_filter(fill([core], box).astype(np.float32), kind.fade_px, truncate=FADE_REACH)
        altered = _alter(kind, patch, cover, rng).round().clip(0, 255).astype(np.uint8)
        planes[:, *box.slices] = np.where(fill([outline], box), altered, patch)
        features.append(_feature(outline, kind, len(features) + 1, rng))
    # The mask is drawn from the features as they will be read, so that the two can never disagree.
    mask = fill([shapely.from_geojson(json.dumps(feature["geometry"])) for feature in features], Box(0, 0, *shape))
    return Damage(damaged, mask, features)


def _alter(kind: ArtefactKind, patch: NDArray[np.uint8], cover: Floats, rng: np.random.Generator) -> Floats:
    """Alter the channels of a patch (C, h, w), all by the same chance."""
    *before, last = patch.astype(np.float32)
    altered = [kind.alter(plane, cover, copy.deepcopy(rng)) for plane in before]
    return np.stack([*altered, kind.alter(last, cover, rng)])


def fill(areas: list[BaseGeometry], box: Box) -> NDArray[np.bool_]:
    """Return which pixel centres of a box lie inside any of the areas, (h, w)."""
    shapes = [area for area in areas if not area.is_empty]
    if not shapes:
        return np.zeros(box.shape, bool)
    to_section = Affine.translation(box.x0, box.y0)
    return np.asarray(rasterize(shapes, out_shape=box.shape, transform=to_section, dtype="uint8"), dtype=bool)


def _draw_kinds(shape: tuple[int, int], pixel_size_um: float, rng: np.random.Generator) -> list[ArtefactKind]:
    if min(shape) < PATCH_PX:
        return [KINDS[i] for i in rng.choice(len(KINDS), size=int(rng.integers(1, 3)), replace=False)]
    more = rng.poisson(ARTEFACTS_PER_MM2 * shape[0] * shape[1] * pixel_size_um**2 * 1e-6)
    return [*KINDS, *(KINDS[i] for i in rng.integers(len(KINDS), size=more))]


def _find_place(
    kind: ArtefactKind, taken: BaseGeometry, shape: tuple[int, int], pixel_size_um: float, rng: np.random.Generator
) -> BaseGeometry:
    """Draw an outline, cut at the image, that keeps clear of earlier damage if a few attempts find one."""
    frame = shapely.box(0, 0, shape[1], shape[0])
    for _ in range(ATTEMPTS):
        core = shapely.intersection(kind.outline(shape, pixel_size_um, rng), frame)
        if not shapely.dwithin(core, taken, CLEARANCE_PX):
            break
    return core


def _annotate(core: BaseGeometry, kind: ArtefactKind, frame: BaseGeometry) -> BaseGeometry:
    """Grow an outline beyond everything it alters, cut it at the image, and round it as it will be written."""
    grown = shapely.intersection(shapely.buffer(core, FADE_REACH * kind.fade_px + MARGIN_PX, quad_segs=4), frame)
    return shapely.set_precision(grown.simplify(0.25), COORDINATE_GRID_PX)


def _pixel_box(area: BaseGeometry, shape: tuple[int, int]) -> Box:
    x0, y0, x1, y1 = area.bounds
    return Box(int(np.floor(y0)), int(np.floor(x0)), int(np.ceil(y1)), int(np.ceil(x1))).clip(shape)


def _feature(area: BaseGeometry, kind: ArtefactKind, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """Write an annotation as QuPath exports it."""
    return {
        "type": "Feature",
        "id": str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        "geometry": json.loads(shapely.to_geojson(area)),
        "properties": {
            "objectType": "annotation",
            "name": f"{kind.name} {number}",
            "classification": {"name": kind.name, "color": list(kind.colour)},
        },
    }


def _open_to_glass(grey: Floats, cover: Floats, rng: np.random.Generator) -> Floats:
    """Show the glass where tissue is gone; its torn rim is a little darker."""
    glass = GLASS + coloured_noise(_shape(grey), (0.6, 15.0), (2.0, 2.0), rng)
    frayed = coloured_noise(_shape(grey), (1.2,), (0.5,), rng).clip(-0.8, 1.5)
    lips = np.exp(-0.4 * _rim(cover) * (1 + frayed))
    return np.asarray((grey + cover * (glass - grey)) * lips, np.float32)


def _double(grey: Floats, cover: Floats, rng: np.random.Generator) -> Floats:
    """Lay the tissue over itself, turned round: densities add up, and the pile is out of focus."""
    ground = max(float(np.percentile(grey, 90)), 1.0)
    upper = (grey[::-1, ::-1] / ground).clip(0.02, 1.2)
    thicker = float(rng.uniform(0.1, 0.4))
    pile = grey * upper**cover * np.exp(-thicker * cover - 0.35 * _rim(cover))
    return np.asarray(cover * gaussian_filter(pile, 1.0) + (1 - cover) * pile, np.float32)


def _blacken(grey: Floats, cover: Floats, rng: np.random.Generator) -> Floats:
    """Cover the tissue with opaque grains."""
    density = 3.0 + coloured_noise(_shape(grey), (1.0,), (0.5,), rng)
    return np.asarray((grey - 4) * np.exp(-cover * density.clip(1, 5)) + 4, np.float32)


def _scrape(grey: Floats, cover: Floats, rng: np.random.Generator) -> Floats:
    """Take off part of the stain along the line, more here, less there, and pile it up at its sides."""
    depth = (0.75 + coloured_noise(_shape(grey), (2.0, 25.0), (0.15, 0.2), rng)).clip(0.3, 1)
    return np.asarray((grey + cover * depth * (GLASS - 8 - grey)) * np.exp(-0.3 * _rim(cover)), np.float32)


def _rim(cover: Floats) -> Floats:
    """Return one in the middle of the fade, zero on both of its sides."""
    return 4 * cover * (1 - cover)


def _shape(grey: Floats) -> tuple[int, int]:
    return grey.shape[0], grey.shape[1]


KINDS: tuple[ArtefactKind, ...] = (
    ArtefactKind("Tear", (200, 40, 40), outlines.tear, _open_to_glass, 1.1),
    ArtefactKind("Fold", (240, 150, 30), outlines.fold, _double, 2.2),
    ArtefactKind("Missing tissue", (60, 120, 220), outlines.missing_tissue, _open_to_glass, 1.4),
    ArtefactKind("Precipitate", (120, 60, 160), outlines.precipitate, _blacken, 0.6),
    ArtefactKind("Scratch", (40, 170, 120), outlines.scratch, _scrape, 0.8),
)
