"""A grey network's weights as the start of an RGB one: it sees the mean of the channels and answers alike for each."""

from __future__ import annotations

import torch
from torch import Tensor

from cytomend.diffusion.record import UNetSettings


def spread_over_colours(weights: dict[str, Tensor], unet: UNetSettings) -> dict[str, Tensor]:
    """Return the weights of a network for one channel as those of a network for ``unet.channels``.

    Only the first and the last convolution know of channels. Pixels are folded channel by channel, so that an input's
    weights stand side by side: values, the map of times, what is foretold.

    Parameters
    ----------
    weights : those of `cytomend.diffusion.unet.UNet` with one channel
    unet : the wanted network, otherwise of the same shape
    """
    folded, channels = unet.stem**2, unet.channels
    values, times, foretold = torch.split(weights["conv_in.weight"], folded, dim=1)
    shared = [values.repeat(1, channels, 1, 1) / channels, times, foretold.repeat(1, channels, 1, 1) / channels]
    return {
        **weights,
        "conv_in.weight": torch.cat(shared, 1),
        "conv_out.weight": weights["conv_out.weight"].repeat(channels, 1, 1, 1),
        "conv_out.bias": weights["conv_out.bias"].repeat(channels),
    }
