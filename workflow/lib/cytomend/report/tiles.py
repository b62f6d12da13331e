"""The section as tiles that a browser zooms into: plain files, beside the page, that open from disk.

Layers lie on one grid of tiles of 512 px, halved from level to level as the corrected pyramid is:

| layer | what | where it has tiles |
|---|---|---|
| ``before`` | the scan, opaque | from the level ``complete_from`` on everywhere; on finer ones around regions, and on |
| | | level `SOURCE_LEVEL` and above where the copies in shown regions come from |
| ``after`` | the mended pixels, transparent elsewhere | of those tiles, where a pixel is mended |
| ``mended`` | a flat colour on the mended pixels | as ``after`` |
| ``uncertainty`` | deviation of samples, in colour, on the mended pixels | as ``after``, if there are samples |
| ``origin`` | a colour on drawn pixels, and others on copied ones | as ``after``, if there are grafts |

Level 0 has the pixels of the scan, without loss. A tile is ``LAYER/LEVEL/COLUMN_ROW.png`` (``.webp`` for a reduced
``before``), its place counted in tiles from the section's corner. What is written follows the damage (law 5), and the
tiles are made depth first, so that a few of them are in memory at a time (law 4).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.heat import heat
from cytomend.report.corrected import CorrectedSection
from cytomend.report.overview import MENDED_COLOUR
from cytomend.report.pictures import PREVIEW_QUALITY, to_display
from cytomend.storage.images import SectionImage
from cytomend.storage.pyramid import halve_by_mean
from cytomend.values import ValueRange

TILE_PX = 512
"""Side of a tile: that of a chunk of the corrected pyramid, by default, so that a tile is one piece to read."""

SOURCE_LEVEL = 1
"""Finest level on which sources of copies are shown. Cells are seen there, and a tile covers four of level 0: sources
lie strewn around a region, and at full resolution they would take more room than the regions."""

EMPTY = "none.png"

Place = tuple[int, int]
"""(row, column) of a tile."""


@dataclass(frozen=True, slots=True)
class TileIndex:
    """Which tiles there are.

    Attributes
    ----------
    levels : of the pyramid
    complete_from : the finest level that shows the whole section
    before, mended : (row, column) of the tiles of a layer, by level; ``mended`` holds for all other layers
    """

    levels: int
    complete_from: int
    before: dict[int, list[Place]] = field(default_factory=lambda: defaultdict(list))
    mended: dict[int, list[Place]] = field(default_factory=lambda: defaultdict(list))

    def runs(self, layer: dict[int, list[Place]], width_px: int) -> dict[str, list[int]]:
        """Return the tiles of a layer as runs of neighbours, by level.

        Parameters
        ----------
        layer : ``before`` or ``mended``
        width_px : of the section

        Returns
        -------
        dict
            Of each level, as text, (first, length) of every run, one after the other; tiles are counted row by row.

        Examples
        --------
        >>> TileIndex(1, 0).runs({0: [(0, 0), (0, 1), (1, 0)]}, 1500)
        {'0': [0, 2, 3, 1]}
        """
        return {str(level): _runs(sorted(_serial(places, level, width_px))) for level, places in sorted(layer.items())}


@dataclass(frozen=True, slots=True)
class TileWriter:
    """Writes the tiles of a section.

    Attributes
    ----------
    image, corrected : the scan, and what was made of it
    value_range : values of the scan that are black and white
    shown : numbers of the regions that are shown at full resolution
    overview_px : the longer side of the finest level that is complete is no longer
    context_px : intact tissue around a shown region that is at full resolution at least
    folder : where the tiles go
    sources : boxes that the copies in shown regions come from
    """

    image: SectionImage
    corrected: CorrectedSection
    value_range: ValueRange
    shown: Collection[int]
    overview_px: int
    context_px: int
    folder: Path
    sources: Collection[Box] = ()

    def write(self) -> TileIndex:
        """Write all tiles and return which there are.

        Raises
        ------
        InputError
            If scan and corrected section differ where nothing was mended.
        """
        last = len(self.corrected.levels) - 1
        index = TileIndex(last + 1, self._complete_from(last))
        for place in self._places(last):
            self._descend(last, place, index)
        Image.new("LA", (1, 1)).save(_made(self.folder / EMPTY), optimize=True)
        return index

    def _complete_from(self, last: int) -> int:
        fitting = (n for n, level in enumerate(self.corrected.levels) if max(level.shape[-2:]) <= self.overview_px)
        return next(fitting, last)

    def _places(self, level: int) -> Iterator[Place]:
        whole = self.corrected.whole(level)
        return ((box.y0 // TILE_PX, box.x0 // TILE_PX) for box in whole.tiles(TILE_PX))

    def _descend(self, level: int, place: Place, index: TileIndex) -> tuple[NDArray[Any] | None, bool]:
        """Write a tile and all below it.

        Returns
        -------
        (C, h, w) or None
            The scan there, or None where it is that of the corrected section.
        bool
            Whether the layer ``before`` has this tile.
        """
        whole = self.corrected.whole(level)
        box = Box(*(side * TILE_PX for side in (*place, place[0] + 1, place[1] + 1))).intersect(whole)
        around = box.grow(-(-self.context_px // 2**level)).intersect(whole)
        near = self.corrected.read_labels(around, level)
        is_complete, is_source = level >= index.complete_from, self._holds_source(level, box)
        if not (is_complete or is_source or near.any()):
            return None, False
        numbers = near[box.relative_to(around).slices]
        descend = bool(near.any()) or level > index.complete_from or (is_source and level > SOURCE_LEVEL)
        below = [
            (child, *self._descend(level - 1, child, index)) for child in self._children(level, place, descend=descend)
        ]
        is_written = (
            is_complete
            or is_source
            or any(written for _, _, written in below)
            or (level == 0 and bool(np.isin(near, list(self.shown)).any()))
        )
        is_mended = bool(numbers.any())
        if not is_mended and not is_written:
            return None, False
        after = self.corrected.read(box, level)
        before = self._before(level, box, after, numbers, below) if is_mended else after
        if is_written:
            self._write(level, place, index, before, after, numbers, box)
        return (before if is_mended else None), is_written

    def _holds_source(self, level: int, box: Box) -> bool:
        """Whether a box of a level holds some of a source, on the levels that show them."""
        if level < SOURCE_LEVEL:
            return False
        side = 2**level
        whole = Box(box.y0 * side, box.x0 * side, box.y1 * side, box.x1 * side)
        return any(not source.intersect(whole).is_empty for source in self.sources)

    def _children(self, level: int, place: Place, *, descend: bool) -> Iterator[Place]:
        if level == 0 or not descend:
            return
        rows, columns = (-(-side // TILE_PX) for side in self.corrected.whole(level - 1).shape)
        for row in range(2 * place[0], min(2 * place[0] + 2, rows)):
            for column in range(2 * place[1], min(2 * place[1] + 2, columns)):
                yield row, column

    def _before(
        self,
        level: int,
        box: Box,
        after: NDArray[Any],
        numbers: NDArray[np.uint32],
        below: list[tuple[Place, NDArray[Any] | None, bool]],
    ) -> NDArray[Any]:
        """Return the scan in a box of a level that holds mended pixels, (C, h, w)."""
        if level == 0:
            before = self.image.read(box)
            self._require_untouched(before, after, numbers, box)
            return before
        before, half = after.copy(), TILE_PX // 2
        for (row, column), pixels, _ in below:
            if pixels is not None:
                reduced = halve_by_mean(pixels)
                y, x = row * half - box.y0, column * half - box.x0
                before[:, y : y + reduced.shape[1], x : x + reduced.shape[2]] = reduced
        return before

    def _write(
        self,
        level: int,
        place: Place,
        index: TileIndex,
        before: NDArray[Any],
        after: NDArray[Any],
        numbers: NDArray[np.uint32],
        box: Box,
    ) -> None:
        name = f"{level}/{place[1]}_{place[0]}"
        index.before[level].append(place)
        scan = Image.fromarray(to_display(before, self.value_range))
        if level == 0:
            scan.save(_made(self.folder / f"before/{name}.png"))
        else:
            scan.save(_made(self.folder / f"before/{name}.webp"), quality=PREVIEW_QUALITY)
        mended = numbers > 0
        if not mended.any():
            return
        index.mended[level].append(place)
        _cut_out(to_display(after, self.value_range), mended).save(_made(self.folder / f"after/{name}.png"))
        _flat(mended).save(_made(self.folder / f"mended/{name}.png"), transparency=bytes([0, 255]), bits=1)
        if (uncertainty := self.corrected.uncertainty) is not None:
            deviation = np.asarray(uncertainty.levels[level][box.slices])
            colours = heat(deviation / uncertainty.full_scale)
            _cut_out(colours, mended).save(_made(self.folder / f"uncertainty/{name}.png"))
        if (origin := self.corrected.origin) is not None:
            # A damaged label may hold numbers that the table lacks; the verdict says so.
            values = np.minimum(self.corrected.read_origin(box, level), len(origin.colours) - 1)
            _cut_out(origin.colours[values], mended).save(_made(self.folder / f"origin/{name}.png"))

    def _require_untouched(
        self, before: NDArray[Any], after: NDArray[Any], numbers: NDArray[np.uint32], box: Box
    ) -> None:
        altered = int(((before != after).any(axis=0) & (numbers == 0)).sum())
        if altered:
            raise InputError(
                f"{self.image.path}: expected the scan that was mended, found {altered} px outside the mask that "
                f"differ from the corrected section at y {box.y0}-{box.y1}, x {box.x0}-{box.x1}; "
                "run `cytomend blend-section` again"
            )


def _cut_out(image: NDArray[np.uint8], mended: NDArray[np.bool_]) -> Image.Image:
    """Return the marked pixels of (h, w) or (h, w, 3) in the midst of nothing."""
    channels = image[..., np.newaxis] if image.ndim == 2 else image
    shown = np.where(mended[..., np.newaxis], channels, 0)
    return Image.fromarray(np.dstack([shown, mended * np.uint8(255)]).astype(np.uint8))


def _flat(mended: NDArray[np.bool_]) -> Image.Image:
    """Return the marked pixels in one colour; the other colour of the palette is to be transparent."""
    picture = Image.fromarray(mended.astype(np.uint8), mode="P")
    picture.putpalette((0, 0, 0, *MENDED_COLOUR))
    return picture


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _serial(places: list[Place], level: int, width_px: int) -> Iterator[int]:
    columns = -(-width_px // (TILE_PX * 2**level))
    return (row * columns + column for row, column in places)


def _runs(numbers: list[int]) -> list[int]:
    runs: list[int] = []
    for number in numbers:
        if runs and runs[-2] + runs[-1] == number:
            runs[-1] += 1
        else:
            runs += [number, 1]
    return runs
