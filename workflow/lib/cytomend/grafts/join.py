"""Who makes the joints: a network that was trained on such scans, or a blend of the grafts themselves.

``network``
    The model was trained on as many channels, at about the same pixel size: it draws on the scan's own pixels.
    On scans of smaller pixels, down to `FINEST`, it draws on pixels of its own size, and what it drew is laid back on
    the scan's (`cytomend.grafts.network_canvas`). The metadata then say ``network@1``: 1 is its size in µm.
``blend``
    No network fits. Neighbouring grafts fade into each other so that the variance of the grain stays
    (`cytomend.grafts.quilt.faded`), and their grey goes over into that of the tissue around the region
    (`cytomend.grafts.quilt.at_outline`).

The network could draw for scans of larger pixels too, on interpolated ones. At 2 µm it left smaller steps than the
blend, but added bodies and grain (`benchmarks/pixel_sizes.py`, figures in ``docs/grafts.md``). So these are blended.

A grey network on the optical density of RGB scans was tried too. It drew a grain of its own in clear tissue and wrong
colours in dark tissue, so that the blend is better.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from cytomend.grafts.network_grid import NetworkGrid
from cytomend.grafts.settings import GraftSettings
from cytomend.regions.lattice import Lattice

Joint = Literal["network", "blend"]

PIXEL_SIZE_TOLERANCE = 1.25
"""Factor between the pixel sizes of scan and model up to which cells look alike to the network."""
FINEST = 0.2
"""The smallest pixels of a scan for which a network draws joints on pixels of its own size, in units of these."""
LEAST_JOINT_PX = 2
"""Network pixels that a joint is wide on either side of a cut, at least, where they are not those of the scan."""


def joint_for(channels: int, pixel_size_um: float, model_channels: int, model_um: float) -> Joint:
    """Return who makes the joints of a scan, given what the model was trained on.

    >>> joint_for(1, 1.1, 1, 1.0), joint_for(3, 1.0, 1, 1.0), joint_for(1, 0.25, 1, 1.0), joint_for(1, 2.0, 1, 1.0)
    ('network', 'blend', 'network', 'blend')
    """
    fits = FINEST <= pixel_size_um / model_um <= PIXEL_SIZE_TOLERANCE
    return "network" if fits and channels == model_channels else "blend"


def alike(pixel_size_um: float, model_um: float) -> bool:
    """Whether a network can draw on the pixels of a scan as they are."""
    return 1 / PIXEL_SIZE_TOLERANCE <= pixel_size_um / model_um <= PIXEL_SIZE_TOLERANCE


@dataclass(frozen=True, slots=True)
class Joining:
    """Who makes the joints of a section, and on which pixels.

    ``grid`` is that of the network; None where it draws on the pixels of the scan, or does not draw.
    """

    joint: Joint = "network"
    grid: NetworkGrid | None = None

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        channels: int,
        pixel_size_um: float,
        lattice: Lattice,
        model_channels: int,
        model_um: float,
    ) -> Joining:
        """Return who makes the joints.

        Parameters
        ----------
        shape, channels, pixel_size_um : of the scan
        lattice : of the network's windows, in pixels of the network
        model_channels, model_um : channels and pixel size that the model was trained on
        """
        joint = joint_for(channels, pixel_size_um, model_channels, model_um)
        if joint == "blend" or alike(pixel_size_um, model_um):
            return cls(joint)
        return cls(joint, NetworkGrid(shape, pixel_size_um, model_um, lattice))

    @property
    def name(self) -> str:
        """What stands in the metadata."""
        return self.joint if self.grid is None else f"{self.joint}@{self.grid.network_um:g}"

    def settings(self, settings: GraftSettings) -> GraftSettings:
        """Return settings as they serve here.

        Where the network does not draw on the pixels of the scan, narrow parts are grafted like all others.
        """
        if self.grid is not None and settings.joint_um > 0:
            settings = replace(settings, joint_um=max(settings.joint_um, LEAST_JOINT_PX * self.grid.network_um))
        return replace(settings, narrow_um=0.0) if self.grid is not None or self.joint == "blend" else settings
