"""What a segmenter learns from: pictures with the contours of their cells, and random views of them.

A view is a square of a picture, turned, mirrored, scaled and seen through another microscope: sharper or softer, with
more or less contrast, light and noise. It depends on the seed, the step and its place in the batch alone.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon as fill_polygon
from skimage.transform import resize

from cytomend.errors import InputError
from cytomend.phantom import render_tissue
from cytomend.segmentation.luminance import LUMINANCE
from cytomend.segmentation.polygons import Points, clipped
from cytomend.segmentation.table import label_contours
from cytomend.values import to_model

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

FRAME_PX = 24
"""The rim of a phantom that no view shows: cells beyond its edge reach into it and are not listed."""
CACHED = 2000


@dataclass(frozen=True, slots=True)
class Picture:
    """``values`` (Y, X) float32 in [-1, 1], dark cells on light ground; contours (points, 2) of (y, x) in px."""

    values: Floats
    contours: tuple[Points, ...]


class Pictures(Protocol):
    """A numbered set of pictures."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Picture: ...


class Phantoms:
    """Phantom tissue of consecutive seeds, rendered when first asked for."""

    def __init__(self, count: int, size_px: int, seed: int, pixel_size_um: float = 1.0) -> None:
        self.count, self.size_px, self.seed, self.pixel_size_um = count, size_px, seed, pixel_size_um
        self._render = lru_cache(CACHED)(self._rendered)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Picture:
        return self._render(index)

    def _rendered(self, index: int) -> Picture:
        side = self.size_px + 2 * FRAME_PX
        tissue = render_tissue((side, side), self.seed + index, pixel_size_um=self.pixel_size_um)
        inner = slice(FRAME_PX, -FRAME_PX)
        return framed(tissue.image[inner, inner], tissue.contours_px() - np.float32(FRAME_PX))


def framed(image: NDArray[np.uint8], contours: Sequence[Points] | Floats) -> Picture:
    """Return an 8-bit image as a picture, with what it shows of its cells."""
    seen = [clipped(contour, (image.shape[0], image.shape[1])) for contour in contours]
    return Picture(to_model(image, (0.0, 255.0)), tuple(contour for contour in seen if len(contour) > 2))


class Labelled:
    """Images with instance labels: a folder with ``index.csv``, ``images/ID.png`` and ``labels/ID.png``.

    ``index.csv`` has the columns ``id`` and ``median_equivalent_diameter_px``, by which each image is scaled so that
    its cells are ``cell_px`` across. Every third image, in the order of the ids, is held out.
    """

    def __init__(self, folder: Path, cell_px: float, *, held_out: bool) -> None:
        rows = sorted(_index(folder), key=lambda row: row["id"])
        self.folder, self.cell_px = folder, cell_px
        self.rows = [row for i, row in enumerate(rows) if (i % 3 == 0) == held_out]
        self._read = lru_cache(CACHED)(self._scaled)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Picture:
        return self._read(index)

    def _scaled(self, index: int) -> Picture:
        row = self.rows[index]
        try:
            colour = np.asarray(Image.open(self.folder / "images" / f"{row['id']}.png").convert("RGB"), np.float32)
            labels = np.asarray(Image.open(self.folder / "labels" / f"{row['id']}.png"), np.int64)
        except OSError as error:
            raise InputError(f"{self.folder}: image and labels of {row['id']} cannot be read ({error})") from error
        grey = dark_on_light(colour @ np.array(LUMINANCE, np.float32), labels > 0)
        scale = self.cell_px / float(row["median_equivalent_diameter_px"])
        shape = tuple(round(side * scale) for side in grey.shape)
        small = resize(grey, shape, order=1, anti_aliasing=scale < 1)  # type: ignore[no-untyped-call]
        factor = np.divide(small.shape, grey.shape)
        present = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
        return Picture(
            np.asarray(small, np.float32),
            tuple(np.asarray(contour * factor, np.float32) for contour in label_contours(present)),
        )


def _index(folder: Path) -> list[dict[str, str]]:
    try:
        with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{folder}: expected labelled images with an index.csv ({error.strerror})") from error


def dark_on_light(grey: Floats, cells: NDArray[np.bool_]) -> Floats:
    """Return grey values in [-1, 1], cells darker than ground, as dark and light as in a cell-body stain."""
    if cells.any() and grey[cells].mean() > grey[~cells].mean():
        grey = -grey
    low, high = np.percentile(grey, [1, 95])
    scaled = (grey - low) / max(high - low, 1e-6)  # 0 the darkest bodies, 1 the ground
    return np.asarray(np.clip(scaled * 1.35 - 0.85, -1, 1), np.float32)


@dataclass(frozen=True, slots=True)
class View:
    """``values`` (S, S) in [-1, 1]; ``seen`` (S, S), False beyond the picture's rim; contours as in `Picture`."""

    values: Floats
    seen: NDArray[np.bool_]
    contours: tuple[Points, ...]


