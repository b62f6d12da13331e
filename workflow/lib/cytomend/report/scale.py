"""The scale bar: a round length that fits a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

LARGEST_SHARE = 0.3
MM_UM = 1000


@dataclass(frozen=True, slots=True)
class ScaleBar:
    """A bar of ``length_um``, which is ``share`` of the picture's width."""

    length_um: float
    share: float

    @property
    def text(self) -> str:
        """The length with its unit.

        >>> ScaleBar(200, 0.2).text, ScaleBar(5000, 0.2).text
        ('200 µm', '5 mm')
        """
        return f"{self.length_um / MM_UM:g} mm" if self.length_um >= MM_UM else f"{self.length_um:g} µm"


def scale_bar(width_um: float) -> ScaleBar:
    """Return the longest bar of 1, 2 or 5 times a power of ten that fills at most three tenths of the width.

    >>> scale_bar(1000)
    ScaleBar(length_um=200.0, share=0.2)
    """
    longest = width_um * LARGEST_SHARE
    decade = 10.0 ** math.floor(math.log10(longest))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= longest)
    return ScaleBar(length, length / width_um)
