"""How often the checks of a region flag intact tissue, and how often planted faults.

    python benchmarks/flags.py --segmenter cpn
    python benchmarks/flags.py --scan SCAN --mask MASK --pixel-size-um 1

The shapes of real (or phantom) artefacts are laid over intact tissue of the same section, where nothing was mended, and
checked as if it had been. What is flagged there is a false alarm. Then a fault is planted inside the shapes, and the
rate of flags is printed by fault and flag. Without ``--scan``, phantom sections are made, of seeds that no limit was
fitted to. With ``--fit`` the variances for the limits of `cytomend.report.flags` are printed instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import nnls

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.phantom import damage, render_tissue
from cytomend.regions.annotation import open_mask
from cytomend.regions.plan import SectionFacts
from cytomend.regions.tissue import tissue_share
from cytomend.regions.value_range import value_range
from cytomend.report.corrected import CorrectedSection
from cytomend.report.flags import Numbers, differences, flags_of
from cytomend.report.regions import RegionFacts
from cytomend.report.review import measure_region
from cytomend.report.rim import Neighbourhood
from cytomend.segmentation.segmenters import Segmenter, open_segmenter
from cytomend.segmentation.stain import PLAIN, section_stain
from cytomend.segmentation.table import table_contours
from cytomend.storage.images import open_image
from cytomend.values import ValueRange

KEYS = ("seam", "smooth", "rough", "pale", "harsh", "dark", "bright", "few", "many", "small", "large", "turned")
SIZES_UM2 = (0, 1_000, 3_000, 10_000, np.inf)
FIRST_SEED, FIT_SEED = 930_000, 940_000
SIDE_PX = 1500
GAP_UM = 8.0
"""Between shapes: as near as regions of a damaged section come."""
TRIES = 60
WINDOW_PX = 64

Grey = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scan:
    """Intact pixels (Y, X) with the shapes of artefacts; ``forbidden`` (Y, X) is where no shape may lie."""

    name: str
    pixels: NDArray[np.generic]
    forbidden: Mask
    shapes: list[Mask]
    pixel_size_um: float
    value_range: ValueRange


def phantoms(count: int, first_seed: int) -> Iterator[Scan]:
    """Make phantom sections; their own artefacts give the shapes."""
    for seed in range(first_seed, first_seed + count):
        tissue = render_tissue((SIDE_PX, SIDE_PX), seed)
        mask = ndimage.binary_dilation(damage(tissue.image, seed).mask > 0, iterations=3)
        yield Scan(f"phantom {seed}", tissue.image, np.zeros_like(mask), shapes_of(mask), 1.0, (0.0, 255.0))


def opened(scan: Path, mask: Path | None, pixel_size_um: float | None, seed: int) -> Scan:
    """Return a real scan; without a mask, with the shapes of a phantom's artefacts."""
    with open_image(scan) as image:
        size = pixel_size_um or image.pixel_size_um
        if size is None:
            raise InputError(f"{scan}: says no pixel size; give --pixel-size-um")
        masked = open_mask(mask, image.shape) if mask else None
        values = value_range(image, masked)
        whole = Box(0, 0, *image.shape)
        pixels = section_stain(image, masked, values).grey(image.read(whole))
    forbidden = masked.read(whole) if masked else np.zeros(pixels.shape, dtype=bool)
    shapes = shapes_of(forbidden) if masked else next(phantoms(1, seed)).shapes
    return Scan(scan.stem, pixels, forbidden, shapes, size, values)


