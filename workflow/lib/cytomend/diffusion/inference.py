"""F as it is asked, not trained: the same function of the same weights, in fewer passes and at a chosen precision.

The U-Net stays; its parts are exchanged for parts that compute the same:

- convolutions run at the chosen precision, on a CPU with weights laid out beforehand and the residual sum in
  the same pass;
- norms take their statistics in float32 and become one factor and one term for each channel of a window, always in
  channels_last; the time map's factor and term and SiLU follow in float32, so that bfloat16 rounds once a convolution;
- the map of times is looked up in a table of embeddings, one for each time, since pooling and projection commute.
"""

from __future__ import annotations

import copy
import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cytomend.diffusion.precondition import Denoiser
from cytomend.diffusion.unet import ResidualBlock, SelfAttention, TimeMap, UNet

log = logging.getLogger(__name__)

Precision = Literal["bfloat16", "float32"]


class Convolution(nn.Module):
    """A convolution that casts what it gets to its own precision."""

    weight: Tensor
    bias: Tensor

    def __init__(self, plain: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        bias = torch.zeros(plain.out_channels) if plain.bias is None else plain.bias.detach()
        weight = plain.weight.detach().to(dtype, copy=True)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.to(dtype, copy=True))
        self.padding, self.stride = [int(p) for p in plain.padding], list(plain.stride)
        self.laid_out: dict[torch.Size, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        x = x.to(self.weight.dtype)
        if not packs(x):
            return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        how: tuple[Any, ...] = self.padding, self.stride, [1, 1], 1, "none", [], ""
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, self._layout(x.shape), self.bias, *how)
        return out

    def onto(self, base: Tensor, x: Tensor) -> Tensor:
        """Return the convolved ``x`` added to ``base``."""
        if not packs(x):
            return base + self.forward(x)
        x = x.to(self.weight.dtype)
        how: tuple[Any, ...] = self.padding, self.stride, [1, 1], 1, "add", 1.0, None, [], None
        out: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(x, base, self._layout(x.shape), self.bias, *how)
        return out

    def _layout(self, shape: torch.Size) -> Tensor:
        """Return the weights as the kernel for this shape wants them; threads that come at once make the same."""
        if shape not in self.laid_out:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self.laid_out[shape] = reorder(self.weight, self.padding, self.stride, [1, 1], 1, list(shape))
        return self.laid_out[shape]


def packs(x: Tensor) -> bool:
    """Return whether oneDNN's own calls are at hand; a compiler makes its own choice."""
    return not torch.compiler.is_compiling() and x.device.type == "cpu" and has_onednn()


