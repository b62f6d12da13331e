"""Grey values: what goes into the model comes out of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomend.values import from_model, to_model

ranges = st.tuples(st.integers(0, 65000), st.integers(1, 65535)).filter(lambda r: r[0] + 10 < r[1])


def test_every_grey_value_of_8_bit_comes_back_exactly():
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(from_model(to_model(values, (0.0, 255.0)), (0.0, 255.0), values.dtype), values)


@given(ranges, st.floats(0, 1))
def test_every_grey_value_of_16_bit_within_the_range_comes_back_exactly(value_range, fraction):
    low, high = value_range[0] + 0.0, value_range[1] + fraction  # percentiles are no whole numbers
    values = np.arange(value_range[0], value_range[1] + 1, dtype=np.uint16)
    assert np.array_equal(from_model(to_model(values, (low, high)), (low, high), values.dtype), values)


def test_the_ends_of_the_range_mean_minus_one_and_one():
    model = to_model(np.array([100, 150, 200], np.uint16), (100.0, 200.0))
    assert model.dtype == np.float32
    assert model.tolist() == [-1, 0, 1]


def test_values_beyond_the_range_are_cut_off():
    assert to_model(np.array([0, 65535], np.uint16), (100.0, 200.0)).tolist() == [-1, 1]


@pytest.mark.parametrize(("dtype", "value_range"), [("uint8", (0.0, 255.0)), ("uint16", (-50.0, 70000.0))])
def test_what_the_model_says_never_leaves_the_type(dtype, value_range):
    values = np.array([-9, -1, -0.999, 0.999, 1, 9], np.float32)
    pixels = from_model(values, value_range, np.dtype(dtype))
    assert pixels.dtype == dtype
    assert (pixels[0], pixels[-1]) == (np.iinfo(dtype).min, np.iinfo(dtype).max)
    assert (np.diff(pixels.astype(int)) >= 0).all()


def test_the_model_is_rounded_to_the_nearest_grey_value():
    assert from_model(np.array([-1 + 2 * 0.6 / 255], np.float32), (0.0, 255.0), np.dtype("uint8")).tolist() == [1]
