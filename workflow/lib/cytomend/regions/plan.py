"""The plan of a section: its facts, its regions, their windows and shards, as files that later stages read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import shapely
import zarr
from numpy.typing import NDArray
from shapely.errors import ShapelyError
from shapely.geometry import MultiPolygon

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.regions.annotation import Masked, OutsideTissueToo
from cytomend.regions.find import Region
from cytomend.regions.lattice import Lattice
from cytomend.regions.polygon_mask import PolygonMask
from cytomend.storage.publish import manifest_of
from cytomend.values import ValueRange

TISSUE = "tissue.wkb"


@dataclass(frozen=True, slots=True)
class LeftRegion:
    """A region that stays as it was scanned: its number, its box, its pixels, its centre in µm."""

    number: int
    box: Box
    area_px: int
    y_um: float
    x_um: float

    @classmethod
    def of(cls, region: Region, pixel_size_um: float) -> Self:
        """Return a region that was found."""
        y_um, x_um = ((centre + 0.5) * pixel_size_um for centre in region.centre_px)
        return cls(region.number, region.box, region.area_px, y_um, x_um)

    @classmethod
    def read(cls, record: dict[str, Any]) -> Self:
        """Return the region of a plain record."""
        return cls(**{**record, "box": Box(**record["box"])})


@dataclass(frozen=True, slots=True)
class SectionFacts:
    """What every later stage must know of a section.

    ``source_blake2b`` identifies the scan, ``mask_blake2b`` the grown mask.
    Every region is mended ``samples`` times, each with noise of its own. ``masked_px`` and ``mask_blake2b`` are of what
    is mended; ``left`` are the regions that stay as they were scanned, because a reviewer said so. ``tissue_outlined``
    says that the plan holds outlines of tissue.
    """

    section: str
    shape: tuple[int, int]
    channels: int
    dtype: str
    pixel_size_um: float
    stain: str
    value_range: ValueRange
    grow_px: int
    window_px: int
    stride_px: int
    shards: int
    masked_px: int
    source_blake2b: str
    mask_blake2b: str
    samples: int = 1
    warnings: tuple[str, ...] = ()
    left: tuple[LeftRegion, ...] = ()
    tissue_outlined: bool = False

    @property
    def lattice(self) -> Lattice:
        """The lattice of windows."""
        return Lattice(self.window_px, self.stride_px)


def without(labels: NDArray[np.uint32], numbers: Sequence[int]) -> NDArray[np.uint32]:
    """Return labels with some numbers replaced by 0."""
    return np.where(np.isin(labels, numbers), np.uint32(0), labels) if len(numbers) else labels


def pack(costs: NDArray[np.int64], shards: int) -> NDArray[np.int64]:
    """Return the shard, 0 to ``shards - 1``, of each region: the costliest first, each to the least loaded shard."""
    load = np.zeros(shards, dtype=np.int64)
    shard_of = np.zeros(len(costs), dtype=np.int64)
    for i in np.lexsort((np.arange(len(costs)), -costs)):
        shard_of[i] = load.argmin()
        load[shard_of[i]] += costs[i]
    return shard_of


def tables(
    regions: list[Region], facts: SectionFacts, draws: Mapping[int, int] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of regions and of windows; columns in the docstring of `cytomend.stages.plan_section`.

    ``draws`` says of regions, by number, how often they are drawn again.
    """
    draws = draws or {}
    windows = [facts.lattice.windows_over(region.cells) for region in regions]
    shard_of = pack(np.array([len(w) for w in windows], dtype=np.int64), facts.shards)
    height, width = facts.shape
    rows = [
        {
            "region": region.number,
            "shard": int(shard),
            "y0_px": region.box.y0,
            "x0_px": region.box.x0,
            "y1_px": region.box.y1,
            "x1_px": region.box.x1,
            "y_um": (region.centre_px[0] + 0.5) * facts.pixel_size_um,
            "x_um": (region.centre_px[1] + 0.5) * facts.pixel_size_um,
            "area_px": region.area_px,
            "area_um2": region.area_px * facts.pixel_size_um**2,
            "windows": len(its_windows),
            "touches_border": region.box.y0 == 0
            or region.box.x0 == 0
            or region.box.y1 == height
            or region.box.x1 == width,
            "draw": draws.get(region.number, 0),
        }
        for region, its_windows, shard in zip(regions, windows, shard_of, strict=True)
    ]
    types = {
        **dict.fromkeys(("region", "shard", "y0_px", "x0_px", "y1_px", "x1_px", "area_px", "windows", "draw"), "int64"),
        **dict.fromkeys(("y_um", "x_um", "area_um2"), "float64"),
        "touches_border": "bool",
    }
    order = [
        "region",
        "shard",
        "y0_px",
        "x0_px",
        "y1_px",
        "x1_px",
        "y_um",
        "x_um",
        "area_px",
        "area_um2",
        "windows",
        "touches_border",
        "draw",
    ]
    numbers = np.repeat([region.number for region in regions], [len(w) for w in windows]).astype(np.int64)
    places = np.concatenate([np.zeros((0, 2), dtype=np.int64), *windows])
    return (
        pd.DataFrame(rows, columns=order).astype(types),
        pd.DataFrame({"region": numbers, "row": places[:, 0], "column": places[:, 1]}),
    )


