"""Fillers: known pixels stay bit for bit, what stands under the mask is not seen, and each fills as its name says."""

import sys

import numpy as np
import pytest
from scipy import ndimage

from cytomend.errors import InputError
from cytomend.evaluation import fillers
from cytomend.evaluation.fillers import FILLERS, grain_sd, lawful, open_filler, renoised
from cytomend.evaluation.trials import stratified_masks
from cytomend.phantom import render_tissue

SIDE = 176
MASKS = [np.pad(mask, 32) for mask in stratified_masks(3, 112, 0)]


@pytest.fixture(scope="module")
def tissue():
    return render_tissue((SIDE, SIDE), 3).image


def hole(*boxes, side=SIDE):
    mask = np.zeros((side, side), bool)
    for y0, x0, y1, x1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


# the law of them all


@pytest.mark.parametrize("name", FILLERS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_known_pixels_stay_bit_for_bit_and_unknown_ones_are_not_seen(name, dtype, tissue):
    picture = tissue.astype(dtype) * np.array(3.7 if "float" in dtype else 1, dtype)
    garbage = picture.copy()
    garbage[MASKS[1]] = np.nan if "float" in dtype else np.iinfo(dtype).max
    filled, again = FILLERS[name](picture, MASKS[1]), FILLERS[name](garbage, MASKS[1])
    assert filled.dtype == picture.dtype
    np.testing.assert_array_equal(filled[~MASKS[1]], picture[~MASKS[1]])
    np.testing.assert_array_equal(filled, again)
    assert np.isfinite(filled).all()
    assert (filled[MASKS[1]] != picture[MASKS[1]]).mean() > 0.5


@pytest.mark.parametrize("name", FILLERS)
@pytest.mark.parametrize(
    "mask",
    [MASKS[0], hole((30, 30, 34, 34), (90, 0, 140, 60)), hole((0, 0, 170, 176))],
    ids=["artefact", "at the edge", "nearly all"],
)
def test_fills_lie_within_the_greys_of_the_tissue(name, mask, tissue):
    filled = FILLERS[name](tissue, mask)
    assert filled[mask].min() >= tissue[~mask].min()
    assert filled[mask].max() <= tissue[~mask].max()


@pytest.mark.parametrize("name", FILLERS)
def test_an_even_picture_stays_even(name):
    grey = np.full((SIDE, SIDE), 137, np.uint8)
    assert (FILLERS[name](grey, MASKS[2]) == 137).all()


@pytest.mark.parametrize("name", FILLERS)
def test_without_a_hole_nothing_changes_and_the_picture_given_is_never_written_to(name, tissue):
    before, mask = tissue.copy(), MASKS[0].copy()
    filled = FILLERS[name](tissue, np.zeros_like(mask))
    np.testing.assert_array_equal(filled, tissue)
    assert filled is not tissue
    FILLERS[name](tissue, mask)
    np.testing.assert_array_equal(tissue, before)
    np.testing.assert_array_equal(mask, MASKS[0])


def test_a_lawless_plug_in_is_kept_to_the_law(tissue):
    def lawless(picture, unknown):
        assert not picture[unknown].any(), "it sees nothing of what is to be filled"
        unknown[:] = True
        picture[:] = 7
        return picture

    filled = lawful(lawless)(tissue, MASKS[0])
    assert (filled[MASKS[0]] == 7).all()
    np.testing.assert_array_equal(filled[~MASKS[0]], tissue[~MASKS[0]])


@pytest.mark.parametrize(
    ("fill", "picture", "mask", "message"),
    [
        (lambda p, _: p, np.zeros((9, 9, 3)), np.zeros((9, 9), bool), "expected a grey picture .* found .9, 9, 3."),
        (lambda p, _: p, np.zeros((9, 9)), np.zeros((9, 8), bool), "mask of its shape"),
        (lambda p, _: p, np.zeros((9, 9)), np.ones((9, 9), bool), "expected some known pixels"),
        (lambda p, _: p[1:], np.zeros((9, 9)), np.eye(9, dtype=bool), r"expected a fill like the picture.*\(8, 9\)"),
        (lambda p, _: p.astype(float), np.zeros((9, 9), np.uint8), np.eye(9, dtype=bool), "found .* float64"),
        (lambda *_: None, np.zeros((9, 9)), np.eye(9, dtype=bool), "found .* object"),
    ],
)
def test_what_does_not_fit_is_refused(fill, picture, mask, message):
    with pytest.raises(InputError, match=message):
        lawful(fill)(picture, mask)


# each of them


def test_the_biharmonic_surface_goes_on_with_slopes():
    y, x = np.mgrid[:64, :64].astype(float)
    plane = 3 * y - 2 * x + 200
    mask = hole((20, 24, 40, 44), side=64)
    np.testing.assert_allclose(FILLERS["biharmonic"](plane, mask), plane, atol=1e-6)


def test_the_local_mean_is_flat_where_the_tissue_is_not(tissue):
    for mask in MASKS:
        filled = FILLERS["local mean"](tissue, mask).astype(float)
        assert filled[mask].std() < 0.3 * tissue[mask].std()
        slope, rough = (np.square(np.diff(p.astype(float), axis=0))[mask[1:] & mask[:-1]] for p in (filled, tissue))
        assert slope.mean() < 0.1**2 * rough.mean(), "grey grades without texture"


def test_the_local_mean_is_that_of_its_own_surroundings():
    picture = np.where(np.arange(SIDE) < SIDE // 2, 50, 200) * np.ones((SIDE, 1))
    filled = FILLERS["local mean"](picture, hole((60, 20, 100, 40), (60, 136, 100, 156)))
    assert filled[80, 30] == pytest.approx(50, abs=1)
    assert filled[80, 146] == pytest.approx(200, abs=1)


def source_of(name, mask):
    """Where each unknown pixel was copied from, told by pictures of coordinates."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    return np.stack([FILLERS[name](y, mask), FILLERS[name](x, mask)], -1)[mask] - np.argwhere(mask)


def test_nearest_tissue_is_copied_by_the_smallest_shift_that_fits():
    mask = hole((60, 60, 80, 100))
    shift = source_of("nearest tissue", mask)
    assert (np.abs(shift) == [20, 0]).all()
    assert len(np.unique(shift, axis=0)) == 1
    beside = mask | hole((30, 60, 50, 100)) | hole((90, 60, 110, 100))  # nothing fits above or below
    moved = source_of("nearest tissue", beside)[(np.argwhere(beside)[:, 0] >= 60) & (np.argwhere(beside)[:, 0] < 80)]
    assert (np.abs(moved) == [0, 40]).all()


def test_no_other_shift_of_known_pixels_is_nearer():
    mask = MASKS[1]
    shift = source_of("nearest tissue", mask)
    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    reach = np.mgrid[-60:61, -60:61].reshape(2, -1).T
    for number in range(1, count + 1):
        own = np.unique(shift[pieces[mask] == number], axis=0)
        assert len(own) == 1
        nearer = reach[(reach**2).sum(1) < (own**2).sum()]
        places = np.argwhere(pieces == number)
        assert all(mask[tuple((places + step).clip(0, SIDE - 1).T)].any() for step in nearer)


def test_each_piece_of_a_mask_has_its_own_place():
    shift = source_of("nearest tissue", hole((40, 40, 46, 80), (100, 100, 130, 106)))
    assert {(6, 0), (0, 6)} == {(abs(int(y)), abs(int(x))) for y, x in shift}


def test_a_mask_that_fits_nowhere_is_copied_in_pieces_of_known_pixels():
    mask = hole((0, 0, 176, 120))
    y, x = (source_of("nearest tissue", mask) + np.argwhere(mask)).T.astype(int)
    assert not mask[y, x].any()
    assert 1 < len(np.unique(source_of("nearest tissue", mask), axis=0)) < 40


# by name


def test_fillers_are_opened_by_name():
    for name, filler in FILLERS.items():
        assert open_filler(name) is filler


def test_a_plug_in_is_a_function_of_a_module(tmp_path, monkeypatch, tissue):
    (tmp_path / "my_fillers.py").write_text("def black(picture, unknown):\n    return picture * 0\n\nGREY = 128\n")
    monkeypatch.syspath_prepend(tmp_path)
    filled = open_filler("my_fillers:black")(tissue, MASKS[0])
    assert not filled[MASKS[0]].any()
    np.testing.assert_array_equal(filled[~MASKS[0]], tissue[~MASKS[0]])
    with pytest.raises(InputError, match=r"cannot be imported .*white"):
        open_filler("my_fillers:white")
    with pytest.raises(InputError, match="expected a function of picture and mask, found int"):
        open_filler("my_fillers:GREY")
    sys.modules.pop("my_fillers")


@pytest.mark.parametrize("name", ["median", "", ":black", "module:"])
def test_an_unknown_filler_is_refused_with_what_is_possible(name):
    with pytest.raises(
        InputError, match=r"expected one of biharmonic, nearest tissue, local mean, or package\.module:"
    ):
        open_filler(name)


# noise


def test_the_grain_of_white_noise_is_its_deviation():
    rng = np.random.default_rng(0)
    for sd in (2.0, 7.0):
        assert grain_sd(rng.normal(128, sd, (SIDE, SIDE))) == pytest.approx(sd, rel=0.04)


def test_cells_and_slopes_are_no_grain():
    y, x = np.mgrid[:SIDE, :SIDE]
    cells = np.where(np.hypot(y % 22 - 11, x % 22 - 11) < 5, 60.0, 190.0) + 0.2 * y
    noise = np.random.default_rng(1).normal(0, 4, cells.shape)
    assert grain_sd(cells + noise) == pytest.approx(4, rel=0.15)


def test_renoised_pictures_differ_by_noise_of_their_own_grain(tissue):
    fresh = renoised(tissue, 5)
    assert fresh.dtype == tissue.dtype
    middle = (tissue > 60) & (tissue < 195)  # the rest is cut off at black and white
    added = (fresh.astype(float) - tissue)[middle]
    assert added.std() == pytest.approx(grain_sd(tissue), rel=0.03)
    assert abs(added.mean()) < 0.2
    np.testing.assert_array_equal(fresh, renoised(tissue, 5))
    assert (fresh != renoised(tissue, 6)).mean() > 0.5
    assert (renoised(tissue, 5, 1.5).astype(float) - tissue)[middle].std() == pytest.approx(1.5, rel=0.05)
    np.testing.assert_array_equal(renoised(tissue, 5, 0.0), tissue)


def test_the_module_describes_every_filler():
    assert all(f"``{name}``" in (fillers.__doc__ or "") for name in FILLERS)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"no_such_module_here.*cannot be imported.*PYTHONPATH"):
        open_filler("no_such_module_here:fill")
