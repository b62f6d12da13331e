"""Scans of Zeiss (CZI), read by their maker's library, which is an extra: ``pip install 'cytomend[czi]'``.

One scene is read, at full resolution, and coordinates count from its corner, as in QuPath and ZEN's export. Of several
scenes the frame names one: ``scan.czi#scene2``. Places between its tiles are white; black in fluorescence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomend.errors import InputError, ResourceError
from cytomend.geometry import Box
from cytomend.storage.frames import require_frame, scene_in
from cytomend.storage.pixel_size import credible_size_um
from cytomend.storage.raster import PixelKind, SectionImage, check_pixels, first_line

MAGIC = b"ZISRAWFI"
KINDS = {"Gray8": (1, "uint8"), "Gray16": (1, "uint16"), "Bgr24": (3, "uint8"), "Bgr48": (3, "uint16")}
"""Channels and dtype of the kinds of pixels that can be tissue."""
BLOCK_PX = 1024
MOST_TILES = 4096
"""Of a scan with more tiles it is not measured how much of it they leave out."""


class CziImage(SectionImage):
    """The plane of a scene."""

    def __init__(self, path: Path, reader: Any, opened: Any, scene: int | None, place: Box, kind: str) -> None:  # noqa: ANN401 - untyped
        channels, dtype = KINDS[kind]
        super().__init__(
            path,
            shape=place.shape,
            channels=channels,
            dtype=np.dtype(dtype),
            pixel_size_um=_pixel_size_um(reader.metadata),
            block_px=(BLOCK_PX, BLOCK_PX),
        )
        self._reader, self._opened, self._place, self._scene = reader, opened, place, scene
        self.ground = _ground(reader.metadata, np.iinfo(dtype).bits)

    def close(self) -> None:
        """Release the file; later reads fail."""
        self._opened.__exit__(None, None, None)

    def _read(self, box: Box) -> NDArray[Any]:
        height, width = box.shape
        roi = (self._place.x0 + box.x0, self._place.y0 + box.y0, width, height)
        plane = {"C": 0, "Z": 0, "T": 0}
        ground = (self.ground,) * 3
        pixels = self._reader.read(roi=roi, plane=plane, scene=self._scene, background_pixel=ground)  # (h, w, C), BGR
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 0)[::-1].astype(self.dtype, copy=False))


def open_czi(path: Path, kind: PixelKind, frame: str = "") -> CziImage:
    """Open a scene of a scan of Zeiss.

    Raises
    ------
    ResourceError
        If the library is not installed.
    InputError
        If the file cannot be read, is no plane of tissue, or holds several scenes of which the frame names none.
    """
    try:
        from pylibCZIrw import czi
    except ImportError as error:
        raise ResourceError(
            f"{path}: reading CZI needs a library that is not installed; run: pip install 'cytomend[czi]'"
        ) from error
    try:
        opened = czi.open_czi(str(path))
        reader = opened.__enter__()
        found = reader.get_channel_pixel_type(0)
        whole, scenes = reader.total_bounding_rectangle_no_pyramid, _scenes(reader)
    except Exception as error:  # the library raises RuntimeError, and others
        raise InputError(
            f"{path}: expected a CZI scan, found one that cannot be read ({first_line(error)}); copy it again"
        ) from error
    try:
        bounds = reader.total_bounding_box
        extent = {axis: low_high[1] - low_high[0] for axis, low_high in bounds.items() if axis not in "XY"}
        if found not in KINDS or any(extent.get(axis, 1) > 1 for axis in "ZT") or extent.get("C", 1) > 1:
            raise InputError(
                f"{path}: expected one plane of {', '.join(KINDS)}, found {found} with {extent}; export one plane"
            )
        scene = _chosen(path, scenes, frame)
        place = _box(whole if scene is None else scenes[scene])
        image = CziImage(path, reader, opened, scene, place, found)
        check_pixels(path, kind, shape=image.shape, channels=image.channels, dtype=image.dtype)
    except InputError:
        opened.__exit__(None, None, None)
        raise
    if (gaps := _left_out(reader, place)) > 0:
        ground = "black" if image.ground == 0 else "white"
        image.warnings.append(
            f"{path}: about {max(gaps, 0.01):.0%} of the frame was not scanned, and is read as {ground} ground"
        )
    return image


def _scenes(reader: Any) -> dict[int, Any]:  # noqa: ANN401 - untyped
    """Return the rectangles of all scenes by the library's number; of an old file without scenes none."""
    scenes = dict(reader.scenes_bounding_rectangle_no_pyramid)
    return {number: scenes[number] for number in sorted(scenes)}


