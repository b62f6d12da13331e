"""Where a block ends: the cheapest cut through its overlap with what is there already."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

LEAST, MOST = 0.02, 20.0
"""Bounds of what a pixel costs that is cut, in units of the mean difference: of equal cuts the shorter one is better,
and no single pixel decides."""
PER_UNIT = 200
"""Capacities are whole numbers, so that a cut is exact and the same on every machine."""
BLOCK, THERE = 0, 1

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]


def cut(difference: Float, have: Mask, core_px: int) -> Mask:
    """Return which pixels of a block to take, (s, s).

    The boundary is the minimum cut between the pixels that only the block has and those that lie deep in what is there
    (Kwatra et al. 2003, Graphcut textures). A cut between two neighbours costs what the block differs at both, so that
    it goes around bodies that one side has alone.

    Parameters
    ----------
    difference : (s, s), between the block and what is there, not negative; not read where nothing is there
    have : (s, s), where something is there
    core_px : how deep in the overlap no pixel of the block is taken
    """
    if not have.any() or have.all():
        return ~have
    depth = ndimage.distance_transform_edt(have)
    core = have & (depth >= min(core_px, max(float(depth.max()) - 1, 1)))
    free = have & ~core
    if not free.any():
        return ~have
    node = np.where(core, THERE, BLOCK)
    node[free] = np.arange(2, 2 + int(free.sum()))
    cost = LEAST + np.minimum(difference / max(float(difference[free].mean()), 1e-9), MOST)
    # Where nothing is there nothing differs. A cut along that border must not be cheaper for it: it would run straight
    # along the edge of an earlier block.
    beside = ndimage.maximum_filter(np.where(have, cost, 0.0), 3)
    cost = np.where(have, cost, np.maximum(beside, LEAST))
    graph = _graph(node, cost)
    left = graph - maximum_flow(graph, BLOCK, THERE).flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = np.zeros(graph.shape[0], dtype=bool)
    reached[breadth_first_order(left, BLOCK, return_predecessors=False)] = True
    return np.asarray(reached[node])


def cut_by_squares(difference: Float, have: Mask, core_px: int, square_px: int) -> Mask:
    """Return `cut` for scans of small pixels, decided by squares of ``square_px``, which divides the block's side.

    Its cost would otherwise grow with more than the number of pixels; joints are wider than a square.
    """
    if square_px == 1:
        return cut(difference, have, core_px)
    count = len(have) // square_px
    squares = (count, square_px, count, square_px)
    there = np.asarray(have.reshape(squares).all(axis=(1, 3)))
    mean = difference.reshape(squares).mean(axis=(1, 3))
    taken = cut(mean, there, max(core_px // square_px, 2))
    return np.asarray(np.repeat(np.repeat(taken, square_px, axis=0), square_px, axis=1) | ~have)


def _graph(node: NDArray[np.int64], cost: Float) -> sparse.csr_matrix:
    """Return the capacities between neighbouring pixels of different nodes."""
    starts, ends, capacities = [], [], []
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        a, b = node[one].ravel(), node[other].ravel()
        apart = a != b
        capacity = np.rint(PER_UNIT * (cost[one] + cost[other]).ravel()[apart]).astype(np.int32)
        starts += [a[apart], b[apart]]
        ends += [b[apart], a[apart]]
        capacities += [capacity, capacity]
    count = int(node.max()) + 1
    pairs = (np.concatenate(starts), np.concatenate(ends))
    graph = sparse.coo_matrix((np.concatenate(capacities), pairs), (count, count)).tocsr()
    graph.data = graph.data.astype(np.int32)
    return graph
