"""The context map: which tissue is wanted where, continued smoothly from around a hole into it.

Five features on a grid of `GRID_UM`: mean grey, share of dark pixels, contrast, and the doubled-angle components of the
structure tensor (direction and strength of orientation; Bigun & Granlund 1987). Outside the hole each is a Gaussian
mean over intact pixels; inside it solves Laplace's equation, so that layers, density and orientation go on from rim to
rim. All are in units of their own spread over the intact tissue.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu

GRID_UM = 16.0
COARSE_UM = 4.0
SMOOTH_UM = 32.0
DARK_PERCENTILE = 15.0
STRIP = 512
"""Rows of pixels that features are computed of at a time."""
HALO = 8
"""Rows around a strip that reach its features."""
SOME_PX = 1_000_000
LEAST_SHARE = 0.1
"""Of intact pixels under the Gaussian; with fewer a mean says nothing, and is continued from elsewhere."""

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]


class ContextMap(NamedTuple):
    """Features (F, h, w) on a grid of ``grid_px``: ``there`` in intact tissue, ``wanted`` also in the hole."""

    grid_px: int
    there: Float
    wanted: Float


def context_map(pixels: NDArray[Any], intact: Mask, pixel_size_um: float) -> ContextMap:
    """Return the context map of a search area.

    Parameters
    ----------
    pixels : (C, H, W) in any dtype
    intact : (H, W), which pixels are tissue to go by
    pixel_size_um : side of a pixel
    """
    grid_px = grid_of(pixel_size_um)
    share, parts = _pooled_features(pixels, intact, grid_px)
    sigma = SMOOTH_UM / (grid_px * pixel_size_um)
    weight = ndimage.gaussian_filter(share, sigma, mode="constant")
    smooth = np.stack([ndimage.gaussian_filter(part, sigma, mode="constant") for part in parts])
    told = weight >= LEAST_SHARE
    mean, dark, square, across, diagonal, trace = np.where(told, smooth / np.maximum(weight, 1e-9), 0.0)
    contrast = np.sqrt(np.maximum(square - mean**2, 0))
    features = np.stack([mean, dark, contrast, *(part / np.maximum(trace, 1e-9) for part in (across, diagonal))])
    certain = told & (share > 0)
    spread = features[:, certain].std(axis=1) if certain.any() else np.ones(len(features))
    features /= np.maximum(spread, 1e-6)[:, None, None]
    return ContextMap(grid_px, features, continued(features, share >= 1 if (share >= 1).any() else certain))


def grid_of(pixel_size_um: float) -> int:
    """Return the side of a square of the grid, in px: a multiple of that of the coarsest level of matching."""
    factor = coarsest(pixel_size_um)
    return max(round(GRID_UM / pixel_size_um / factor), 1) * factor


def coarsest(pixel_size_um: float) -> int:
    """Return the side of a pixel of the coarsest level of matching, in pixels of the scan: a power of two."""
    return int(2 ** max(np.floor(np.log2(COARSE_UM / pixel_size_um)), 0))


def some_of(pixels: NDArray[Any], intact: Mask) -> NDArray[Any]:
    """Return intact pixels (C, n) on a square grid, about `SOME_PX` of a large area: enough for a percentile."""
    step = max(int(np.sqrt(intact.size / SOME_PX)), 1)
    return np.asarray(pixels[:, ::step, ::step][:, intact[::step, ::step]])


def _pooled_features(pixels: NDArray[Any], intact: Mask, grid_px: int) -> tuple[Float, Float]:
    """Return the share of intact pixels of each square of the grid (h, w), and means of `_features` (6, h, w).

    Computed strip by strip, so that memory is that of a strip, whatever the size of a pixel.
    """
    some = some_of(pixels, intact)
    grey = some.mean(axis=0, dtype=np.float32)
    low, ground = np.percentile(grey, (DARK_PERCENTILE, 50.0)) if grey.size else (0.0, 0.0)
    shares, means = [], []
    for top in range(0, intact.shape[0], step := max(STRIP // grid_px, 1) * grid_px):
        above = min(top, HALO)
        rows = slice(top - above, top + step + HALO)
        # Nobody sees what damage looks like.
        shown = np.where(intact[rows], pixels[:, rows].mean(axis=0, dtype=np.float32), np.float32(ground))
        parts = _features(shown, intact[rows], low)
        own = slice(above, above + min(step, intact.shape[0] - top))
        shares.append(_pooled(intact[top : top + step].astype(np.float32), grid_px))
        means.append(np.stack([_pooled(part[own], grid_px) for part in parts]))
    return np.concatenate(shares), np.concatenate(means, axis=1)


def _features(grey: NDArray[np.float32], intact: Mask, low: float) -> list[NDArray[np.float32]]:
    """Return what is averaged, 0 where nothing is intact: grey, dark, grey², Jyy - Jxx, 2 Jxy, Jyy + Jxx."""
    inside = intact.astype(np.float32)
    smooth = ndimage.gaussian_filter(grey, 1.5)
    # The Gaussian reaches six pixels far, the gradient one.
    gradient = ndimage.binary_erosion(intact, iterations=7, border_value=1)
    dy, dx = (np.where(gradient, slope, np.float32(0)) for slope in np.gradient(smooth))
    return [
        grey * inside,
        (grey < low) * inside,
        grey**2 * inside,
        dy**2 - dx**2,
        2 * dy * dx,
        dy**2 + dx**2,
    ]


def _pooled(values: NDArray[np.float32], side_px: int) -> Float:
    """Return means over squares (ceil(H / side), ceil(W / side)); those at the far border end in zeros."""
    rows, columns = (-(-n // side_px) for n in values.shape)
    padded = np.zeros((rows * side_px, columns * side_px), np.float32)
    padded[: values.shape[0], : values.shape[1]] = values
    return np.asarray(padded.reshape(rows, side_px, columns, side_px).mean(axis=(1, 3), dtype=np.float64))


def continued(features: Float, given: Mask) -> Float:
    """Return features (F, h, w) that are kept where given, (h, w), and solve Laplace's equation elsewhere.

    Nothing flows through the border of the array.
    """
    height, width = given.shape
    number = np.full(given.shape, -1)
    number[~given] = np.arange((~given).sum())
    unknown = int((~given).sum())
    if not unknown or not given.any():
        return features.copy()
    rows, columns, right = [], [], np.zeros((len(features), unknown))
    degree = np.zeros(unknown)
    y, x = np.nonzero(~given)
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        here, ny, nx = number[y[inside], x[inside]], y[inside] + dy, x[inside] + dx
        degree[here] += 1
        free = ~given[ny, nx]
        rows.append(here[free])
        columns.append(number[ny[free], nx[free]])
        for feature, sums in zip(features, right, strict=True):
            np.add.at(sums, here[~free], feature[ny[~free], nx[~free]])
    off = sparse.coo_matrix(
        (-np.ones(sum(map(len, rows))), (np.concatenate(rows), np.concatenate(columns))), (unknown, unknown)
    )
    solved = splu((off + sparse.diags(degree)).tocsc()).solve(right.T).T
    whole = features.copy()
    whole[:, ~given] = solved
    return whole
