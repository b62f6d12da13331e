"""The canvas of a region is the section where there is one, and its mirror image beyond."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cytomend.geometry import Box
from cytomend.regions import canvas
from cytomend.regions.canvas import mirror, read_canvas, read_cells, read_mirrored
from cytomend.regions.lattice import Lattice, Layout

shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def section(shape, channels=2):
    return np.random.default_rng(shape[0] * 100 + shape[1]).integers(0, 60000, (channels, *shape)).astype(np.uint16)


def reader(pixels):
    def read(box):
        assert Box(0, 0, *pixels.shape[-2:]).intersect(box) == box
        assert not box.is_empty
        return pixels[(..., *box.slices)]

    return read


def padded(pixels, margin):
    """The same by numpy; the edge pixel stands on both sides of the mirror."""
    return np.pad(pixels, [(0, 0)] * (pixels.ndim - 2) + [(margin, margin)] * 2, mode="symmetric")


@given(st.integers(-60, 60), st.integers(1, 60), st.integers(1, 20))
def test_a_mirrored_axis_is_that_of_numpy(start, length, size):
    expected = np.pad(np.arange(size), 130, mode="symmetric")[start + 130 : start + length + 130]
    assert mirror(start, start + length, size).tolist() == expected.tolist()


@given(shapes, st.tuples(*[st.integers(-50, 80)] * 2, *[st.integers(1, 30)] * 2))
def test_a_mirrored_read_is_a_crop_of_the_mirrored_section(shape, place):
    pixels = section(shape)
    y, x, height, width = place
    expected = padded(pixels, 120)[:, y + 120 : y + height + 120, x + 120 : x + width + 120]
    assert np.array_equal(read_mirrored(reader(pixels), shape, Box(y, x, y + height, x + width)), expected)


@settings(deadline=None)
@given(shapes, st.lists(st.tuples(st.integers(-6, 12), st.integers(-6, 12)), min_size=1, max_size=9, unique=True))
def test_cells_are_read_in_order_wherever_they_lie(shape, cells):
    pixels, corners = section(shape), np.array(cells) * 4
    read_px, canvas.READ_PX = canvas.READ_PX, 16
    read = read_cells(reader(pixels), shape, corners, 4)
    canvas.READ_PX = read_px
    whole = padded(pixels, 80)
    for cell, (y, x) in zip(read, corners + 80, strict=True):
        assert np.array_equal(cell, whole[:, y : y + 4, x : x + 4])


def test_a_canvas_holds_pixels_and_numbers_of_the_same_places():
    pixels, lattice = section((50, 60), 3), Lattice(16, 12)
    layout = Layout.of(lattice, lattice.windows_over(np.array([[0, 0], [11, 14]])))
    read = read_canvas(reader(pixels), reader(pixels[0]), (50, 60), layout)
    assert read.pixels.shape == (len(layout.cells), 3, 4, 4)
    assert read.pixels.dtype == np.uint16
    assert read.numbers.dtype == np.uint32
    assert np.array_equal(read.numbers[:, 0], read.pixels[:, 0])
