"""Labelled patches to learn from: squares that one class covers, turned, re-stained, blurred and made noisy at random.

Every patch is keyed by (seed, step, index within the step's batch), so that a restart changes nothing that is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cytomend.diffusion.patches import restain
from cytomend.phantom import AREAS, render_tissue
from cytomend.phantom.layers import layer_image
from cytomend.values import to_model

Float = NDArray[np.float32]

GRID_PX = 8
"""Patches of phantoms are cut on this grid; it makes counting their classes cheap."""
TRIES = 64


class LabelledTissue(Protocol):
    """Tissue whose classes are known; ``weight`` says how often it is drawn, in proportion."""

    @property
    def weight(self) -> float:
        """Not negative."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that it may show."""
        ...

    def patch(self, rng: np.random.Generator, name: str, side_px: int, share: float) -> Float | None:
        """Return a random (side, side) patch in [-1, 1] of which this class covers at least a share; None if none."""
        ...


def phantom_names(layers_of: str) -> dict[str, tuple[str, ...]]:
    """Return the class of each layer of each phantom area.

    Parameters
    ----------
    layers_of : ``any area`` for layers by their names alone, ``each area`` for area and layer together
    """
    mark = "{layer}" if layers_of == "any area" else "{area} {layer}"
    return {
        area.name: tuple(mark.format(area=area.name, layer=layer.name) for layer in area.layers)
        for area in AREAS.values()
    }


