"""What several test files share: a tiny random model, small sections with masks, and the settings their stages want."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from browser import chromium, show, view, visit  # noqa: F401
from scipy import ndimage

from cytomend.diffusion.checkpoint import save_model
from cytomend.diffusion.record import ModelSettings, UNetSettings
from cytomend.diffusion.unet import UNet
from cytomend.stages.blend_section import BlendSettings, blend_section
from cytomend.stages.mend_shard import Machine, MendSettings, mend_shard
from cytomend.stages.plan_section import PlanSettings, plan_section

WINDOW_PX = 32


@pytest.fixture(autouse=True)
def quiet_logs():
    """The command line sends the log to the standard error of its test, which is gone for the next one."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small matrices on several threads of a busy machine take many times longer than on one."""
    torch.set_num_threads(1)


def random_network(channels=1, seed=0):
    """A tiny network with small random weights everywhere, also where training starts from zero."""
    network = UNet(UNetSettings(channels=channels, widths=(8, 16), attention=(1,), heads=2))
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=chance) * 0.2)
    return network


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A function from channels to the checkpoint of a tiny random network with windows of 32 px."""
    made = {}

    def model(channels=1):
        if channels not in made:
            network = random_network(channels)
            path = tmp_path_factory.mktemp("models") / f"random-{channels}" / "model.safetensors"
            settings = ModelSettings(network.settings, times=256, window_px=WINDOW_PX, pixel_size_um=1.0)
            save_model(path, dict(network.named_parameters()), settings)
            made[channels] = path
        return made[channels]

    return model


@dataclass(frozen=True)
class Section:
    """A small section on disk: ``pixels`` (h, w) or (h, w, 3); ``mask`` (h, w) bool as annotated, not yet grown."""

    image: Path
    annotation: Path
    pixels: np.ndarray
    mask: np.ndarray

    def grown(self, grow_px):
        """The mask with its margin, by the definition: centres within a radius."""
        return ndimage.distance_transform_edt(~self.mask) <= grow_px if self.mask.any() else self.mask


def blobs(shape, *boxes):
    """A mask that is set in boxes (y0, x0, y1, x1)."""
    mask = np.zeros(shape, dtype=bool)
    for y0, x0, y1, x1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


def write_tiff(path, pixels, pixel_size_um=1.0):
    """Write a tiled TIFF that knows its pixel size."""
    per_cm = 1e4 / pixel_size_um
    tifffile.imwrite(
        path,
        pixels,
        tile=(64, 64),
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
        photometric="rgb" if pixels.ndim == 3 else "minisblack",
    )
    return path


@pytest.fixture
def make_section(tmp_path):
    """A function that writes a section of smooth random tissue and its mask."""

    def make(mask, dtype="uint8", channels=1, name="scan"):
        chance = np.random.default_rng(5)
        tissue = ndimage.gaussian_filter(chance.standard_normal((*mask.shape, channels)), (2, 2, 0))
        top = 255 if dtype == "uint8" else 9000
        pixels = np.clip((tissue / tissue.std() * 0.2 + 0.5) * top, 0, top).astype(dtype)
        pixels = pixels[..., 0] if channels == 1 else pixels
        return Section(
            write_tiff(tmp_path / f"{name}.tif", pixels),
            write_tiff(tmp_path / f"{name}-mask.tif", mask.astype(np.uint8) * 255),
            pixels,
            mask,
        )

    return make


def plan_settings(**changes):
    """Settings of a plan for the tiny model."""
    usual = {
        "section": "s1",
        "pixel_size_um": 1.0,
        "stain": "",
        "value_range": None,
        "grow_px": 2,
        "include_classes": [],
        "exclude_classes": [],
        "tissue_classes": ["Tissue"],
        "shards": 1,
        "stride_px": 24,
        "window_px": WINDOW_PX,
        "model_channels": 1,
        "samples": 1,
    }
    return PlanSettings(**{**usual, **changes})


def mend_settings(**changes):
    """Settings of a quick mend."""
    return MendSettings(**{"sampler": "timemap", "steps": 3, "jump": 2, "resample": 2, "seed": 4, **changes})


def cpu(threads=1, batch_windows=8, group_px=None):
    """The machine of the tests: no GPU, so that results are the same bit for bit."""
    return Machine(torch.device("cpu"), threads, batch_windows, group_px)


def as_json(settings):
    """Settings as the command line takes them."""
    return json.dumps({name: getattr(settings, name) for name in settings.__slots__})


PYRAMID = BlendSettings(chunk_px=64, shard_px=128)


def mend_by_stages(section, model, folder, *, machine=None, plan=None, mend=None, pyramid=PYRAMID):
    """Plan, mend every shard, blend; return the corrected OME-Zarr."""
    planned = plan or plan_settings()
    plan_section(section.image, section.annotation, planned, folder / "plan")
    stores = [folder / f"{shard}.zarr" for shard in range(planned.shards)]
    for shard, store in enumerate(stores):
        settings = mend or mend_settings()
        mend_shard(section.image, folder / "plan", shard, model, settings, machine or cpu(), store)
    out = folder / "corrected.ome.zarr"
    blend_section(section.image, folder / "plan", stores, pyramid, out)
    return out
