"""Realism: whether a judge can tell windows of fills from windows of intact tissue.

A judge is trained on windows of some sections and asked about windows of others. Half of the windows are fills, half
are real, in pairs. An accuracy of 0.5 means that it cannot tell them apart, 1.0 that it always can. The same question
about real against real tissue shows what 0.5 looks like with so few windows.

`judge` needs a `Learner`: the linear one here looks at hand-made features (`window_features`) and says which of them
give a fill away. `cytomend.evaluation.judge_network` looks at pixels.

What is known of a section without labels may be used: grey values and features are centred over all windows of the
section, fills and real ones together. So a stain that differs between sections does not hide a fault that they share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.evaluation.statistics import bootstrap_counts, interval
from cytomend.evaluation.window_features import Windows, describe

Float = NDArray[np.float64]
Looks = NDArray[Any]
Labels = NDArray[np.bool_]
Groups = NDArray[np.int64]
Score = Callable[[Looks], Float]
"""What a trained judge says of looks (n, ...): above 0 for a fill, below 0 for real tissue."""

FOLDS = 5
SHRINKAGE = 0.1
LEAST_SD = 1e-6


class Learner(Protocol):
    """A kind of judge."""

    name: str

    def look(self, windows: Windows, groups: Groups, pixel_size_um: float) -> Looks:
        """Return what the judge sees of scaled windows (n, C, S, S), (n, ...); labels are not known here."""

    def fit(self, looks: Looks, fills: Labels, seed: int) -> Score:
        """Learn from looks (n, ...) which windows are fills (n,)."""


class Verdict(NamedTuple):
    """Share of windows that were told right, its 95 % nested bootstrap interval, and the number of pairs."""

    accuracy: float
    low: float
    high: float
    pairs: int


class Weight(NamedTuple):
    """A feature: fill minus real in standard deviations, and its weight in the linear judge."""

    feature: str
    difference: float
    weight: float


def judge(
    windows_fill: NDArray[np.generic],
    windows_real: NDArray[np.generic],
    groups: Groups,
    seed: int,
    *,
    learner: Learner,
    pixel_size_um: float,
) -> Verdict:
    """Return how well a judge tells fills from real tissue of groups that it has not seen.

    Parameters
    ----------
    windows_fill, windows_real : (n, C, S, S) grey values; row i of both is a pair
    groups : (n,), number of the section of each pair, or of its part of the section (`groups_by_place`)
    seed : decides the folds and the training
    learner : kind of judge
    pixel_size_um : side of a pixel in µm

    Raises
    ------
    InputError
        If the shapes do not fit, or there are not two groups to learn from one and to judge the other.
    """
    windows, both, _ = joined(windows_fill, windows_real, groups)
    next(folds(groups, seed))  # too few groups are told before the features are computed
    return judge_looks(learner.look(windows, both, pixel_size_um), groups, seed, learner=learner)


def judge_looks(looks: Looks, groups: Groups, seed: int, *, learner: Learner) -> Verdict:
    """Return the same for what the judge sees of the windows, (2n, ...): n fills, then their n real windows."""
    fills = np.arange(len(looks)) < len(groups)
    right = np.zeros(len(fills))
    for fold, held_out in enumerate(folds(groups, seed)):
        test = np.tile(held_out, 2)
        score = learner.fit(looks[~test], fills[~test], seed + fold)(looks[test])
        # A judge that cannot decide is right half of the time.
        right[test] = np.where(score == 0, 0.5, (score > 0) == fills[test])
    pairs = right.reshape(2, -1).mean(0)
    return Verdict(float(pairs.mean()), *interval(nested_draws(pairs, groups)), len(pairs))


def nested_draws(values: Float, groups: Groups) -> Float:
    """Return bootstrap draws of the mean of values (n,) that come in groups: groups are drawn, and values within them.

    Windows of one section have much in common, so that many windows of few sections say less than they seem to. The
    nested bootstrap keeps both sources of chance; its intervals are somewhat too wide rather than too narrow [1]_.

    References
    ----------
    .. [1] A. C. Davison, D. V. Hinkley, Bootstrap Methods and their Application, Cambridge 1997, sect. 3.8.
    """
    names, sizes = np.unique(groups, return_counts=True)
    drawn = bootstrap_counts(len(names))  # (times, groups)
    sums = [
        bootstrap_counts(int(size), seed=1 + i) @ values[groups == name]
        for i, (name, size) in enumerate(zip(names, sizes, strict=True))
    ]
    return np.asarray((drawn * np.stack(sums, axis=1)).sum(1) / (drawn @ sizes))


def joined(fills: NDArray[np.generic], reals: NDArray[np.generic], groups: Groups) -> tuple[Windows, Groups, Labels]:
    """Return fills and then real windows (2n, C, S, S), scaled by group, with their groups and labels."""
    if fills.shape != reals.shape or fills.ndim != 4 or len(groups) != len(fills):
        raise InputError(
            f"expected as many fills as real windows (n, C, S, S) and n groups, found {fills.shape}, {reals.shape} and"
            f" {len(groups)} groups"
        )
    both = np.tile(groups, 2)
    return scaled(np.concatenate([fills, reals]), both), both, np.arange(len(both)) < len(fills)


def scaled(windows: NDArray[np.generic], groups: Groups) -> Windows:
    """Return windows with the mean 0 and the standard deviation 1 over all windows of their group."""
    found = windows.astype(np.float32)
    for group in np.unique(groups):
        own = groups == group
        values = found[own].astype(np.float64)
        found[own] = (values - values.mean()) / max(float(values.std()), LEAST_SD)
    return found


def folds(groups: Groups, seed: int) -> Iterator[Labels]:
    """Yield which pairs (n,) are judged in each fold: whole groups, at most `FOLDS` folds of about the same size.

    Raises
    ------
    InputError
        If there are fewer than two groups.
    """
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 2:
        raise InputError(
            f"expected windows of at least two sections, or parts of one, found {len(names)}; give more sections, or"
            " larger ones"
        )
    order = np.random.default_rng([seed, 7]).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    total, chosen = np.zeros(min(FOLDS, len(names))), np.zeros(len(names), np.int64)
    for i in order:
        chosen[i] = total.argmin()
        total[chosen[i]] += sizes[i]
    of_pair = chosen[np.searchsorted(names, groups)]
    for fold in range(len(total)):
        yield of_pair == fold


def groups_by_place(places_um: Float, side_um: float, *, parts: int = 4, gap_um: float = 64.0) -> Groups:
    """Return groups (n,) of windows of one section by their place; -1 for windows that lie between two parts.

    The section is cut across its longer side into parts with as many windows each. No window of one part comes nearer
    than ``gap_um`` to another.

    Parameters
    ----------
    places_um : (n, 2), or (n, k, 2) for k windows that are used together; upper left corners, y and x
    side_um : of the windows
    parts : at most as many groups
    gap_um : between windows of two parts
    """
    corners = places_um.reshape(len(places_um), -1, 2)
    axis = int(np.argmax(np.ptp(corners.reshape(-1, 2), axis=0))) if len(corners) else 0
    first, last = corners[..., axis].min(1), corners[..., axis].max(1) + side_um
    cuts = np.quantile((first + last) / 2, np.arange(1, parts) / parts) if len(corners) else np.zeros(0)
    groups: Groups = np.searchsorted(cuts, (first + last) / 2).astype(np.int64)
    for cut in cuts:
        groups[(first < cut + gap_um / 2) & (last > cut - gap_um / 2)] = -1
    return groups


@dataclass(frozen=True, slots=True)
class Line:
    """A linear discriminant: mean and standard deviation of the features, weights of the scaled ones, and an offset."""

    mean: Float
    sd: Float
    weights: Float
    offset: float

    @classmethod
    def fit(cls, features: Float, fills: Labels) -> Line:
        """Return Fisher's discriminant of two classes of the same size, its covariance shrunk towards the diagonal.

        Shrinkage keeps features that say the same from being weighed against each other [1]_.

        References
        ----------
        .. [1] J. H. Friedman, Regularized discriminant analysis, J. Am. Stat. Assoc. 84 (1989) 165-175.
        """
        mean, sd = features.mean(0), np.maximum(features.std(0), LEAST_SD)
        unit = (features - mean) / sd
        one, other = unit[fills], unit[~fills]
        within = (np.cov(one.T, bias=True) + np.cov(other.T, bias=True)) / 2
        shrunk = (1 - SHRINKAGE) * within + SHRINKAGE * np.eye(len(sd))
        weights = np.linalg.solve(shrunk, one.mean(0) - other.mean(0))
        return cls(mean, sd, weights, float(weights @ (one.mean(0) + other.mean(0)) / 2))

    def __call__(self, features: Float) -> Float:
        """Return above 0 for a fill, below 0 for real tissue, (n,)."""
        return np.asarray((features - self.mean) / self.sd @ self.weights - self.offset)


class LinearLearner:
    """A judge that weighs hand-made features."""

    name = "linear"

    def look(self, windows: Windows, groups: Groups, pixel_size_um: float) -> Float:
        """Return features (n, features), centred over the windows of each group."""
        return self.centred(describe(windows, pixel_size_um)[1], groups)

    @staticmethod
    def centred(features: Float, groups: Groups) -> Float:
        """Return features (n, features) minus the mean of their group."""
        found = features.copy()
        for group in np.unique(groups):
            found[groups == group] -= found[groups == group].mean(0)
        return found

    def fit(self, looks: Looks, fills: Labels, seed: int) -> Score:  # noqa: ARG002
        """Learn from features; nothing is drawn, so the seed does not matter."""
        return Line.fit(looks, fills)


def feature_weights(
    windows_fill: NDArray[np.generic], windows_real: NDArray[np.generic], groups: Groups, pixel_size_um: float
) -> list[Weight]:
    """Return what gives fills away, by the linear judge that learned from all groups: greatest difference first.

    ``difference`` says how the fills differ, feature by feature. ``weight`` says what the judge makes of all of them
    together: of two features that say the same, one may get none.
    """
    windows, both, _ = joined(windows_fill, windows_real, groups)
    names, _ = describe(windows[:1], pixel_size_um)
    return weights_of(names, LinearLearner().look(windows, both, pixel_size_um))


def weights_of(names: list[str], features: Float) -> list[Weight]:
    """Return the same of features (2n, features) with these names: n fills, then their n real windows."""
    fills = np.arange(len(features)) < len(features) // 2
    line = Line.fit(features, fills)
    differences = (features[fills].mean(0) - features[~fills].mean(0)) / line.sd
    found = [Weight(*row) for row in zip(names, differences.tolist(), line.weights.tolist(), strict=True)]
    return sorted(found, key=lambda one: -abs(one.difference))
