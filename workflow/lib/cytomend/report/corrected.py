"""The corrected section as a report reads it: pyramids of pixels, region numbers, uncertainty, and their origin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.grafts.record import DRAWN, ORIGIN, read_grafts
from cytomend.heat import UNCERTAINTY
from cytomend.regions.plan import SectionFacts
from cytomend.report.palette import origin_colours


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """How far the samples of each mended pixel differ.

    Attributes
    ----------
    levels : (H, W), standard deviation in grey values, 0 where nothing was mended; each level half the one before
    samples : how often each region was mended
    mean : over all mended pixels, in grey values
    regions : mean over the pixels of each region, by its number
    full_scale : deviation at the upper end of the colours
    """

    levels: tuple[zarr.Array[Any], ...]
    samples: int
    mean: float
    regions: dict[int, float]
    full_scale: float


@dataclass(frozen=True, slots=True)
class Origin:
    """Which mended pixels were drawn and which were copied; see `cytomend.grafts.record`.

    Attributes
    ----------
    levels : (H, W) uint32: 0 as scanned, 1 drawn, 2 + row copied; each level half the one before
    grafts : the table, a row a graft
    colours : (2 + rows, 3), of each value
    """

    levels: tuple[zarr.Array[Any], ...]
    grafts: pd.DataFrame
    colours: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class CorrectedSection:
    """An opened corrected section.

    Attributes
    ----------
    levels : of pixels, (H, W) or (C, H, W), each half the one before
    labels : of region numbers, (H, W) uint32, at the same levels
    provenance : what `cytomend.stages.blend_section` wrote down
    uncertainty : None where every region was mended once
    origin : None where the network drew every mended pixel
    """

    levels: tuple[zarr.Array[Any], ...]
    labels: tuple[zarr.Array[Any], ...]
    provenance: dict[str, Any]
    uncertainty: Uncertainty | None = None
    origin: Origin | None = None

    @classmethod
    def open(cls, path: Path, facts: SectionFacts) -> CorrectedSection:
        """Open the corrected section that was made by a plan.

        Raises
        ------
        InputError
            If it is no corrected section, or belongs to another plan.
        """
        try:
            group = zarr.open_group(path, mode="r")
            record: dict[str, Any] = group.attrs.asdict()
            provenance = record["cytomend"]
            levels, labels = _levels(group), _levels(zarr.open_group(path / "labels" / "mended", mode="r"))
            mask, shape = provenance["mask_blake2b"], levels[0].shape[-2:]
            uncertainty = _uncertainty(path / "labels" / UNCERTAINTY) if facts.samples > 1 else None
            origin = _origin(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: expected a corrected section written by `cytomend blend-section` ({error!r}); write it again"
            ) from error
        if mask != facts.mask_blake2b or shape != facts.shape or len(levels) != len(labels):
            raise InputError(
                f"{path}: expected the section mended by this plan ({facts.shape} px, mask {facts.mask_blake2b}), "
                f"found {shape} px, mask {mask}; run `cytomend blend-section` again"
            )
        return cls(levels, labels, provenance, uncertainty, origin)

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """Return (C, h, w) pixels of a box of a level."""
        pixels = np.asarray(self.levels[level][(..., *box.slices)])
        return pixels if pixels.ndim == 3 else pixels[np.newaxis]

    def read_labels(self, box: Box, level: int = 0) -> NDArray[np.uint32]:
        """Return (h, w) region numbers of a box of a level."""
        return np.asarray(self.labels[level][box.slices])

    def read_origin(self, box: Box, level: int = 0) -> NDArray[np.uint32]:
        """Return (h, w) values of the label ``origin`` of a box of a level; without it, every mended pixel is drawn."""
        if self.origin is None:
            return np.where(self.read_labels(box, level) > 0, np.uint32(DRAWN), np.uint32(0))
        return np.asarray(self.origin.levels[level][box.slices])

    def level_for(self, longest_px: int) -> int:
        """Return the smallest level whose longer side is no shorter than this; level 0 if there is none."""
        large = [level for level, array in enumerate(self.levels) if max(array.shape[-2:]) >= longest_px]
        return max(large, default=0)

    def whole(self, level: int) -> Box:
        """Return the box of all of a level."""
        return Box(0, 0, *self.levels[level].shape[-2:])


def _uncertainty(path: Path) -> Uncertainty:
    group = zarr.open_group(path, mode="r")
    record: dict[str, Any] = group.attrs.asdict()
    said = record["cytomend"]
    regions = {int(number): float(mean) for number, mean in said["regions"].items()}
    return Uncertainty(_levels(group), int(said["samples"]), float(said["mean"]), regions, float(said["full_scale"]))


def _origin(path: Path) -> Origin | None:
    label = path / "labels" / ORIGIN
    if not label.exists():
        return None
    grafts = read_grafts(path)
    return Origin(_levels(zarr.open_group(label, mode="r")), grafts, origin_colours(grafts))


def _levels(group: zarr.Group) -> tuple[zarr.Array[Any], ...]:
    record: dict[str, Any] = group.attrs.asdict()
    levels: list[Any] = [group[dataset["path"]] for dataset in record["ome"]["multiscales"][0]["datasets"]]
    return tuple(levels)
