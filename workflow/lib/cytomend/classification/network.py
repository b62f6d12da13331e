"""The network: a compact CNN whose answer does not depend on the side of the patch, only on what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions, the first of which halves the side; a shortcut around the second."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.down = nn.Sequential(*_convolution(before, width, side_px=3, stride=2), nn.ReLU())
        self.same = nn.Sequential(*_convolution(width, width, side_px=3, stride=1))

    def forward(self, x: Tensor) -> Tensor:  # (n, before, h, w) -> (n, width, h / 2, w / 2)
        """Return the features at half the resolution."""
        down = self.down(x)
        return nn.functional.relu(down + self.same(down))


class TextureNet(nn.Module):
    """Convolutions, the mean over all places, one linear layer.

    BatchNorm, not GroupNorm: in use it is a fixed scale and shift of each channel, so that the contrast of a patch is
    not divided out, and with the mean over places any side will do.

    Parameters
    ----------
    widths : channels at 1/2, 1/4, 1/8, ... of the resolution
    classes : number of classes
    """

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        stem = nn.Sequential(*_convolution(1, widths[0], side_px=5, stride=2), nn.ReLU())
        blocks = [Block(before, width) for before, width in pairwise(widths)]
        self.features = nn.Sequential(stem, *blocks)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:  # (n, 1, Y, X) in [-1, 1] -> (n, k)
        """Return the logits."""
        logits: Tensor = self.head(self.features(x).mean(dim=(2, 3)))
        return logits


def _convolution(before: int, width: int, *, side_px: int, stride: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(before, width, side_px, stride, padding=side_px // 2, bias=False)
    yield nn.BatchNorm2d(width)
