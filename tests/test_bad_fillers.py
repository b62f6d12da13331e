"""Deliberately bad fillers are caught, and by the statistic that is meant to catch them.

Caught: the pooled relative error lies outside the 95 % interval that the floor, another patch of the same tissue, has
over the same trials, and also outside that interval moved to no error at all: the floor itself is off where tissue is
cut at the outline, and the original must not be caught for being better. What a filler leaves alone must not be caught
either, or an alarm would say nothing of its cause.

Cells are moved, dropped and shrunk in tables of the phantom's true cells, so that many trials are cheap and no
segmenter stands in between; once more in drawn pictures with it; greys are spoilt in pictures of phantom tissue.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import disk

from cytomend.evaluation.arrangement import lying_in
from cytomend.evaluation.fillers import FILLERS
from cytomend.evaluation.statistics import (
    STATISTICS,
    SUMS,
    bootstrap_counts,
    count_cells,
    count_pairs,
    interval,
    measure,
    ratios,
)
from cytomend.evaluation.trials import stratified_masks
from cytomend.phantom import render_tissue
from cytomend.segmentation.classical import body_threshold, find_cells

VIEW, PATCH, MARGIN = 176, 112, 32
TISSUES, SIDE = 3, 560
TABLE_TRIALS, PICTURE_TRIALS, DRAWN_TRIALS = 240, 24, 24


@dataclass(frozen=True)
class View:
    """A square of tissue and another one of the same section: grey values and true cells (n, 3) of either."""

    picture: np.ndarray
    cells: np.ndarray
    other_picture: np.ndarray
    other_cells: np.ndarray
    mask: np.ndarray
    dark: float


def cut(tissue, corner):
    (y, x), cells = corner, tissue.cells[["y_um", "x_um", "area_um2"]].to_numpy(float) - [*corner, 0]
    return tissue.image[y : y + VIEW, x : x + VIEW], cells[((cells[:, :2] >= 0) & (cells[:, :2] < VIEW)).all(1)]


@pytest.fixture(scope="module")
def views():
    tissues = [render_tissue((SIDE, SIDE), seed) for seed in range(TISSUES)]
    darks = [body_threshold(tissue.image) for tissue in tissues]
    rng, made = np.random.default_rng(0), []
    for i, mask in enumerate(stratified_masks(TABLE_TRIALS, PATCH, 0)):
        here, there = (cut(tissues[i % TISSUES], rng.integers(0, SIDE - VIEW, 2)) for _ in range(2))
        made.append(View(*here, *there, np.pad(mask, MARGIN), darks[i % TISSUES]))
    return made


def errors(sums, original):
    """Pooled relative errors, (..., statistics)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return ratios(sums) / ratios(original) - 1


def caught(bad, floor, original):
    """The statistics of which the bad filler's error is not the floor's; sums (trials, k) of each."""
    counts = bootstrap_counts(len(original))
    draws, own = errors(counts @ floor, counts @ original), errors(floor.sum(0), original.sum(0))
    error, found = errors(bad.sum(0), original.sum(0)), set()
    for i, name in enumerate(STATISTICS):
        low, high = interval(draws[:, i])
        beyond = [value < low or value > high for value in (error[i], error[i] + own[i])]
        found |= {name} if all(beyond) else set()
    return found


# tables of cells


def inside(view, cells):
    return lying_in(cells, view.mask, 1.0)


def places_in(mask, count, rng):
    """Points drawn evenly from the mask."""
    pixels = np.argwhere(mask)
    return pixels[rng.integers(len(pixels), size=count)] + rng.random((count, 2))


def floor(view, _):
    return np.concatenate([view.cells[~inside(view, view.cells)], view.other_cells[inside(view, view.other_cells)]])


def shuffled(view, rng):
    cells, moved = view.cells.copy(), inside(view, view.cells)
    cells[moved, :2] = places_in(view.mask, moved.sum(), rng)
    return cells


def clumped(view, rng):
    """Every second cell of the mask goes beside another one, as far as bodies need to lie side by side."""
    cells = view.cells.copy()
    moved = rng.permutation(np.flatnonzero(inside(view, cells)))
    for stays, goes in zip(moved[::2], moved[1::2], strict=False):
        angle = rng.uniform(0, 2 * np.pi, 50)
        beside = cells[stays, :2] + rng.uniform(7, 11, (50, 1)) * np.column_stack([np.sin(angle), np.cos(angle)])
        fitting = lying_in(beside, view.mask, 1.0)
        cells[goes, :2] = beside[fitting][0] if fitting.any() else cells[goes, :2]
    return cells


def spread(view, rng):
    """Cells of the mask as far from each other and from those around as the best of many places allows."""
    gone = inside(view, view.cells)
    cells = view.cells[~gone]
    for area in view.cells[gone, 2]:
        free = places_in(view.mask, 60, rng)
        apart = np.hypot(*(free[:, None] - cells[:, :2]).transpose(2, 0, 1)).min(1)
        cells = np.vstack([cells, [*free[apart.argmax()], area]])
    return cells


def halved(view, rng):
    return view.cells[~inside(view, view.cells) | (rng.random(len(view.cells)) < 0.5)]


