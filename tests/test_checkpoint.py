"""Checkpoints: what is saved comes back, and what is no checkpoint is refused without running anything."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from conftest import random_network
from safetensors import safe_open
from safetensors.torch import save_file

from cytomend.diffusion.checkpoint import load_model, save_model, save_tensors
from cytomend.diffusion.record import ModelSettings, checkpoint_hash, load_settings
from cytomend.errors import InputError, ResourceError


def contents(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - not a dict


@torch.no_grad()
def test_a_model_comes_back_as_it_was_saved(tmp_path):
    network = random_network(channels=3)
    settings = ModelSettings(network.settings, 256, 32, 0.5, {"data": [{"licence": "CC0", "name": "Färbung"}]})
    save_model(tmp_path / "new" / "model.safetensors", dict(network.named_parameters()), settings)
    denoiser, again = load_model(tmp_path / "new" / "model.safetensors")
    assert again == settings == load_settings(tmp_path / "new" / "model.safetensors")
    x, time = torch.randn(1, 3, 32, 32), torch.full((1, 1, 32, 32), 0.3)
    assert torch.allclose(denoiser.network(x, time), network(x, time), atol=1e-6)
    assert not denoiser.training
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.safetensors"]


def test_the_hash_follows_the_content_of_the_file(tiny_model, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(tiny_model().read_bytes())
    assert checkpoint_hash(copy) == checkpoint_hash(tiny_model())
    copy.write_bytes(tiny_model().read_bytes()[:-1] + b"\x00")
    assert checkpoint_hash(copy) != checkpoint_hash(tiny_model())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.safetensors: no such checkpoint"):
        load_model(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(tiny_model, tmp_path, keep):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(tiny_model().read_bytes()[:keep])
    with pytest.raises(InputError, match=r"cut\.safetensors: not a safetensors file"):
        load_model(path)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("save", [pickle.dump, torch.save])
def test_a_pickle_is_refused_and_never_run(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "model.safetensors").open("wb") as file:
        save(Trap(), file)
    with pytest.raises(InputError, match="not a safetensors file"):
        load_model(tmp_path / "model.safetensors")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "record",
    [
        None,
        "",
        "3",
        "null",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "unet": 4}',
        '{"format": 1, "unet": {}}',
        '{"format": 1, "unet": {"depth": 3}, "times": 256, "window_px": 32, "pixel_size_um": 1.0, "training": {}}',
    ],
)
def test_a_file_without_our_record_is_refused(tmp_path, record):
    metadata = {"other": "tool"} if record is None else {"cytomend": record}
    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors", metadata)
    with pytest.raises(
        InputError, match=r"foreign\.safetensors: a safetensors file without a settings record that can be used"
    ):
        load_model(tmp_path / "foreign.safetensors")


def lose(weights):
    weights.pop("conv_in.bias")


def reshape(weights):
    weights["conv_in.bias"] = torch.zeros(5)


def add(weights):
    weights["extra"] = torch.zeros(5)


@pytest.mark.parametrize("edit", [lose, reshape, add])
def test_weights_that_do_not_fit_the_record_are_refused(tiny_model, tmp_path, edit):
    weights, metadata = contents(tiny_model())
    edit(weights)
    save_tensors(tmp_path / "edited.safetensors", weights, metadata)
    with pytest.raises(InputError, match="the weights do not fit the settings record"):
        load_model(tmp_path / "edited.safetensors")


def test_a_record_that_does_not_fit_the_weights_is_refused(tiny_model, tmp_path):
    weights, metadata = contents(tiny_model())
    record = json.loads(metadata["cytomend"])
    record["unet"]["widths"] = [16, 16]
    save_tensors(tmp_path / "edited.safetensors", weights, {"cytomend": json.dumps(record)})
    with pytest.raises(InputError, match="the weights do not fit the settings record"):
        load_model(tmp_path / "edited.safetensors")


def test_a_save_that_fails_leaves_the_old_file(tiny_model, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(tiny_model().read_bytes())

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cytomend.diffusion.checkpoint.save_file", fail)
    with pytest.raises(ResourceError, match="the disk is full"):
        save_tensors(path, {"weight": torch.zeros(3)}, {})
    assert path.read_bytes() == tiny_model().read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
