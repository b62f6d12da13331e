"""What a training shows while it runs and when it is done: loss curves, a sheet of samples, the model card."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path

import jinja2
import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cytomend.diffusion.patches import Patches
from cytomend.diffusion.precondition import Denoiser
from cytomend.diffusion.record import ModelSettings
from cytomend.diffusion.samplers import SAMPLERS
from cytomend.places import TEMPLATES

COLUMNS = 8
GREY = 0.5


def draw_losses(rows: list[dict[str, float]], path: Path) -> None:
    """Draw both losses against the step."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    steps = [row["step"] for row in rows]
    for name in ("train_loss", "validation_loss"):
        axes.plot(steps, [row[name] for row in rows], label=name.replace("_", " "))
    axes.set(xlabel="step", ylabel="mean squared error of v", yscale="log")
    axes.legend()
    beside = path.with_suffix(".part.png")
    figure.savefig(beside, dpi=110)
    beside.replace(path)


@torch.no_grad()
def draw_samples(denoiser: Denoiser, patches: Patches, path: Path, seed: int = 0) -> None:
    """Draw held-out patches in rows: original, what is known, mended; and a last row made from nothing."""
    batch = patches.draw(0, range(COLUMNS))
    x0, known = batch.x0.to(denoiser.alpha_bar.device), batch.time.to(denoiser.alpha_bar.device) == 0
    made = sample(denoiser, x0, known, seed)
    free = sample(denoiser, x0, torch.zeros_like(known), seed + 1)
    shown = torch.where(known, x0, GREY)
    sheet = torch.cat([torch.cat(list(row), dim=-1) for row in (x0, shown, made, free)], dim=-2)  # (C, 4 W, 8 W)
    save_picture(sheet.cpu().numpy(), path, scale=2)


def sample(denoiser: Denoiser, x0: Tensor, known: Tensor, seed: int) -> Tensor:
    """Fill the unknown pixels of some windows, each on its own, (n, C, W, W), with the default `timemap` sampler."""
    generator = torch.Generator().manual_seed(seed)
    sampler = SAMPLERS["timemap"]
    noise = lambda _: torch.randn(x0.shape, generator=generator).to(x0.device)  # noqa: E731
    return deque(sampler.run(denoiser, x0, known, denoiser.alpha_bar.double(), noise), maxlen=1).pop()


def save_picture(image: NDArray[np.float32], path: Path, scale: int = 1) -> None:
    """Write a (C, h, w) image in [-1, 1] as PNG."""
    grey = np.rint((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)
    picture = Image.fromarray(grey[0] if len(grey) == 1 else np.moveaxis(grey, 0, -1))
    beside = path.with_suffix(".part.png")
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(beside)
    beside.replace(path)


def write_card(folder: Path, record: ModelSettings) -> None:
    """Write ``MODEL_CARD.md`` beside the checkpoint."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(plain=plain, code=code)
    weights = (folder / "model.safetensors").stat().st_size
    text = environment.get_template("model_card.md.j2").render(model=record, name=folder.name, megabytes=weights / 1e6)
    (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")


def plain(text: object) -> str:
    """Return words as one line that Markdown and HTML show as they are."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", _one_line(text))


def code(text: object) -> str:
    """Return a name as code of one line, in which nothing has a meaning."""
    return f"`{_one_line(text).replace('`', chr(39))}`"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
