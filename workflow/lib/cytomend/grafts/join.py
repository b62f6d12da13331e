"""Who makes the joints: a network that was trained on such scans, or a blend of the grafts themselves.

``network``
    The model was trained on as many channels, at about the same pixel size.
``blend``
    No network fits. Neighbouring grafts fade into each other so that the variance of the grain stays
    (`cytomend.grafts.quilt.faded`), and their grey goes over into that of the tissue around the region
    (`cytomend.grafts.quilt.at_outline`).

A grey network on the optical density of RGB scans was tried too. It drew a grain of its own in clear tissue and wrong
colours in dark tissue, so that the blend is better.
"""

from __future__ import annotations

from typing import Literal

Joint = Literal["network", "blend"]

PIXEL_SIZE_TOLERANCE = 1.25
"""Factor between the pixel sizes of scan and model up to which cells look alike to the network."""


def joint_for(channels: int, pixel_size_um: float, model_channels: int, model_um: float) -> Joint:
    """Return who makes the joints of a scan, given what the model was trained on.

    >>> joint_for(1, 1.1, 1, 1.0), joint_for(3, 1.0, 1, 1.0), joint_for(1, 0.25, 1, 1.0)
    ('network', 'blend', 'blend')
    """
    alike = 1 / PIXEL_SIZE_TOLERANCE <= pixel_size_um / model_um <= PIXEL_SIZE_TOLERANCE
    return "network" if alike and channels == model_channels else "blend"
