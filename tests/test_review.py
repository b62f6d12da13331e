"""The checks of mended regions: what is measured is so by definition, faults are flagged, intact tissue is not."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import shapely
from scipy import ndimage

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.grafts.record import COLUMNS, DRAWN, FIRST
from cytomend.phantom import render_tissue
from cytomend.regions.plan import SectionFacts
from cytomend.report.corrected import CorrectedSection, Origin, Uncertainty
from cytomend.report.depth import surroundings
from cytomend.report.flags import CLEAR, DEEP_UM, GRAVE, LEAST_CELLS, Flag, Numbers, flags_of
from cytomend.report.palette import origin_colours
from cytomend.report.regions import RegionFacts
from cytomend.report.review import RegionReview, flagged_first, review_regions
from cytomend.report.rim import MARGIN_UM, RIM_UM
from cytomend.segmentation.segmenters import ClassicalSegmenter, open_segmenter
from cytomend.segmentation.stain import PLAIN
from cytomend.storage.pyramid import halve_by_maximum, halve_by_mean

RANGE = (0.0, 255.0)


@dataclass(frozen=True)
class Scan:
    """A scan held in memory: ``pixels`` (C, h, w)."""

    pixels: np.ndarray

    def read(self, box):
        return self.pixels[(..., *box.slices)]


@dataclass(frozen=True)
class Masked:
    mask: np.ndarray

    @property
    def shape(self):
        return self.mask.shape

    def read(self, box):
        return self.mask[box.slices]


class Watched:
    """An array that remembers the largest piece that was read of it."""

    def __init__(self, array):
        self.array, self.shape, self.largest_px = array, array.shape, 0

    def __getitem__(self, index):
        piece = self.array[index]
        self.largest_px = max(self.largest_px, piece.shape[-1] * piece.shape[-2])
        return piece


def section_facts(shape, **changes):
    usual = {
        "section": "s1", "shape": shape, "channels": 1, "dtype": "uint8", "pixel_size_um": 1.0, "stain": "",
        "value_range": RANGE, "grow_px": 0, "window_px": 256, "stride_px": 128, "shards": 1, "masked_px": 0,
        "source_blake2b": "", "mask_blake2b": "",
    }  # fmt: skip
    return SectionFacts(**{**usual, **changes})


def regions_of(labels, pixel_size_um=1.0):
    found = []
    for i, slices in enumerate(ndimage.find_objects(labels), 1):
        (y0, y1), (x0, x1) = ((s.start, s.stop) for s in slices)
        area_px = int((labels == i).sum())
        at_border = y0 == 0 or x0 == 0 or (y1, x1) == labels.shape or y1 == labels.shape[0] or x1 == labels.shape[1]
        box = Box(y0, x0, y1, x1)
        found.append(RegionFacts(i, box, 0.0, 0.0, area_px, area_px * pixel_size_um**2, 1, at_border))
    return found


def reviewed(mended, labels, *, scan=None, segmenter=None, uncertainty=None, facts=None, origin=None, **how):
    """Review all regions of a section held in memory."""
    pixels = mended if mended.ndim == 3 else mended[None]
    facts = facts or section_facts(labels.shape)
    corrected = CorrectedSection((mended,), (labels.astype(np.uint32),), {}, uncertainty, origin)
    image = Scan(pixels if scan is None else scan if scan.ndim == 3 else scan[None])
    regions = regions_of(labels, facts.pixel_size_um)
    return list(review_regions(regions, image, corrected, facts, segmenter or ClassicalSegmenter(), PLAIN, **how))


def keys(review):
    return {flag.key for flag in review.flags}


@lru_cache
def tissue(side_px=420, seed=7):
    return render_tissue((side_px, side_px), seed).image


def disc(side_px=420, radius_px=55, centre=None):
    y, x = np.ogrid[:side_px, :side_px]
    at = centre or (side_px // 2, side_px // 2)
    return (np.hypot(y - at[0], x - at[1]) <= radius_px).astype(np.int64)


class Places:
    """Finds cells of one area at the pixels of one value, wherever the picture was cut."""

    name = "places"

    def __init__(self, value=0):
        self.value = value

    def find(self, image, *, pixel_size_um, **_):
        y, x = (np.argwhere(image == self.value) + 0.5).T * pixel_size_um
        none = [np.zeros(4, np.float32) for _ in y]
        return pd.DataFrame(
            {"y_um": y, "x_um": x, "area_um2": 50.0, "score": 1.0, "contour_y_um": none, "contour_x_um": none}
        )


# --- what is measured ----------------------------------------------------------------------------------------------


def by_definition(pixels, own, free):
    """Seam, spread and shift of a region; ``free`` are pixels that were neither mended nor damaged."""
    values = pixels.astype(float)
    rim = free & (ndimage.distance_transform_edt(~own) <= RIM_UM)
    across, within = [], []
    for (y, x), is_own in np.ndenumerate(own):
        for there in ((y + 1, x), (y, x + 1)):
            if there[0] == own.shape[0] or there[1] == own.shape[1] or not (is_own or own[there] or rim[y, x]):
                continue
            step = abs(values[y, x] - values[there])
            if (is_own and free[there]) or (own[there] and free[y, x]):
                across.append(step)
            if rim[y, x] and rim[there]:
                within.append(step)
    inside, around = values[own], values[rim]
    return (
        np.mean(across) / np.mean(within),
        inside.std() / around.std(),
        (inside.mean() - around.mean()) / around.std(),
    )


def two_touching():
    """Beside each other, near a corner of the section, so that the rim goes up to its border."""
    labels = np.zeros((130, 140), dtype=np.int64)
    labels[30:50, 40:60] = 1
    labels[30:60, 60:75] = 2
    return labels


def test_seam_spread_and_shift_are_those_of_their_definition_also_where_regions_touch():
    labels = two_touching()
    pixels = np.random.default_rng(1).integers(0, 256, labels.shape).astype(np.uint8)
    pixels[labels == 2] //= 2
    for review in reviewed(pixels, labels):
        seam, spread, shift = by_definition(pixels, labels == review.region, labels == 0)
        assert review.seam == pytest.approx(seam)
        assert review.spread == pytest.approx(spread)
        assert review.shift == pytest.approx(shift)


def test_artefacts_that_were_left_are_no_tissue_to_compare_with():
    labels = two_touching()
    left = labels == 2
    labels[left] = 0
    pixels = np.random.default_rng(2).integers(0, 256, labels.shape).astype(np.uint8)
    pixels[left] = 255
    (review,) = reviewed(pixels, labels, artefacts=Masked(left | (labels > 0)))
    assert review.seam == pytest.approx(by_definition(pixels, labels == 1, (labels == 0) & ~left)[0])
    assert review.shift == pytest.approx(by_definition(pixels, labels == 1, (labels == 0) & ~left)[2])


def test_cells_are_counted_by_their_centre_inside_and_within_64_um():
    labels = np.zeros((300, 300), dtype=np.int64)
    labels[140:160, 140:160] = 1
    pixels = np.full(labels.shape, 200, np.uint8)
    for y, x in ((140, 140), (159, 159), (150, 160), (150, 139 - 63), (150, 139 - 64), (20, 20)):
        pixels[y, x] = 0
    (review,) = reviewed(pixels, labels, segmenter=Places())
    # The pixel at 76 lies 64 px from that at 140; the one at 75 lies 65 px away.
    assert (review.cells_inside, review.cells_rim) == (2, 2)
    assert review.density_inside == pytest.approx(2 / (400e-6))
    assert review.area_inside_um2 == review.area_rim_um2 == 50
    assert review.share == 400 / 90_000


def test_the_pixel_size_scales_rim_and_densities():
    labels = np.zeros((300, 300), dtype=np.int64)
    labels[140:160, 140:160] = 1
    pixels = np.full(labels.shape, 200, np.uint8)
    pixels[150, 139 - 31] = pixels[150, 139 - 32] = pixels[150, 150] = 0
    facts = section_facts(labels.shape, pixel_size_um=2.0)
    (review,) = reviewed(pixels, labels, segmenter=Places(), facts=facts)
    assert (review.cells_inside, review.cells_rim) == (1, 1)
    assert review.density_inside == pytest.approx(1 / 1600e-6)


def test_scans_of_16_bit_and_of_three_channels_are_measured_as_grey_ones():
    labels, pixels = disc(300, 40), tissue()[:300, :300]
    (grey,) = reviewed(pixels, labels)
    wide = section_facts(labels.shape, dtype="uint16", value_range=(1000.0, 1000.0 + 255 * 12))
    (deep,) = reviewed((pixels.astype(np.uint16) * 12 + 1000), labels, facts=wide)
    (colour,) = reviewed(np.stack([pixels] * 3), labels, facts=section_facts(labels.shape, channels=3))
    for other in (deep, colour):
        assert other.seam == pytest.approx(grey.seam, rel=1e-4)
        assert other.spread == pytest.approx(grey.spread, rel=1e-4)
        assert other.shift == pytest.approx(grey.shift, abs=1e-4)
        assert (other.cells_inside, other.cells_rim) == (grey.cells_inside, grey.cells_rim)
        assert keys(other) == keys(grey)


def _apart_px(some, others):
    """How far contours of the same cells lie apart: arithmetic may round a corner to the next pixel."""
    one, other = (sorted(map(shapely.Polygon, each), key=lambda p: p.centroid.coords[0]) for each in (some, others))
    return max(map(shapely.hausdorff_distance, one, other))


@pytest.mark.parametrize(("segmenter", "differing"), [("cpn", 0), ("classical", 2)])
def test_a_large_region_read_in_parts_is_measured_as_one_that_is_read_whole(segmenter, differing):
    """A watershed parts clumps by chance where peaks are level, so that a cell or two may be cut otherwise."""
    pixels, labels = tissue(700, 3), np.zeros((700, 700), dtype=np.int64)
    labels[150:560, 90:120] = 1  # a tear with a bend
    labels[530:560, 90:610] = 1
    segmenter = open_segmenter(segmenter)
    (whole,) = reviewed(pixels, labels, segmenter=segmenter, part_px=1024)
    (parts,) = reviewed(pixels, labels, segmenter=segmenter, part_px=128)
    for name in ("seam", "spread", "shift", "coherence_inside", "coherence_rim", "degrees_rim"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9)
    assert abs(parts.cells_inside - whole.cells_inside) <= differing
    assert abs(parts.cells_rim - whole.cells_rim) <= differing
    assert abs(len(parts.contours_after) - len(whole.contours_after)) <= 2 * differing
    assert len(whole.contours_after) > 100
    if not differing:
        assert parts.area_inside_um2 == pytest.approx(whole.area_inside_um2)
        assert _apart_px(parts.contours_after, whole.contours_after) <= 1.5


def test_no_more_is_read_at_once_than_a_part_with_its_margin():
    labels = np.zeros((1600, 900), dtype=np.uint32)
    labels[100:1500, 300:330] = 1
    pixels = Watched(np.tile(tissue(), (4, 3))[:1600, :900])
    watched = Watched(labels)
    corrected = CorrectedSection((pixels,), (watched,), {})
    how = {"part_px": 128, "crop_px": 64}
    scan = Scan(pixels.array[None])
    (review,) = review_regions(
        regions_of(labels), scan, corrected, section_facts(labels.shape), ClassicalSegmenter(), PLAIN, **how
    )
    assert review.cells_rim > 100
    assert pixels.largest_px <= (128 + 2 * MARGIN_UM) ** 2
    # The crop looks for the region's middle on the coarsest level, which here is the finest.
    assert watched.largest_px <= max((128 + 2 * MARGIN_UM) ** 2, 1400 * 30)


# --- contours ------------------------------------------------------------------------------------------------------


def test_contours_lie_in_the_crop_around_cells_of_scan_and_mended_section():
    labels = disc(300, 40)
    mended = tissue()[:300, :300]
    scan = np.where(labels > 0, np.uint8(200), mended)
    (review,) = reviewed(mended, labels, scan=scan)
    near = ndimage.distance_transform_edt(labels == 0) <= RIM_UM
    rows, columns = (np.flatnonzero(near.any(axis=axis)) for axis in (1, 0))
    after = [shapely.Polygon(contour) for contour in review.contours_after]
    assert len(review.contours_after) == review.cells_inside + review.cells_rim
    assert review.cells_inside > 3
    for contour in (*review.contours_before, *review.contours_after):
        assert contour.dtype.kind == "i"
        assert 3 <= len(contour) < 40
        assert contour[:, 0].min() >= rows[0]
        assert contour[:, 0].max() <= rows[-1] + 1
        assert contour[:, 1].min() >= columns[0]
        assert contour[:, 1].max() <= columns[-1] + 1
    dark = [mended[int(p.representative_point().x), int(p.representative_point().y)] for p in after]
    assert np.mean(dark) < np.median(mended) - 40
    centres = np.array([contour.mean(axis=0) for contour in review.contours_before]).astype(int)
    assert not (labels[tuple(centres.T)] & (ndimage.distance_transform_edt(labels)[tuple(centres.T)] > 15)).any()


def test_of_a_region_larger_than_the_crop_only_the_middle_has_contours():
    labels = disc()
    (whole,) = reviewed(tissue(), labels)
    (part,) = reviewed(tissue(), labels, crop_px=100)
    points = np.concatenate(part.contours_after)
    assert 0 < len(part.contours_after) < len(whole.contours_after)
    assert points.min() >= 160
    assert points.max() <= 260
    assert part.cells_rim == whole.cells_rim


# --- flags ---------------------------------------------------------------------------------------------------------


CELLS = ("few", "many", "small", "large")


def blurred(pixels, own):
    return np.where(own, ndimage.gaussian_filter(pixels.astype(float), 3), pixels)


def darker(pixels, own):
    return np.where(own, pixels - pixels.std(), pixels)


def brighter(pixels, own):
    return np.where(own, pixels + pixels.std(), pixels)


def noisy(pixels, own):
    return np.where(own, pixels + pixels.std() * np.random.default_rng(0).standard_normal(own.shape), pixels)


def stepped(pixels, own):
    return np.where(own, pixels + pixels.std() * np.exp(-ndimage.distance_transform_edt(own) / 4), pixels)


def empty(pixels, own):
    grain = np.random.default_rng(0).standard_normal(own.shape) * 2
    return np.where(own, np.percentile(pixels, 70) + grain, pixels)


def swollen(pixels, own):
    return np.where(own, ndimage.grey_erosion(pixels, (5, 5)), pixels)


def crowded(pixels, own):
    """The same tissue at half the scale: four times as many cells, and small ones."""
    small = ndimage.zoom(pixels.astype(float), 0.5, order=1)
    return np.where(own, np.tile(small, (2, 2)), pixels)


def turned(pixels, own):
    """The same tissue, turned by a right angle about the middle."""
    return np.where(own, np.rot90(pixels), pixels)


@pytest.mark.parametrize(
    ("fault", "key"),
    [
        (turned, "turned"),
        (blurred, "smooth"),
        (darker, "dark"),
        (brighter, "bright"),
        (noisy, "rough"),
        (noisy, "seam"),
        (stepped, "seam"),
        (empty, "few"),
        (empty, "smooth"),
        (swollen, "large"),
        (crowded, "many"),
        (crowded, "small"),
    ],
)
@pytest.mark.parametrize("seed", [7, 8])
def test_a_planted_fault_is_flagged(fault, key, seed):
    # In a disc of radius 55 there are too few cells to say that their size or number is wrong.
    labels, pixels = disc(radius_px=110 if key in (*CELLS, "turned") else 55), tissue(seed=seed)
    mended = np.clip(np.rint(fault(pixels, labels > 0)), 0, 255).astype(np.uint8)
    (review,) = reviewed(mended, labels, crop_px=0)
    (intact,) = reviewed(pixels, labels, crop_px=0)
    assert key in keys(review)
    assert key not in keys(intact)
    assert all(flag.sentence.endswith(".") for flag in review.flags)


def strewn(side_px, seed):
    """Ellipses of all sizes and directions, apart from each other."""
    rng, labels, count = np.random.default_rng(seed), np.zeros((side_px, side_px), dtype=np.int64), 0
    y, x = np.ogrid[:side_px, :side_px]
    for _ in range(120):
        at, turn = rng.uniform(30, side_px - 30, 2), rng.uniform(0, np.pi)
        long_px, short_px = np.exp(rng.uniform(np.log(6), np.log(60))), np.exp(rng.uniform(np.log(6), np.log(25)))
        a = (y - at[0]) * np.cos(turn) + (x - at[1]) * np.sin(turn)
        b = (x - at[1]) * np.cos(turn) - (y - at[0]) * np.sin(turn)
        own = (a / long_px) ** 2 + (b / short_px) ** 2 <= 1
        inside = own.any() and not (own[0].any() or own[-1].any() or own[:, 0].any() or own[:, -1].any())
        if inside and not labels[ndimage.binary_dilation(own, iterations=8)].any():
            count += 1
            labels[own] = count
    return labels


def test_intact_tissue_is_flagged_no_more_than_one_time_in_twenty_by_any_kind():
    found = []
    for seed in range(4):
        found += reviewed(tissue(1000, 20 + seed), strewn(1000, seed), crop_px=0)
    assert len(found) > 120
    for kind in GRAVE:
        assert np.mean([kind in keys(review) for review in found]) <= 0.05, kind
    assert np.mean([bool(review.flags) for review in found]) <= 0.15


def test_a_region_at_the_border_says_so():
    labels = np.zeros((420, 420), dtype=np.int64)
    labels[0:40, 100:160] = 1
    (review,) = reviewed(tissue(), labels)
    assert keys(review) == {"border"}
    assert review.seam is not None


def test_a_region_beside_glass_says_so_and_is_not_compared_with_it():
    labels, pixels = disc(), tissue().copy()
    pixels[:, 200:] = 230 + np.random.default_rng(0).integers(-2, 3, (420, 220))
    (review,) = reviewed(pixels, labels)
    assert keys(review) == {"background"}
    assert "%" in review.flags[0].sentence


def test_a_region_of_one_pixel_is_measured_and_not_flagged():
    labels = np.zeros((420, 420), dtype=np.int64)
    labels[200, 210] = 1
    (review,) = reviewed(tissue(), labels)
    assert review.flags == ()
    assert review.seam is not None
    assert review.spread == 0
    assert review.cells_rim > 3


def test_a_region_without_any_rim_stands_alone():
    pixels, labels = tissue(), np.ones((420, 420), dtype=np.int64)
    (review,) = reviewed(pixels, labels)
    assert {"alone", "border"} <= keys(review)
    assert not keys(review) & GRAVE
    assert review.seam is review.spread is review.shift is review.density_rim is review.area_rim_um2 is None
    assert review.cells_rim == 0
    assert review.cells_inside > 50


def test_even_pixels_around_a_region_are_no_error():
    labels = disc()
    (review,) = reviewed(np.full(labels.shape, 200, np.uint8), labels)
    assert review.seam is review.spread is review.shift is None
    assert review.cells_inside == review.cells_rim == 0
    assert keys(review) == {"background", "scarce"}


def test_a_region_deeper_than_half_a_window_is_wide_also_with_its_neighbour():
    labels = np.zeros((420, 420), dtype=np.int64)
    labels[150:214, 100:300] = 1
    narrow, wide = (section_facts(labels.shape, window_px=window) for window in (64, 62))
    assert "wide" not in keys(reviewed(tissue(), labels, facts=narrow)[0])
    assert "wide" in keys(reviewed(tissue(), labels, facts=wide)[0])
    assert "wide" in keys(reviewed(tissue(), labels, facts=wide, part_px=32)[0])
    labels[214:300, 100:300] = 2
    first, second = reviewed(tissue(), labels, facts=section_facts(labels.shape, window_px=63))
    assert "wide" in keys(first)
    assert "wide" in keys(second)


def copied(labels, drawn):
    """The label ``origin`` of a section: where ``drawn`` is not set, mended pixels are of one graft."""
    grafts = pd.DataFrame([[1, 1, 0, 0, 0, 0, 8, 0, 1.0]], columns=list(COLUMNS))
    values = np.where(labels > 0, np.where(drawn, DRAWN, FIRST), 0).astype(np.uint32)
    return Origin((values,), grafts, origin_colours(grafts))


def test_copied_pixels_are_context_so_that_a_wide_region_of_copies_is_not_wide():
    labels = np.zeros((420, 420), dtype=np.int64)
    labels[150:280, 100:300] = 1
    facts = section_facts(labels.shape, window_px=64)
    drawn = ndimage.distance_transform_edt(labels > 0) < 12
    (joined,) = reviewed(tissue(), labels, facts=facts, origin=copied(labels, drawn))
    (alone,) = reviewed(tissue(), labels, facts=facts, origin=copied(labels, np.ones_like(drawn)))
    assert "wide" not in keys(joined)
    assert "wide" in keys(alone)
    assert joined.depth_um == alone.depth_um == 65


def test_a_region_deeper_than_tissue_tells_says_so_also_when_it_was_copied():
    side = round(2 * DEEP_UM)
    labels = np.zeros((2 * side + 200, side + 120), dtype=np.int64)
    labels[60 : 60 + side - 2, 60 : 60 + side - 2] = 1
    labels[side + 120 : 2 * side + 122, 60 : 60 + side + 2] = 2
    pixels = np.tile(tissue(), (4, 4))[: labels.shape[0], : labels.shape[1]]
    near, far = reviewed(pixels, labels, crop_px=0, origin=copied(labels, labels == 0))
    assert "deep" not in keys(near)
    assert "deep" in keys(far)
    assert (near.depth_um, far.depth_um) == (side / 2 - 1, side / 2 + 1)
    facts = section_facts(labels.shape, pixel_size_um=0.5)
    assert [review.depth_um * 2 for review in reviewed(pixels, labels, crop_px=0, facts=facts)] == [
        near.depth_um,
        far.depth_um,
    ]


def test_depth_on_a_coarser_level_errs_by_no_more_than_its_pixels(monkeypatch):
    monkeypatch.setattr("cytomend.report.depth.LOOKED_PX", 100)
    labels = np.zeros((512, 512), dtype=np.uint32)
    labels[100:300, 150:350] = 1
    levels, pixels = [labels], [tissue(512)]
    for _ in range(3):
        levels.append(halve_by_maximum(levels[-1]))
        pixels.append(halve_by_mean(pixels[-1][None])[0])
    corrected = CorrectedSection(tuple(pixels), tuple(levels), {})
    found = surroundings(1, Box(100, 150, 300, 350), 40_000.0, corrected, section_facts(labels.shape))
    assert abs(found.depth_um - 100) <= 8
    # The box, widened by 200 px on each side, is cut off by the section on all sides but the lower one.
    assert found.tissue_um2 == pytest.approx(500 * 512 - 40_000, rel=0.05)


def test_a_region_in_an_island_of_tissue_says_that_there_is_little_around_it():
    pixels = (230 + np.random.default_rng(0).integers(-2, 3, (420, 420))).astype(np.uint8)
    island, labels = np.s_[96:320, 96:320], disc(radius_px=95)
    pixels[island] = tissue()[island]
    (alone,) = reviewed(pixels, labels, crop_px=0)
    assert "scarce" in keys(alone)
    (around,) = reviewed(tissue(), labels, crop_px=0)
    assert "scarce" not in keys(around)


def test_damage_that_was_left_is_no_tissue_around_a_region():
    labels = disc(radius_px=60)
    left = np.ones(labels.shape, dtype=bool)
    left[140:280, 140:280] = False
    (review,) = reviewed(tissue(), labels, artefacts=Masked(left | (labels > 0)), crop_px=0)
    assert "scarce" in keys(review)


def stripes(shape, degrees, seed=0):
    """Noise drawn out along a direction, counted counterclockwise from the horizontal."""
    noise = np.random.default_rng(seed).standard_normal([2 * n for n in shape])
    drawn = ndimage.rotate(ndimage.gaussian_filter(noise, (1.5, 6)), degrees, reshape=False, order=1)
    middle = tuple(slice(n // 2, n // 2 + n) for n in shape)
    return np.clip(drawn[middle] / drawn[middle].std() * 30 + 128, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("degrees", [0, 30, 90, 150])
def test_directions_are_counted_from_the_horizontal(degrees):
    labels = disc(radius_px=60)
    pixels = np.where(labels > 0, stripes(labels.shape, degrees), stripes(labels.shape, 60, seed=1))
    (review,) = reviewed(pixels, labels, crop_px=0)
    assert abs((review.degrees_inside - degrees + 90) % 180 - 90) < 6
    assert abs(review.degrees_rim - 60) < 6
    assert min(review.coherence_inside, review.coherence_rim) > 0.5
    assert "turned" in keys(review)
    same = np.where(labels > 0, stripes(labels.shape, 60), stripes(labels.shape, 60, seed=1))
    assert "turned" not in keys(reviewed(same, labels, crop_px=0)[0])


def test_without_a_direction_around_it_no_direction_is_wrong():
    labels, noise = disc(radius_px=60), np.random.default_rng(2).standard_normal((420, 420))
    even = np.clip(ndimage.gaussian_filter(noise, 2) * 300 + 128, 0, 255)
    pixels = np.where(labels > 0, stripes(labels.shape, 40), even).astype(np.uint8)
    (review,) = reviewed(pixels, labels, crop_px=0)
    assert review.coherence_rim < CLEAR
    assert "turned" not in keys(review)
    (ordered,) = reviewed(np.where(labels > 0, even, stripes(labels.shape, 40)).astype(np.uint8), labels, crop_px=0)
    assert "turned" in keys(ordered)
    assert any("no direction prevails" in flag.sentence for flag in ordered.flags)


def test_a_region_whose_samples_differ_far_more_than_others_is_uncertain():
    labels = np.zeros((420, 420), dtype=np.int64)
    for i in range(6):
        labels[60 * i + 20 : 60 * i + 40, 200:220] = i + 1
    usual = {1: 4.0, 2: 4.4, 3: 3.8, 4: 4.1, 5: 4.2}
    said = [
        reviewed(tissue(), labels, uncertainty=Uncertainty((), 4, 4.0, {**usual, 6: grey}, 16.0)) for grey in (5.0, 9.0)
    ]
    assert [["uncertain" in keys(review) for review in reviews] for reviews in said] == [
        [False] * 6,
        [False] * 5 + [True],
    ]
    assert said[1][5].uncertainty_grey == 9.0


def measured(**changes):
    usual = {
        "area_um2": 3000.0, "rim_um2": 40_000.0, "outline_pairs": 250.0, "seam": 1.0, "grain": 1.0, "spread": 1.0,
        "shift": 0.0,
        "cells_inside": 3, "cells_rim": 40, "area_inside_um2": None, "area_rim_um2": 80.0, "blank_share": 0.0,
        "window_um": 64.0, "touches_border": False, "is_wide": False,
    }  # fmt: skip
    return Numbers(**{**usual, **changes})


@pytest.mark.parametrize(
    ("expected", "found", "key"),
    [
        (1, 0, set()),
        (LEAST_CELLS - 0.1, 0, set()),
        (5, 0, {"few"}),
        (20, 14, set()),
        (20, 3, {"few"}),
        (200, 80, {"few"}),
        (0.2, 1, set()),
        (0.2, 6, {"many"}),
        (20, 28, set()),
        (20, 48, {"many"}),
    ],
)
def test_few_cells_differ_by_chance(expected, found, key):
    rim_cells = 400
    numbers = measured(cells_rim=rim_cells, cells_inside=found, rim_um2=40_000, area_um2=40_000 * expected / rim_cells)
    assert {flag.key for flag in flags_of(numbers)} == key


def test_the_larger_a_region_the_less_it_may_differ():
    for area_um2, flagged in ((500, False), (30_000, True)):
        numbers = measured(area_um2=area_um2, cells_inside=round(40 * area_um2 / 40_000), spread=0.7)
        assert bool(flags_of(numbers)) == flagged


def test_those_that_look_wrong_come_first():
    def review(region, share, *flags):
        return replace(none, region=region, share=share, flags=tuple(Flag(key, "It is so.") for key in flags))

    none = RegionReview(0, None, None, None, None, None, None, None, 0, 0, 0.0, None)
    reviews = [
        review(1, 0.5),
        review(2, 0.6),
        review(3, 0.3, "border", "wide"),
        review(4, 0.1, "seam"),
        review(5, 0.1, "seam", "few"),
        review(6, 0.2, "seam"),
        review(7, 0.2, "seam"),
    ]
    assert [one.region for one in flagged_first(reviews)] == [5, 6, 7, 4, 3, 2, 1]


def test_a_segmenter_that_gives_no_table_of_cells_is_named():
    class Wrong:
        name = "mine:segmenter"

        def find(self, *_, **__):
            return pd.DataFrame({"y_um": [1.0]})

    with pytest.raises(InputError, match=r"segmenter 'mine:segmenter': .*x_um"):
        reviewed(tissue(), disc(), segmenter=Wrong())
