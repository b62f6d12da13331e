"""Find the cells of a scan.

Writes one Parquet table, a row a cell, in the order of blocks of the scan:

| column | unit | what |
|---|---|---|
| ``y_um``, ``x_um`` | µm | centroid of the contour, from the corner of the scan's first pixel |
| ``area_um2`` | µm² | area enclosed by the contour |
| ``score`` | 0 to 1 | how sure the segmenter is |
| ``contour_y_um``, ``contour_x_um`` | µm | points of the contour, a list a cell |

and, if asked, the contours as GeoJSON, in pixels of the full resolution, as QuPath imports them. The table's metadata
hold image, segmenter, pixel size, value range and stain under ``cytomend``. Cells whose centroid lies in a mask are
left out.

A network sees the scan block by block, whatever its size; a segmenter that is no network sees it whole.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.regions.annotation import Masked, not_intact, open_mask
from cytomend.regions.value_range import value_range as measured_range
from cytomend.segmentation.blocks import Read
from cytomend.segmentation.segmenters import Segmenter, open_segmenter
from cytomend.segmentation.stain import SectionStain, section_stain
from cytomend.segmentation.table import table_contours
from cytomend.stages.mend_shard import Machine
from cytomend.stains import MEASURED
from cytomend.storage.frames import add_frame_argument, framed
from cytomend.storage.images import SUPPORTED, SectionImage, open_image
from cytomend.storage.publish import write_whole
from cytomend.values import ValueRange

log = logging.getLogger(__name__)

LARGEST_WHOLE_PX = 64_000_000
"""Pixels that a segmenter may see at once; classical needs about 100 bytes for each."""
SCHEMA = pa.schema(
    [
        ("y_um", pa.float64()),
        ("x_um", pa.float64()),
        ("area_um2", pa.float64()),
        ("score", pa.float64()),
        ("contour_y_um", pa.list_(pa.float32())),
        ("contour_x_um", pa.list_(pa.float32())),
    ]
)


@runtime_checkable
class BlockwiseSegmenter(Protocol):
    """A segmenter for pictures of any size."""

    def find_blockwise(
        self, read: Read, shape: tuple[int, int], *, pixel_size_um: float, value_range: ValueRange
    ) -> Iterator[pd.DataFrame]:
        """Yield the cells of a picture, some at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Scale:
    """What a pixel and its values mean."""

    pixel_size_um: float
    value_range: ValueRange
    stain: SectionStain


def segment(
    image_path: Path,
    out: Path,
    *,
    segmenter: str = "cpn",
    mask_path: Path | None = None,
    pixel_size_um: float | None = None,
    value_range: ValueRange | None = None,
    stain: str = MEASURED,
    geojson: Path | None = None,
    device: str = "cpu",
) -> Path:
    """Write the cells of a scan into ``out``, and their contours into ``geojson``.

    Parameters
    ----------
    image_path : scan of any format that `open_image` reads
    segmenter : name, see `open_segmenter`
    mask_path : annotation of pixels whose cells are left out; with outlines of tissue, also those outside of them
    pixel_size_um : side of a pixel in µm; by default what the file says
    value_range : grey values that mean black and white; by default as mending would find them
    stain : by which stain cells of an RGB scan are seen, see `section_stain`

    Raises
    ------
    InputError
        If image, mask or segmenter cannot be used, or the pixel size is not known.
    """
    finder = open_segmenter(segmenter, device)
    with open_image(image_path) as image:
        mask = not_intact(open_mask(mask_path, image.shape)) if mask_path else None
        values = value_range or measured_range(image, mask)
        shown = section_stain(image, mask, values, stain)
        scale = Scale(pixel_size_um or _pixel_size_um(image_path, image), values, shown)
        log.info(
            "%s: %s px of %g µm, values %s; segmenter %s; stain %s",
            image_path,
            image.shape,
            scale.pixel_size_um,
            scale.value_range,
            finder.name,
            shown.record() or "not looked for in grey",
        )
        pieces = (unmasked(cells, mask, scale.pixel_size_um) for cells in found(finder, image, scale))
        facts = {
            "image": image_path.name,
            "segmenter": finder.name,
            "pixel_size_um": scale.pixel_size_um,
            "value_range": scale.value_range,
            "stain": shown.record(),
        }
        write_whole(out, lambda path: write_table(path, pieces, facts))
    if geojson is not None:
        write_whole(geojson, lambda path: write_geojson(path, out, scale.pixel_size_um))
    return out


def _pixel_size_um(path: Path, image: SectionImage) -> float:
    if image.pixel_size_um is None:
        raise InputError(f"{path}: its metadata give no plausible pixel size; say it with --pixel-size-um")
    return image.pixel_size_um


def found(segmenter: Segmenter, image: SectionImage, scale: Scale) -> Iterator[pd.DataFrame]:
    """Yield the cells of a scan, some at a time."""
    how: dict[str, Any] = {"pixel_size_um": scale.pixel_size_um, "value_range": scale.value_range}
    if isinstance(segmenter, BlockwiseSegmenter):
        yield from segmenter.find_blockwise(lambda box: scale.stain.grey(image.read(box)), image.shape, **how)
        return
    height, width = image.shape
    if height * width > LARGEST_WHOLE_PX:
        raise InputError(
            f"{image.path}: {height} x {width} px, expected at most {LARGEST_WHOLE_PX / 1e6:.0f} million for segmenter"
            f" {segmenter.name!r}, which sees a picture whole; use cpn, or cut the image"
        )
    yield segmenter.find(scale.stain.grey(image.read(Box(0, 0, height, width))), **how)


