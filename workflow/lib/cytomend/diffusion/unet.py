"""F, the network: a residual U-Net with self-attention whose time is a map. Knows channels and times, no schedule.

Time as a map (TD-Paint, arXiv 2410.09306; RAD, arXiv 2412.09191): each pixel is told its own noise level, so that one
network serves as the unconditional DDPM (a constant map) and as an inpainter that sees known pixels clean (a map with
zeros). Blocks after the residual and attention blocks of Dhariwal & Nichol (2021), with the time embedding of Ho et
al. (2020) made spatial.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from cytomend.diffusion.foretell import foretell
from cytomend.diffusion.record import UNetSettings


class GroupNorm(nn.GroupNorm):
    """Group normalisation that stays in channels_last, which CUDA's kernel leaves without a word."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, C, h, w) to the same shape and memory format."""
        normed = super().forward(x)
        last = x.is_contiguous(memory_format=torch.channels_last)
        return normed.contiguous(memory_format=torch.channels_last) if last else normed


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with the time map scaling and shifting the second norm pixel by pixel."""

    def __init__(self, width_in: int, width: int, embedding: int) -> None:
        super().__init__()
        self.norm_in = group_norm(width_in)
        self.conv_in = nn.Conv2d(width_in, width, 3, padding=1)
        self.modulate = nn.Conv2d(embedding, 2 * width, 1)
        self.norm_out = group_norm(width)
        self.conv_out = zero_weights(nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (n, width_in, h, w) to (n, width, h, w)."""
        h = self.conv_in(functional.silu(self.norm_in(x)))
        scale, shift = self.modulate(embedding).chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm_out(h), 1 + scale)
        return torch.add(self.skip(x), self.conv_out(functional.silu(h)))


class SelfAttention(nn.Module):
    """Every place of a coarse feature map looks at every other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(width)
        self.query_key_value = nn.Conv2d(width, 3 * width, 1)
        self.project = zero_weights(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, width, h, w) to the same shape."""
        n, width, h, w = x.shape
        packed = self.query_key_value(self.norm(x)).permute(0, 2, 3, 1).reshape(n, h * w, 3, self.heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4)  # each (n, heads, h * w, width / heads)
        seen = functional.scaled_dot_product_attention(query, key, value)
        return torch.add(x, self.project(seen.transpose(1, 2).reshape(n, h, w, width).permute(0, 3, 1, 2)))


class Level(nn.Module):
    """One residual block, followed by self-attention at the coarse resolutions."""

    def __init__(self, width_in: int, width: int, settings: UNetSettings, *, attends: bool) -> None:
        super().__init__()
        self.block = ResidualBlock(width_in, width, settings.embedding)
        self.attention = SelfAttention(width, settings.heads) if attends else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (n, width_in, h, w) to (n, width, h, w)."""
        out: Tensor = self.attention(self.block(x, embedding))
        return out


class TimeMap(nn.Module):
    """Embeds a map of times at every resolution of the U-Net."""

    frequencies: Tensor

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(0, math.log(100.0), settings.embedding // 2))
        self.register_buffer("frequencies", frequencies.view(1, -1, 1, 1), persistent=False)
        self.stem = settings.stem
        self.resolutions = len(settings.widths)
        self.project = nn.Conv2d(settings.embedding, settings.embedding, 1)

    def forward(self, time: Tensor) -> list[Tensor]:
        """Map (n, 1, H, W) in [0, 1] to one (n, embedding, h, w) a resolution, finest first."""
        maps = [functional.avg_pool2d(self.waves(time), self.stem)]
        for _ in range(self.resolutions - 1):
            maps.append(functional.avg_pool2d(maps[-1], 2))
        return [functional.silu(self.project(waves)) for waves in maps]

    def waves(self, time: Tensor) -> Tensor:
        """Map (n, 1, H, W) to (n, embedding, H, W)."""
        phase = time * self.frequencies * (math.pi / 2)
        return torch.cat([phase.sin(), phase.cos()], 1)


class UNet(nn.Module):
    """F: a noisy window and its map of times in, one value a pixel and channel out.

    Parameters
    ----------
    settings : UNetSettings
        Widths and the rest; ``settings.divisor_px`` must divide the window side.
    """

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        self.settings = settings
        widths, folded = settings.widths, settings.stem**2
        self.time = TimeMap(settings)
        # The map itself enters too: after the fold, pooled embeddings alone would blur the border of the mask.
        # Values come twice: as they are, and as known pixels foretell them.
        self.conv_in = nn.Conv2d((2 * settings.channels + 1) * folded, widths[0], 3, padding=1)
        self.down, self.shrink, skips, width = nn.ModuleList(), nn.ModuleList(), [widths[0]], widths[0]
        for depth, wide in enumerate(widths):
            for _ in range(settings.blocks):
                self.down.append(Level(width, wide, settings, attends=depth in settings.attention))
                width = wide
                skips.append(width)
            if depth < len(widths) - 1:
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = nn.ModuleList(
            [Level(width, width, settings, attends=True), Level(width, width, settings, attends=False)]
        )
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for depth, wide in reversed(list(enumerate(widths))):
            for _ in range(settings.blocks + 1):
                self.up.append(Level(width + skips.pop(), wide, settings, attends=depth in settings.attention))
                width = wide
            if depth > 0:
                self.grow.append(nn.Conv2d(width, widths[depth - 1], 3, padding=1))
                width = widths[depth - 1]
        self.norm_out = group_norm(width)
        self.conv_out = zero_weights(nn.Conv2d(width, settings.channels * folded, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return F.

        Parameters
        ----------
        x : (n, C, H, W)
        time : (n, 1, H, W) in [0, 1], 0 where the pixel is clean, 1 where it is noise

        Returns
        -------
        (n, C, H, W)
        """
        blocks = self.settings.blocks
        embeddings = self.time(time)
        seen_first = torch.cat([x, 2 * time - 1, foretell(x, time)], 1)
        h = self.conv_in(functional.pixel_unshuffle(seen_first, self.settings.stem))
        seen = [h]
        for depth, embedding in enumerate(embeddings):
            for level in self.down[depth * blocks : (depth + 1) * blocks]:
                h = level(h, embedding)
                seen.append(h)
            if depth < len(self.shrink):
                h = self.shrink[depth](h)
                seen.append(h)
        for level in self.middle:
            h = level(h, embeddings[-1])
        for up, embedding in enumerate(reversed(embeddings)):
            for level in self.up[up * (blocks + 1) : (up + 1) * (blocks + 1)]:
                h = level(torch.cat([h, seen.pop()], 1), embedding)
            if up < len(self.grow):
                h = self.grow[up](functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        return functional.pixel_shuffle(self.conv_out(functional.silu(self.norm_out(h))), self.settings.stem)


def group_norm(width: int) -> nn.GroupNorm:
    """Return a norm over groups of at least four channels."""
    return GroupNorm(math.gcd(width, 8) if width < 64 else math.gcd(width, 16), width)


def zero_weights(layer: nn.Conv2d) -> nn.Conv2d:
    """Zero a layer that ends a residual branch, so that the network starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
