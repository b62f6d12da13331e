"""Pieces of tissue for training are intact where they say so, and hold what they should."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import blobs, write_tiff
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cytomend.geometry import Box
from cytomend.regions.annotation import open_mask
from cytomend.regions.intact import holds_window, intact_pieces
from cytomend.storage.images import open_image

SHAPE = (120, 150)
WHOLE = Box(0, 0, *SHAPE)


@given(st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda s: arrays(bool, s)), st.integers(1, 6))
def test_an_intact_window_is_found_if_there_is_one(intact, side):
    height, width = intact.shape
    corners = [(y, x) for y in range(height - side + 1) for x in range(width - side + 1)]
    assert holds_window(intact, side) == any(intact[y : y + side, x : x + side].all() for y, x in corners)


@pytest.fixture
def scan(tmp_path):
    """A scan whose pixels tell their place, and its damage."""
    pixels = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE)
    mask = blobs(SHAPE, (30, 0, 34, 150), (0, 70, 120, 72))
    image = open_image(write_tiff(tmp_path / "scan.tif", pixels))
    return pixels, mask, image, open_mask(write_tiff(tmp_path / "mask.tif", mask.astype(np.uint8)), SHAPE)


def place(piece):
    y, x = divmod(int(piece.pixels[0, 0, 0]), SHAPE[1])
    return Box(y, x, y + piece.intact.shape[0], x + piece.intact.shape[1])


def pieces(scan, within=WHOLE, piece_px=64, window_px=24, most=99, seed=0, mask=True):
    _, _, image, annotation = scan
    return list(intact_pieces(image, annotation if mask else None, within, piece_px, window_px, seed))[:most]


def test_pieces_are_crops_of_the_scan_and_tell_what_is_intact(scan):
    pixels, mask, *_ = scan
    found = pieces(scan)
    assert found
    for piece in found:
        box = place(piece)
        assert np.array_equal(piece.pixels[0], pixels[box.slices])
        assert np.array_equal(piece.intact, ~mask[box.slices])
        assert holds_window(piece.intact, 24)


def test_every_intact_window_lies_in_some_piece(scan):
    _, mask, *_ = scan
    boxes = [place(piece) for piece in pieces(scan)]
    for y in range(0, SHAPE[0] - 24, 3):
        for x in range(0, SHAPE[1] - 24, 3):
            window = Box(y, x, y + 24, x + 24)
            if not mask[window.slices].any():
                assert any(window.intersect(box) == window for box in boxes)


def test_pieces_stay_within_the_part_that_is_offered(scan):
    within = Box(36, 75, 110, 149)
    assert all(place(piece).intersect(within) == place(piece) for piece in pieces(scan, within))


def test_no_more_pieces_are_given_than_asked_for_and_always_the_same(scan):
    first, again, other = (pieces(scan, most=2, seed=seed) for seed in (1, 1, 2))
    assert len(first) == 2
    assert [place(piece) for piece in first] == [place(piece) for piece in again]
    assert [place(piece) for piece in pieces(scan, seed=1)] != [place(piece) for piece in pieces(scan, seed=2)]
    assert len(other) == 2


def test_a_scan_without_annotation_is_intact(scan):
    assert all(piece.intact.all() for piece in pieces(scan, mask=False))


def test_a_part_smaller_than_a_window_gives_nothing(scan):
    assert pieces(scan, Box(0, 0, 20, 20)) == []
