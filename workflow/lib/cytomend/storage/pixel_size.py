"""How large a pixel is, from the many places where scanners write it; all sizes in µm."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from xml.etree import ElementTree

log = logging.getLogger(__name__)

# Below lies no light microscope, above no cell is seen. Outside are the defaults of paint programs: 72 dpi is 353 µm.
PLAUSIBLE_UM = (0.01, 25.0)

UM_PER_UNIT = {
    "m": 1e6,
    "meter": 1e6,
    "dm": 1e5,
    "decimeter": 1e5,
    "cm": 1e4,
    "centimeter": 1e4,
    "mm": 1e3,
    "millimeter": 1e3,
    "µm": 1.0,  # micro sign
    "μm": 1.0,  # Greek mu
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "pm": 1e-6,
    "picometer": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "in": 25400.0,
    "inch": 25400.0,
}

_TIFF_UNITS = {2: "inch", 3: "centimeter"}


def credible_size_um(y_um: float | None, x_um: float | None) -> float | None:
    """Return one pixel size for a square pixel of credible size, else None.

    >>> credible_size_um(1.0, 1.001), credible_size_um(352.8, 352.8), credible_size_um(1.0, 2.0)
    (1.0005, None, None)
    """
    if y_um is None or x_um is None or not (math.isfinite(y_um) and math.isfinite(x_um)):
        return None
    low, high = PLAUSIBLE_UM
    if not (low <= y_um <= high and low <= x_um <= high):
        return None
    if abs(y_um - x_um) > 0.01 * max(y_um, x_um):
        log.warning("pixels of %g x %g µm are not square; their size is taken as unknown", y_um, x_um)
        return None
    return (y_um + x_um) / 2


def length_um(value: float, unit: str) -> float | None:
    """Convert a length to µm; None for pixels, reference frames and other things that are no lengths."""
    factor = UM_PER_UNIT.get(unit.strip().lower())
    return None if factor is None else value * factor


def size_from_density(per_y: float, per_x: float, unit: str) -> float | None:
    """Return the pixel size from pixels per unit of length, as in a TIFF resolution tag."""
    if per_y <= 0 or per_x <= 0:
        return None
    return credible_size_um(length_um(1 / per_y, unit), length_um(1 / per_x, unit))


def size_from_tiff_tags(resolution: tuple[float, float], unit: int) -> float | None:
    """Return the pixel size from (x, y) resolution and the ResolutionUnit tag; unit 1 means a mere aspect ratio."""
    return size_from_density(resolution[1], resolution[0], _TIFF_UNITS.get(unit, ""))


def size_from_aperio(description: str) -> float | None:
    """Return the pixel size from an Aperio description, ``...|MPP = 0.4990|...``.

    >>> size_from_aperio("Aperio Image Library v10.0.51|AppMag = 20|MPP = 0.4990")
    0.499
    """
    match = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", description)
    try:
        size_um = float(match.group(1)) if match else None
    except ValueError:
        return None
    return credible_size_um(size_um, size_um)


def size_from_ome_xml(xml: str, image: int) -> float | None:
    """Return the pixel size of the image of this index from OME-XML; its default unit is µm."""
    try:
        pixels = ElementTree.fromstring(xml).findall(".//{*}Image/{*}Pixels")
        attributes = pixels[image].attrib if image < len(pixels) else {}
        return credible_size_um(_physical_size(attributes, "Y"), _physical_size(attributes, "X"))
    except (ElementTree.ParseError, ValueError):
        return None


def _physical_size(attributes: Mapping[str, str], axis: str) -> float | None:
    value = attributes.get(f"PhysicalSize{axis}")
    return None if value is None else length_um(float(value), attributes.get(f"PhysicalSize{axis}Unit", "µm"))
