"""Draw the unknown pixels of a canvas: sampler, network, fusion and noise put together."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray

from cytomend.diffusion.fuse import FusedDenoiser
from cytomend.diffusion.noise import PlaceNoise
from cytomend.diffusion.samplers import Draws
from cytomend.diffusion.schedule import cosine_alpha_bar
from cytomend.diffusion.windows import WindowDenoise
from cytomend.regions.lattice import Layout


@torch.inference_mode()
def fill(
    image: NDArray[np.float32],
    known: NDArray[np.bool_],
    layout: Layout,
    denoise_windows: WindowDenoise,
    sampler: Draws,
    seed: int,
    device: torch.device,
    samples: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Return the canvas with its unknown pixels drawn.

    Parameters
    ----------
    image : (k, C, c, c) in [-1, 1]; what stands at unknown pixels is not seen
    known : (k, 1, c, c)
    layout : cells and windows of the canvas, which may join those of several regions
    denoise_windows : asks the network
    sampler : how to draw
    seed : of the noise, which belongs to the place
    device : where to compute
    samples : (k,), to which sample each cell belongs; by default all to sample 0
    """
    if known.all():  # grafts without joints
        return image
    here, given = torch.from_numpy(known).to(device), torch.from_numpy(np.where(known, image, np.float32(0))).to(device)
    tables = (
        torch.from_numpy(table).to(device) for table in (layout.members, layout.sources, layout.lattice.weights())
    )
    corners = torch.from_numpy(layout.corners_px).to(device)
    drawn = None if samples is None else torch.from_numpy(samples).to(device)
    states = sampler.run(
        denoise=FusedDenoiser(denoise_windows, *tables),
        image=given,
        known=here,
        alpha_bar=cosine_alpha_bar().to(device),
        noise=PlaceNoise(seed, corners, layout.lattice.cell_px, image.shape[1], drawn),
    )
    return deque(states, maxlen=1).pop().cpu().numpy()
