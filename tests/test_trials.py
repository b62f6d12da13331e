"""Trials lie in intact tissue, side by side while they fit, under masks of every size."""

from itertools import islice, pairwise

import numpy as np
import pytest

from cytomend.errors import InputError
from cytomend.evaluation.trials import FRACTIONS, Trial, far_from, spread_boxes, stratified_masks
from cytomend.geometry import Box


def test_masks_are_spread_evenly_over_the_fractions():
    masks = stratified_masks(30, 64, seed=4)
    fractions = sorted(float(mask.mean()) for mask in masks)
    assert fractions[0] == pytest.approx(FRACTIONS[0], abs=0.03)
    assert fractions[-1] == pytest.approx(FRACTIONS[1], abs=0.03)
    assert max(b - a for a, b in pairwise(fractions)) < 0.05
    again = stratified_masks(30, 64, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(masks, again, strict=True))


def test_boxes_lie_side_by_side_while_they_fit_and_always_on_intact_tissue():
    intact = np.ones((300, 1000), bool)
    boxes = list(islice(spread_boxes(intact, 64, seed=1), 130))
    first = boxes[: 4 * 15]
    assert all(a.intersect(b).is_empty for i, a in enumerate(first) for b in first[:i])
    assert len(set(boxes)) > 100
    intact[:, 500:] = False
    assert all(intact[box.slices].all() for box in islice(spread_boxes(intact, 64, seed=1), 60))


def test_tissue_without_an_intact_square_is_refused():
    with pytest.raises(InputError, match="no intact square of 64 px found in 80 x 80 px"):
        next(spread_boxes(np.zeros((80, 80), bool), 64, seed=0))


def test_another_patch_does_not_meet_the_trials_own():
    own, beside, apart = Box(0, 0, 64, 64), Box(32, 0, 96, 64), Box(0, 64, 64, 128)
    assert far_from(own, [own, beside, apart], np.random.default_rng(0)) == apart
    with pytest.raises(InputError, match="no second intact patch"):
        far_from(own, [own, beside], np.random.default_rng(0))


def test_the_floor_is_the_other_patch_as_it_stands_and_what_is_pasted_is_cut():
    mask = np.eye(4, dtype=bool)
    trial = Trial(np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8), mask, 0, "", Box(0, 0, 4, 4))
    assert (trial.floor == 1).all()
    assert np.array_equal(trial.pasted, mask.astype(np.uint8))
