"""TIFF, BigTIFF, OME-TIFF and SVS: the full-resolution plane, read strip by strip or tile by tile.

tifffile reads the directory and decodes a segment (a strip or a tile); fetching the bytes is ours, so that reads are
thread-safe and an uncompressed file without tiles costs no more than the box that is asked for.
"""

from __future__ import annotations

import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock, get_ident
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.storage.absent import SAMPLES, evenly, ground_value
from cytomend.storage.containers import refuse_by_flags
from cytomend.storage.frames import STORED, UPRIGHT, require_frame
from cytomend.storage.orientation import TAG, oriented
from cytomend.storage.pixel_size import size_from_aperio, size_from_density, size_from_ome_xml, size_from_tiff_tags
from cytomend.storage.raster import (
    ALPHA_UNUSED,
    INDICES_READ,
    LABELS,
    TISSUE,
    PixelKind,
    SectionImage,
    check_pixels,
    first_line,
)

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Decoded segments kept for the next box. Compressed strips run across the whole section, so that every box of a row of
# boxes needs all strips of that row: unless they are kept, a section 100,000 px wide is decoded dozens of times.
CACHE_BYTES = 64 << 20
STRIP_CACHE_ROWS = 4608  # the largest boxes in use are 4096 px high, and seldom begin where a strip does
STRIP_CACHE_BYTES = 1 << 30
LONGEST_SAID = 300
MOST_PAGES = 64
"""So many pages are looked at for a larger image than the one that is read."""
LARGE_BYTES, LARGE_TILE_BYTES = 1 << 30, 64 << 20
"""A scan from this size on is told of if it lies in compressed strips, or in tiles of that size."""
# A compressed strip must be decoded whole; above this the file cannot be read by region.
LARGEST_SEGMENT_BYTES = 512 << 20

_WHITE_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 2, 3, 6
_JPEG = {6, 7, 33007, 34892}
_APERIO_YCBCR = 33003  # decoded without its colour transform, so the colours would be wrong
_PHOTOMETRIC_NAMES = {
    0: "white-is-zero",
    3: "palette",
    4: "transparency mask",
    5: "CMYK",
    8: "CIELab",
    32803: "colour filter array",
}
_ALPHA = {1, 2}


def open_tiff(path: Path, kind: PixelKind, frame: str = "") -> SectionImage:
    """Open the full-resolution plane of a TIFF; see `cytomend.storage.images.open_image`."""
    require_frame(path, frame, STORED, UPRIGHT)
    try:
        with heard_from_tifffile() as said, TiffFile(path, _multifile=False) as tif:
            refuse_by_flags(path, tif)
            image = _open_plane(path, tif, kind)
            image.warnings += [f"{path}: tifffile says: {sentence}" for sentence in said]
            return oriented(image, _orientation(image), frame)
    except (InputError, MemoryError):
        raise
    except OSError as error:
        raise InputError(f"{path}: expected a readable TIFF, found: {error.strerror or error}") from error
    except Exception as error:  # tifffile raises nearly anything on a damaged directory
        raise InputError(
            f"{path}: expected a TIFF, found a damaged or truncated one ({first_line(error)}); copy or export it again"
        ) from error


def _open_plane(path: Path, tif: TiffFile, kind: PixelKind) -> TiffImage:
    index, series = _largest_series(path, tif)
    _refuse_larger_elsewhere(path, tif, series)
    pages = _channel_pages(path, series, tif)
    first = _keyframe(pages[0])
    channels = len(pages) if len(pages) > 1 else _colour_channels(first)
    shape = (int(first.imagelength), int(first.imagewidth))
    _check_colours(path, first, kind)
    check_pixels(path, kind, shape=shape, channels=channels, dtype=_dtype(path, first, kind))
    planes = [_plane(path, page, path.stat().st_size) for page in pages]
    image = TiffImage(path, planes, channels=channels, pixel_size_um=_pixel_size(tif, index, first))
    image.warnings += _laid_on_ground(path, planes, image, kind)
    if kind is TISSUE and (warning := _slow_to_read(path, planes[0], image)):
        image.warnings.append(warning)
    if len(pages) == 1 and channels < int(first.samplesperpixel):
        image.warnings.append(f"{path}: {ALPHA_UNUSED}")
    if first.photometric == _PALETTE:
        image.warnings.append(f"{path}: {INDICES_READ}")
    if "<BinaryOnly" in str(first.description):
        image.warnings.append(f"{path}: its metadata stand in another file, which is not read")
    if first.photometric == _WHITE_IS_ZERO:
        # tifffile and ImageJ write masks so, and count on the value that is stored.
        image.warnings.append(f"{path}: stored as white-is-zero; stored values other than 0 are taken as marked")
    image.read(Box(0, 0, 1, 1))  # a codec that we lack is found out now, not hours later
    return image