class Phantoms:
    """Phantom tissue whose classes are its layers; a piece is rendered when it is first cut.

    Parameters
    ----------
    count, size_px, seed : pieces, their side, the seed of the first
    layers_of : see `phantom_names`
    areas : the areas to draw from, by turns; each piece's seed chooses among all if absent
    pixel_size_um : side of a pixel in µm
    weight : how often it is drawn, in proportion
    """

    def __init__(
        self,
        count: int,
        size_px: int,
        seed: int,
        *,
        layers_of: str = "any area",
        areas: Sequence[str] | None = None,
        pixel_size_um: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        self.weight = weight
        self._count, self._size_px, self._seed, self._pixel_size_um = count, size_px, seed, pixel_size_um
        self._areas, self._named = areas, phantom_names(layers_of)
        self._images: dict[int, NDArray[np.uint8]] = {}
        self._sums: dict[int, tuple[str, NDArray[np.int32]]] = {}
        self.names = tuple(dict.fromkeys(name for area in sorted(areas or AREAS) for name in self._named[area]))

    def patch(self, rng: np.random.Generator, name: str, side_px: int, share: float) -> Float | None:
        """Return a patch of a class; the piece and the place are drawn at random."""
        for _ in range(TRIES):
            number = int(rng.integers(self._count))
            if (corner := self._corner(rng, number, name, side_px, share)) is not None:
                y, x = corner
                return to_model(self._image(number)[y : y + side_px, x : x + side_px], (0, 255))
        return None

    def _corner(
        self, rng: np.random.Generator, number: int, name: str, side_px: int, share: float
    ) -> tuple[int, int] | None:
        """Return the corner of a random square of one piece of which a class covers a share; None if there is none."""
        area, sums = self._counted(number)
        if name not in self._named[area]:
            return None
        side = -(-side_px // GRID_PX)
        counts = sums[self._named[area].index(name)]
        covered = counts[side:, side:] - counts[:-side, side:] - counts[side:, :-side] + counts[:-side, :-side]
        corners = np.argwhere(covered >= share * side**2)
        if not len(corners):
            return None
        room = side * GRID_PX - side_px
        y, x = corners[rng.integers(len(corners))] * GRID_PX + rng.integers(room + 1, size=2)
        return int(y), int(x)

    def _image(self, number: int) -> NDArray[np.uint8]:
        if number not in self._images:
            size = (self._size_px,) * 2
            self._images[number] = render_tissue(
                size, self._seed + number, pixel_size_um=self._pixel_size_um, area=self._area(number)
            ).image
        return self._images[number]

    def _area(self, number: int) -> str | None:
        return self._areas[number % len(self._areas)] if self._areas else None

    def _counted(self, number: int) -> tuple[str, NDArray[np.int32]]:
        """Return a piece's area and, for each layer, how many grid places lie above and left of each, (k, h, w)."""
        if number not in self._sums:
            truth = layer_image(
                (self._size_px,) * 2, self._seed + number, pixel_size_um=self._pixel_size_um, area=self._area(number)
            )
            coarse = truth.index[GRID_PX // 2 :: GRID_PX, GRID_PX // 2 :: GRID_PX]
            one_hot = np.arange(len(truth.area.layers))[:, None, None] == coarse
            sums = np.pad(one_hot, ((0, 0), (1, 0), (1, 0))).cumsum(1, dtype=np.int32).cumsum(2, dtype=np.int32)
            self._sums[number] = truth.area.name, sums
        return self._sums[number]


class LabelledBatch(NamedTuple):
    """What one training step sees: ``image`` (n, 1, Y, X) in [-1, 1], ``label`` (n,) int64."""

    image: Tensor
    label: Tensor


@dataclass(frozen=True, slots=True)
class LabelledPatches:
    """Draws batches of labelled patches: first the class, all alike, then the tissue, then the place.

    Parameters
    ----------
    tissue : what to cut from
    classes : the names that belong to each class; a patch's label is its class's place among them
    sides_px : smallest and largest side; all patches of a step have one side, a multiple of 16
    batch : patches a step
    share : least share of a patch that its class covers
    seed : any integer
    augmented : whether patches are re-stained, blurred and made noisy
    """

    tissue: Sequence[LabelledTissue]
    classes: dict[str, tuple[str, ...]]
    sides_px: tuple[int, int]
    batch: int
    share: float
    seed: int
    augmented: bool = True

    def draw(self, step: int) -> LabelledBatch:
        """Return the batch of this step."""
        sides = np.arange(self.sides_px[0], self.sides_px[1] + 1, 16)
        side_px = int(np.random.default_rng([self.seed, step, 0]).choice(sides))
        drawn = [self._sample(np.random.default_rng([self.seed, step, 1 + i]), side_px) for i in range(self.batch)]
        images, labels = zip(*drawn, strict=True)
        return LabelledBatch(torch.from_numpy(np.stack(images)[:, None]), torch.tensor(labels))

    def _sample(self, rng: np.random.Generator, side_px: int) -> tuple[Float, int]:
        """Return a patch and its label; a class that is not found at this side gives way to another."""
        members = list(self.classes.values())
        for label in rng.permutation(len(members)).tolist():
            for name in rng.permutation(members[label]).tolist():
                for tissue in self._in_random_order(rng, name):
                    patch = tissue.patch(rng, name, side_px, self.share)
                    if patch is not None:
                        return self._shown(rng, patch), label
        raise ValueError(f"no patch of {side_px} px shows a class over {self.share:.0%} of it")

    def _shown(self, rng: np.random.Generator, patch: Float) -> Float:
        """Return a patch in one of its eight poses, augmented if patches are."""
        patch = np.rot90(patch, int(rng.integers(4)))
        patch = patch[::-1] if rng.random() < 0.5 else patch
        return worsened(rng, patch) if self.augmented else np.ascontiguousarray(patch)

    def _in_random_order(self, rng: np.random.Generator, name: str) -> Iterator[LabelledTissue]:
        """Yield the tissue that may show a class, the first one by weight (exponential races)."""
        able = [tissue for tissue in self.tissue if name in tissue.names]
        arrival = rng.exponential(size=len(able)) / np.array([max(tissue.weight, 1e-9) for tissue in able])
        yield from (able[i] for i in np.argsort(arrival))


def worsened(rng: np.random.Generator, image: Float) -> Float:
    """Return the patch as another stain, a slightly worse lens or a noisier sensor would show it."""
    image = restain(rng, image)
    if rng.random() < 0.3:
        image = gaussian_filter(image, rng.uniform(0.3, 1.2))
    if rng.random() < 0.3:
        image = image + rng.uniform(0.01, 0.08) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.ascontiguousarray(image.clip(-1, 1), dtype=np.float32)
