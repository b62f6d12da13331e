"""Where glass shows within the tissue: tears, missing tissue, and natural gaps that look like them.

A gap is lighter than half way between the ground of tissue and glass, after smoothing over 2 µm, and wide enough
somewhere. Capillaries and clefts around cells are narrower. Larger vessels, ventricles and sulci are not told apart by
a tile; `cytomend.screening.midline` knows more of them.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cytomend.regions.annotation import extent
from cytomend.screening.light import Bools
from cytomend.screening.tiles import Seen, Tile

LATTICE = 1
HALO_UM = 64.0
SMOOTH_UM = 1.5
CORE_UM = 5.0
"""Half the width that a gap must have somewhere."""
CLEAR = 1.5
"""Evidence that a gap must have somewhere: glass has 1.5 to 2.2, pale white matter 1 to 1.4."""
DEPTH_UM = 130.0
"""How far from the outside a gap must reach into the section; what does not is the unevenness of its outline."""


def see_gaps(tile: Tile, natural: Bools, inside: Bools, deep: Bools) -> Seen:
    """Return the gaps of a tile.

    Parameters
    ----------
    tile : part of a section
    natural : survey squares of gaps that have a mirror image or lie on the midline
    inside, deep : survey squares that belong to the section, and those `DEPTH_UM` from the outside
    """
    survey = tile.survey
    light = ndimage.gaussian_filter(
        tile.light(LATTICE, HALO_UM), tile.scale.sigma(SMOOTH_UM, LATTICE), mode="nearest", truncate=3
    )
    glass = (light > survey.limit) & tile.surveyed(inside, LATTICE, HALO_UM).astype(bool)
    reach = tile.scale.sigma(CORE_UM, LATTICE)
    evidence = (light - survey.ground) / (survey.limit - survey.ground)
    core = np.zeros_like(glass)
    if glass.any():
        around = extent(glass).grow(1).clip(glass.shape).slices
        core[around] = ndimage.distance_transform_edt(glass[around]) >= reach
    seed = core & (evidence >= CLEAR) & tile.surveyed(deep, LATTICE, HALO_UM).astype(bool)
    aside = glass & tile.surveyed(natural, LATTICE, HALO_UM).astype(bool)
    seen = Seen("gap", LATTICE, glass, evidence.astype(np.float32), seed, aside)
    return seen.cropped(tile.margin(HALO_UM, LATTICE))


def deep_inside(inside: Bools, square_um: float) -> Bools:
    """Return the squares that lie `DEPTH_UM` and more within the section; a scan's border is no outside."""
    if inside.all():
        return inside
    return np.asarray(ndimage.distance_transform_edt(inside) * square_um > DEPTH_UM, bool)