def _orientation(image: TiffImage) -> int:
    tag = image.page.tags.get(TAG)
    return int(tag.value) if tag is not None and isinstance(tag.value, int) else 1


@contextmanager
def heard_from_tifffile() -> Iterator[list[str]]:
    """Yield a list that receives what tifffile warns of in this thread: that it skips or guesses something."""
    said, thread = list[str](), get_ident()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread and (sentence := record.getMessage()[:LONGEST_SAID]) not in said:
                said.append(sentence)

    ear, logger = Ear(logging.WARNING), logging.getLogger("tifffile")
    logger.addHandler(ear)
    try:
        yield said
    finally:
        logger.removeHandler(ear)


def _laid_on_ground(path: Path, planes: list[_Plane], image: TiffImage, kind: PixelKind) -> list[str]:
    """Let an image show ground where tiles or strips were never written, and return what to say of it.

    Raises
    ------
    InputError
        If none was ever written, though it is a scan.
    """
    count, absent = sum(plane.count for plane in planes), sum(len(plane.absent) for plane in planes)
    what = "tiles" if planes[0].page.is_tiled else "strips"
    if not absent:
        return []
    if kind is LABELS:
        image.ground = int(planes[0].page.nodata)
        return [f"{path}: {absent} of {count} {what} were never written, and are read as {image.ground}"]
    if absent == count:
        raise InputError(f"{path}: expected pixels, found none of {count} {what} written; copy or export it again")
    image.ground = ground_value(image.sampled(), planes[0].page.nodata)
    return [
        f"{path}: {absent} of {count} {what} were never written, and are read as ground of the value {image.ground}"
    ]


def _slow_to_read(path: Path, plane: _Plane, image: TiffImage) -> str:
    """Return a sentence about a large scan of which no part can be decoded alone, or nothing."""
    height, width = plane.block_px
    pixel_bytes = image.channels * image.dtype.itemsize
    total = image.shape[0] * image.shape[1] * pixel_bytes
    in_parts = plane.is_raw or (plane.page.is_tiled and height * width * pixel_bytes < LARGE_TILE_BYTES)
    if in_parts or total < LARGE_BYTES:
        return ""
    what = f"tiles of {height:,} x {width:,} px" if plane.page.is_tiled else f"strips of {height:,} rows across"
    return (
        f"{path}: stored in compressed {what}, of which no part can be read alone: jobs decode them again and again,"
        f" and hold up to {STRIP_CACHE_BYTES >> 20} MiB of them; store it once in chunks, by `cytomend convert`"
    )


def _largest_series(path: Path, tif: TiffFile) -> tuple[int, TiffPageSeries]:
    """Return the one series of full resolution; thumbnails, labels and pyramid levels are smaller."""
    levels = [(index, series.levels[0]) for index, series in enumerate(tif.series)]
    if not levels:
        raise InputError(f"{path}: expected a TIFF with an image, found no image in it; copy or export it again")
    areas = [_extent(level, "Y") * _extent(level, "X") for _, level in levels]
    largest = [level for level, area in zip(levels, areas, strict=True) if area == max(areas)]
    if len(largest) > 1:
        raise _stack_error(
            path, f"{len(largest)} images of {_extent(largest[0][1], 'Y')} x {_extent(largest[0][1], 'X')}"
        )
    return largest[0]


def _refuse_larger_elsewhere(path: Path, tif: TiffFile, series: TiffPageSeries) -> None:
    """Refuse a file that holds a larger image than that which would be read, as below a preview.

    Raises
    ------
    InputError
        If one of its first pages, or of the images below them, is larger.
    """
    area = _extent(series, "Y") * _extent(series, "X")
    for number in range(min(len(tif.pages), MOST_PAGES)):
        page = tif.pages[number]
        below = page.pages or () if isinstance(page, TiffPage) else ()
        for image in (page, *below):
            frame = _keyframe(image)
            if int(frame.imagelength) * int(frame.imagewidth) > area:
                raise InputError(
                    f"{path}: expected its largest image to be the scan, found one of {frame.imagelength} x"
                    f" {frame.imagewidth} beside or below that of {_extent(series, 'Y')} x {_extent(series, 'X')}"
                    " (height x width), which its metadata name; export the scan again as a TIFF of its own"
                )