def unmasked(cells: pd.DataFrame, mask: Masked | None, pixel_size_um: float) -> pd.DataFrame:
    """Return the cells whose centroid does not lie in the mask."""
    if mask is None or cells.empty:
        return cells
    last = np.array(mask.shape) - 1
    pixel = np.clip((cells[["y_um", "x_um"]].to_numpy() / pixel_size_um).astype(np.int64), 0, last)
    (y0, x0), (y1, x1) = pixel.min(axis=0), pixel.max(axis=0) + 1
    masked = mask.read(Box(int(y0), int(x0), int(y1), int(x1)))[pixel[:, 0] - y0, pixel[:, 1] - x0]
    intact: pd.DataFrame = cells.loc[~masked]
    return intact


def write_table(path: Path, pieces: Iterator[pd.DataFrame], facts: dict[str, Any]) -> None:
    """Write tables of cells one after the other; none but one is in memory."""
    schema = SCHEMA.with_metadata({"cytomend": json.dumps(facts)})
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for cells in pieces:
            if len(cells):
                writer.write_table(pa.Table.from_pandas(cells, schema, preserve_index=False))
            count += len(cells)
    log.info("%d cells", count)


def write_geojson(path: Path, table: Path, pixel_size_um: float) -> None:
    """Write the contours of a table of cells as a collection of QuPath's cells, in pixels."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for batch in pq.ParquetFile(table).iter_batches():
            for feature in _features(batch.to_pandas(), pixel_size_um):
                file.write(separator + json.dumps(feature))
                separator = ",\n"
        file.write("\n]}\n")


def _features(cells: pd.DataFrame, pixel_size_um: float) -> Iterator[dict[str, Any]]:
    contours = table_contours(cells, pixel_size_um)
    for contour, area_um2, score in zip(contours, cells["area_um2"], cells["score"], strict=True):
        yield {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [_ring(contour)]},
            "properties": {
                "objectType": "detection",
                "measurements": {"area µm^2": round(float(area_um2), 2), "score": round(float(score), 4)},
            },
        }


def _ring(contour: NDArray[np.floating[Any]]) -> list[list[float]]:
    """Return the closed ring of a contour, (y, x) in px; of one that crosses itself its largest part."""
    whole = shapely.make_valid(shapely.Polygon(np.round(contour[:, ::-1], 2)))
    areas = [part for part in shapely.get_parts(whole) if part.geom_type == "Polygon"]
    ring = max(areas, key=lambda part: part.area).exterior if areas else shapely.Polygon(contour[:, ::-1]).exterior
    return [[round(float(x), 2), round(float(y), 2)] for x, y in ring.coords]


def _range(given: Sequence[float] | None) -> ValueRange | None:
    if given is None:
        return None
    low, high = given
    if not -1e9 < low < high < 1e9:
        raise InputError(f"--value-range {low:g} {high:g}: expected two numbers, the first below the second")
    return low, high


def check_places(outputs: Sequence[Path], sources: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse outputs that would replace a source, one another, or an earlier result unless that is wanted.

    Raises
    ------
    InputError
        If one would.
    """
    wholes = [path.resolve() for path in outputs]
    if len(set(wholes)) < len(wholes):
        raise InputError(f"--out and --geojson are both {outputs[0]}; expected two files")
    for out, whole in zip(outputs, wholes, strict=True):
        if any(whole == path.resolve() or whole.is_relative_to(path.resolve()) for path in sources):
            raise InputError(f"{out}: would replace or change a file from which it is made; choose another")
        if out.is_dir():
            raise InputError(f"{out}: is a folder, expected the name of a file")
        if out.exists() and not overwrite:
            raise InputError(f"{out}: exists already; choose another name, or give --overwrite")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help=f"scan: {SUPPORTED}")
    parser.add_argument("--out", type=Path, required=True, help="table of cells, a .parquet file")
    parser.add_argument(
        "--segmenter",
        default="cpn",
        help="cpn, classical, a .safetensors file, celldetection:FILE or package.module:factory (default: cpn)",
    )
    parser.add_argument("--mask", type=Path, help="annotation (GeoJSON or mask image); cells in it are left out")
    parser.add_argument(
        "--pixel-size-um", type=float, help="side of a pixel in µm (default: from the image's metadata)"
    )
    parser.add_argument(
        "--value-range",
        type=float,
        nargs=2,
        metavar=("BLACK", "WHITE"),
        help="grey values that mean black and white (default: measured)",
    )
    parser.add_argument(
        "--stain",
        default=MEASURED,
        help="of an RGB scan: measured, luminance, or STAIN or STAIN/COUNTERSTAIN, each a name or R,G,B absorption"
        " (default: measured)",
    )
    add_frame_argument(parser)
    parser.add_argument("--geojson", type=Path, help="write the contours too, as GeoJSON for QuPath")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    if args.pixel_size_um is not None and not 0 < args.pixel_size_um < 1000:
        raise InputError(f"--pixel-size-um {args.pixel_size_um:g}: expected a positive number of µm")
    outputs = [path for path in (args.out, args.geojson) if path is not None]
    sources = [path for path in (args.image, args.mask) if path is not None]
    check_places(outputs, sources, overwrite=args.overwrite)
    done = segment(
        framed(args.image, args.frame),
        args.out,
        segmenter=args.segmenter,
        mask_path=args.mask,
        pixel_size_um=args.pixel_size_um,
        value_range=_range(args.value_range),
        stain=args.stain,
        geojson=args.geojson,
        device=str(Machine.of(args.device, 1, 1).device),
    )
    print(done)
