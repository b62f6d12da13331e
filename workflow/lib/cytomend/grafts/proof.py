"""Whether a section's grafts are what its record says: copies of intact tissue, from where the table says (law 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.grafts.record import FIRST, ORIGIN, read_grafts
from cytomend.storage.raster import first_line

NAMED = 5
"""Grafts that are named; of more only the number is told."""


def wrong_grafts(
    corrected: Path,
    scan: Callable[[Box], NDArray[Any]],
    barred: Callable[[Box], NDArray[np.bool_]],
    mended: Callable[[Box], NDArray[np.uint32]],
    shape: tuple[int, int],
) -> Iterator[str]:
    """Yield what is wrong with the grafts of a corrected section.

    Parameters
    ----------
    corrected : the section, with the label ``origin``
    scan : gives the pixels of a box of the scan, (C, h, w)
    barred : which of them may not be copied, (h, w)
    mended : the region number of each pixel that is mended, 0 elsewhere, (h, w)
    shape : (height, width) of the section
    """
    try:
        table = read_grafts(corrected)
        image, origin = (zarr.open_array(corrected / place / "0", mode="r") for place in ("", f"labels/{ORIGIN}"))
        check = _Grafts(image, origin, scan, barred, mended, Box(0, 0, *shape))
        wrong = [sentence for row, graft in enumerate(table.itertuples()) if (sentence := check(row, graft))]
    except InputError as error:
        wrong = [str(error)]
    except MemoryError:
        raise
    except Exception as error:  # codecs raise whatever they like on damaged data
        wrong = [f"{corrected / 'labels' / ORIGIN}: expected readable data, found {first_line(error)}"]
    where = corrected / "labels" / ORIGIN
    yield from (f"{where}: {sentence}" for sentence in wrong[:NAMED])
    if len(wrong) > NAMED:
        yield f"{where}: {len(wrong) - NAMED:,} more grafts are wrong"


class _Grafts:
    """Looks at one graft after the other."""

    def __init__(
        self,
        image: zarr.Array[Any],
        origin: zarr.Array[Any],
        scan: Callable[[Box], NDArray[Any]],
        barred: Callable[[Box], NDArray[np.bool_]],
        mended: Callable[[Box], NDArray[np.uint32]],
        section: Box,
    ) -> None:
        self.image, self.origin, self.scan, self.barred, self.mended = image, origin, scan, barred, mended
        self.section = section

    def __call__(self, row: int, graft: Any) -> str:  # noqa: ANN401 - a row of the table
        """Return what is wrong with the graft of a row, or nothing."""
        side, name = graft.side_px, f"graft {row} of region {graft.region}"
        target = Box(graft.y, graft.x, graft.y + side, graft.x + side)
        source = Box(graft.source_y, graft.source_x, graft.source_y + side, graft.source_x + side)
        for what, box in (("target", target), ("source", source)):
            if box.is_empty or box.intersect(self.section) != box:
                return f"{name}: expected its {what} inside the section, found y {box.y0}-{box.y1}, x {box.x0}-{box.x1}"
        own = np.asarray(self.origin[target.slices]) == row + FIRST
        if (self.mended(target)[own] != graft.region).any():
            return f"{name}: expected its pixels in that region, found some outside of it"
        turn = slice(None, None, -1 if graft.mirrored else 1)
        if self.barred(source)[:, turn][own].any():
            return f"{name}: expected a source of intact tissue, found damage at y {source.y0}, x {source.x0}"
        copied = np.asarray(self.image[(..., *target.slices)]).reshape(-1, side, side)
        differ = (copied != self.scan(source)[..., turn]) & own
        if differ.any():
            return f"{name}: expected the pixels of its source, found {int(differ.any(axis=0).sum())} px with others"
        return ""