def _other_files(path: Path, tif: TiffFile) -> list[str]:
    """Return the files besides this one that the OME-XML of a TIFF says hold planes of it."""
    names = dict.fromkeys(re.findall(r'FileName="([^"]+)"', tif.ome_metadata or "")) if tif.is_ome else {}
    return [name for name in names if name != path.name] if len(names) > 1 else []


def _channel_pages(path: Path, series: TiffPageSeries, tif: TiffFile) -> list[TiffPage | TiffFrame]:
    """Return the pages of one plane: one, or one for each channel."""
    planes = int(np.prod([size for axis, size in zip(series.axes, series.shape, strict=True) if axis not in "CSYX"]))
    if planes > 1:
        raise _stack_error(path, f"{planes} planes (axes {series.axes}, shape {series.shape})")
    pages = [page for page in series.pages if page is not None]
    if others := _other_files(path, tif):
        raise InputError(
            f"{path}: expected one file that holds all planes, found an OME-TIFF spread over several files, with"
            f" {others[0]}; export it as one file, as by bfconvert"
        )
    if len(pages) < len(series.pages):
        raise InputError(
            f"{path}: expected {len(series.pages)} pages, of which its OME-XML speaks (axes {series.axes}, shape"
            f" {series.shape}), found {len(pages)}; export it again, as a plain TIFF without OME-XML"
        )
    if len(pages) != _extent(series, "C") and len(pages) != 1:
        raise _stack_error(path, f"{len(pages)} pages (axes {series.axes}, shape {series.shape})")
    if len(pages) == 1 and int(np.prod(series.shape)) != int(np.prod(pages[0].shape)):
        raise _stack_error(path, f"axes {series.axes}, shape {series.shape} in one page")
    return pages


def _keyframe(page: TiffPage | TiffFrame) -> TiffPage:
    """Return the page that says how this one is stored; most often itself."""
    assert page.keyframe is not None
    return page.keyframe


def _stack_error(path: Path, found: str) -> InputError:
    return InputError(
        f"{path}: expected one plane, found {found}; export the plane to be mended, or a maximum projection, alone"
    )


def _extent(series: TiffPageSeries, axis: str) -> int:
    return int(series.shape[series.axes.index(axis)]) if axis in series.axes else 1


def _colour_channels(page: TiffPage) -> int:
    """Return the number of samples without alpha."""
    samples = int(page.samplesperpixel)
    extra = tuple(int(value) for value in page.extrasamples)
    # A fourth sample of unspecified meaning beside RGB is what paint programs call alpha.
    alpha = sum(value in _ALPHA for value in extra)
    if page.photometric == _RGB and samples == 4 and alpha == 0:
        alpha = 1
    return samples - alpha


def _dtype(path: Path, page: TiffPage, kind: PixelKind) -> np.dtype[Any]:
    if page.dtype is None:
        raise InputError(
            f"{path}: expected {kind.expected}, found {page.bitspersample} bit samples of format {page.sampleformat};"
            f" convert it to {' or '.join(kind.dtypes)}"
        )
    return np.dtype(page.dtype).newbyteorder("=")


def _check_colours(path: Path, page: TiffPage, kind: PixelKind) -> None:
    photometric, compression = int(page.photometric), int(page.compression)
    understood = photometric in kind.photometrics or (photometric == _YCBCR and compression in _JPEG)
    if not understood or compression == _APERIO_YCBCR:
        found = _PHOTOMETRIC_NAMES.get(photometric, f"photometric {photometric} with compression {compression}")
        raise InputError(
            f"{path}: expected black-is-zero grey or RGB values, found {found}; export it again as plain grey or RGB"
        )


def _pixel_size(tif: TiffFile, index: int, page: TiffPage) -> float | None:
    """Return the pixel size in µm; the more specific place is asked first."""
    if tif.is_ome and tif.ome_metadata:
        size_um = size_from_ome_xml(tif.ome_metadata, index)
        if size_um is not None:
            return size_um
    if tif.is_svs:
        return size_from_aperio(page.description)
    x, y = (float(value) for value in page.resolution)
    if tif.is_imagej and (unit := str((tif.imagej_metadata or {}).get("unit", ""))):
        return size_from_density(y, x, unit.replace("\\u00B5", "µ"))
    # The TIFF default for a missing unit is inch, which would turn a mere aspect ratio into a size.
    return size_from_tiff_tags((x, y), int(page.resolutionunit)) if "ResolutionUnit" in page.tags else None


