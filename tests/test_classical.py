"""The control segmenter finds what a picture shows, whatever its pixel size, and most of a phantom's cells."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from cytomend.errors import InputError
from cytomend.phantom import render_tissue
from cytomend.segmentation.classical import ClassicalSettings, body_threshold, find_cells


def discs(side, centres, radius, scale=1):
    y, x = (np.mgrid[: side * scale, : side * scale] + 0.5) / scale
    image = np.full(y.shape, 200, np.uint8)
    for cy, cx in centres:
        image[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = 40
    return image


CENTRES = [(12.0, 12.0), (12.0, 40.0), (44.0, 26.0)]


@pytest.mark.parametrize("scale", [1, 2])
def test_discs_are_found_where_they_are_and_as_large_as_they_are(scale):
    cells = find_cells(discs(64, CENTRES, 5, scale), threshold=120, pixel_size_um=1 / scale)
    assert np.allclose(cells[["y_um", "x_um"]], CENTRES, atol=0.3)
    assert cells["area_um2"].to_numpy() == pytest.approx(np.pi * 25, rel=0.1)


def test_touching_bodies_are_parted():
    assert len(find_cells(discs(48, [(24, 18), (24, 28)], 6), threshold=120)) == 2


def test_specks_are_no_cells():
    assert len(find_cells(discs(48, [(24, 24)], 2.2), threshold=120)) == 0
    assert len(find_cells(discs(48, [(24, 24)], 2.2), ClassicalSettings(smallest_um2=5), threshold=120)) == 1


@pytest.mark.parametrize("value", [0, 200])
def test_an_even_picture_holds_no_cells(value):
    assert find_cells(np.full((32, 32), value, np.uint8)).empty


def test_a_colour_picture_is_refused():
    with pytest.raises(InputError, match=r"expected a grey picture .* found one of shape \(3, 8, 8\)"):
        find_cells(np.zeros((3, 8, 8), np.uint8))


def test_the_threshold_of_the_surroundings_serves_a_patch():
    image = render_tissue((192, 192), 7).image
    whole, threshold = find_cells(image), body_threshold(image)
    assert whole.equals(find_cells(image, threshold=threshold))
    part = find_cells(image[:, :96], threshold=threshold)
    inside, inside_whole = part[part["x_um"] < 70], whole[whole["x_um"] < 70]
    assert np.allclose(inside, inside_whole)


def test_most_cells_of_phantoms_are_found_in_the_right_number_and_size():
    # Truth counts every cell in focus, also those that lie on one another, which no eye would part.
    right = found = there = 0
    areas = []
    for seed in range(300_000, 300_006):
        tissue = render_tissue((256, 256), seed)
        cells = find_cells(tissue.image)
        far = cdist(cells[["y_um", "x_um"]], tissue.cells[["y_um", "x_um"]])
        i, j = linear_sum_assignment(far.clip(max=8))
        match = far[i, j] < 4
        right, found, there = right + match.sum(), found + len(cells), there + len(tissue.cells)
        areas += list(cells["area_um2"].to_numpy()[i[match]] / tissue.cells["area_um2"].to_numpy()[j[match]])
    assert 2 * right / (found + there) > 0.72
    assert found / there == pytest.approx(1, abs=0.12)
    assert np.median(areas) == pytest.approx(1, abs=0.1)
