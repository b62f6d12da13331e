"""Orientation tags (EXIF, TIFF tag 274): how a stored picture is turned before it is shown.

Some programs follow the tag and some do not, so that an annotation may have been drawn on either view.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomend.geometry import Box
from cytomend.storage.frames import UPRIGHT
from cytomend.storage.raster import SectionImage

TAG = 274
TURNS = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored along its diagonal",
    6: "turned by 90 degrees clockwise",
    7: "mirrored along its other diagonal",
    8: "turned by 90 degrees counterclockwise",
}
"""What makes a stored picture upright, by the value of the tag; 1 is upright already."""


class UprightImage(SectionImage):
    """An image as programs show it that follow its orientation tag.

    Parameters
    ----------
    stored : SectionImage
        The pixels as they are stored.
    orientation : 2 to 8
        Value of the tag; see `TURNS`.
    """

    def __init__(self, stored: SectionImage, orientation: int) -> None:
        self._swapped = orientation >= 5
        self._from_below, self._from_right = orientation in {3, 4, 7, 8}, orientation in {2, 3, 6, 7}
        super().__init__(
            stored.path,
            shape=self._turned(stored.shape),
            channels=stored.channels,
            dtype=stored.dtype,
            pixel_size_um=stored.pixel_size_um,
            block_px=self._turned(stored.block_px),
        )
        self.warnings = stored.warnings
        self._stored = stored

    def close(self) -> None:
        """Release the file; later reads fail."""
        self._stored.close()

    def _turned(self, pair: tuple[int, int]) -> tuple[int, int]:
        return (pair[1], pair[0]) if self._swapped else pair

    def _read(self, box: Box) -> NDArray[Any]:
        height, width = self.shape
        y0, y1 = (height - box.y1, height - box.y0) if self._from_below else (box.y0, box.y1)
        x0, x1 = (width - box.x1, width - box.x0) if self._from_right else (box.x0, box.x1)
        pixels = self._stored.read(Box(x0, y0, x1, y1) if self._swapped else Box(y0, x0, y1, x1))
        pixels = pixels.swapaxes(1, 2) if self._swapped else pixels
        rows = slice(None, None, -1 if self._from_below else 1)
        columns = slice(None, None, -1 if self._from_right else 1)
        return np.ascontiguousarray(pixels[:, rows, columns])


def oriented(image: SectionImage, orientation: object, frame: str) -> SectionImage:
    """Return an image in the frame that was asked for; where none was, as it is stored, with a warning.

    Parameters
    ----------
    image : as it is stored
    orientation : value of the tag; whatever is not 2 to 8 means nothing
    frame : ``stored``, ``upright`` or empty
    """
    if not isinstance(orientation, int) or orientation not in TURNS:
        return image
    if frame == UPRIGHT:
        return UprightImage(image, orientation)
    if not frame:
        image.warnings.append(
            f"{image.path}: its orientation tag (EXIF, TIFF tag {TAG}) is {orientation:d}. Programs that follow the tag"
            f" show the picture {TURNS[orientation]}. It is read as it is stored. If the annotation was drawn on the"
            f" upright picture, name the frame upright ({image.path.name}#upright). The frame stored ends this warning"
        )
    return image