@dataclass(frozen=True)
class _Plane:
    """Where the segments of one page lie and how they are decoded."""

    page: TiffPage
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]
    decode: Callable[..., Any]  # (data, index) -> (1, h, w, samples), position, shape

    @property
    def count(self) -> int:
        """How many segments there are, absent ones too."""
        rows, columns = _grid((self.page.imagelength, self.page.imagewidth), self.block_px)
        return rows * columns * (int(self.page.samplesperpixel) if self.page.planarconfig == 2 else 1)

    @property
    def absent(self) -> NDArray[np.int64]:
        """Indices of segments that were never written."""
        return np.flatnonzero(self.byte_counts[: self.count] == 0)

    @property
    def block_px(self) -> tuple[int, int]:
        if self.page.is_tiled:
            return int(self.page.tilelength), int(self.page.tilewidth)
        return min(int(self.page.rowsperstrip), int(self.page.imagelength)), int(self.page.imagewidth)

    @property
    def is_raw(self) -> bool:
        """Whether rows can be taken from the file as they are."""
        page = self.page
        plain = page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and not page.is_tiled
        return plain and page.bitspersample == 8 * np.dtype(page.dtype).itemsize


def _plane(path: Path, page: TiffPage | TiffFrame, file_bytes: int) -> _Plane:
    """Check that every segment of a page lies inside the file, before anybody relies on it."""
    frame = _keyframe(page)
    offsets = np.asarray(page.dataoffsets, np.int64)
    counts = np.asarray(page.databytecounts, np.int64)
    options = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader} if int(frame.compression) in _JPEG else {}
    # Bound while the file is open, because tifffile looks into it to choose the decoder.
    plane = _Plane(frame, offsets, counts, partial(frame.decode, **options))
    if len(offsets) < plane.count or len(counts) < plane.count:
        raise InputError(
            f"{path}: expected {plane.count} strips or tiles, found {len(offsets)}; copy or export the file again"
        )
    if not frame.is_tiled and ((counts == 0) & (offsets > 0)).any():  # of a tile it says that nothing was scanned there
        raise InputError(
            f"{path}: expected the length of every strip, found strips of 0 bytes; save it again in another program"
        )
    if ((offsets[: plane.count] == 0) & (counts[: plane.count] > 0)).any():
        raise InputError(
            f"{path}: expected the place of every strip or tile, found some without one; copy or export it again"
        )
    end = int((offsets + counts)[counts > 0].max(initial=0))
    if end > file_bytes or int(offsets.min()) < 0 or int(counts.min()) < 0:
        raise InputError(
            f"{path}: expected a file of at least {end} bytes, found {file_bytes}: it is truncated; copy it again"
        )
    height, width = plane.block_px
    segment_bytes = height * width * int(frame.samplesperpixel) * np.dtype(frame.dtype).itemsize
    if segment_bytes > LARGEST_SEGMENT_BYTES and not plane.is_raw:
        raise InputError(
            f"{path}: expected tiles or strips of at most {LARGEST_SEGMENT_BYTES >> 20} MiB, found {height} x {width}"
            " pixels compressed as one; save it as a tiled TIFF"
        )
    return plane