def shapes_of(mask: Mask) -> list[Mask]:
    """Return every connected piece of a mask in its box."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    return [labels[box] == i for i, box in enumerate(ndimage.find_objects(labels), 1)]


def lay(scan: Scan, rng: np.random.Generator) -> tuple[NDArray[np.uint32], list[RegionFacts]]:
    """Lay the shapes, turned and mirrored, over intact tissue; those for which there is no room are left out."""
    labels, regions = np.zeros(scan.pixels.shape, np.uint32), list[RegionFacts]()
    gap_px = round(GAP_UM / scan.pixel_size_um)
    for shape in sorted(scan.shapes, key=lambda s: -s.size):
        own = np.rot90(shape, rng.integers(4))[:: rng.choice([-1, 1])]
        room = [whole - side - 2 * gap_px for whole, side in zip(labels.shape, own.shape, strict=True)]
        for _ in range(TRIES if min(room) > 0 else 0):
            y, x = (int(rng.integers(r)) + gap_px for r in room)
            box = Box(y, x, y + own.shape[0], x + own.shape[1])
            wide = box.grow(gap_px)
            taken = (labels[wide.slices] > 0) | scan.forbidden[wide.slices]
            near = ndimage.binary_dilation(np.pad(own, gap_px), iterations=gap_px)
            if (taken & near).any() or tissue_share(scan.pixels[wide.slices][None], scan.value_range) < 0.75:
                continue
            number = len(regions) + 1
            labels[box.slices][own] = number
            area_px, size = int(own.sum()), scan.pixel_size_um
            regions.append(RegionFacts(number, box, y * size, x * size, area_px, area_px * size**2, 1, False))
            break
    return labels, regions


# --- faults --------------------------------------------------------------------------------------------------------


def blurred(scan: Scan, _mask: Mask, _: Segmenter) -> Grey:
    """Everything finer than some 3 µm is gone."""
    return ndimage.gaussian_filter(scan.pixels.astype(float), 3 / scan.pixel_size_um)


def darker(scan: Scan, _mask: Mask, _: Segmenter) -> Grey:
    """The whole region is darker by the tissue's standard deviation."""
    return scan.pixels - scan.pixels[~scan.forbidden].std()


def brighter(scan: Scan, _mask: Mask, _: Segmenter) -> Grey:
    """The whole region is brighter by it."""
    return scan.pixels + scan.pixels[~scan.forbidden].std()


def stepped(scan: Scan, mask: Mask, _: Segmenter) -> Grey:
    """A step at the outline that fades within a few µm, so that the mean is nearly kept."""
    depth_um = ndimage.distance_transform_edt(mask) * scan.pixel_size_um
    return scan.pixels + scan.pixels[~scan.forbidden].std() * np.exp(-depth_um / 4)


def empty(scan: Scan, mask: Mask, _: Segmenter) -> Grey:
    """Ground without a cell: the mean of the pixels outside, with a little grain."""
    grain = np.random.default_rng(0).standard_normal(mask.shape)
    return _ground(scan.pixels.astype(float), mask, 12 / scan.pixel_size_um) + 2 * grain


def halved(scan: Scan, _mask: Mask, segmenter: Segmenter) -> Grey:
    """Every second cell is taken away, and ground like that around it put there."""
    return _without_cells(scan, segmenter, 2)


def thinned(scan: Scan, _mask: Mask, segmenter: Segmenter) -> Grey:
    """Every third cell is taken away."""
    return _without_cells(scan, segmenter, 3)


def shrunken(scan: Scan, _mask: Mask, _: Segmenter) -> Grey:
    """Cells lose a rim of 1 µm."""
    return ndimage.grey_dilation(scan.pixels, footprint=_disc(1 / scan.pixel_size_um)).astype(float)


def swollen(scan: Scan, _mask: Mask, _: Segmenter) -> Grey:
    """Cells grow by a rim of 1 µm."""
    return ndimage.grey_erosion(scan.pixels, footprint=_disc(1 / scan.pixel_size_um)).astype(float)


