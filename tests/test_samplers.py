"""Law 3, no seams and no blur: what the samplers draw has the right mean, variance and covariance, also across borders.

No network is needed. For a Gaussian random field the expected clean image is known in closed form, and with it every
sampler is a chain of linear maps and Gaussian noise whose result has a mean and a covariance that can be written down
(`timemap_law`, `repaint_law`, `langevin_law`, here from the papers' equations). So three things are compared: the
samples of the real code, the law of the sampler, and the truth, which is the conditional distribution of the field
given its known pixels. Code against law needs only the tolerance of the sample size; law against truth needs no chance
at all.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from cytomend.diffusion.fill import fill
from cytomend.diffusion.fuse import FusedDenoiser
from cytomend.diffusion.noise import PlaceNoise
from cytomend.diffusion.samplers import SAMPLERS, Sampler, step_down
from cytomend.diffusion.schedule import cosine_alpha_bar, resampling_walk, strided_times
from cytomend.regions.lattice import Lattice, Layout

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from shifted import ShiftedDenoiser

MEAN, VARIANCE, LENGTH_PX = 0.1, 0.15, 1.5
"""A tenth of a window, as cells are in the windows of the bundled model."""
WINDOW_PX, STRIDE_PX = 16, 12
OVERLAP_PX = WINDOW_PX - STRIDE_PX
ALPHA_BAR = cosine_alpha_bar()
OVERLAP, ELSEWHERE = "variance where windows overlap", "variance elsewhere"


def grid(height, width):
    """Return (h * w, 2) places."""
    return torch.cartesian_prod(torch.arange(height), torch.arange(width))


def covariance(a, b):
    """Matérn covariance of smoothness 3/2 between places (n, 2) and (m, 2)."""
    far = 3**0.5 / LENGTH_PX * torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return VARIANCE * (1 + far) * torch.exp(-far)


def conditioned(prior, given):
    """Return the weights of the given values for the others, and the others' covariance once they are given."""
    own, cross = prior[~given][:, ~given], prior[given][:, ~given]
    weights = torch.linalg.solve(prior[given][:, given], cross).T if given.any() else cross.T
    return weights, own - weights @ cross


def window_weights():
    """The share of a window at each of its pixels, from the definition: sine-squared ramps over the overlap."""
    ramp = torch.sin((torch.arange(OVERLAP_PX).double() + 0.5) / OVERLAP_PX * torch.pi / 2) ** 2
    side = torch.cat([ramp, torch.ones(WINDOW_PX - 2 * OVERLAP_PX).double(), ramp.flip(0)])
    return torch.outer(side, side).reshape(-1)


class IdealWindows:
    """The denoiser that knows the field: E[x0 | x_t] = mu + S A (A S A + N)^-1 (x_t - A mu), for any map of times.

    A = diag(sqrt(alpha_bar)) and N = diag(1 - alpha_bar), pixel by pixel.
    """

    def __init__(self):
        self.prior = covariance(grid(WINDOW_PX, WINDOW_PX), grid(WINDOW_PX, WINDOW_PX))
        self.given, self.maps = {}, {}

    def affine(self, time):
        """Return (M, c) with E[x0 | x] = M x + c for a map of times (W * W,); what is clean is conditioned on first."""
        if (key := tuple(time.tolist())) not in self.maps:
            clean = time == 0
            if (mask := tuple(clean.tolist())) not in self.given:
                self.given[mask] = conditioned(self.prior, clean)
            weights, own = self.given[mask]
            a, noise = ALPHA_BAR[time[~clean]].sqrt(), 1 - ALPHA_BAR[time[~clean]]
            cross = a[:, None] * own
            of_noisy = torch.linalg.solve(cross * a + torch.diag(noise), cross).T
            of_clean = weights - of_noisy @ (a[:, None] * weights)
            gain = torch.eye(len(time)).double()
            gain[~clean] = torch.zeros(len(a), len(time)).double().index_copy(1, where(~clean), of_noisy)
            gain[~clean] = gain[~clean].index_copy(1, where(clean), of_clean)
            # Where every value is the mean, so is every expectation.
            self.maps[key] = gain, MEAN * (1 - gain @ ALPHA_BAR[time].sqrt())
        return self.maps[key]

    def __call__(self, x, time):
        out = x.clone()
        for i in range(len(x)):
            noisy = where(time[i, 0].reshape(-1) > 0)
            gain, offset = (part[noisy].to(x.dtype) for part in self.affine(time[i, 0].reshape(-1)))
            out[i].flatten(1)[:, noisy] = torch.addmm(offset, x[i].flatten(1), gain.T)
        return out


def where(mask):
    return mask.nonzero()[:, 0]