def _chosen(path: Path, scenes: dict[int, Any], frame: str) -> int | None:
    """Return the library's number of the scene that a frame names; scenes are never joined.

    Raises
    ------
    InputError
        If there are several and none is named, or there is none of that number.
    """
    numbers = list(scenes)
    wanted = scene_in(frame)
    listed = ", ".join(f"scene{n} ({scenes[number].h} x {scenes[number].w} px)" for n, number in enumerate(numbers, 1))
    if wanted is None and len(numbers) > 1:
        raise InputError(
            f"{path}: expected one scene, found {len(numbers)}: {listed} (height x width); name the one to be read, as"
            f" in {path.name}#scene1, and give each scene a row of its own"
        )
    if wanted is None:
        require_frame(path, frame, "scene1")
        return numbers[0] if numbers else None
    if wanted > max(len(numbers), 1):
        raise InputError(f"{path}: expected scene{wanted}, found {listed or 'one scene'}; correct the frame")
    return numbers[wanted - 1] if numbers else None


def _box(rectangle: Any) -> Box:  # noqa: ANN401 - untyped
    return Box(rectangle.y, rectangle.x, rectangle.y + rectangle.h, rectangle.x + rectangle.w)


def _ground(metadata: Any, stored_bits: int) -> float:  # noqa: ANN401 - parsed XML
    """Return what lies between tiles, from 0 for black to 1 for the largest value that is stored.

    Glass is white, of as many bits as the camera gave. Fluorescence has a black ground.
    """
    try:
        channels = metadata["ImageDocument"]["Metadata"]["Information"]["Image"]["Dimensions"]["Channels"]["Channel"]
        channel = channels[0] if isinstance(channels, list) else channels
    except (KeyError, TypeError, IndexError):
        return 1.0
    said = " ".join(str(channel.get(name, "")) for name in ("IlluminationType", "ContrastMethod", "AcquisitionMode"))
    if "fluorescence" in said.lower():
        return 0.0
    bits = str(channel.get("ComponentBitCount", ""))
    if bits.isdigit() and 0 < int(bits) < stored_bits:
        return float(((1 << int(bits)) - 1) / ((1 << stored_bits) - 1))
    return 1.0


def _left_out(reader: Any, place: Box) -> float:  # noqa: ANN401 - untyped
    """Return the share of a frame that lies in no tile of full resolution; 0 of a scan with very many tiles."""
    tiles: list[Box] = []

    def keep(_: int, tile: Any) -> bool:  # noqa: ANN401 - untyped
        if tile.logicalRect.w == tile.physicalSize.w and tile.logicalRect.h == tile.physicalSize.h:
            tiles.append(_box(tile.logicalRect).intersect(place))
        return len(tiles) <= MOST_TILES

    reader.enumerate_subblocks(keep)
    tiles = [tile for tile in tiles if not tile.is_empty]
    if len(tiles) > MOST_TILES:
        return 0.0
    return 1 - covered_px([*tiles]) / (place.shape[0] * place.shape[1])


def covered_px(boxes: list[Box]) -> int:
    """Return how many pixels lie in any of some boxes.

    >>> covered_px([Box(0, 0, 2, 2), Box(1, 1, 3, 3)])
    7
    """
    ys = np.unique([edge for box in boxes for edge in (box.y0, box.y1)])
    xs = np.unique([edge for box in boxes for edge in (box.x0, box.x1)])
    covered = np.zeros((max(len(ys) - 1, 0), max(len(xs) - 1, 0)), np.bool_)
    for box in boxes:
        (y0, y1), (x0, x1) = np.searchsorted(ys, (box.y0, box.y1)), np.searchsorted(xs, (box.x0, box.x1))
        covered[y0:y1, x0:x1] = True
    return int(np.diff(ys) @ covered @ np.diff(xs)) if covered.size else 0


def _pixel_size_um(metadata: Any) -> float | None:  # noqa: ANN401 - parsed XML
    """Return the pixel size from the metadata's distances, which are in metres."""
    try:
        items = metadata["ImageDocument"]["Metadata"]["Scaling"]["Items"]["Distance"]
        size = {item["@Id"]: float(item["Value"]) * 1e6 for item in items}
        return credible_size_um(size.get("Y"), size.get("X"))
    except (KeyError, TypeError, ValueError):
        return None
