"""Put the mended regions of a section back and write its corrected pyramid.

Streams the source once into an OME-Zarr 0.5 image (Zarr v3, sharded): levels ``0``, ``1``, ..., each the rounded 2 x
mean of the one below, axes (y, x) or (c, y, x), scales in µm; ``labels/mended`` holds the region number of every
generated pixel and 0 elsewhere. The attributes under ``cytomend`` say what was mended, by which model, from which
source and mask; ``left_regions`` lists the numbers of regions that reviewers left as scanned, and ``redrawn`` says by
number how often others were drawn again.

Where regions were mended more than once, ``labels/uncertainty`` holds, in the scanner's dtype, the standard deviation
of every generated pixel over the samples, in grey values, and 0 elsewhere. Its attributes under ``cytomend``:

| entry | unit | what |
|---|---|---|
| ``what``, ``unit``, ``pyramid`` | | how to read it, in words |
| ``samples`` | | how often each region was mended |
| ``full_scale`` | grey values | deviation at the upper end of its colours, a third of the value range |
| ``mean`` | grey values | over all generated pixels |
| ``regions`` | grey values | mean over each region's pixels, by its number |

Where grafts were laid, ``labels/origin`` tells drawn from copied pixels, and of these the source
(`cytomend.grafts.record`).
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.grafts.record import COLUMNS, DRAWN, FIRST, ORIGIN, TABLE, UNITS, colours, first_rows, joined, origins
from cytomend.heat import UNCERTAINTY, heat_colour, uncertainty_scale
from cytomend.regions.plan import Plan
from cytomend.storage.edition import require_planned
from cytomend.storage.images import SectionImage, open_image
from cytomend.storage.publish import (
    add_key_arguments,
    damaged_files,
    keyed,
    manifest_of,
    one_writer,
    publish,
    read_manifest,
    refuse_over,
    require_key,
)
from cytomend.storage.pyramid import (
    VERSION,
    Grid,
    Pyramid,
    halve_by_maximum,
    halve_by_mean,
    halve_by_pooling,
    multiscales,
)

log = logging.getLogger(__name__)

MENDED_COLOUR = [230, 97, 1, 120]
"""Orange, half transparent: seen on dark cells and light ground, also by the colour blind."""

HEAT_ALPHA = 200
MOST_COLOURS = 4096
"""Deviations that are given a colour one by one: all of 8 bit; of 16 bit as many as a viewer can be asked to read."""


@dataclass(frozen=True, slots=True)
class BlendSettings:
    """How the pyramid is cut; see the block ``pyramid`` of ``workflow/schemas/config.schema.yaml``."""

    chunk_px: int
    shard_px: int


class MendedCells:
    """The mended cells of all shards of a section, found by place.

    Parameters
    ----------
    stores : the shard stores
    cell_px : side of a cell
    name : of the stores' array, (cell, ..., y, x)
    """

    def __init__(self, stores: Sequence[zarr.Group], cell_px: int, name: str = "pixels") -> None:
        self.cell_px = cell_px
        self.pixels: list[zarr.Array[Any]] = [store[name] for store in stores]  # type: ignore[misc]
        self.corners = [np.asarray(store["corners"]) for store in stores]
        self.regions = [np.asarray(store["region"]) for store in stores]
        self.rows = [np.argsort(corners[:, 0], kind="stable") for corners in self.corners]

    def touch(self, box: Box) -> bool:
        """Whether any cell reaches into a box; where none does, nothing is mended."""
        return any(len(self._reaching(store, box)) for store in range(len(self.pixels)))

    def _reaching(self, store: int, box: Box) -> NDArray[np.intp]:
        """Return which cells of a store reach into a box, looking only at those of its rows."""
        corners, rows = self.corners[store], self.rows[store]
        first, last = np.searchsorted(corners[:, 0], (box.y0 - self.cell_px + 1, box.y1), sorter=rows)
        near = rows[first:last]
        x = corners[near, 1]
        return np.sort(near[(x > box.x0 - self.cell_px) & (x < box.x1)])

    def paste(self, pixels: NDArray[Any], labels: NDArray[np.uint32], box: Box) -> int:
        """Overwrite the mended pixels of a box, (..., h, w), and return how many there were."""
        pasted = 0
        for number, store in enumerate(self.pixels):
            here = self._reaching(number, box)
            cells = np.asarray(store.oindex[(here, *(slice(None),) * (store.ndim - 1))]) if len(here) else ()
            for i, cell in zip(here, cells, strict=True):
                corner, region = self.corners[number][i], int(self.regions[number][i])
                pasted += self._paste_cell(cell, corner, region, pixels, labels, box)
        return pasted

    def _paste_cell(
        self,
        cell: NDArray[Any],
        corner: NDArray[np.int64],
        region: int,
        pixels: NDArray[Any],
        labels: NDArray[np.uint32],
        box: Box,
    ) -> int:
        y, x = (int(v) for v in corner)
        whole = Box(y, x, y + self.cell_px, x + self.cell_px)
        part = whole.intersect(box)
        here, there = part.relative_to(box).slices, part.relative_to(whole).slices
        own = labels[here] == region
        pixels[(..., *here)] = np.where(own, cell[(..., *there)], pixels[(..., *here)])
        return int(own.sum())


def blend_section(
    image_path: Path, plan_folder: Path, shards: Sequence[Path], settings: BlendSettings, out: Path
) -> Path:
    """Write the corrected pyramid and return its manifest.

    Parameters
    ----------
    image_path : the source
    plan_folder, shards : the plan, and the stores of all its shards
    settings : chunks and shards of the pyramid
    out : the OME-Zarr store

    Raises
    ------
    InputError
        If a shard store is missing or damaged, or the shards do not mend exactly the pixels that the plan asks for.
    """
    plan = Plan.read(plan_folder)
    require_planned(image_path, manifest_of(plan_folder))
    facts, grid = plan.facts, Grid(settings.chunk_px, settings.shard_px)
    stores = [_open_store(path) for path in shards]
    identity = str(read_manifest(manifest_of(plan_folder))["sha256"])
    for path, store in zip(shards, stores, strict=True):
        if store.attrs.get("plan") != identity:
            raise InputError(f"{path}: was mended after another plan; delete {manifest_of(path)} and run again")
    cells = MendedCells(stores, facts.lattice.cell_px)
    with open_image(image_path) as image, one_writer(out) as work:
        for path in work.iterdir():  # a killed writer's half pyramid
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        group = zarr.open_group(work, mode="w", zarr_format=3)
        dtype = np.dtype(facts.dtype)
        counted, numbers = _Corrected(image, plan, cells), _Labels(plan, cells)
        labels = group.create_group("labels/mended")
        channels = facts.channels if facts.channels > 1 else None
        wide = grid.of_pixels(facts.channels * dtype.itemsize)
        pixels = Pyramid.create(group, channels, facts.shape, dtype, wide, halve_by_mean)
        regions = Pyramid.create(labels, None, facts.shape, np.dtype("uint32"), grid.sparse, halve_by_maximum)
        with ThreadPoolExecutor(1) as beside:
            labelled = beside.submit(regions.fill, numbers)
            levels = pixels.fill(counted)
            label_levels = labelled.result()
        if counted.pasted != facts.masked_px:
            raise InputError(
                f"{out}: the shards mend {counted.pasted} px, the plan asks for {facts.masked_px}; a store is"
                f" of another plan: delete {', '.join(map(str, shards))} and run again"
            )
        _describe(group, levels, label_levels, plan, stores)
        if facts.samples > 1:
            _write_uncertainty(group, plan, MendedCells(stores, facts.lattice.cell_px, "uncertainty"), grid)
        if stores[0].attrs["fill"] == "graft":
            _write_origin(group, plan, MendedCells(stores, facts.lattice.cell_px, "graft"), joined(stores), grid)
        log.info("section %s: %d levels, %d px mended", facts.section, len(levels), counted.pasted)
        return publish(
            work, out, {"section": facts.section, "masked_px": facts.masked_px, "levels": len(levels), "plan": identity}
        )


class _Corrected:
    """Gives boxes of level 0 with corrected pixels, and counts what was mended."""

    def __init__(self, image: SectionImage, plan: Plan, cells: MendedCells) -> None:
        self.image, self.plan, self.cells, self.pasted = image, plan, cells, 0

    def __call__(self, box: Box) -> NDArray[Any]:
        pixels = self.image.read(box)
        if self.cells.touch(box):
            self.pasted += self.cells.paste(pixels, np.asarray(self.plan.labels[box.slices]), box)
        return pixels if self.image.channels > 1 else pixels[0]


@dataclass(frozen=True, slots=True)
class _Labels:
    """Gives boxes of level 0 with the numbers of mended regions."""

    plan: Plan
    cells: MendedCells

    def __call__(self, box: Box) -> NDArray[np.uint32] | None:
        return self.plan.mended(box) if self.cells.touch(box) else None


class _Deviations:
    """Gives boxes of level 0 with uncertainty, and sums it up by region."""

    def __init__(self, plan: Plan, cells: MendedCells) -> None:
        self.plan, self.cells = plan, cells
        self.sums = {int(number): 0 for number in plan.regions["region"]}
        self.largest = 0

    def __call__(self, box: Box) -> NDArray[Any] | None:
        if not self.cells.touch(box):
            return None
        labels = self.plan.mended(box)
        deviation = np.zeros(labels.shape, dtype=self.plan.facts.dtype)
        self.cells.paste(deviation, labels, box)
        self._add_up(deviation, labels)
        return deviation

    def _add_up(self, deviation: NDArray[Any], labels: NDArray[np.uint32]) -> None:
        own = labels > 0
        numbers, place = np.unique(labels[own], return_inverse=True)
        sums = np.bincount(place, weights=deviation[own])
        for number, total in zip(numbers.tolist(), sums.tolist(), strict=True):
            self.sums[number] += round(total)
        self.largest = max(self.largest, int(deviation.max()))


def _write_uncertainty(group: zarr.Group, plan: Plan, cells: MendedCells, grid: Grid) -> None:
    """Write the label-like image of what differs between samples, and say what it is."""
    facts, found = plan.facts, _Deviations(plan, cells)
    label = group.create_group(f"labels/{UNCERTAINTY}")
    deviations = Pyramid.create(label, None, facts.shape, np.dtype(facts.dtype), grid.sparse, halve_by_pooling)
    levels = deviations.fill(found)
    full_scale = uncertainty_scale(facts.value_range)
    listed = min(found.largest, MOST_COLOURS)
    colours = [
        {"label-value": value, "rgba": [*heat_colour(value / full_scale), HEAT_ALPHA]} for value in range(1, listed + 1)
    ]
    image_label: dict[str, Any] = {"source": {"image": "../../"}}
    if colours:
        image_label["colors"] = colours
    label.attrs["ome"] = {
        "version": VERSION,
        "multiscales": [multiscales(UNCERTAINTY, levels, facts.pixel_size_um, "root mean square of mended pixels")],
        "image-label": image_label,
    }
    areas = dict(zip(plan.regions["region"].tolist(), plan.regions["area_px"].tolist(), strict=True))
    label.attrs["cytomend"] = {
        "what": "standard deviation of each mended pixel over the samples, root mean square over channels; 0 elsewhere",
        "unit": "grey value",
        "pyramid": "root mean square of the pixels below that are not 0",
        "samples": facts.samples,
        "full_scale": full_scale,
        "mean": sum(found.sums.values()) / max(facts.masked_px, 1),
        "regions": {str(number): total / areas[number] for number, total in found.sums.items()},
    }
    _list_label(group, UNCERTAINTY)


def _list_label(group: zarr.Group, name: str) -> None:
    labels = group["labels"]
    ome: Any = labels.attrs["ome"]
    labels.attrs["ome"] = {**ome, "labels": [*ome["labels"], name]}


class _Origins:
    """Gives boxes of level 0 with the label ``origin``, and counts its pixels."""

    def __init__(self, plan: Plan, cells: MendedCells, table: NDArray[np.float64]) -> None:
        self.plan, self.cells, self.rows = plan, cells, first_rows(table)
        self.drawn_px = self.copied_px = 0

    def __call__(self, box: Box) -> NDArray[np.uint32] | None:
        if not self.cells.touch(box):
            return None
        labels = self.plan.mended(box)
        numbers = np.zeros(labels.shape, dtype=np.uint32)
        self.cells.paste(numbers, labels, box)
        found = origins(labels, numbers, self.rows)
        self.drawn_px += int((found == DRAWN).sum())
        self.copied_px += int((found >= FIRST).sum())
        return found


def _write_origin(group: zarr.Group, plan: Plan, cells: MendedCells, table: NDArray[np.float64], grid: Grid) -> None:
    """Write where each mended pixel came from: drawn, or copied by which graft."""
    facts, found = plan.facts, _Origins(plan, cells, table)
    label = group.create_group(f"labels/{ORIGIN}")
    levels = Pyramid.create(label, None, facts.shape, np.dtype("uint32"), grid.sparse, halve_by_maximum).fill(found)
    label.create_array(TABLE, data=table, dimension_names=("graft", "entry"))
    label.attrs["ome"] = {
        "version": VERSION,
        "multiscales": [multiscales(ORIGIN, levels, facts.pixel_size_um, "maximum")],
        "image-label": {"source": {"image": "../../"}, "colors": colours(len(table))},
    }
    label.attrs["cytomend"] = {
        "what": f"0 as scanned, {DRAWN} drawn, {FIRST} + row: copied, by that row of the table {TABLE}",
        "columns": {name: UNITS[name] for name in COLUMNS},
        "grafts": len(table),
        "drawn_px": found.drawn_px,
        "copied_px": found.copied_px,
    }
    _list_label(group, ORIGIN)


def _open_store(path: Path) -> zarr.Group:
    try:
        if damaged := damaged_files(path):  # Zarr reads a lost chunk as zeros
            raise ValueError(f"missing or altered since it was written: {', '.join(damaged[:3])}")
        store = zarr.open_group(path, mode="r")
        for name in ("pixels", "corners", "region"):
            store[name]
    except (OSError, ValueError, KeyError, InputError) as error:
        raise InputError(
            f"{path}: expected the store of a mended shard ({error!r}); delete {manifest_of(path)} and run again"
        ) from error
    return store


def _describe(
    group: zarr.Group,
    levels: list[zarr.Array[Any]],
    label_levels: list[zarr.Array[Any]],
    plan: Plan,
    stores: list[zarr.Group],
) -> None:
    """Write the metadata of OME-Zarr and the provenance."""
    facts = plan.facts
    image = multiscales(facts.section, levels, facts.pixel_size_um, "mean")
    group.attrs["ome"] = {"version": VERSION, "multiscales": [image], "omero": {"channels": _channels(plan)}}
    group.attrs["cytomend"] = provenance(plan, stores)
    group["labels"].attrs["ome"] = {"version": VERSION, "labels": ["mended"]}
    label = multiscales("mended", label_levels, facts.pixel_size_um, "maximum")
    colours = [{"label-value": int(number), "rgba": MENDED_COLOUR} for number in plan.regions["region"]]
    image_label: dict[str, Any] = {"source": {"image": "../../"}}
    if colours:
        image_label["colors"] = colours
    group["labels/mended"].attrs["ome"] = {"version": VERSION, "multiscales": [label], "image-label": image_label}


def provenance(plan: Plan, stores: list[zarr.Group]) -> dict[str, Any]:
    """Return what was mended, how, and from what."""
    facts = plan.facts
    made = [{key: value for key, value in store.attrs.items() if key != "plan"} for store in stores]
    if any(one != made[0] for one in made):
        raise InputError(
            f"section {facts.section!r}: its shards were mended with different settings: {made};"
            " delete them and run again"
        )
    return {
        **made[0],
        "source_blake2b": facts.source_blake2b,
        "mask_blake2b": facts.mask_blake2b,
        "grow_px": facts.grow_px,
        "window_px": facts.window_px,
        "stride_px": facts.stride_px,
        "value_range": list(facts.value_range),
        "regions": len(plan.regions),
        "mended_px": facts.masked_px,
        "left_regions": [region.number for region in facts.left],
        "redrawn": {
            str(number): int(draw)
            for number, draw in zip(plan.regions["region"], plan.regions["draw"], strict=True)
            if draw
        },
    }


def _channels(plan: Plan) -> list[dict[str, Any]]:
    """Return how a viewer shows the channels."""
    facts = plan.facts
    low, high = facts.value_range
    window = {"min": 0, "max": int(np.iinfo(facts.dtype).max), "start": round(low), "end": round(high)}
    names = {"grey": "FFFFFF"} if facts.channels == 1 else {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}
    return [{"label": name, "color": colour, "active": True, "window": window} for name, colour in names.items()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--image", type=Path, required=True, help="scan of the section")
    parser.add_argument("--plan", type=Path, required=True, help="folder of the plan")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="stores of all shards")
    entries = ", ".join(field.name for field in fields(BlendSettings))
    parser.add_argument("--settings", required=True, help=f"JSON object with {entries}")
    parser.add_argument("--out", type=Path, required=True, help="OME-Zarr store")
    add_key_arguments(parser, after="a mended shard")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    refuse_over(args.out, [args.image, args.plan, *args.shards])
    for shard in args.shards:
        require_key(shard, args.after)
    settings = BlendSettings(**json.loads(args.settings))
    print(keyed(blend_section(args.image, args.plan, args.shards, settings, args.out), args.key))
