"""Weights on disk: safetensors with a plain settings record (`cytomend.diffusion.record`). Loading executes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cytomend.diffusion.precondition import Denoiser
from cytomend.diffusion.record import ModelSettings, load_settings
from cytomend.diffusion.unet import UNet
from cytomend.errors import InputError


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file beside its place and rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, beside, metadata)
        beside.chmod(0o644)  # safetensors keeps its files from others; a model is to be shared
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def save_model(path: Path, weights: dict[str, Tensor], settings: ModelSettings) -> None:
    """Write the weights of F with their settings record."""
    save_tensors(path, weights, {"cytomend": settings.to_json()})


def channels_last(network: UNet) -> UNet:
    """Return the network with its weights laid out as the fastest convolutions want them."""
    laid_out: UNet = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return laid_out


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[Denoiser, ModelSettings]:
    """Return the denoiser in evaluation mode, and its settings.

    Raises
    ------
    InputError
        If the file is no checkpoint, or its weights do not fit its settings.
    """
    settings = load_settings(path)
    network = UNet(settings.unet)
    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path}: the weights do not fit the settings record; the file is damaged or was edited ({error})"
        ) from error
    return Denoiser(channels_last(network), settings.times).to(device).eval(), settings