@dataclass(frozen=True, slots=True)
class PlannedMask:
    """The grown mask of a section, as its plan holds it; a `cytomend.regions.annotation.Masked`."""

    shape: tuple[int, int]
    labels: zarr.Array[Any]

    def read(self, box: Box) -> NDArray[np.bool_]:
        """Return which pixels of a box inside the section belong to a region, (h, w)."""
        masked: NDArray[np.bool_] = np.asarray(self.labels[box.slices]) != 0
        return masked


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan read back from its folder.

    ``labels`` (H, W) uint32 holds the numbers of all regions, read lazily: also of those that are left as scanned,
    whose pixels are artefacts still and tell their neighbours nothing. Only `mended` leaves them out. ``tissue`` is
    where the annotation says that tissue lies, in px, or None where it says nothing.
    """

    facts: SectionFacts
    regions: pd.DataFrame
    windows: pd.DataFrame
    labels: zarr.Array[Any]
    tissue: MultiPolygon | None = None

    @property
    def mask(self) -> PlannedMask:
        """The grown mask."""
        return PlannedMask(self.facts.shape, self.labels)

    def not_intact(self) -> Masked:
        """Return the grown mask, with all that lies outside of the outlines of tissue, where there are any."""
        if self.tissue is None:
            return self.mask
        return OutsideTissueToo(self.mask, PolygonMask([self.tissue], self.facts.shape, []), [])

    def mended(self, box: Box) -> NDArray[np.uint32]:
        """Return the region number of each pixel that is mended, 0 elsewhere, of a box inside the section, (h, w)."""
        return without(np.asarray(self.labels[box.slices]), [region.number for region in self.facts.left])

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read the files of a plan.

        Raises
        ------
        InputError
            If any is missing or damaged.
        """
        try:
            record: dict[str, Any] = json.loads((folder / "section.json").read_text(encoding="utf-8"))
            tuples = {key: tuple(record[key]) for key in ("shape", "value_range", "warnings")}
            left = tuple(LeftRegion.read(region) for region in record["left"])
            facts = SectionFacts(**{**record, **tuples, "left": left})
            return cls(
                facts,
                pd.read_parquet(folder / "regions.parquet"),
                pd.read_parquet(folder / "windows.parquet"),
                zarr.open_array(folder / "labels.zarr", mode="r"),
                _read_areas(folder / TISSUE) if facts.tissue_outlined else None,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ShapelyError) as error:
            raise InputError(
                f"{folder}: not a whole plan ({error}); delete {manifest_of(folder)} and run again"
            ) from error

    def write_facts(self, folder: Path) -> None:
        """Write facts, tables and tissue (the labels are there already)."""
        (folder / TISSUE).unlink(missing_ok=True)  # of a planner that was killed
        if self.tissue is not None:
            (folder / TISSUE).write_bytes(shapely.to_wkb(self.tissue))
        (folder / "section.json").write_text(json.dumps(asdict(self.facts), indent=1) + "\n", encoding="utf-8")
        self.regions.to_parquet(folder / "regions.parquet", index=False)
        self.windows.to_parquet(folder / "windows.parquet", index=False)


def _read_areas(path: Path) -> MultiPolygon:
    area = shapely.from_wkb(path.read_bytes())
    if not isinstance(area, MultiPolygon) or area.is_empty or not np.isfinite(area.bounds).all():
        raise ValueError(f"{path.name} holds no areas")
    return area
