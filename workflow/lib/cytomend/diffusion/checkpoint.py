"""Weights on disk: safetensors with a plain settings record (`cytomend.diffusion.record`). Loading executes nothing."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cytomend.diffusion.precondition import Denoiser
from cytomend.diffusion.record import ModelSettings, load_settings
from cytomend.diffusion.unet import UNet
from cytomend.errors import InputError, ResourceError


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file beside its place and rename it there.

    Raises
    ------
    ResourceError
        If the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _told_if_disk_is_full(path):
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, beside, metadata)
            with beside.open("rb") as file:
                os.fsync(file.fileno())  # or a power cut may leave the name without the content
        beside.chmod(0o644)  # safetensors keeps its files from others; a model is to be shared
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _told_if_disk_is_full(path: Path) -> Iterator[None]:
    """Turn a full disk into a sentence; safetensors tells the number of the system's error in words alone."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        told = re.search(r"os error (\d+)", str(error))
        number = error.errno if isinstance(error, OSError) else told and int(told[1])
        if number in {errno.ENOSPC, errno.EDQUOT}:
            raise ResourceError(
                f"{path}: the disk is full; free some space and run again, training goes on from what was saved last"
            ) from error
        raise


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
