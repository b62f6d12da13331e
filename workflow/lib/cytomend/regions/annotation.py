"""Artefact masks, whatever they were drawn with: `open_mask`, and `GrownMask` for a margin around the damage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.regions.classes import TISSUE_CLASSES, Classes
from cytomend.regions.geojson import GZIP_MAGIC, Feature, read_features
from cytomend.regions.image_mask import read_image_mask
from cytomend.regions.imagej_roi import is_imagej_roi, read_rois
from cytomend.regions.polygon_mask import PolygonMask, polygon_mask
from cytomend.storage.images import is_image
from cytomend.storage.raster import require_inside


class Masked(Protocol):
    """Pixels of a section that are not to be used."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the section in pixels."""
        ...

    def read(self, box: Box) -> NDArray[np.bool_]:
        """Return the mask of a box inside the section, (h, w)."""
        ...


class ArtefactMask(Masked, Protocol):
    """Which pixels of a section are declared unusable.

    Attributes
    ----------
    shape : (height, width)
        Size of the section in pixels.
    warnings : list of str
        Sentences about what was repaired, clipped or skipped.
    """

    shape: tuple[int, int]
    warnings: list[str]

    def candidate_boxes(self, tile_px: int, margin_px: int = 0) -> Iterator[Box]:
        """Yield, row by row, the tiles of the absolute grid that may be within a margin of damage, clipped."""
        ...

    def read(self, box: Box) -> NDArray[np.bool_]:
        """Return the mask of a box inside the section, (h, w); ValueError for any other box."""
        ...


def open_mask(
    annotations: Path | Sequence[Path],
    shape: tuple[int, int],
    *,
    include_classes: Sequence[str] | None = None,
    exclude_classes: Sequence[str] = (),
    tissue_classes: Sequence[str] = TISSUE_CLASSES,
) -> ArtefactMask:
    """Open the annotations of a section, united.

    Parameters
    ----------
    annotations : path or sequence of paths
        GeoJSON as QuPath exports it, gzipped or not; outlines of ImageJ (.roi, or .zip of them); mask images (TIFF,
        PNG, OME-Zarr) of the section's size or reduced by a whole factor, in which every nonzero pixel is damage.
    shape : (height, width)
        Size of the section in pixels.
    include_classes, exclude_classes, tissue_classes : sequence of str
        What the classes of outlined objects mean; see `cytomend.regions.classes.Classes`.

    Returns
    -------
    ArtefactMask
        Read its `warnings`: points and lines are skipped, crossing outlines repaired, overhanging ones clipped.

    Raises
    ------
    InputError
        An annotation cannot be used, or does not belong to this section.
    """
    paths = [annotations] if isinstance(annotations, Path) else list(annotations)
    classes, warnings = Classes(include_classes, exclude_classes, tissue_classes), list[str]()
    images = [path for path in paths if is_image(path)]
    outlined = [(path, feature) for path in paths if path not in images for feature in _features(path, warnings)]
    masks: list[ArtefactMask] = []
    if len(images) < len(paths):
        masks.append(damage := polygon_mask(classes.damage(outlined, warnings), shape, warnings))
    for path in images:
        ignored = f"{path}: a mask image has no classes; all its nonzero pixels are taken as damage"
        masks.append(read_image_mask(path, shape, [] if include_classes is None else [ignored]))
    outlines = polygon_mask(classes.outlines(outlined), shape, warnings)
    mask = masks[0] if len(masks) == 1 else UnitedMask(masks)
    if not len(outlines):
        return mask
    tissue = outlines.filled()
    if outside := damage.mostly_outside(tissue):
        mask.warnings.append(
            f"{', '.join(map(str, paths))}: {outside} of {len(damage)} outlines of damage lie mostly outside of the"
            f" tissue (class {', '.join(tissue_classes)}); what lies there is left as scanned"
        )
    return WithinTissue(mask, tissue)


def not_intact(mask: ArtefactMask) -> ArtefactMask:
    """Return a mask of `open_mask` as what is no intact tissue, not to be measured or learned from.

    That is damage wherever it lies, and where tissue is outlined, all that lies outside: pen marks, glass, the tissue
    of another section.
    """
    return OutsideTissueToo(mask.declared, mask.tissue, mask.warnings) if isinstance(mask, WithinTissue) else mask


def _features(path: Path, warnings: list[str]) -> list[Feature]:
    if is_imagej_roi(path):
        return read_rois(path, warnings)
    if _looks_like_geojson(path):
        return read_features(path)
    raise InputError(
        f"{path}: expected an annotation as GeoJSON, ImageJ outlines, TIFF, PNG or OME-Zarr, found another kind of"
        " file; export it as one of these"
    )