@dataclass(frozen=True)
class Scene:
    """A hole in a field: ``at`` (N, 2) absolute pixels of the canvas, cell by cell; ``image`` (N,)."""

    layout: Layout
    at: torch.Tensor
    known: torch.Tensor
    image: torch.Tensor
    truth: Law
    ideal: IdealWindows

    @classmethod
    def of(cls, height, width, corner=(-18, -18)):
        lattice = Lattice(WINDOW_PX, STRIDE_PX)
        cells = np.unique((grid(height, width).numpy() + corner) // lattice.cell_px, axis=0)
        return cls.on(Layout.of(lattice, lattice.windows_over(cells)), height, width, corner)

    @classmethod
    def on(cls, layout, height, width, corner=(-18, -18)):
        inside = grid(layout.lattice.cell_px, layout.lattice.cell_px)
        at = (torch.from_numpy(layout.corners_px)[:, None] + inside).reshape(-1, 2)
        first, end = torch.tensor(corner), torch.tensor(corner) + torch.tensor((height, width))
        known = ((at < first) | (at >= end)).any(1)
        prior = covariance(at, at)
        chance = torch.randn(len(at), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        image = MEAN + torch.linalg.cholesky(prior) @ chance
        weights, spread = conditioned(prior, known)
        return cls(layout, at, known, image, Law(MEAN + weights @ (image[known] - MEAN), spread), IdealWindows())

    @cached_property
    def window_pixels(self):
        """(n, W * W) where each window's pixels stand on the canvas, found by their coordinates."""
        place = {tuple(p): i for i, p in enumerate(self.at.tolist())}
        corners = [(y, x) for y, x in place if y % STRIDE_PX == x % STRIDE_PX == 0 and (y + 15, x + 15) in place]
        steps = grid(WINDOW_PX, WINDOW_PX).tolist()
        return torch.tensor([[place[y + dy, x + dx] for dy, dx in steps] for y, x in sorted(corners)])

    def fused(self, time):
        """Return (D, d) of the fused denoiser on the whole canvas."""
        size, weights = len(self.at), window_weights()
        matrix, offset, total = (torch.zeros(shape).double() for shape in ((size, size), size, size))
        for pixels in self.window_pixels:
            gain, constant = self.ideal.affine(time[pixels])
            matrix[pixels[:, None], pixels] += weights[:, None] * gain
            offset[pixels] += weights * constant
            total[pixels] += weights
        return matrix / total[:, None], offset / total

    def cells(self, values):
        """(N, C) -> (k, C, c, c), as the samplers store a canvas."""
        c = self.layout.lattice.cell_px
        return np.ascontiguousarray(values.reshape(-1, c, c, values.shape[1]).permute(0, 3, 1, 2))

    def fill(self, sampler, *, seed=1, count=1, image=None, denoise=None):
        """Fill the hole ``count`` times with the real code, a sample a channel; return the whole canvas, (N, count)."""
        pixels = self.cells((self.image if image is None else image)[:, None].repeat(1, count)).astype(np.float32)
        known, denoise = self.cells(self.known[:, None]), denoise or self.ideal
        filled = fill(pixels, known, self.layout, denoise, sampler, seed, torch.device("cpu"))
        return torch.from_numpy(filled.transpose(0, 2, 3, 1).reshape(-1, count))

    def groups(self):
        """Pairs of unknown pixels, by what a seam would do to them: two tensors of indices each."""
        at = self.at[~self.known]
        place = {tuple(p): i for i, p in enumerate(at.tolist())}
        seen_twice = (at % STRIDE_PX < OVERLAP_PX).any(1)
        groups = {OVERLAP: (where(seen_twice),) * 2, ELSEWHERE: (where(~seen_twice),) * 2}
        for dy, dx in ((0, 1), (1, 0), (2, 2), (0, 3)):
            pairs = [(i, place[y + dy, x + dx]) for (y, x), i in place.items() if (y + dy, x + dx) in place]
            a, b = torch.tensor(pairs).T
            begun, ended = ((at - edge).div(STRIDE_PX, rounding_mode="floor") for edge in (0, OVERLAP_PX))
            crossing = ((begun[a] != begun[b]) | (ended[a] != ended[b])).any(1)
            groups[f"covariance at {dy, dx} across a window's border"] = a[crossing], b[crossing]
            groups[f"covariance at {dy, dx} elsewhere"] = a[~crossing], b[~crossing]
        return {name: pair for name, pair in groups.items() if len(pair[0])}


@dataclass(frozen=True)
class Law:
    """Mean and covariance of the pixels of the hole."""

    mean: torch.Tensor
    covariance: torch.Tensor

    def shares_of(self, other, groups):
        """Return, by group, the (co)variance as a share of another law's."""
        return {name: float(self.covariance[p].mean() / other.covariance[p].mean()) for name, p in groups.items()}

    def slope_on(self, truth):
        """Return the slope of the mean regressed on the true conditional mean (MEAN, but near known pixels)."""
        far = truth.mean - MEAN
        return float((self.mean - MEAN) @ far / (far @ far))


def ancestral_step(now, then):
    """Return the weights of x0 and x, and the noise's variance (Ho et al. 2020, Eq. 6 and 7), written with beta."""
    alpha = ALPHA_BAR[now] / ALPHA_BAR[then]
    beta = 1 - alpha
    of_x0 = ALPHA_BAR[then].sqrt() * beta / (1 - ALPHA_BAR[now])
    of_x = alpha.sqrt() * (1 - ALPHA_BAR[then]) / (1 - ALPHA_BAR[now])
    return of_x0, of_x, (1 - ALPHA_BAR[then]) / (1 - ALPHA_BAR[now]) * beta


def deterministic_step(now, then):
    """Return the same for a step that adds no noise (Song et al. 2021, Eq. 13): x keeps its own, at another level."""
    of_x = ((1 - ALPHA_BAR[then]) / (1 - ALPHA_BAR[now])).sqrt()
    return ALPHA_BAR[then].sqrt() - of_x * ALPHA_BAR[now].sqrt(), of_x, torch.zeros(()).double()


def chain(sampler):
    """Yield (now, weight of x0, weight of x, variance of the noise) of each step of a `timemap` sampler."""
    step = {0: deterministic_step, 1: ancestral_step}[sampler.eta]
    for now, then in pairwise(strided_times(sampler.steps, bend=sampler.bend)):
        yield now, *step(now, then)


def changes_on(sampler):
    """Return the extrapolation of each deterministic step, after Lu et al. (2022, DPM-Solver++, Algorithm 2)."""
    times = strided_times(sampler.steps, bend=sampler.bend)
    lam = [(ALPHA_BAR[t].sqrt() / (1 - ALPHA_BAR[t]).sqrt()).log() for t in times[:-1]]
    middle = [(lam[i + 1] - lam[i]) / (2 * (lam[i] - lam[i - 1])) for i in range(1, len(lam) - 1)]
    return [0.0, *middle, 0.0]


def deterministic_law(scene, sampler):
    """The law of a deterministic sampler: all chance is in its first noise z, of which every state is a linear map."""
    hole, known = ~scene.known, scene.known
    unit = torch.eye(int(hole.sum())).double()
    state, before = torch.cat([unit, 0 * unit[:, :1]], 1), 0  # maps (z, 1)
    for (now, of_x0, of_x, _), ahead in zip(chain(sampler), changes_on(sampler), strict=True):
        matrix, offset = (part[hole] for part in scene.fused(torch.where(known, 0, now)))
        clean = matrix[:, hole] @ state
        clean[:, -1] += offset + matrix[:, known] @ scene.image[known]
        state, before = of_x * state + of_x0 * (clean + ahead * (clean - before)), clean
    return Law(state[:, -1], state[:, :-1] @ state[:, :-1].T)


def timemap_law(scene, sampler):
    """The law of a sampler that shows known pixels clean."""
    if sampler.eta == 0:
        return deterministic_law(scene, sampler)
    hole, known = ~scene.known, scene.known
    unit = torch.eye(int(hole.sum())).double()
    mean, spread = torch.zeros(len(unit)).double(), unit
    for now, of_x0, of_x, noise in chain(sampler):
        matrix, offset = (part[hole] for part in scene.fused(torch.where(known, 0, now)))
        move = of_x0 * matrix[:, hole] + of_x * unit
        mean = move @ mean + of_x0 * (offset + matrix[:, known] @ scene.image[known])
        spread = move @ spread @ move.T + noise * unit
    return Law(mean, spread)


def repaint_law(scene, steps, jump, resample):
    """The law of Algorithm 1 of Lugmayr et al. (2022), with the root of Eq. 8a."""
    hole, size = ~scene.known, len(scene.at)
    unit = torch.eye(size).double()
    times = strided_times(steps)[::-1]
    fused = cache(lambda rung: [part[hole] for part in scene.fused(torch.full((size,), times[rung]))])
    mean, spread = torch.zeros(size).double(), unit
    for now, then in pairwise(resampling_walk(steps, jump, resample)):
        if then < now:
            matrix, offset = fused(now)
            of_x0, of_x, noise = ancestral_step(times[now], times[then])
            move = of_x0 * matrix + of_x * unit[hole]
            left = ALPHA_BAR[times[then]]
            drawn, drawn_spread = move @ mean + of_x0 * offset, move @ spread @ move.T + noise * unit[hole][:, hole]
            mean, spread = left.sqrt() * scene.image, (1 - left) * unit
            mean[hole], spread[where(hole)[:, None], where(hole)] = drawn, drawn_spread
        else:
            kept = ALPHA_BAR[times[then]] / ALPHA_BAR[times[now]]
            mean, spread = kept.sqrt() * mean, kept * spread + (1 - kept) * unit
    return Law(mean[hole], spread[hole][:, hole])


def langevin_law(scene, sampler, guidance=8.0, pace=0.5):
    """The law of Langevin steps with averaged noise: ``kinship`` is the covariance of x with the step's last noise."""
    known, unit = scene.known, torch.eye(len(scene.at)).double()
    step = torch.where(known, pace / (1 + guidance), pace).double()
    mean, spread, kinship = torch.zeros(len(unit)).double(), unit, 0 * unit
    for now, then in pairwise(strided_times(sampler.steps, bend=sampler.bend)):
        gain, offset = scene.fused(torch.full_like(step, now, dtype=torch.int64))
        level, guided = ALPHA_BAR[now], torch.where(known, -guidance, 1.0).double()
        to = guided * offset + torch.where(known, (1 + guidance) * scene.image, 0)
        move = unit + step[:, None] * (level.sqrt() * guided[:, None] * gain - unit)
        grain = (step * (1 - level) / 2).sqrt()
        for _ in range(sampler.resample - 1):
            mean = move @ mean + step * level.sqrt() * to
            cross = move @ kinship * grain
            spread = move @ spread @ move.T + cross + cross.T + 2 * torch.diag(grain**2)
            kinship = torch.diag(grain)
        of_x0, of_x, _ = deterministic_step(now, then)
        down = of_x * unit + of_x0 * torch.where(known[:, None], 0, gain)
        mean = down @ mean + of_x0 * torch.where(known, scene.image, offset)
        spread, kinship = down @ spread @ down.T, down @ kinship
    return Law(mean[~known], spread[~known][:, ~known])


def one_window_law(scene, sampler):
    """The law of `timemap` when one window sees the whole canvas: what discretisation alone costs, in closed form."""
    variance, directions = torch.linalg.eigh(scene.truth.covariance)
    spread, state, before = torch.ones_like(variance), torch.ones_like(variance), 0
    aheads = changes_on(sampler) if sampler.eta == 0 else [0] * sampler.steps
    for (now, of_x0, of_x, noise), ahead in zip(chain(sampler), aheads, strict=True):
        gain = variance * ALPHA_BAR[now].sqrt() / (ALPHA_BAR[now] * variance + 1 - ALPHA_BAR[now])
        spread = (of_x0 * gain + of_x) ** 2 * spread + noise
        clean = gain * state
        state, before = of_x * state + of_x0 * (clean + ahead * (clean - before)), clean
    spread = state**2 if sampler.eta == 0 else spread
    return Law(scene.truth.mean, (directions * spread) @ directions.T)


def require_law(samples, law, groups, *, slack=0.0):
    """Assert that samples (n, count) have this law, within 4.5 standard errors and a relative slack."""
    count, p = samples.shape[1], law.covariance
    rest = samples.double() - law.mean[:, None]
    # With the covariance P, count * |mean error|^2 has expectation tr P and variance 2 tr P^2.
    size = count * (rest.mean(1) ** 2).sum()
    assert size < (1 + slack) * p.trace() + 4.5 * (2 * (p**2).sum()).sqrt(), "mean"
    for name, (a, b) in groups.items():
        found, expected = (rest[a] * rest[b]).mean(), p[a, b].mean()
        # A mean of products of Gaussian deviations, tr(A S), has variance 2 tr(A P A P) / count; here A P is picks.
        half = torch.zeros_like(p).index_put((a, b), torch.tensor(0.5 / len(a)).double(), accumulate=True)
        picks = (half + half.T) @ p
        error = (2 * (picks * picks.T).sum() / count).sqrt()
        assert abs(found - expected) < 4.5 * error + slack * abs(expected), (
            f"{name}: {found:.5f}, expected {expected:.5f}"
        )


def near(groups):
    """Leave out the covariance at three pixels: a twentieth of the variance, so that a ratio says little."""
    return {name: pair for name, pair in groups.items() if "(0, 3)" not in name}


@pytest.fixture(scope="module")
def hole():
    """16 x 16 unknown pixels under two by two windows, left of and above the section's origin."""
    return Scene.of(16, 16)


@pytest.fixture(scope="module")
def strip():
    """8 x 16 unknown pixels under two windows, so that a chain of the whole canvas is quick to work out."""
    return Scene.of(8, 16)


DEFAULT, FINE = SAMPLERS["timemap"], Sampler("timemap", 256)
COARSE, COARSE_AND_DETERMINISTIC = Sampler("timemap", 24), Sampler("timemap", 24, eta=0, bend=1.5)
"""Code and law agree whatever the number of steps, so few will do."""


@pytest.fixture(scope="module")
def law_of(hole):
    return cache(lambda sampler: timemap_law(hole, sampler))


WALK = {"steps": 24, "jump": 4, "resample": 3}


@pytest.fixture(scope="module")
def walk_law(strip):
    return repaint_law(strip, **WALK)


def test_the_hole_is_seen_by_four_windows(hole):
    assert len(hole.window_pixels) == len(hole.layout.members) == 4
    assert (~hole.known).sum() == 256


@pytest.mark.parametrize("sampler", [COARSE, COARSE_AND_DETERMINISTIC], ids=["ancestral", "deterministic"])
def test_timemap_draws_what_its_equations_say_also_across_window_borders(hole, law_of, sampler):
    samples = hole.fill(sampler, seed=3, count=1000)
    require_law(samples[~hole.known], law_of(sampler), hole.groups())


@pytest.mark.parametrize(("sampler", "kept"), [(DEFAULT, 0.92), (FINE, 0.94)], ids=["default", "ancestral"])
def test_timemap_draws_from_the_conditional_distribution_of_the_field(hole, law_of, sampler, kept):
    # Both are exact, so that the tolerance holds no chance: it is for the finite steps (worked out below), and for
    # windows ten correlation lengths wide, which do not see beyond their border.
    law = law_of(sampler)
    for name, share in law.shares_of(hole.truth, near(hole.groups())).items():
        assert kept < share < 1.04, name
    off = (law.mean - hole.truth.mean) / hole.truth.covariance.diagonal().sqrt()
    assert off.square().mean().sqrt() < 0.05
    assert law.slope_on(hole.truth) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("sampler", [DEFAULT, FINE], ids=["default", "ancestral"])
def test_windows_cost_little_beyond_what_discretisation_costs(hole, law_of, sampler):
    whole = one_window_law(hole, sampler)
    for name, share in law_of(sampler).shares_of(whole, near(hole.groups())).items():
        assert 0.94 < share < 1.01, name
    assert 0.93 < whole.covariance.trace() / hole.truth.covariance.trace() < 1.04


@pytest.mark.parametrize("sampler", [DEFAULT, FINE], ids=["default", "ancestral"])
def test_no_variance_is_lost_where_windows_overlap(hole, law_of, sampler):
    share = law_of(sampler).shares_of(hole.truth, hole.groups())
    assert share[OVERLAP] == pytest.approx(share[ELSEWHERE], rel=0.015)
    across, elsewhere = (share[f"covariance at (0, 1) {place}"] for place in ("across a window's border", "elsewhere"))
    assert across == pytest.approx(elsewhere, rel=0.03)


# Grafts: known pixels from another place


def grafted(scene, first=(-14, -14), side=8):
    """The scene with a graft in the middle of its hole: a piece of the field that knows nothing of the rim."""
    at = scene.at
    inside = ((at >= torch.tensor(first)) & (at < torch.tensor(first) + side)).all(1)
    chance = torch.randn(len(at), generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    elsewhere = MEAN + torch.linalg.cholesky(covariance(at, at)) @ chance
    image, known = torch.where(inside, elsewhere, scene.image), scene.known | inside
    weights, spread = conditioned(covariance(at, at), known)
    return replace(scene, known=known, image=image, truth=Law(MEAN + weights @ (image[known] - MEAN), spread)), inside


@pytest.fixture(scope="module")
def joint(hole):
    """A joint of four pixels between rim and graft, more than twice the length over which the field is alike."""
    return grafted(hole)


def test_joints_of_a_graft_are_drawn_as_the_equations_say(joint):
    scene, inside = joint
    filled = scene.fill(COARSE, count=1500)
    require_law(filled[~scene.known], timemap_law(scene, COARSE), scene.groups())
    assert torch.equal(filled[inside], scene.image[inside].float()[:, None].expand(-1, 1500))


def test_joints_of_a_graft_come_from_the_conditional_distribution(joint):
    scene, _ = joint
    law = timemap_law(scene, DEFAULT)
    assert law.slope_on(scene.truth) == pytest.approx(1, abs=0.05)
    for name, share in near(law.shares_of(scene.truth, scene.groups())).items():
        assert share == pytest.approx(1, abs=0.08), name


def test_over_all_grafts_the_field_keeps_mean_variance_and_covariance_across_the_joints(joint):
    """Rim and graft are independent, the joint is drawn between them: how far is all of it from one field?"""
    scene, inside = joint
    prior = covariance(scene.at, scene.at)
    weights, spread = conditioned(prior, scene.known)
    apart = inside[:, None] == inside  # pixels of rim and graft know nothing of each other
    given = (prior * apart)[scene.known][:, scene.known]
    whole = prior * apart
    unknown = where(~scene.known)
    cross = weights @ given
    whole[unknown[:, None], where(scene.known)] = cross
    whole[where(scene.known)[:, None], unknown] = cross.T
    whole[unknown[:, None], unknown] = spread + cross @ weights.T
    variance = whole.diagonal()[unknown]
    assert variance.mean() == pytest.approx(VARIANCE, rel=0.02)
    assert variance.min() > 0.9 * VARIANCE
    place = {tuple(p): i for i, p in enumerate(scene.at.tolist())}
    for dy, dx in ((0, 1), (1, 0), (2, 2)):
        pairs = [(i, place[y + dy, x + dx]) for (y, x), i in place.items() if (y + dy, x + dx) in place]
        across = [(a, b) for a, b in pairs if scene.known[a] != scene.known[b]]
        a, b = torch.tensor(across).T
        assert whole[a, b].mean() == pytest.approx(float(prior[a, b].mean()), rel=0.05)


def tiles_noised_apart(scene, sampler, count, seed):
    """The mistake that law 3 forbids: every window steps with noise of its own, and the results are averaged."""
    chance, weights = torch.Generator().manual_seed(seed), window_weights()[:, None]

    def noise(size):
        return torch.randn(size, count, generator=chance, dtype=torch.float64)

    x = torch.where(scene.known[:, None], scene.image[:, None], noise(len(scene.at)))
    for now, of_x0, of_x, variance in chain(sampler):
        total, share = torch.zeros_like(x), torch.zeros(len(x), 1).double()
        for pixels in scene.window_pixels:
            gain, offset = scene.ideal.affine(torch.where(scene.known, 0, now)[pixels])
            stepped = of_x0 * (gain @ x[pixels] + offset[:, None]) + of_x * x[pixels]
            total[pixels] += weights * (stepped + variance.sqrt() * noise(len(pixels)))
            share[pixels] += weights
        x = torch.where(scene.known[:, None], scene.image[:, None], total / share)
    return x[~scene.known]


def test_averaging_independently_noised_tiles_would_fail_these_checks(hole, law_of):
    blurred, groups = tiles_noised_apart(hole, COARSE, count=200, seed=5), hole.groups()
    with pytest.raises(AssertionError, match=OVERLAP):
        require_law(blurred, law_of(COARSE), {OVERLAP: groups[OVERLAP]}, slack=0.06)
    variance = blurred.var(1)
    assert variance[groups[OVERLAP][0]].mean() < 0.85 * variance[groups[ELSEWHERE][0]].mean()


# Windows without overlap, on a tiling that moves at every call (docs/samplers.md): not built, and why


def shifted(denoise_windows, shifted_calls, seed=1):
    """A denoiser for the hole of 16 x 16 pixels."""
    lattice = Lattice(WINDOW_PX, STRIDE_PX)
    drawn = np.unique((grid(16, 16).numpy() - 18) // lattice.cell_px, axis=0)
    return ShiftedDenoiser(denoise_windows, lattice, drawn, seed, shifted_calls)


def scene_of(denoise):
    """The hole on the canvas of a denoiser with shifted windows."""
    none = np.zeros((0, 0), dtype=np.int64)
    return Scene.on(Layout(Lattice(WINDOW_PX, STRIDE_PX), denoise.cells, none, none), 16, 16)


def test_shifted_windows_see_every_cell_of_the_hole_once_and_in_its_place():
    seen = []

    def negative(x, _):
        seen.append(x)
        return -x

    denoise = shifted(negative, shifted_calls=20)
    size = denoise.cells.max() + 100
    place = (denoise.cells * 4)[:, :, None] + np.arange(4)
    x = torch.from_numpy((place[:, 0, :, None] + 4 * size) * 8 * size + place[:, 1, None, :] + 4 * size)[:, None] + 0.0
    drawn = (denoise.cells[:, None] == denoise.drawn).all(2).any(1)
    for _ in range(20):
        clean = denoise(x, torch.ones_like(x))
        assert torch.equal(clean[drawn], -x[drawn])
        assert ((clean == -x) | (clean == x)).all()
        windows = seen.pop()
        assert (windows.diff(dim=3) == 1).all()
        assert (windows.diff(dim=2) == 8 * size).all()
        assert len(windows.unique()) == windows.numel()
    assert len({denoise.shift(call) for call in range(200)}) == 16


def law_of_shifted(denoise, scene, sampler):
    """The law of the real code: a deterministic sampler is affine in its noise, so unit noises give all of it."""
    hole = where(~scene.known)
    unit = torch.zeros(len(scene.at), len(hole) + 1).index_put((hole, torch.arange(len(hole))), torch.tensor(1.0))
    noise, known = (torch.from_numpy(scene.cells(values)) for values in (unit, scene.known[:, None]))
    image = torch.from_numpy(scene.cells(scene.image[:, None])).float().expand_as(noise)
    *_, state = sampler.run(denoise, image, known, ALPHA_BAR, lambda _: noise)
    drawn = state.permute(0, 2, 3, 1).reshape(unit.shape)[hole].double()
    moves = drawn[:, :-1] - drawn[:, -1:]
    return Law(drawn[:, -1], moves @ moves.T)


def across_tiles(scene, shift):
    """Pairs of neighbours in the hole, apart by a border of the tiling with this shift, and all others."""
    at = scene.at[~scene.known] - 4 * torch.tensor(shift)
    place = {tuple(p): i for i, p in enumerate(at.tolist())}
    pairs = [
        (i, place[y + dy, x + dx])
        for (y, x), i in place.items()
        for dy, dx in ((0, 1), (1, 0))
        if (y + dy, x + dx) in place
    ]
    a, b = torch.tensor(pairs).T
    apart = (at[a] // WINDOW_PX != at[b] // WINDOW_PX).any(1)
    return {"across": (a[apart], b[apart]), "elsewhere": (a[~apart], b[~apart])}


@pytest.mark.parametrize(
    ("fused_calls", "across", "elsewhere"),
    [(0, (0.6, 0.85), (0.85, 0.95)), (5, (0.7, 0.9), (0.85, 0.95)), (24, (0.96, 1.02), (0.96, 1.02))],
    ids=["shifted", "the last five fused", "fused"],
)
def test_shifted_windows_lose_covariance_which_fused_ones_keep(fused_calls, across, elsewhere):
    sampler = COARSE_AND_DETERMINISTIC
    denoise = shifted(IdealWindows(), sampler.calls - fused_calls)
    scene = scene_of(denoise)
    pairs = across_tiles(scene, denoise.shift(sampler.calls - fused_calls))
    shares = law_of_shifted(denoise, scene, sampler).shares_of(scene.truth, pairs)
    assert across[0] < shares["across"] < across[1]
    assert elsewhere[0] < shares["elsewhere"] < elsewhere[1]


def test_few_steps_lose_variance_ancestral_ones_more_than_deterministic_ones(hole):
    # A fact to know when steps are chosen: the smaller of Ho's two variances is too small by about 6 / steps.
    def share(steps, **how):
        law = one_window_law(hole, Sampler("timemap", steps, **how))
        return float(law.covariance.trace() / hole.truth.covariance.trace())

    ancestral = [share(steps) for steps in (25, 50, 100, 256)]
    assert ancestral == sorted(ancestral)
    assert 0.85 < ancestral[1] < 0.92
    assert share(50, eta=0.0, bend=1.5) == pytest.approx(1, abs=0.02)


def test_repaint_draws_what_algorithm_1_says_also_across_window_borders(strip, walk_law):
    samples = strip.fill(Sampler("repaint", **WALK), seed=11, count=400)
    require_law(samples[~strip.known], walk_law, strip.groups())


def test_the_misprint_of_algorithm_1_would_fail_this_check(strip, walk_law, monkeypatch):
    # Algorithm 1 prints (1 - alpha_bar) where Eq. 8a has its root; diffusers 0.32.0 to 0.32.2 followed it.
    monkeypatch.setattr(
        "cytomend.diffusion.samplers.diffuse", lambda x0, noise, left: left.sqrt() * x0 + (1 - left) * noise
    )
    samples = strip.fill(Sampler("repaint", **WALK), seed=11, count=200)
    with pytest.raises(AssertionError):
        require_law(samples[~strip.known], walk_law, strip.groups())


def test_resampling_brings_repaint_closer_to_the_known_pixels(strip, walk_law):
    once, often = (repaint_law(strip, 24, 4, resample) for resample in (1, 6))
    slopes = [law.slope_on(strip.truth) for law in (once, walk_law, often)]
    assert slopes[0] < 0.6 < slopes[1] < slopes[2] < 1.02


def test_langevin_draws_what_its_equations_say_also_across_window_borders(strip):
    few = Sampler("langevin", 6, resample=3, bend=1.5)
    samples = strip.fill(few, seed=13, count=400)
    require_law(samples[~strip.known], langevin_law(strip, few), strip.groups())


def test_langevin_follows_the_known_pixels_better_than_repaint_in_a_quarter_of_the_calls(strip):
    control, strided = SAMPLERS["langevin"], SAMPLERS["repaint-strided"]
    law, reference = langevin_law(strip, control), repaint_law(strip, 50, 10, 10)
    assert 4 * control.calls <= strided.calls
    assert reference.slope_on(strip.truth) < 0.9 < law.slope_on(strip.truth) < 1.02
    assert law.covariance.trace() / strip.truth.covariance.trace() == pytest.approx(1, abs=0.05)


def test_without_guidance_langevin_follows_them_less(strip):
    control = SAMPLERS["langevin"]
    slopes = [langevin_law(strip, control, guidance).slope_on(strip.truth) for guidance in (0.0, 2.0, 8.0)]
    assert slopes == sorted(slopes)
    assert slopes[0] < 0.85


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler("timemap", 4),
        Sampler("repaint", 4, 2, 2),
        Sampler("repaint-strided", 3, 1, 2),
        Sampler("langevin", 4, resample=3),
    ],
)
def test_known_pixels_are_returned_exactly(strip, sampler):
    samples = strip.fill(sampler, count=3)
    assert (samples[strip.known] == strip.image[strip.known].float()[:, None]).all()
    assert samples.isfinite().all()


@pytest.mark.parametrize(
    "sampler", [Sampler("timemap", 4), Sampler("repaint", 4, 2, 2), Sampler("langevin", 4, resample=3)]
)
def test_what_stands_at_unknown_pixels_is_not_seen(strip, sampler):
    spoilt = torch.where(strip.known, strip.image, torch.nan)
    assert torch.equal(strip.fill(sampler), strip.fill(sampler, image=spoilt))


@pytest.mark.parametrize(
    "sampler", [Sampler("timemap", 6), Sampler("repaint", 6, 2, 3), Sampler("langevin", 6, resample=3)]
)
def test_the_network_is_asked_as_often_as_announced_and_told_the_right_times(strip, sampler):
    asked = []
    strip.fill(sampler, denoise=lambda x, time: (asked.append(time), strip.ideal(x, time))[1])
    assert len(asked) == sampler.calls
    smallest, largest = [int(t.min()) for t in asked], [int(t.max()) for t in asked]
    falling = strided_times(6)[::-1]
    if sampler.resamples:
        assert smallest == largest == [falling[now] for now, then in pairwise(sampler.walk) if then < now]
    elif sampler.name == "langevin":
        assert smallest == largest == [time for time in falling[:0:-1] for _ in range(sampler.resample)]
    else:
        assert (smallest, largest) == ([0] * 6, falling[:0:-1])


@pytest.mark.parametrize(
    ("sampler", "draws"),
    [
        (Sampler("timemap", 5), 6),
        (Sampler("timemap", 5, eta=0.0), 1),
        (Sampler("repaint", 5, 2, 2), 14),
        (Sampler("langevin", 5, resample=3), 12),
    ],
)
def test_every_noise_field_is_drawn_once(strip, sampler, draws):
    drawn, layout = [], strip.layout
    noise = PlaceNoise(0, torch.from_numpy(layout.corners_px), layout.lattice.cell_px, 1)
    tables = (torch.from_numpy(table) for table in (layout.members, layout.sources, layout.lattice.weights()))
    states = sampler.run(
        FusedDenoiser(strip.ideal, *tables),
        torch.from_numpy(strip.cells(strip.image[:, None])).float(),
        torch.from_numpy(strip.cells(strip.known[:, None])),
        ALPHA_BAR,
        lambda draw: (drawn.append(draw), noise(draw))[1],
    )
    assert len(list(states)) >= 5
    assert drawn == list(range(draws))


@pytest.mark.parametrize(("now", "then"), [(256, 251), (100, 60), (9, 1), (3, 0)])
def test_a_step_is_ancestral_when_all_noise_is_fresh_and_deterministic_when_none_is(now, then):
    x, x0, noise = torch.randn(3, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = ALPHA_BAR[now], ALPHA_BAR[then]
    of_x0, of_x, variance = ancestral_step(now, then)
    ancestral = of_x0 * x0 + of_x * x + variance.sqrt() * noise
    assert torch.allclose(step_down(x, x0, noise, *levels, eta=1), ancestral, atol=1e-12)
    of_x0, of_x, _ = deterministic_step(now, then)
    assert torch.allclose(step_down(x, x0, noise, *levels, eta=0), of_x0 * x0 + of_x * x, atol=1e-12)


def test_the_named_samplers_cost_what_the_design_says():
    calls = {name: sampler.calls for name, sampler in SAMPLERS.items()}
    assert (calls["repaint"], calls["repaint-strided"]) == (2506, 410)
    assert 25 <= calls["timemap"] <= 100
    assert calls["repaint"] / calls["timemap"] >= 25
    assert calls["langevin"] == 100