def _grid(shape: tuple[int, int], block_px: tuple[int, int]) -> tuple[int, int]:
    return -(-int(shape[0]) // block_px[0]), -(-int(shape[1]) // block_px[1])


def _cache_bytes(plane: _Plane, pixel_bytes: int) -> int:
    """Return how many bytes of decoded segments to keep: little for tiles, a band of the section for strips."""
    if plane.page.is_tiled:
        return CACHE_BYTES
    band_bytes = STRIP_CACHE_ROWS * int(plane.page.imagewidth) * pixel_bytes
    return min(max(CACHE_BYTES, band_bytes), STRIP_CACHE_BYTES)


class TiffImage(SectionImage):
    """The full-resolution plane of a TIFF."""

    def __init__(self, path: Path, planes: list[_Plane], *, channels: int, pixel_size_um: float | None) -> None:
        page = planes[0].page
        super().__init__(
            path,
            shape=(int(page.imagelength), int(page.imagewidth)),
            channels=channels,
            dtype=np.dtype(page.dtype).newbyteorder("="),
            pixel_size_um=pixel_size_um,
            block_px=planes[0].block_px,
        )
        self.page = page
        self.ground = 0
        self._planes = planes
        self._file = os.open(path, os.O_RDONLY)
        self._decoded = _SegmentCache(_cache_bytes(planes[0], self.channels * self.dtype.itemsize))

    def close(self) -> None:
        """Release the file; later reads fail."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._decoded.clear()

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self.close()

    def _read(self, box: Box) -> NDArray[Any]:
        out = np.zeros((self.channels, *box.shape), self.dtype)  # (C, h, w)
        for number, plane in enumerate(self._planes):
            target = out if len(self._planes) == 1 else out[number : number + 1]
            for channels, segment_box, index in self._segments(plane, box, len(target)):
                self._copy_segment(number, index, segment_box, box, target[channels])
        return out

    def sampled(self) -> NDArray[Any]:
        """Return the pixels of some segments that were written, as one row."""
        there = [
            (number, int(index))
            for number, plane in enumerate(self._planes)
            for index in np.flatnonzero(plane.byte_counts[: plane.count])
        ]
        return np.concatenate([self._segment(*place).ravel() for place in evenly(there, SAMPLES)])

    def _segments(self, plane: _Plane, box: Box, channels: int) -> Iterator[tuple[slice, Box, int]]:
        """Yield (channels held, extent, index) of each strip or tile that meets the box."""
        rows, columns = _grid(self.shape, plane.block_px)
        height, width = plane.block_px
        planar = plane.page.planarconfig == 2
        for channel in range(channels if planar else 1):
            held = slice(channel, channel + 1) if planar else slice(0, channels)
            for row in range(box.y0 // height, -(-box.y1 // height)):
                for column in range(box.x0 // width, -(-box.x1 // width)):
                    extent = Box(row * height, column * width, (row + 1) * height, (column + 1) * width)
                    yield held, extent.clip(self.shape), (channel * rows + row) * columns + column

    def _copy_segment(self, number: int, index: int, extent: Box, box: Box, target: NDArray[Any]) -> None:
        """Put the part of one segment that lies in the box into target, (channels held, h, w) of the box."""
        plane = self._planes[number]
        part = box.intersect(extent)
        inside = part.relative_to(extent)
        if plane.byte_counts[index] == 0:
            pixels = np.full((*inside.shape, len(target)), self.ground, self.dtype)
        elif plane.is_raw:
            pixels = self._raw_rows(plane, index, extent, inside)
        else:
            pixels = self._segment(number, index)[inside.slices]
        rows, columns = part.relative_to(box).slices
        target[:, rows, columns] = np.moveaxis(pixels[..., : len(target)], -1, 0)

    def _segment(self, number: int, index: int) -> NDArray[Any]:
        """Return a decoded segment, (h, w, samples)."""
        cached = self._decoded.get((number, index))
        if cached is not None:
            return cached
        plane = self._planes[number]
        data = self._bytes(int(plane.offsets[index]), int(plane.byte_counts[index]))
        decoded, _, _ = plane.decode(data, index)
        segment: NDArray[Any] = decoded[0]
        self._decoded.put((number, index), segment)
        return segment

    def _raw_rows(self, plane: _Plane, index: int, extent: Box, inside: Box) -> NDArray[Any]:
        """Return part of an uncompressed strip, (h, w, samples), without reading the rest of its rows."""
        dtype = np.dtype(plane.page.dtype).newbyteorder(plane.page.parent.byteorder)
        samples = 1 if plane.page.planarconfig == 2 else int(plane.page.samplesperpixel)
        pixel_bytes = samples * dtype.itemsize
        row_bytes = extent.shape[1] * pixel_bytes
        height, width = inside.shape
        start = int(plane.offsets[index]) + inside.y0 * row_bytes + inside.x0 * pixel_bytes
        if width == extent.shape[1]:
            data = self._bytes(start, height * row_bytes)
        else:
            data = b"".join(self._bytes(start + row * row_bytes, width * pixel_bytes) for row in range(height))
        return np.frombuffer(data, dtype).reshape(height, width, samples)

    def _bytes(self, offset: int, count: int) -> bytes:
        data = os.pread(self._file, count, offset)
        while len(data) < count:  # one call gives at most 2 GiB
            more = os.pread(self._file, count - len(data), offset + len(data))
            if not more:
                raise EOFError(f"{count} bytes expected at {offset}, {len(data)} found")
            data += more
        return data


class _SegmentCache:
    """The decoded segments used last, up to a number of bytes, so that neighbouring boxes do not decode them again."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._held_bytes = 0
        self._segments: OrderedDict[tuple[int, int], NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[int, int]) -> NDArray[Any] | None:
        with self._lock:
            segment = self._segments.get(key)
            if segment is not None:
                self._segments.move_to_end(key)
            return segment

    def put(self, key: tuple[int, int], segment: NDArray[Any]) -> None:
        with self._lock:
            if key in self._segments:
                return
            self._segments[key] = segment
            self._held_bytes += segment.nbytes
            while self._held_bytes > self._capacity_bytes and len(self._segments) > 1:
                _, oldest = self._segments.popitem(last=False)
                self._held_bytes -= oldest.nbytes

    def clear(self) -> None:
        with self._lock:
            self._segments.clear()
            self._held_bytes = 0
