"""How much of each kind of damage `screen-section` finds, and how much intact tissue it proposes.

    python benchmarks/screening.py --sections 12

Phantom sections of seeds that no limit was fitted to are damaged and screened. Every class is compared pixel by pixel
with its outline: precision, recall and Dice, pooled over the sections. Phantoms know tears, folds, missing tissue,
precipitate and scratches; bubbles, drops of stain, stripes and places out of focus are planted here, by other means
than those that find them, but by the same hand: read their rows with care. Then the same sections without damage, and
with ``--data`` the real tile and the real focus stack.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

from cytomend.geometry import Box
from cytomend.phantom import damage, render_tissue
from cytomend.phantom.artefacts import fill
from cytomend.screening.focus import CELLS, FINE, LATTICE, WINDOW_UM, energies, sharpness
from cytomend.screening.light import LightReader, Scale, squares, to_light
from cytomend.screening.screen import screen
from cytomend.screening.settings import (
    ARTEFACTS,
    BUBBLE,
    OUT_OF_FOCUS,
    STAIN_DROP,
    STRIPE,
    ScreenSettings,
)
from cytomend.storage.images import open_image
from cytomend.storage.raster import SectionImage

FIRST_SEED = 970_000
SIDE_PX = 2048
RANGE = (0.0, 255.0)
FOCUS_STACK = "merker-cortex-demics/focus_stack_rows000-255"

Grey = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Held(SectionImage):
    """A picture in memory."""

    def __init__(self, pixels: NDArray[np.generic]) -> None:
        super().__init__(
            Path("memory"),
            shape=(pixels.shape[-2], pixels.shape[-1]),
            channels=1 if pixels.ndim == 2 else len(pixels),
            dtype=pixels.dtype,
            pixel_size_um=1.0,
            block_px=(256, 256),
        )
        self._pixels = pixels if pixels.ndim == 3 else pixels[None]

    def _read(self, box: Box) -> NDArray[np.generic]:
        return self._pixels[:, *box.slices].copy()


def plant_bubble(grey: Grey, rng: np.random.Generator) -> Mask:
    """Bend light away at the rim of a disk, and magnify what is inside a little."""
    radius, distance = _disk(grey, rng, 60, 180)
    rim = np.exp(-(((distance - radius) / rng.uniform(5, 9)) ** 2))
    glint = np.exp(-(((distance - radius + 16) / 5) ** 2))
    inside = (distance < radius) * 6.0
    grey[:] = (grey * np.exp(-rng.uniform(0.5, 1.0) * rim) + 18 * glint + inside).round().clip(0, 255)
    return np.asarray(distance <= radius + 12)


def plant_drop(grey: Grey, rng: np.random.Generator) -> Mask:
    """Lay a smooth cloud of stain over the tissue, darker towards its rim."""
    radius, distance = _disk(grey, rng, 60, 200, unround=0.15)
    cover = 1 / (1 + np.exp((distance - radius) / 6))
    density = rng.uniform(0.2, 0.6) * cover * (0.7 + 0.3 * (distance / radius).clip(0, 1) ** 4)
    grey[:] = (grey * np.exp(-density)).round().clip(0, 255)
    return np.asarray(distance <= radius + 15)


def plant_stripe(grey: Grey, rng: np.random.Generator) -> Mask:
    """Expose a band of rows or columns otherwise, as a line camera or a stitched strip does."""
    view = grey if rng.random() < 0.5 else grey.T
    start, width = int(rng.integers(200, view.shape[0] - 400)), int(rng.integers(40, 160))
    gain = 1 + rng.choice([-1, 1]) * rng.uniform(0.1, 0.2)
    view[start : start + width] = (view[start : start + width] * gain).round().clip(0, 255)
    mask = np.zeros(grey.shape, bool)
    (mask if view is grey else mask.T)[start : start + width] = True
    return mask


def plant_defocus(grey: Grey, rng: np.random.Generator) -> Mask:
    """Blur a place, with a soft passage to what is sharp."""
    radius, distance = _disk(grey, rng, 150, 350, unround=0.15)
    cover = 1 / (1 + np.exp((distance - radius) / 15))
    blurred = ndimage.gaussian_filter(grey.astype(np.float32), rng.uniform(2.0, 5.0))
    noise = rng.normal(0, 1.5, grey.shape)
    grey[:] = (cover * (blurred + noise) + (1 - cover) * grey).round().clip(0, 255)
    return np.asarray(distance <= radius)


PLANTED: dict[str, Callable[[Grey, np.random.Generator], Mask]] = {
    BUBBLE: plant_bubble,
    STAIN_DROP: plant_drop,
    STRIPE: plant_stripe,
    OUT_OF_FOCUS: plant_defocus,
}


def _disk(
    grey: Grey, rng: np.random.Generator, least: float, most: float, unround: float = 0.0
) -> tuple[float, NDArray[np.float64]]:
    """Return a radius in px, and each pixel's distance from a middle, stretched unevenly."""
    y, x = np.indices(grey.shape).astype(float)
    dy, dx = (v - rng.uniform(0.2, 0.8) * size for v, size in zip((y, x), grey.shape, strict=True))
    angle = np.arctan2(dy, dx)
    waves = sum(np.cos(k * angle + rng.uniform(0, 7)) for k in (2, 3, 5))
    return float(rng.uniform(least, most)), np.hypot(dy, dx) * (1 + unround * waves / 2)


def proposed(picture: NDArray[np.generic], pixel_size_um: float = 1.0) -> dict[str, Mask]:
    """Screen a picture and return what is proposed, class by class."""
    found = screen(LightReader(Held(picture), RANGE), pixel_size_um, ScreenSettings())
    areas: dict[str, list[BaseGeometry]] = defaultdict(list)
    for proposal in found.proposals:
        areas[proposal.class_name].append(proposal.area)
    shape = picture.shape[-2:]
    return {name: fill(areas[name], Box(0, 0, *shape)) for name in ARTEFACTS}