class UnitedMask:
    """Several masks of one section: a pixel is damaged if any of them says so."""

    def __init__(self, masks: Sequence[ArtefactMask]) -> None:
        self.shape = masks[0].shape
        self.warnings = [warning for mask in masks for warning in mask.warnings]
        self._masks = masks

    def candidate_boxes(self, tile_px: int, margin_px: int = 0) -> Iterator[Box]:
        """Yield the tiles that may be within a margin of damage in any of the masks, row by row."""
        found = {(box.y0, box.x0): box for mask in self._masks for box in mask.candidate_boxes(tile_px, margin_px)}
        return (found[place] for place in sorted(found))

    def read(self, box: Box) -> NDArray[np.bool_]:
        """Return the mask of a box, (h, w)."""
        united = np.zeros(box.shape, np.bool_)
        for mask in self._masks:
            united |= mask.read(box)
        return united


class WithinTissue:
    """A mask that counts inside the outlines of tissue only: what lies on the glass is not to be mended.

    Holes of the outlines count as inside, since tissue that was found by its darkness has one at every tear.
    """

    def __init__(self, mask: ArtefactMask, tissue: PolygonMask) -> None:
        self.shape, self.warnings = mask.shape, mask.warnings
        self.declared, self.tissue = mask, tissue

    def candidate_boxes(self, tile_px: int, margin_px: int = 0) -> Iterator[Box]:
        """Yield the tiles that may be within a margin of damage, row by row."""
        return self.declared.candidate_boxes(tile_px, margin_px)

    def read(self, box: Box) -> NDArray[np.bool_]:
        """Return the mask of a box, (h, w)."""
        damaged = self.declared.read(box)
        return damaged & self.tissue.read(box) if damaged.any() else damaged


class OutsideTissueToo:
    """A mask, and all that lies outside of the outlines of tissue: what is no intact tissue."""

    def __init__(self, mask: Masked, tissue: Masked, warnings: list[str]) -> None:
        self.shape, self.warnings = mask.shape, warnings
        self._mask, self._tissue = mask, tissue

    def candidate_boxes(self, tile_px: int, margin_px: int = 0) -> Iterator[Box]:  # noqa: ARG002 - as the others
        """Yield all tiles, row by row."""
        return Box(0, 0, *self.shape).tiles(tile_px)

    def read(self, box: Box) -> NDArray[np.bool_]:
        """Return the mask of a box, (h, w)."""
        return self._mask.read(box) | ~self._tissue.read(box)


class GrownMask:
    """A mask with a margin: every pixel whose centre lies within ``grow_px`` of the centre of a damaged one.

    Parameters
    ----------
    mask : ArtefactMask
        What was declared.
    grow_px : int
        Radius of the Euclidean disk, in pixels; 0 changes nothing.
    """

    def __init__(self, mask: ArtefactMask, grow_px: int) -> None:
        if grow_px < 0:
            raise ValueError(f"grow_px must not be negative, found {grow_px}")
        self.shape = mask.shape
        self.warnings = mask.warnings
        self._mask = mask
        self._grow_px = grow_px

    def candidate_boxes(self, tile_px: int, margin_px: int = 0) -> Iterator[Box]:
        """Yield the tiles that may hold grown damage, or be within a margin of it, row by row."""
        return self._mask.candidate_boxes(tile_px, self._grow_px + margin_px)

    def read(self, box: Box) -> NDArray[np.bool_]:
        """Return the grown mask of a box, (h, w); damage outside the box reaches in as far as it should."""
        require_inside(box, self.shape)
        around = box.grow(self._grow_px).clip(self.shape)
        damaged = self._mask.read(around)
        if self._grow_px > 0 and damaged.any():
            reach = extent(damaged).grow(self._grow_px).clip(damaged.shape).slices
            damaged[reach] = _within(damaged[reach], self._grow_px)
        return damaged[box.relative_to(around).slices]


def extent(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box around the pixels of a mask that has some."""
    (y,), (x,) = np.nonzero(mask.any(axis=1)), np.nonzero(mask.any(axis=0))
    return Box(int(y[0]), int(x[0]), int(y[-1]) + 1, int(x[-1]) + 1)


def _within(mask: NDArray[np.bool_], radius_px: int) -> NDArray[np.bool_]:
    """Return the pixels whose centre lies within a radius of the centre of a pixel of the mask, (h, w).

    The disk is put together of rows: what is as wide as its row ``up`` is shifted by ``up``, narrow rows first.
    """
    height = len(mask)
    near, wide, half = mask.copy(), mask.copy(), 0
    for up in range(min(radius_px, height - 1), -1, -1):
        while half < isqrt(radius_px**2 - up**2):
            half += 1
            wide[:, half:] |= mask[:, :-half]
            wide[:, :-half] |= mask[:, half:]
        near[up:] |= wide[: height - up]
        near[: height - up] |= wide[up:]
    return near


def _looks_like_geojson(path: Path) -> bool:
    """Whether a name or a beginning promises JSON, so that a damaged file is called by its right name."""
    if any(suffix.lower() in (".json", ".geojson", ".gz") for suffix in path.suffixes):
        return True
    with path.open("rb") as file:
        head = file.read(64)
    return head.startswith(GZIP_MAGIC) or head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
