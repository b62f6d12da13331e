"""The contour proposal network: which pixels propose a cell, what contour they propose, and how to refine it.

Upschulte, Harmeling, Amunts, Dickscheid, "Contour proposal networks for biomedical instance segmentation", Medical
Image Analysis 77 (2022). Ours is small, and normalises by fixed statistics (BatchNorm), never by those of the picture,
so that a cell does not depend on how much of its surroundings is seen at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cytomend.segmentation.record import CpnSettings

STRIDE = 2
"""Pixels from one proposal to the next."""
PX = 4.0
"""What a head's output of one means, in pixels."""


class Proposals(NamedTuple):
    """What the network says of pictures (n, 1, h, w).

    ``score`` (n, h/2, w/2) are logits; ``location`` (n, 2, h/2, w/2) is the way (y, x) in px from the proposing place
    to the centre of the contour; ``fourier`` (n, 4 N, h/2, w/2) are a, b, c, d of each order in px; ``field``
    (n, 2, h, w) is how a contour's point (y, x) in a pixel is moved, in px.
    """

    score: Tensor
    location: Tensor
    fourier: Tensor
    field: Tensor


def _convolutions(*widths: int) -> nn.Sequential:
    layers = list[nn.Module]()
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.SiLU()]
    return nn.Sequential(*layers)


class ContourProposalNetwork(nn.Module):
    """A U-Net with three heads at half resolution and one at full resolution."""

    def __init__(self, settings: CpnSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = settings.widths
        self.down = nn.ModuleList(_convolutions(a, b, b) for a, b in pairwise((1, *widths)))
        self.up = nn.ModuleList(_convolutions(a + b, a, a) for a, b in pairwise(widths))
        width = widths[1]
        self.score = nn.Sequential(_convolutions(width, width), nn.Conv2d(width, 1, 1))
        self.contour = nn.Sequential(_convolutions(width, 2 * width), nn.Conv2d(2 * width, 2 + 4 * settings.order, 1))
        self.field = nn.Conv2d(widths[0], 2, 3, padding=1)

    def forward(self, x: Tensor) -> Proposals:
        """Return the proposals of pictures (n, 1, h, w) in [-1, 1]; h and w are multiples of `divisor_px`."""
        levels = list[Tensor]()
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else F.max_pool2d(x, 2))
            levels.append(x)
        decoded = levels.pop()
        half = decoded
        for block in reversed(self.up):
            half, coarse = decoded, F.interpolate(decoded, scale_factor=2.0, mode="nearest")
            decoded = block(torch.cat([levels.pop(), coarse], dim=1))
        contour = self.contour(half) * PX
        field = torch.tanh(self.field(decoded)) * self.settings.step_px
        return Proposals(self.score(half)[:, 0], contour[:, :2], contour[:, 2:], field)


def places(cells: Tensor) -> Tensor:
    """Return where proposals (n, 2) of rows and columns lie: (y, x) in px from the corner of the picture."""
    return STRIDE * (cells + 0.5)


def contours(centre: Tensor, fourier: Tensor, points: int) -> Tensor:
    """Return the contours (n, points, 2) of (y, x) of descriptors.

    Parameters
    ----------
    centre : (n, 2) of (y, x)
    fourier : (n, 4 N), a, b, c, d of each order
    points : how many, at equal steps of t
    """
    a, b, c, d = fourier.reshape(len(fourier), fourier.shape[1] // 4, 4).unbind(-1)  # each (n, N)
    t = torch.arange(points, device=fourier.device, dtype=fourier.dtype) / points
    order = torch.arange(1, a.shape[1] + 1, device=fourier.device, dtype=fourier.dtype)
    angle = 2 * torch.pi * order[:, None] * t
    cos, sin = angle.cos(), angle.sin()  # (N, points)
    return torch.stack([c @ cos + d @ sin, a @ cos + b @ sin], dim=-1) + centre[:, None]


def refined(contour: Tensor, field: Tensor, picture: Tensor, times: int) -> Tensor:
    """Return contours whose points were moved by what the field says where they lie, several times.

    Parameters
    ----------
    contour : (n, points, 2) of (y, x) in px
    field : (pictures, 2, h, w) in px
    picture : (n,) the picture each contour lies in
    times : how often
    """
    height, width = field.shape[-2:]
    moves = field.permute(0, 2, 3, 1)
    for _ in range(times):
        y = contour[..., 0].detach().floor().long().clamp(0, height - 1)
        x = contour[..., 1].detach().floor().long().clamp(0, width - 1)
        contour = contour + moves[picture[:, None], y, x]
    return contour


def fused(network: ContourProposalNetwork) -> ContourProposalNetwork:
    """Return the network for inference, each BatchNorm folded into the convolution before it."""
    network = network.eval()
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential) and any(isinstance(layer, nn.BatchNorm2d) for layer in module):
            _fold(module)
    return network


def _fold(block: nn.Sequential) -> None:
    layers: Sequence[nn.Module] = list(block)
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.BatchNorm2d):
            before = layers[i - 1]
            assert isinstance(before, nn.Conv2d)
            block[i - 1] = nn.utils.fusion.fuse_conv_bn_eval(before, layer)
            block[i] = nn.Identity()