class Count:
    """Pixels of one class that are damaged, proposed, and both."""

    def __init__(self) -> None:
        self.true = self.found = self.both = self.any = 0

    def add(self, true: Mask, found: Mask, every: Mask) -> None:
        """Count a section; ``every`` is what any class proposes."""
        self.true += int(true.sum())
        self.found += int(found.sum())
        self.both += int((true & found).sum())
        self.any += int((true & every).sum())

    def row(self) -> str:
        """Return precision, recall, Dice, and recall by any class."""
        return " | ".join(
            f"{part / whole:.2f}" if whole else "-"
            for part, whole in (
                (self.both, self.found),
                (self.both, self.true),
                (2 * self.both, self.true + self.found),
                (self.any, self.true),
            )
        )


def damaged(seed: int, side_px: int) -> Iterable[tuple[Grey, dict[str, Mask]]]:
    """Yield a phantom with the damage that phantoms know, then one with a planted artefact of each other kind."""
    tissue = render_tissue((side_px, side_px), seed).image
    harmed = damage(tissue, seed)
    truth: dict[str, list[BaseGeometry]] = defaultdict(list)
    for feature in harmed.features:
        area = shapely.from_geojson(json.dumps(feature["geometry"]))
        truth[feature["properties"]["classification"]["name"]].append(area)
    frame = Box(0, 0, *harmed.mask.shape)
    yield harmed.image, {name: fill(areas, frame) for name, areas in truth.items()}
    rng = np.random.default_rng([seed, 7])
    picture, planted = tissue.copy(), {}
    for name, plant in PLANTED.items():
        planted[name] = plant(picture, rng)
    yield picture, planted


def compare(seeds: Iterable[int], side_px: int) -> None:
    """Print precision, recall and Dice of every class, and what is proposed of intact tissue."""
    counts, false, pixels = {name: Count() for name in ARTEFACTS}, dict.fromkeys(ARTEFACTS, 0), 0
    confused: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    start, looked = perf_counter(), 0
    for seed in seeds:
        for picture, truth in damaged(seed, side_px):
            found = proposed(picture)
            looked += picture.size
            every = np.logical_or.reduce(list(found.values()))
            for name in ARTEFACTS:
                counts[name].add(truth.get(name, np.zeros_like(every)), found[name], every)
                for other, mask in truth.items():
                    confused[name][other] += int((mask & found[name]).sum())
        intact = render_tissue((side_px, side_px), seed).image
        for name, mask in proposed(intact).items():
            false[name] += int(mask.sum())
        pixels += intact.size
        looked += intact.size
    print("| class | precision | recall | Dice | found as any class | of intact phantoms, % |")
    print("|---|---|---|---|---|---|")
    for name in ARTEFACTS:
        print(f"| {name} | {counts[name].row()} | {100 * false[name] / pixels:.3f} |")
    print(f"\n{looked / 1e6 / (perf_counter() - start):.2f} megapixels a second, with making the phantoms\n")
    for name in ARTEFACTS:
        total = max(counts[name].found, 1)
        parts = ", ".join(f"{other} {n / total:.0%}" for other, n in confused[name].items() if n / total >= 0.02)
        print(f"what is proposed as {name} lies in: {parts or '-'}")


def real(data: Path) -> None:
    """Print what is proposed of the intact tile, and how the planes of the focus stack rank."""
    with open_image(data / "merker-cortex-demics" / "test.tif") as image:
        tile = image.read(Box(0, 0, *image.shape))[0]
    print("\nreal tile without damage but one small hole, share proposed:")
    print(", ".join(f"{name} {mask.mean():.2%}" for name, mask in proposed(tile).items() if mask.any()) or "nothing")
    planes = []
    for path in sorted((data / FOCUS_STACK).glob("*.tif")):
        with open_image(path) as image:
            planes.append(image.read(Box(0, 0, *image.shape))[0])
    print("\nsharpness of the planes of the real focus stack (decades):")
    print(" ".join(f"{i}:{v:.2f}" for i, v in enumerate(map(plane_sharpness, planes))))
    print("\na sharp plane (13) of which the right half is another plane, share of each half out of focus:")
    for number in (0, 3, 5, 6, 7, 8, 10, 18, 20, 22, 24, 28):
        mixed = planes[13].copy()
        mixed[:, 256:] = planes[number][:, 256:]
        blurred = proposed(mixed)[OUT_OF_FOCUS]
        print(f"plane {number}: left {blurred[:, :240].mean():.0%}, right {blurred[:, 272:].mean():.0%}")


def plane_sharpness(plane: Grey) -> float:
    """Return the median sharpness of a picture of 1 µm a pixel."""
    scale, light = Scale.of(1.0), to_light(plane[None], RANGE)
    parts = energies(squares(light, scale.factors[FINE]), squares(light, scale.factors[CELLS]), scale)
    values, shows = sharpness(*parts, scale.sigma(WINDOW_UM, LATTICE))
    return float(np.median(values[shows]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, default=12, help="phantom sections (default 12)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help=f"seed of the first (default {FIRST_SEED})")
    parser.add_argument("--side-px", type=int, default=SIDE_PX, help=f"side of a section (default {SIDE_PX})")
    parser.add_argument("--data", type=Path, help="folder of the real samples (shared/data)")
    args = parser.parse_args()
    compare(range(args.first_seed, args.first_seed + args.sections), args.side_px)
    if args.data:
        real(args.data)
