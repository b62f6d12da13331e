"""Chunks, tiles and strips that a file says nothing of: ground where a format lets them be absent, else damage.

A writer may leave out what holds nothing but the fill value, and a scanner what it took for glass. A copy that stopped
leaves chunks out too. Neither is black tissue.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.array import AsyncArray

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.storage.desktop import is_left_behind

Place = tuple[int, ...]

DARK = 0.25
"""Below this share of white, the median of a scan tells that its ground is black, as in fluorescence."""
SAMPLES = 8
"""Tiles or chunks that are looked at to tell white from black ground."""
FLAT = 0.06
"""Values that differ by less than this share of white show no tissue."""
LARGEST_WITNESS_PX = 4 << 20
MOST_SHARDS = 1024
"""Of a store with more shards, as many are looked into for absent chunks."""
NAMED_ROWS = 8

_METADATA = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}
_KEY = re.compile(r"(?:c[/.])?\d+(?:[/.]\d+)*")


def ground_value(sample: NDArray[Any], declared: float | None) -> int:
    """Return the value of what is absent.

    Parameters
    ----------
    sample : pixels that are there, of any shape
    declared : what the file says that absent pixels are; zero and None say nothing

    Returns
    -------
    int
        What was declared; else white, as of the bits that the sample uses; 0 where the scan is dark.

    >>> ground_value(np.array([180, 220], np.uint8), 0), ground_value(np.array([3000, 4000], np.uint16), None)
    (255, 4095)
    >>> ground_value(np.array([3, 2, 200], np.uint8), 0), ground_value(np.array([180], np.uint8), 240)
    (0, 240)
    """
    if declared:
        return int(declared)
    white = white_of(sample)
    return white if float(np.median(sample)) > DARK * white else 0


def white_of(sample: NDArray[Any]) -> int:
    """Return the largest value of as many bits, 8 at least, as the pixels use."""
    bits = max(8, int(sample.max(initial=0)).bit_length())
    return int(min((1 << bits) - 1, np.iinfo(sample.dtype).max))


def evenly(values: Iterable[Place], most: int) -> list[Place]:
    """Return at most so many of some places, spread evenly."""
    ordered = sorted(values)
    step = max(1, -(-len(ordered) // most))
    return ordered[::step]


@dataclass(frozen=True)
class Chunks:
    """The files of a Zarr array's chunks, or of its shards if it has such.

    Attributes
    ----------
    grid : how many there are along each axis
    side : their shape, in elements
    present : places in the grid of those that are there
    strange : names of files that look like chunks and have another name than the metadata say
    """

    grid: tuple[int, ...]
    side: tuple[int, ...]
    present: frozenset[Place]
    strange: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many there are, absent ones too."""
        return math.prod(self.grid)

    @property
    def absent(self) -> list[Place]:
        """Places of those that are not there, in order."""
        if len(self.present) == self.count:
            return []
        return [place for place in np.ndindex(*self.grid) if place not in self.present]

    @classmethod
    def of(cls, folder: Path, array: zarr.Array[Any]) -> Chunks:
        """List the files of an array."""
        side = tuple(array.shards or array.chunks)
        grid = tuple(-(-length // edge) for length, edge in zip(array.shape, side, strict=True))
        present, strange = set[Place](), list[str]()
        for name in _names(folder):
            if not _KEY.fullmatch(name):
                continue
            place = tuple(int(number) for number in re.findall(r"\d+", name))
            inside = len(place) == len(grid) and all(at < end for at, end in zip(place, grid, strict=True))
            if inside and name == array.metadata.encode_chunk_key(place):
                present.add(place)
            elif not (len(place) == len(grid) and name == array.metadata.encode_chunk_key(place)):
                strange.append(name)
        return cls(grid, side, frozenset(present), tuple(sorted(strange)))

    def box(self, place: Place, shape: tuple[int, int]) -> Box:
        """Return the pixels (y, x) that a chunk covers in an image of this (height, width)."""
        height, width = self.side[-2:]
        y, x = place[-2] * height, place[-1] * width
        return Box(y, x, y + height, x + width).clip(shape)


def _names(folder: Path, inside: str = "") -> Iterable[str]:
    for path in folder.iterdir():
        if is_left_behind(path.name) or path.name in _METADATA:
            continue
        if path.is_dir():
            yield from _names(path, f"{inside}{path.name}/")
        else:
            yield inside + path.name


def refuse_misnamed(path: Path, folder: Path, array: zarr.Array[Any], chunks: Chunks) -> None:
    """Refuse an array whose chunks are there under other names than its metadata say.

    Raises
    ------
    InputError
        With the entry of the metadata that is to be corrected.
    """
    if not chunks.strange or len(chunks.present) == chunks.count:
        return
    wanted = array.metadata.encode_chunk_key((0,) * len(chunks.grid))
    separator = "/" if "/" in chunks.strange[0].removeprefix("c/") else "."
    entry = (
        f'"dimension_separator": "{separator}" in {folder / ".zarray"}'
        if array.metadata.zarr_format == 2
        else f'the chunk_key_encoding with the separator "{separator}" in {folder / "zarr.json"}'
    )
    raise InputError(
        f"{path}: expected chunks of level 0 named like {wanted!r}, found {len(chunks.strange)} with other names, such"
        f" as {chunks.strange[0]!r}, which would be read as empty; write {entry}, or export it again"
    )


def refuse_damaged(path: Path, chunks: Chunks, axes: str) -> None:
    """Refuse a scan of which no chunk is there, or none of a colour.

    Raises
    ------
    InputError
        If so.
    """
    if not chunks.present:
        raise InputError(
            f"{path}: expected the {chunks.count} chunks of level 0, found none of them; copy or export it again"
        )
    if "c" in axes:
        axis = axes.index("c")
        if lost := sorted(set(range(chunks.grid[axis])) - {place[axis] for place in chunks.present}):
            raise InputError(f"{path}: expected all colours, found no chunk of channel {lost[0]}; copy it again")


def refuse_stopped_copy(path: Path, chunks: Chunks, declared: float | None) -> None:
    """Refuse a scan that lacks all chunks of some rows, and does not say what absent chunks are: a copy that stopped.

    Raises
    ------
    InputError
        If so.
    """
    absent_rows = sorted(set(range(chunks.grid[-2])) - {place[-2] for place in chunks.present})
    if declared or not absent_rows or not {place[-2] for place in chunks.absent} <= set(absent_rows):
        return
    more = ", ..." if len(absent_rows) > NAMED_ROWS else ""
    raise InputError(
        f"{path}: expected the {chunks.count} chunks of level 0, found {len(chunks.present)}, and none of the rows"
        f" {', '.join(map(str, absent_rows[:NAMED_ROWS]))}{more} of chunks, as of a copy that stopped; copy it again."
        " If nothing was scanned there, write the grey value of glass as fill_value of level 0"
    )


def refuse_contradicted(
    path: Path, chunks: Chunks, shape: tuple[int, int], levels: Iterable[zarr.Array[Any]], flat: float = FLAT
) -> None:
    """Refuse an image whose coarser level shows tissue, or marks, where chunks of level 0 are absent.

    Values that differ by up to the share ``flat`` of white show nothing; of masks any that is not 0 does.

    Raises
    ------
    InputError
        If so.
    """
    level = next((level for level in levels if math.prod(level.shape) <= LARGEST_WITNESS_PX), None)
    if level is None or min(level.shape) < 1:
        return
    pixels = np.asarray(level[:]).reshape(-1, *level.shape[-2:])  # (c, h, w)
    scale_y, scale_x = pixels.shape[1] / shape[0], pixels.shape[2] / shape[1]
    most = flat * white_of(pixels)
    shown = 0
    for place in chunks.absent:
        box = chunks.box(place, shape)
        y0, y1 = math.ceil(box.y0 * scale_y), math.floor(box.y1 * scale_y)
        x0, x1 = math.ceil(box.x0 * scale_x), math.floor(box.x1 * scale_x)
        seen = pixels[:, y0:y1, x0:x1]
        shown += bool(seen.size and (np.ptp(seen) if flat else seen.max()) > most)
    if shown:
        raise InputError(
            f"{path}: expected the {chunks.count} chunks of level 0, found {len(chunks.present)}; a coarser level is"
            f" not empty where {shown} of the others should be: the copy is not whole; copy it again"
        )


def with_fill(array: zarr.Array[Any], value: int) -> zarr.Array[Any]:
    """Return an array of the same chunks that gives another value where chunks are absent."""
    metadata: Any = array.metadata.to_dict()
    metadata["fill_value"] = value
    return zarr.Array(AsyncArray(metadata=metadata, store_path=array.store_path))


def sampled(array: zarr.Array[Any], chunks: Chunks) -> NDArray[Any]:
    """Return pixels of some chunks that are there, as one row."""
    return np.concatenate(
        [
            np.asarray(
                array[tuple(slice(at * side, (at + 1) * side) for at, side in zip(place, chunks.side, strict=True))]
            ).ravel()
            for place in evenly(chunks.present, SAMPLES)
        ]
    )


def absent_in_shards(folder: Path, array: zarr.Array[Any], chunks: Chunks) -> tuple[int, int]:
    """Return how many chunks of shards are absent, and how many were looked for; nothing of unusual indexes."""
    if array.shards is None:
        return 0, 0
    metadata: Any = array.metadata
    codec = metadata.codecs[0]
    usual = [type(part).__name__ for part in getattr(codec, "index_codecs", ())] == ["BytesCodec", "Crc32cCodec"]
    if not usual:
        return 0, 0
    inner = math.prod(side // edge for side, edge in zip(chunks.side, array.chunks, strict=True))
    at_end = str(codec.index_location.value) == "end"
    absent = looked = 0
    for place in evenly(chunks.present, MOST_SHARDS):
        with (folder / array.metadata.encode_chunk_key(place)).open("rb") as file:
            if at_end:
                file.seek(-(16 * inner + 4), 2)
            index = np.frombuffer(file.read(16 * inner), "<u8")
        filled = (chunks.side[axis] * place[axis] for axis in range(len(place)))
        room = [
            -(-min(side, length - start) // edge)
            for side, length, start, edge in zip(chunks.side, array.shape, filled, array.chunks, strict=True)
        ]
        full = [side // edge for side, edge in zip(chunks.side, array.chunks, strict=True)]
        is_absent = (index.reshape(*full, 2) == np.iinfo(np.uint64).max).all(axis=-1)
        absent += int(is_absent[tuple(slice(0, size) for size in room)].sum())
        looked += math.prod(room)
    return absent, looked
