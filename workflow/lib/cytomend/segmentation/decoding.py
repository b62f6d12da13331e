"""From proposals to cells: peaks of the score, their contours, refined, and of overlapping ones the best.

Each step looks at a bounded neighbourhood alone, so that a block of a scan gives the cells that the whole scan does:
a contour reaches at most ``reach_px`` from the place that proposes it, and a proposal gives way to a better one that it
overlaps whether or not that one gives way itself (else one cell's fate could hang on another far away).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cytomend.segmentation.cpn import Proposals, contours, places, refined
from cytomend.segmentation.polygons import Polygons, overlaps, polygons
from cytomend.segmentation.record import CpnRecord

POINTS = 48
"""Points of a contour; a circle loses 0.3 % of its area to so many corners."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of a picture, in px of the picture that the network sees.

    ``place`` (n, 2) of (y, x) is where each was proposed, ``score`` (n,), ``contour`` (n, points, 2) of (y, x), and
    ``polygon`` (n,) the same as valid polygons in (x, y).
    """

    place: NDArray[np.float32]
    score: NDArray[np.float32]
    contour: NDArray[np.float32]
    polygon: Polygons

    def take(self, index: NDArray[Any]) -> Cells:
        """Return the chosen cells."""
        return Cells(self.place[index], self.score[index], self.contour[index], self.polygon[index])

    def __len__(self) -> int:
        return len(self.score)


def peaks(score: Tensor, least: float) -> Tensor:
    """Return rows and columns (n, 2) of a score map (h, w) where it is highest among its 3 x 3 neighbours."""
    highest = F.max_pool2d(score[None, None], 3, stride=1, padding=1)[0, 0]
    return torch.nonzero((score == highest) & (score >= least))


def proposed(proposals: Proposals, record: CpnRecord, origin: tuple[int, int], shape: tuple[int, int]) -> Cells:
    """Return all proposals of a block, before any gives way.

    Parameters
    ----------
    proposals : of one block, batch size one
    record : of the segmenter
    origin : (y, x) of the block in the picture, in px
    shape : (height, width) of the picture in px, at whose rim contours end
    """
    score = torch.sigmoid(proposals.score[0].float())
    cells = peaks(score, record.score)
    row, column = cells.unbind(1)
    place = places(cells).float()
    centre = place + proposals.location[0][:, row, column].T.float()
    contour = contours(centre, proposals.fourier[0][:, row, column].T.float(), POINTS)
    picture = torch.zeros(len(cells), dtype=torch.long, device=cells.device)
    contour = refined(contour, proposals.field.float(), picture, record.network.refinements)
    reach = record.network.reach_px
    contour = torch.maximum(torch.minimum(contour, place[:, None] + reach), place[:, None] - reach)
    corner = np.asarray(origin, np.float32)
    drawn = np.clip(contour.cpu().numpy() + corner, 0, np.asarray(shape, np.float32))
    return Cells(place.cpu().numpy() + corner, score[row, column].cpu().numpy(), drawn, polygons(drawn))


def best(cells: Cells, overlap: float, least_px2: float = 9.0) -> Cells:
    """Return the cells that no better one overlaps by more than so much (intersection over union).

    Of two equal scores the one further up, then further left, is the better. Specks are no cells.
    """
    cells = cells.take(shapely.area(cells.polygon) >= least_px2)
    rank = np.empty(len(cells), np.intp)
    rank[np.lexsort((cells.place[:, 1], cells.place[:, 0], -cells.score))] = np.arange(len(cells))
    pairs = overlaps(cells.polygon, cells.polygon)
    gives_way = (pairs.iou > overlap) & (rank[pairs.first] > rank[pairs.second])
    kept = np.ones(len(cells), dtype=bool)
    kept[pairs.first[gives_way]] = False
    return cells.take(kept)
