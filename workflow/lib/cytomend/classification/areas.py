"""Labelled sections: the areas an anatomist drew in a scan, as patches to learn from. Scan and labels stay on disk."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cytomend.classification.classifiers import resampled
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.regions.geojson import read_features
from cytomend.regions.polygon_mask import PolygonMask, polygon_mask
from cytomend.regions.value_range import value_range
from cytomend.storage.images import SectionImage, is_image, open_image, open_labels
from cytomend.storage.omezarr import attributes_of
from cytomend.table_text import read_table_text
from cytomend.values import ValueRange, to_model

log = logging.getLogger(__name__)

Float = NDArray[np.float32]

TILE_PX = 256
"""Places are drawn from the tiles of this side that show a class."""
TRIES = 48


class AreaMap(Protocol):
    """Where the areas of a section lie; ``tiles`` are those of the absolute grid that show each area, by its name."""

    tiles: dict[str, list[Box]]

    def shares(self, box: Box) -> dict[str, float]:
        """Return which share of a box each area covers; areas that cover nothing may be left out."""
        ...


class PolygonAreas:
    """Areas as polygons, one class of annotations each.

    Parameters
    ----------
    path : GeoJSON as QuPath exports it; every polygon must have a class; cells and other detected objects are no areas
    shape : (height, width) of the section in pixels
    """

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        read = read_features(path)
        features = [feature for feature in read if not feature.is_detection]
        if len(features) < len(read):
            log.warning("%s: %d cells or other detected objects are no areas", path, len(read) - len(features))
        if nameless := [feature.place for feature in features if not feature.class_name]:
            raise InputError(
                f"{path}: {nameless[0]} has no class, expected the name of an area; classify the annotation in QuPath"
            )
        names = sorted({str(feature.class_name) for feature in features})
        self._masks: dict[str, PolygonMask] = {
            name: polygon_mask([(path, feature) for feature in features if feature.class_name == name], shape, [])
            for name in names
        }
        self.tiles = {name: list(mask.candidate_boxes(TILE_PX)) for name, mask in self._masks.items()}

    def shares(self, box: Box) -> dict[str, float]:
        """Return the share of each area."""
        return {name: float(mask.read(box).mean()) for name, mask in self._masks.items()}


class ImageAreas:
    """Areas as the values of a label image of the section's size; values without a name are no area.

    Parameters
    ----------
    path : label image
    names : name of each value
    shape : (height, width) of the section in pixels
    """

    def __init__(self, path: Path, names: dict[int, str], shape: tuple[int, int]) -> None:
        self._labels: SectionImage = open_labels(path)
        if self._labels.shape != shape:
            found, wanted = ("{} x {}".format(*size) for size in (self._labels.shape, shape))
            raise InputError(
                f"{path}: a label image of {found} px (height x width), expected the section's {wanted}; export it at"
                " full resolution"
            )
        self._names = names
        self.tiles: dict[str, list[Box]] = {name: [] for name in names.values()}
        for tile in Box(0, 0, *shape).tiles(TILE_PX):  # one pass; only the tiles are remembered
            for name in self.shares(tile):
                self.tiles[name].append(tile)

    def shares(self, box: Box) -> dict[str, float]:
        """Return the share of each area."""
        values, counts = np.unique(self._labels.read(box), return_counts=True)
        total = box.shape[0] * box.shape[1]
        found = dict.fromkeys((self._names[v] for v in values.tolist() if v in self._names), 0.0)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if value in self._names:
                found[self._names[value]] += count / total
        return found


def read_names(path: Path) -> dict[int, str]:
    """Return the name of each value of a label image.

    Parameters
    ----------
    path : JSON such as ``{"1": "V1"}``, or a TSV with the columns ``value`` and ``name``

    Raises
    ------
    InputError
        If the file is missing or names no values.
    """
    expected = 'expected JSON such as {"1": "V1"}, or a TSV with the columns value and name'
    try:
        text = read_table_text(path, "the table of names")
        if path.suffix.lower() == ".json":
            pairs = list(json.loads(text).items())
        else:
            pairs = [(row["value"], row["name"]) for row in csv.DictReader(text.splitlines(), delimiter="\t")]
        names = {int(value): str(name) for value, name in pairs}
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be used to name label values ({error!r}); {expected}") from error
    if not names or not all(names.values()):
        raise InputError(f"{path}: names no label value, or one with an empty name; {expected}")
    return names


def open_areas(path: Path, names: Path | None, shape: tuple[int, int]) -> AreaMap:
    """Open the areas of a section: GeoJSON, or a label image with a file that names its values.

    Raises
    ------
    InputError
        If they cannot be used, or do not belong to a section of this shape.
    """
    if not is_image(path):
        return PolygonAreas(path, shape)
    if names is None:
        raise InputError(f"{path}: a label image, but `names` is absent; expected a file that names its values")
    return ImageAreas(path, read_names(names), shape)


class LabelledSection:
    """A scan whose areas are known.

    Parameters
    ----------
    image : scan, grey
    areas, names : see `open_areas`
    pixel_size_um : of the scan
    wanted_um : pixel size of the patches
    values : the scanner's values that mean black and white; by default those that mending would find
    weight : how often it is drawn, in proportion

    Raises
    ------
    InputError
        If it cannot be used.
    """

    def __init__(
        self,
        image: Path,
        areas: Path,
        *,
        pixel_size_um: float,
        wanted_um: float,
        names: Path | None = None,
        values: ValueRange | None = None,
        weight: float = 1.0,
    ) -> None:
        self.weight = weight
        self._image = open_image(image)
        if self._image.channels != 1:
            raise InputError(f"{image}: has {self._image.channels} channels, expected a grey scan; convert it to grey")
        if "cytomend" in attributes_of(image):
            raise InputError(
                f"{image}: a mended section; nothing is learned from synthetic pixels; give the scan itself"
            )
        self._areas = open_areas(areas, names, self._image.shape)
        self._factor = pixel_size_um / wanted_um
        self._values = values or value_range(self._image, None)

    @property
    def names(self) -> tuple[str, ...]:
        """The areas that are drawn in it."""
        return tuple(name for name, tiles in self._areas.tiles.items() if tiles)

    def patch(self, rng: np.random.Generator, name: str, side_px: int, share: float) -> Float | None:
        """Return a random patch of an area, resampled to the pixel size wanted; None if none was found.

        A place that two areas claim belongs to neither.
        """
        side = round(side_px / self._factor)
        height, width = self._image.shape
        tiles = self._areas.tiles.get(name, [])
        if not tiles or side > min(height, width):
            return None
        for _ in range(TRIES):
            tile = tiles[rng.integers(len(tiles))]
            centre_y, centre_x = int(rng.integers(tile.y0, tile.y1)), int(rng.integers(tile.x0, tile.x1))
            y = min(max(centre_y - side // 2, 0), height - side)
            x = min(max(centre_x - side // 2, 0), width - side)
            box = Box(y, x, y + side, x + side)
            covered = self._areas.shares(box)
            own = covered.pop(name, 0.0)
            if own >= share and sum(covered.values()) <= 1 - share:
                return self._read(box, side_px)
        return None

    def _read(self, box: Box, side_px: int) -> Float:
        patch = torch.from_numpy(to_model(self._image.read(box), self._values))[None]  # (1, 1, side, side)
        scaled: Float = resampled(patch, side_px / box.shape[0])[0, 0].numpy()
        return scaled