def draw_view(picture: Picture, side_px: int, rng: np.random.Generator) -> View:
    """Return a random square of a picture through another microscope."""
    view = _turned(_square(picture, side_px, rng), rng)
    return View(rephotographed(view.values, rng), view.seen, view.contours)


def _square(picture: Picture, side_px: int, rng: np.random.Generator) -> View:
    """Return a random square; half of them turned by any angle and scaled by up to a quarter."""
    shape = np.array(picture.values.shape)
    any_angle = rng.random() < 0.5
    angle = rng.uniform(-np.pi, np.pi) if any_angle else 0.0
    scale = np.exp(rng.uniform(-0.22, 0.22)) if any_angle else 1.0
    room = np.maximum(shape - side_px, 0)
    centre = np.floor(rng.random(2) * (room + 1)) + np.minimum(shape, side_px) / 2
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    turn = np.array([[cos, -sin], [sin, cos]])  # from the view to the picture
    middle = np.full(2, side_px / 2)
    if any_angle:
        offset = centre - turn @ (middle - 0.5) - 0.5
        values = ndimage.affine_transform(
            picture.values, turn, offset, (side_px, side_px), order=1, mode="constant", cval=np.nan
        )
    else:
        corner = np.rint(centre - middle).astype(int)
        centre = corner + middle
        values = np.full((side_px, side_px), np.nan, np.float32)
        low, high = np.maximum(corner, 0), np.minimum(corner + side_px, shape)
        to = tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))
        values[to] = picture.values[low[0] : high[0], low[1] : high[1]]
    seen = np.isfinite(values)
    back = np.linalg.inv(turn)
    moved = [(np.asarray(contour, np.float64) - centre) @ back.T + middle for contour in picture.contours]
    visible = [clipped(contour, (side_px, side_px)) for contour in moved if _meets(contour, side_px)]
    ground = np.float32(np.median(picture.values))
    return View(np.where(seen, values, ground).astype(np.float32), seen, tuple(c for c in visible if len(c) > 2))


def _meets(contour: Points, side_px: int) -> bool:
    return bool((contour.max(axis=0) > 0).all() and (contour.min(axis=0) < side_px).all())


def _turned(view: View, rng: np.random.Generator) -> View:
    """Return the view in one of its eight positions."""
    side = len(view.values)
    values, seen, contours = view.values, view.seen, view.contours
    if rng.random() < 0.5:
        values, seen = values[::-1], seen[::-1]
        contours = tuple(np.stack([side - c[:, 0], c[:, 1]], axis=1) for c in contours)
    if rng.random() < 0.5:
        values, seen = values[:, ::-1], seen[:, ::-1]
        contours = tuple(np.stack([c[:, 0], side - c[:, 1]], axis=1) for c in contours)
    if rng.random() < 0.5:
        values, seen = values.T, seen.T
        contours = tuple(c[:, ::-1] for c in contours)
    return View(np.ascontiguousarray(values), np.ascontiguousarray(seen), contours)


def rephotographed(values: Floats, rng: np.random.Generator) -> Floats:
    """Return the picture as another stain, lamp, focus and sensor would give it."""
    out: NDArray[np.floating[Any]] = values
    if rng.random() < 0.5:
        out = ndimage.gaussian_filter(out, rng.uniform(0.2, 1.6))
    if rng.random() < 0.6:
        out = gamma(out, float(np.exp(rng.normal(0, 0.3))))
    if rng.random() < 0.7:
        out = (out - 0.4) * rng.uniform(0.45, 1.25) + 0.4 + rng.normal(0, 0.15)
    if rng.random() < 0.3:
        slope = rng.normal(0, 0.15, 2)
        y, x = np.linspace(-1, 1, out.shape[0]), np.linspace(-1, 1, out.shape[1])
        out = out + (slope[0] * y[:, None] + slope[1] * x)
    if rng.random() < 0.5:
        out = out + rng.normal(0, rng.uniform(0, 0.16), out.shape)
    return np.asarray(np.clip(out, -1, 1), np.float32)


def gamma(values: Floats, exponent: float) -> Floats:
    """Return values in [-1, 1] under a gamma curve."""
    return np.asarray(2 * ((np.clip(values, -1, 1) + 1) / 2) ** exponent - 1, np.float32)


def label_image(contours: Sequence[Points], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return the picture (Y, X) of numbers 1..n of the contours that hold each pixel's centre; small cells on top."""
    labels = np.zeros(shape, np.int64)
    spans = [float(np.prod(np.ptp(contour, axis=0))) for contour in contours]
    for i in np.argsort(spans)[::-1]:
        rows, columns = fill_polygon(contours[i][:, 0] - 0.5, contours[i][:, 1] - 0.5, shape)  # type: ignore[no-untyped-call]
        labels[rows, columns] = i + 1
    return labels