def shrunk(view, _):
    return view.cells * np.where(inside(view, view.cells)[:, None], [1, 1, 0.7], 1)


def tabled(views, make):
    """Sums (trials, k) of tables; what needs a picture is 0."""
    rng, rows = np.random.default_rng(1), []
    for view in views:
        cells = make(view, rng)
        found = count_cells(cells, view.mask, 1.0) | count_pairs(cells, view.mask, 1.0)
        rows.append([found.get(name, 0.0) for name in SUMS])
    return np.array(rows)


@pytest.fixture(scope="module")
def tables(views):
    return tabled(views, floor), tabled(views, lambda view, _: view.cells)


ARRANGEMENT = {"close pairs", "nearby pairs", "neighbour distance"}


@pytest.mark.parametrize(
    ("make", "by", "not_by"),
    [
        (shuffled, {"close pairs"}, {"cell density", "cell area"}),
        (clumped, {"close pairs", "nearby pairs"}, {"cell density", "cell area"}),
        (spread, {"close pairs"}, {"cell density", "cell area"}),
        (halved, {"cell density"}, {"cell area"}),
        (shrunk, {"cell area"}, {"cell density", *ARRANGEMENT}),
    ],
)
def test_wrong_cells_are_caught_by_what_is_wrong_with_them(make, by, not_by, views, tables):
    found = caught(tabled(views, make), *tables)
    assert by <= found
    assert not not_by & found


def test_the_original_itself_is_not_caught(tables, pictures):
    assert caught(tables[1], *tables) == caught(pictures[1], *pictures) == set()


# pictures of phantom tissue


def blurred(view):
    return np.where(view.mask, ndimage.gaussian_filter(view.picture, 1.5), view.picture)


def flat(view):
    return FILLERS["local mean"](view.picture, view.mask)


def pictured(views, make):
    """Sums (trials, k) of pictures, their cells found by the segmenter."""
    rows = []
    for view in views:
        picture = make(view)
        cells = find_cells(picture, threshold=view.dark).to_numpy()
        rows.append(measure(picture, view.mask, cells, pixel_size_um=1.0, dark=view.dark))
    return np.array(rows)


@pytest.fixture(scope="module")
def some(views):
    return views[:PICTURE_TRIALS]


@pytest.fixture(scope="module")
def pictures(some):
    other = pictured(some, lambda view: np.where(view.mask, view.other_picture, view.picture))
    return other, pictured(some, lambda view: view.picture)


@pytest.mark.parametrize(
    ("make", "by", "not_by"),
    [
        (
            blurred,
            {"power, outlines", "power, grain", "border gradient"},
            {"grey mean", "power, cells", "cell density"},
        ),
        (flat, {"cell density", "grey std", "dark share", "power, grain", "power, bodies"}, {"grey mean"}),
    ],
)
def test_wrong_greys_are_caught_by_what_is_wrong_with_them(make, by, not_by, some, pictures):
    found = caught(pictured(some, make), *pictures)
    assert by <= found
    assert not not_by & found


# drawn cells, with the segmenter in between


def drawn(cells):
    """A picture of round dark cells on light ground, with noise."""
    picture = np.full((VIEW, VIEW), 200.0)
    for y, x, area in cells:
        picture[disk((y - 0.5, x - 0.5), np.sqrt(area / np.pi), shape=picture.shape)] = 60
    noise = np.random.default_rng(len(cells)).normal(0, 6, picture.shape)
    return (ndimage.gaussian_filter(picture, 0.7) + noise).clip(0, 255).astype(np.uint8)


def sketched(make):
    """Sums (trials, k) of drawn pictures of cells that keep apart, some 45 in each, filled by one of the above."""
    rng, spoil, rows = np.random.default_rng(2), np.random.default_rng(3), []
    for mask in stratified_masks(DRAWN_TRIALS, PATCH, 1):
        here, there = (crowd(rng) for _ in range(2))
        view = View(here, here, there, there, np.pad(mask, MARGIN), 130.0)
        picture = np.where(view.mask, drawn(make(view, spoil)), drawn(here))
        found = find_cells(picture, threshold=view.dark).to_numpy()
        rows.append(measure(picture, view.mask, found, pixel_size_um=1.0, dark=view.dark))
    return np.array(rows)


def crowd(rng):
    cells = np.zeros((0, 3))
    for point in rng.random((rng.poisson(60), 2)) * VIEW:
        if not len(cells) or np.hypot(*(cells[:, :2] - point).T).min() > 13:
            cells = np.vstack([cells, [*point, 80 * np.exp(rng.normal(0, 0.2))]])
    return cells


@pytest.fixture(scope="module")
def sketches():
    return sketched(floor), sketched(lambda view, _: view.cells)


@pytest.mark.parametrize(
    ("make", "by", "not_by"),
    [
        (halved, {"cell density"}, {"cell area"}),
        (shrunk, {"cell area"}, {"cell density", "nearby pairs", "neighbour distance"}),
    ],
)
def test_wrong_cells_are_caught_through_the_segmenter_too(make, by, not_by, sketches):
    found = caught(sketched(make), *sketches)
    assert by <= found
    assert not not_by & found