class Norm(nn.Module):
    """Group normalisation as one factor and one term for each channel of a window; float32 out."""

    weight: Tensor
    bias: Tensor

    def __init__(self, plain: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps = plain.num_groups, plain.eps
        for name in ("weight", "bias"):
            value = getattr(plain, name).detach().to(torch.float32, copy=True)
            self.register_buffer(name, value.view(1, self.groups, -1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, C, h, w)."""
        n, channels, h, w = x.shape
        flat = x.permute(0, 2, 3, 1).reshape(n, h * w, channels).float()
        share = self.groups / (channels * h * w)
        mean = flat.sum(1).view(n, self.groups, -1).sum(-1, keepdim=True) * share
        square = (flat * flat).sum(1).view(n, self.groups, -1).sum(-1, keepdim=True) * share
        variance = torch.addcmul(square, mean, mean, value=-1).clamp(min=0)
        factor = self.weight * torch.rsqrt(variance + self.eps)  # (n, groups, C / groups)
        term = torch.addcmul(self.bias, mean, factor, value=-1)
        normed = torch.addcmul(term.view(n, 1, channels), flat, factor.view(n, 1, channels))
        return normed.view(n, h, w, channels).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Takes the place of `ResidualBlock`."""

    def __init__(self, plain: ResidualBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm_in, self.norm_out = Norm(plain.norm_in), Norm(plain.norm_out)
        self.conv_in, self.conv_out = Convolution(plain.conv_in, dtype), Convolution(plain.conv_out, dtype)
        self.modulate = Convolution(plain.modulate, dtype)
        self.skip = Convolution(plain.skip, dtype) if isinstance(plain.skip, nn.Conv2d) else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (n, width_in, h, w) to (n, width, h, w)."""
        h = self.norm_out(self.conv_in(functional.silu(self.norm_in(x), inplace=True)))
        scale, shift = self.modulate(embedding).float().chunk(2, dim=1)
        h = torch.addcmul(h, h, scale).add_(shift)
        return self.conv_out.onto(self.skip(x), functional.silu(h, inplace=True))


class Attention(nn.Module):
    """Takes the place of `SelfAttention`."""

    def __init__(self, plain: SelfAttention, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads, self.norm = plain.heads, Norm(plain.norm)
        self.query_key_value = Convolution(plain.query_key_value, dtype)
        self.project = Convolution(plain.project, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, width, h, w) to the same shape."""
        n, width, h, w = x.shape
        packed = self.query_key_value(self.norm(x)).permute(0, 2, 3, 1).reshape(n, h * w, 3, self.heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4)  # each (n, heads, h * w, width / heads)
        seen = functional.scaled_dot_product_attention(query, key, value)
        return self.project.onto(x, seen.transpose(1, 2).reshape(n, h, w, width).permute(0, 3, 1, 2))


class TimeTable(nn.Module):
    """Takes the place of `TimeMap` for times that are multiples of 1 / ``times``."""

    table: Tensor

    def __init__(self, plain: TimeMap, times: int) -> None:
        super().__init__()
        self.times, self.stem, self.resolutions = times, plain.stem, plain.resolutions
        with torch.no_grad():
            every = torch.arange(times + 1, device=plain.frequencies.device) / times
            table = plain.project(plain.waves(every.view(-1, 1, 1, 1))).flatten(1)  # (times + 1, embedding)
        self.register_buffer("table", table)

    def forward(self, time: Tensor) -> list[Tensor]:
        """Map (n, 1, H, W) to one (n, embedding, h, w) a resolution, finest first."""
        n, _, height, width = time.shape
        folded = functional.pixel_unshuffle(time * self.times, self.stem).permute(0, 2, 3, 1)
        squares = folded.reshape(-1, self.stem**2).round().long()
        means = functional.embedding_bag(squares, self.table, mode="mean")
        maps = [means.view(n, height // self.stem, width // self.stem, -1).permute(0, 3, 1, 2)]
        for _ in range(self.resolutions - 1):
            maps.append(functional.avg_pool2d(maps[-1], 2))
        return [functional.silu(embedding) for embedding in maps]


class InferenceUNet(nn.Module):
    """The U-Net with its parts exchanged; float32 in and out.

    Parameters
    ----------
    plain : left as it is
    times : length of the schedule; the network is only asked for multiples of 1 / ``times``
    dtype : of the convolutions and the attention
    """

    def __init__(self, plain: UNet, times: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = copy.deepcopy(plain)
        self.network.time = TimeTable(plain.time, times)  # type: ignore[assignment]
        exchange_parts(self.network, dtype)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return F; see `UNet.forward`."""
        v: Tensor = self.network(x, time)
        return v.float()


def exchange_parts(module: nn.Module, dtype: torch.dtype) -> None:
    """Put inference parts in the place of those that have them, all the way down."""
    for name, part in module.named_children():
        match part:
            case ResidualBlock():
                setattr(module, name, Block(part, dtype))
            case SelfAttention():
                setattr(module, name, Attention(part, dtype))
            case nn.GroupNorm():
                setattr(module, name, Norm(part))
            case nn.Conv2d():
                setattr(module, name, Convolution(part, dtype))
            case _:
                exchange_parts(part, dtype)


def inference_copy(denoiser: Denoiser, device: torch.device, precision: Precision) -> Denoiser:
    """Return a denoiser for inference alone, which shares nothing with the given one.

    A network other than our U-Net is copied as it is.
    """
    if isinstance(denoiser.network, UNet):
        network: nn.Module = InferenceUNet(denoiser.network, denoiser.times, usable_dtype(device, precision))
    else:
        network = copy.deepcopy(denoiser.network)
    return Denoiser(network, denoiser.times).to(device).eval().requires_grad_(False)


def usable_dtype(device: torch.device, precision: Precision) -> torch.dtype:
    """Return the type to compute in: bfloat16 only where the machine has instructions for it.

    Raises
    ------
    ValueError
        If the precision is none of the two.
    """
    if precision not in ("bfloat16", "float32"):
        raise ValueError(f"precision is {precision!r}, expected bfloat16 or float32")
    if precision == "bfloat16" and not multiplies_bfloat16(device):
        log.warning("no bfloat16 instructions on this %s: computing in float32, the same within tolerance", device.type)
        return torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions for bfloat16, so that it is faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and has_onednn() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_onednn() -> bool:
    """Return whether torch was built with oneDNN, and may use it."""
    return bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)  # type: ignore[no-untyped-call]
