"""Pyramids: every level the rounded mean of the one below, written shard by shard."""

from __future__ import annotations

from itertools import pairwise
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cytomend.geometry import Box
from cytomend.storage.pyramid import (
    Grid,
    Pyramid,
    halve_by_maximum,
    halve_by_mean,
    halve_by_pooling,
    level_shapes,
    multiscales,
)

sides = st.integers(1, 12)
images = st.tuples(sides, sides, st.sampled_from([np.uint8, np.uint16])).flatmap(lambda s: arrays(s[2], s[:2]))


def squares_of_four(image):
    """The four values of each square, an odd rim counted twice, one by one."""
    height, width = image.shape
    for y in range(0, height, 2):
        for x in range(0, width, 2):
            rows, columns = (y, min(y + 1, height - 1)), (x, min(x + 1, width - 1))
            yield y // 2, x // 2, [int(image[i, j]) for i in rows for j in columns]


@given(images)
def test_a_level_is_the_rounded_mean_of_squares_of_four(image):
    halved = halve_by_mean(image)
    assert halved.dtype == image.dtype
    assert halved.shape == (-(-image.shape[0] // 2), -(-image.shape[1] // 2))
    for y, x, values in squares_of_four(image):
        assert halved[y, x] == (sum(values) + 2) >> 2


@given(images)
def test_a_level_of_labels_is_the_largest_of_squares_of_four(image):
    halved = halve_by_maximum(image)
    for y, x, values in squares_of_four(image):
        assert halved[y, x] == max(values)


@given(images)
def test_a_level_of_deviations_pools_those_of_four_that_are_there(image):
    image[image % 3 == 0] = 0
    halved = halve_by_pooling(image)
    assert halved.dtype == image.dtype
    for y, x, values in squares_of_four(image):
        there = [int(value) ** 2 for value in values if value]
        assert halved[y, x] == (round((sum(there) / len(there)) ** 0.5) if there else 0)


@given(images)
def test_channels_are_halved_apart(image):
    both = np.stack([image, image[::-1, ::-1]])
    assert np.array_equal(halve_by_mean(both)[1], halve_by_mean(both[1]))


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from([64, 512]))
def test_levels_are_halved_and_rounded_up_until_they_fit_a_chunk(height, width, smallest):
    shapes = level_shapes(height, width, smallest)
    assert shapes[0] == (height, width)
    assert all(b == (-(-a[0] // 2), -(-a[1] // 2)) for a, b in pairwise(shapes))
    assert max(shapes[-1]) <= smallest
    assert all(max(shape) > smallest for shape in shapes[:-1])


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_shards_cover_a_section_once_and_are_no_larger_than_it_needs(height, width):
    grid = Grid(64, 1024)
    side = grid.shard_for(height, width)
    boxes = list(Box(0, 0, height, width).tiles(side))
    assert sum((box.y1 - box.y0) * (box.x1 - box.x0) for box in boxes) == height * width
    assert all(box.y0 % side == box.x0 % side == 0 for box in boxes)
    assert side % 64 == 0
    assert side <= 1024
    assert side < max(height, width) + 64


@settings(deadline=None, max_examples=15)
@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.sampled_from([None, 1, 3]), st.sampled_from([16, 32, 48]))
def test_written_levels_are_those_of_the_whole_image(shape, channels, shard):
    lead = () if channels is None else (channels,)
    image = np.random.default_rng(0).integers(0, 65535, (*lead, *shape)).astype(np.uint16)
    grid, asked = Grid(16, shard), list[Box]()

    def base(box):
        asked.append(box)
        return image[(..., *box.slices)]

    with TemporaryDirectory() as folder:
        group = zarr.open_group(folder, mode="w")
        Pyramid.create(group, channels, shape, image.dtype, grid, halve_by_mean).fill(base)
        assert sorted(asked) == sorted(Box(0, 0, *shape).tiles(grid.shard_for(*shape)))
        read = zarr.open_group(folder, mode="r")
        levels = [read[str(level)][...] for level in range(len(list(read.arrays())))]
    assert [level.shape[-2:] for level in levels] == level_shapes(*shape, 16)
    for level in levels:
        assert np.array_equal(level, image)
        image = halve_by_mean(image)


def test_a_shard_is_one_file_and_an_empty_one_is_none(tmp_path):
    image = np.zeros((64, 96), np.uint8)
    image[:16, :16] = 7
    grid, group = Grid(16, 32), zarr.open_group(tmp_path, mode="w")
    Pyramid.create(group, None, image.shape, image.dtype, grid, halve_by_mean).fill(lambda box: image[box.slices])
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("c/*/*")}
    assert files == {"0/c/0/0", "1/c/0/0", "2/c/0/0", "3/c/0/0"} & files
    assert "0/c/0/0" in files


@pytest.mark.parametrize("channels", [None, 3])
def test_the_metadata_place_every_level_by_its_pixel_centres(channels):
    lead = () if channels is None else (channels,)
    arrays = [zarr.create_array({}, shape=(*lead, 8 >> level, 8 >> level), dtype="uint8") for level in range(3)]
    entry = multiscales("s1", arrays, 0.5, "mean")
    assert [axis["name"] for axis in entry["axes"]] == ["c", "y", "x"][-len(arrays[0].shape) :]
    for level, dataset in enumerate(entry["datasets"]):
        scale, *translation = (t[t["type"]][-1] for t in dataset["coordinateTransformations"])
        assert scale == 0.5 * 2**level
        # The first pixel of a level covers 2**level pixels of level 0, whose centres lie around (2**level - 1) / 2.
        assert (translation or [0])[0] == pytest.approx(0.5 * (2**level - 1) / 2)
    assert Box(0, 0, 8, 8).shape == arrays[0].shape[-2:]


def test_the_same_pixels_give_the_same_bytes(tmp_path):
    """With several threads a shard the order of its chunks would be that in which they were finished."""
    pixels = np.random.default_rng(3).integers(0, 60, (512, 512)).astype(np.uint8)

    def written(name):
        group = zarr.open_group(tmp_path / name, mode="w")
        pyramid = Pyramid.create(group, None, pixels.shape, pixels.dtype, Grid(32, 512), halve_by_mean)
        pyramid.fill(lambda box: pixels[box.slices])
        return {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}

    first = written("first")
    assert all(written(f"again {n}") == first for n in range(12))
