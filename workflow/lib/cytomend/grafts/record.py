"""The record of a section's grafts, in its pyramid: the label image ``origin`` and the table ``labels/origin/grafts``.

A pixel of ``origin`` is 0 where the scan was left as it is, `DRAWN` where the network (or a blend of grafts) made it,
and `FIRST` + row where it is a copy; ``row`` counts the rows of the table. So the label alone tells, of every pixel,
whether it is measured, drawn or copied, and from where.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.grafts.quilt import GRAFT_COLUMNS

ORIGIN = "origin"
TABLE = "grafts"
DRAWN, FIRST = 1, 2

COLUMNS = ("region", *GRAFT_COLUMNS)
"""Of the table: region, the graft's number in it, corners of target and source on the section, side and cost."""

UNITS = {
    "region": "number of the region",
    "number": "number of the graft in its region, from 1",
    "y": "upper row of the target block, px",
    "x": "left column of the target block, px",
    "source_y": "upper row of the source block, px",
    "source_x": "left column of the source block, px",
    "side_px": "side of both blocks, px",
    "mirrored": "1 if the source was mirrored left to right",
    "cost": "difference on the overlap and from the context map; about 1 for tissue at random in each",
}

DRAWN_COLOUR = [230, 97, 1, 120]
GRAFT_COLOURS = ([26, 133, 255, 110], [64, 176, 166, 110], [93, 58, 155, 110])
"""Orange and three cool colours that the colour blind tell apart; grafts take turns."""
MOST_COLOURS = 4096


def joined(stores: list[zarr.Group]) -> NDArray[np.float64]:
    """Return the grafts of all shards of a section, (n, columns), by region and number."""
    tables = [np.asarray(store[TABLE]) for store in stores]
    table = np.concatenate([np.zeros((0, len(COLUMNS))), *tables])
    return table[np.lexsort((table[:, 1], table[:, 0]))]


def origins(labels: NDArray[np.uint32], numbers: NDArray[np.uint32], first_row: dict[int, int]) -> NDArray[np.uint32]:
    """Return the label ``origin`` of a box, (h, w).

    Parameters
    ----------
    labels : region of each mended pixel, 0 elsewhere
    numbers : which of its region's grafts each pixel came from, 0 where it was drawn
    first_row : of each region with grafts, the row of its first in the table
    """
    found = np.where(labels > 0, np.uint32(DRAWN), np.uint32(0))
    copied = (labels > 0) & (numbers > 0)
    if copied.any():
        regions, place = np.unique(labels[copied], return_inverse=True)
        rows = np.array([first_row[int(region)] for region in regions])[place]
        found[copied] = (rows + numbers[copied] - 1 + FIRST).astype(np.uint32)
    return found


def first_rows(table: NDArray[np.float64]) -> dict[int, int]:
    """Return the row of each region's first graft."""
    regions, rows = np.unique(table[:, 0], return_index=True)
    return dict(zip(regions.astype(int).tolist(), rows.tolist(), strict=True))


def colours(count: int) -> list[dict[str, Any]]:
    """Return the colours of ``origin`` for viewers."""
    grafts = (
        {"label-value": FIRST + row, "rgba": GRAFT_COLOURS[row % len(GRAFT_COLOURS)]}
        for row in range(min(count, MOST_COLOURS))
    )
    return [{"label-value": DRAWN, "rgba": DRAWN_COLOUR}, *grafts]


def read_grafts(corrected: Path) -> pd.DataFrame:
    """Return the grafts of a corrected section, a row each, in the columns of `UNITS`; empty if all was drawn.

    Raises
    ------
    InputError
        If there is a label ``origin`` whose table cannot be read.
    """
    label = corrected / "labels" / ORIGIN
    if not label.exists():
        return pd.DataFrame(np.zeros((0, len(COLUMNS))), columns=list(COLUMNS))
    try:
        values = np.asarray(zarr.open_array(label / TABLE, mode="r"))
        table = pd.DataFrame(values.reshape(-1, len(COLUMNS)), columns=list(COLUMNS))
        return table.astype({name: "int64" for name in COLUMNS if name != "cost"})
    except Exception as error:  # codecs raise whatever they like on damaged data
        raise InputError(f"{label / TABLE}: expected the table of grafts, found none that can be read") from error