def turned(scan: Scan, mask: Mask, _: Segmenter) -> Grey:
    """Each shape holds the tissue around its middle, turned by a right angle."""
    labels, _count = ndimage.label(mask)
    values = scan.pixels.astype(float)
    for rows, columns in ndimage.find_objects(labels):
        middle = [(side.start + side.stop) // 2 for side in (rows, columns)]
        y, x = np.mgrid[rows, columns]
        at_y, at_x = middle[0] + (x - middle[1]), middle[1] - (y - middle[0])
        within = (np.clip(at, 0, n - 1) for at, n in zip((at_y, at_x), mask.shape, strict=True))
        values[rows, columns] = scan.pixels[tuple(within)]
    return values


def noisy(scan: Scan, mask: Mask, _: Segmenter) -> Grey:
    """Noise as strong as the tissue itself."""
    noise = np.random.default_rng(0).standard_normal(mask.shape)
    return scan.pixels + scan.pixels[~scan.forbidden].std() * noise


FAULTS: dict[str, Callable[[Scan, Mask, Segmenter], Grey]] = {
    fault.__name__: fault
    for fault in (blurred, darker, brighter, stepped, empty, halved, thinned, shrunken, swollen, turned, noisy)
}


def planted(scan: Scan, labels: NDArray[np.uint32], fault: str, segmenter: Segmenter) -> NDArray[np.generic]:
    """Return the section with a fault in all shapes; elsewhere it is the same."""
    mask, limits = labels > 0, np.iinfo(scan.pixels.dtype)
    values = np.clip(np.rint(FAULTS[fault](scan, mask, segmenter)), limits.min, limits.max)
    return np.where(mask, values, scan.pixels).astype(scan.pixels.dtype)


def _without_cells(scan: Scan, segmenter: Segmenter, nth: int) -> Grey:
    cells = segmenter.find(scan.pixels, pixel_size_um=scan.pixel_size_um, value_range=scan.value_range)
    contours = table_contours(cells, scan.pixel_size_um)
    bodies, gone = np.zeros((2, *scan.pixels.shape), dtype=bool)
    for i in np.random.default_rng(0).permutation(len(contours)).tolist():
        drawn = _filled(contours[i], bodies.shape)
        bodies[drawn] = True
        if i % nth == 0:
            gone[drawn] = True
    bodies, gone = (ndimage.binary_dilation(mask, iterations=2) for mask in (bodies, gone))
    # Ground from the nearest place without a cell, so that its grain is that of the section.
    y, x = ndimage.distance_transform_edt(bodies, return_distances=False, return_indices=True)
    values = scan.pixels.astype(float)
    return np.where(gone, values[y, x], values)


def _filled(contour: NDArray[np.floating], shape: tuple[int, int]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    from skimage.draw import polygon

    y, x = polygon(contour[:, 0] - 0.5, contour[:, 1] - 0.5, shape)
    return y, x


def _ground(values: Grey, mask: Mask, sigma_px: float) -> Grey:
    """Return the mean of the unmasked pixels about each place, or of all where there are none near."""
    known = (~mask).astype(float)
    share = ndimage.gaussian_filter(known, sigma_px)
    mean = ndimage.gaussian_filter(values * known, sigma_px) / np.maximum(share, 1e-9)
    return np.where(share > 1e-3, mean, values[~mask].mean())


def _disc(radius_px: float) -> Mask:
    n = max(round(radius_px), 1)
    y, x = np.mgrid[-n : n + 1, -n : n + 1]
    return np.hypot(y, x) <= n + 0.1


# --- rates ---------------------------------------------------------------------------------------------------------


def checks(
    scan: Scan,
    pixels: NDArray[np.generic],
    labels: NDArray[np.uint32],
    regions: list[RegionFacts],
    segmenter: Segmenter,
) -> list[Numbers]:
    """Return what is measured of all shapes of a section."""
    facts = SectionFacts(
        section=scan.name, shape=pixels.shape, channels=1, dtype=str(pixels.dtype), pixel_size_um=scan.pixel_size_um,
        stain="", value_range=scan.value_range, grow_px=0, window_px=WINDOW_PX, stride_px=WINDOW_PX, shards=1,
        masked_px=int((labels > 0).sum()), source_blake2b="", mask_blake2b="",
    )  # fmt: skip
    corrected = CorrectedSection((pixels,), (labels,), {})
    artefacts = Forbidden(scan.forbidden)
    return [
        measure_region(r, Neighbourhood(r.number, r.box, corrected, facts, PLAIN, artefacts), None, segmenter)[0]
        for r in regions
    ]


@dataclass(frozen=True)
class Forbidden:
    """A mask held whole, as `cytomend.regions.annotation.Masked`."""

    mask: Mask

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.mask.shape

    def read(self, box: Box) -> Mask:
        """Return the mask in a box."""
        return self.mask[box.slices]


def rates(found: list[Numbers]) -> str:
    """Return the share of regions flagged, by flag and in all, as cells of a Markdown table."""
    flags = [{flag.key for flag in flags_of(replace(n, is_wide=False))} for n in found]
    shares = [np.mean([key in each for each in flags]) for key in KEYS]
    anything = np.mean([bool(each & set(KEYS)) for each in flags])
    return " | ".join(f"{share:.1%}" if share else "0" for share in (*shares, anything))


def table(rows: dict[str, list[Numbers]], first: str) -> str:
    """Return rates as a Markdown table."""
    head = f"| {first} | regions | {' | '.join(KEYS)} | any |\n|---|{'---|' * (len(KEYS) + 2)}"
    return "\n".join([head, *(f"| {name} | {len(found)} | {rates(found)} |" for name, found in rows.items() if found)])


def fitted(found: list[Numbers]) -> str:
    """Return the variances that the limits need: of a constant and of one over the amount, by least squares.

    The squares are weighed by what they are expected to be, so that small regions do not decide alone.
    """
    amounts = {
        "seam": lambda n: n.outline_pairs,
        "grain": lambda n: n.area_um2,
        "spread": lambda n: n.area_um2,
        "shift": lambda n: n.area_um2,
        "size": lambda n: 1 / (1 / n.cells_inside + 1 / n.cells_rim),
        "turn": lambda n: 1 / (1 / n.inside.area_um2 + 1 / n.rim.area_um2),
    }
    lines = []
    for name in ("seam", "grain", "spread", "shift", "count", "size", "turn"):
        pairs = [(n, d[name].value) for n in found if name in (d := differences(n)) and np.isfinite(d[name].value)]
        square = np.array([value**2 for _, value in pairs])
        if name == "count":
            basis = np.array([[n.expected_cells, 1 + n.area_um2 / n.rim_um2] for n, _ in pairs])
        else:
            basis = np.array([[1.0, 1 / amounts[name](n)] for n, _ in pairs])
        weight = np.ones(len(square))
        for _ in range(20):
            (local, scatter), _ = nnls(basis * weight[:, None], square * weight)
            weight = 1 / np.maximum(basis @ [local, scatter], 1e-12)
        z = np.array([value for _, value in pairs]) / np.sqrt(basis @ [local, scatter])
        tails = ", ".join(f"{q:g}: {np.quantile(z, q):.2f}" for q in (0.01, 0.025, 0.05, 0.5, 0.95, 0.975, 0.99))
        lines.append(f"{name}: local={local:.4g}, scatter={scatter:.4g}; {len(pairs)} regions; quantiles {tails}")
    return "\n".join(lines)


def main(args: argparse.Namespace) -> None:
    """Print the tables."""
    segmenter = open_segmenter(args.segmenter)
    first = FIT_SEED if args.fit else FIRST_SEED
    scans = [opened(args.scan, args.mask, args.pixel_size_um, first)] if args.scan else phantoms(args.sections, first)
    intact, faulty = list[Numbers](), {fault: list[Numbers]() for fault in args.faults}
    seconds, regions_seen = 0.0, 0
    for scan in scans:
        for layer in range(args.layers):
            labels, regions = lay(scan, np.random.default_rng([args.seed, layer]))
            began = perf_counter()
            intact += checks(scan, scan.pixels, labels, regions, segmenter)
            seconds += perf_counter() - began
            regions_seen += len(regions)
            for fault in [] if args.fit else args.faults:
                pixels = planted(scan, labels, fault, segmenter)
                faulty[fault] += checks(scan, pixels, labels, regions, segmenter)
        print(f"{scan.name}: {regions_seen} regions so far", file=sys.stderr)
    print(f"segmenter {segmenter.name}, {seconds / regions_seen:.2f} s a region\n")
    if args.fit:
        print(fitted(intact))
        print()
    sizes = {
        f"{low:,.0f} to {high:,.0f} µm²": [n for n in intact if low <= n.area_um2 < high]
        for low, high in pairwise(SIZES_UM2)
    }
    print(table({"all": intact, **sizes}, "intact tissue"))
    if any(faulty.values()):
        print("\n" + table(faulty, "fault"))
        large = {fault: [n for n in found if n.area_um2 >= SIZES_UM2[2]] for fault, found in faulty.items()}
        print("\n" + table(large, f"fault, from {SIZES_UM2[2]:,} µm²"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segmenter", default="cpn")
    parser.add_argument("--scan", type=Path, help="a real scan, read whole; by default phantoms are made")
    parser.add_argument("--mask", type=Path, help="its artefacts: GeoJSON or mask image")
    parser.add_argument("--pixel-size-um", type=float)
    parser.add_argument("--sections", type=int, default=8, help="phantoms")
    parser.add_argument("--layers", type=int, default=1, help="how often the shapes are laid over a section")
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), choices=list(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fit", action="store_true", help="print the variances for the limits instead of faults")
    torch.set_num_threads(1)
    try:
        main(parser.parse_args())
    except InputError as error:
        sys.exit(str(error))
