"""From scan and mask to corrected OME-Zarr: what stays untouched, what depends on what, what survives a kill."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
import torch
import zarr
from conftest import (
    as_json,
    blobs,
    cpu,
    mend_by_stages,
    mend_settings,
    plan_settings,
    write_tiff,
)
from PIL import Image
from scipy import ndimage

from cytomend.cli import main
from cytomend.diary import told
from cytomend.diffusion.record import checkpoint_hash
from cytomend.errors import InputError, ResourceError
from cytomend.regions.plan import Plan
from cytomend.stages import group_mender
from cytomend.stages import mend as mend_stage
from cytomend.stages import mend_shard as mending
from cytomend.stages.blend_section import BlendSettings, blend_section
from cytomend.stages.group_mender import GroupMender
from cytomend.stages.mend_shard import mend_shard
from cytomend.stages.plan_section import plan_section
from cytomend.storage.identity import image_identity
from cytomend.storage.publish import damaged_files, locked, manifest_of

PLACES = {
    "within": blobs((151, 133), (40, 50, 52, 90), (100, 20, 130, 31), (60, 100, 63, 104)),
    "at the border": blobs((151, 133), (0, 0, 9, 12), (140, 100, 151, 133), (70, 0, 75, 133)),
    "smaller than a window": blobs((21, 17), (5, 3, 12, 9)),
    "one row": blobs((1, 90), (0, 30, 1, 44)),
}


def level(store, number=0):
    return zarr.open_group(store, mode="r")[str(number)][...]


def channels_last(pixels):
    return np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels


def command(stage, **options):
    """The words of a command line; lists become several words, True a flag."""
    words = [stage]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        words += [flag] if value is True else [flag, *map(str, value if isinstance(value, list) else [value])]
    return words


# Law 1: untouched is untouched


@pytest.mark.parametrize(
    ("place", "dtype", "channels"),
    [
        ("within", "uint8", 1),
        ("within", "uint8", 3),
        ("at the border", "uint16", 1),
        ("smaller than a window", "uint16", 3),
        ("one row", "uint8", 1),
    ],
)
def test_only_the_grown_mask_is_changed_and_the_label_marks_exactly_that(
    make_section, tiny_model, tmp_path, place, dtype, channels
):
    section = make_section(PLACES[place], dtype, channels)
    out = mend_by_stages(section, tiny_model(channels), tmp_path, plan=plan_settings(model_channels=channels))
    mended, grown = channels_last(level(out)), section.grown(2)
    assert mended.dtype == section.pixels.dtype
    assert mended.shape == section.pixels.shape
    assert np.array_equal(mended[~grown], section.pixels[~grown])
    assert (mended[grown] != section.pixels[grown]).mean() > 0.5
    assert damaged_files(out) == []

    label = level(out / "labels" / "mended")
    assert label.dtype == np.uint32
    assert np.array_equal(label > 0, grown)
    components, count = ndimage.label(grown, np.ones((3, 3)))
    pairs = set(zip(components[grown].tolist(), label[grown].tolist(), strict=True))
    assert len(pairs) == count
    assert {number for _, number in pairs} == set(range(1, count + 1))


def test_the_metadata_say_what_was_mended_by_what_from_what(make_section, tiny_model, tmp_path):
    section = make_section(PLACES["within"])
    out = mend_by_stages(section, tiny_model(), tmp_path, mend=mend_settings(seed=77, precision="float32"))
    record = dict(zarr.open_group(out, mode="r").attrs)["cytomend"]
    mask_hash = json.loads((tmp_path / "plan" / "section.json").read_text())["mask_blake2b"]
    assert record == {
        "cytomend": record["cytomend"],
        "model": "random-1",
        "checkpoint_sha256": checkpoint_hash(tiny_model()),
        "sampler": "timemap",
        "sampler_steps": 3,
        "sampler_jump": 1,
        "sampler_resample": 1,
        "sampler_eta": 0.0,
        "sampler_bend": 1.5,
        "network_calls": 3,
        "fill": "draw",
        "seed": 77,
        "samples": 1,
        "precision": "float32",
        "source_blake2b": image_identity(section.image),
        "mask_blake2b": mask_hash,
        "grow_px": 2,
        "window_px": 32,
        "stride_px": 24,
        "value_range": [0.0, 255.0],
        "regions": 3,
        "mended_px": int(section.grown(2).sum()),
        "left_regions": [],
        "redrawn": {},
    }
    assert dict(zarr.open_group(tmp_path / "0.zarr", mode="r").attrs)["seed"] == 77


def test_every_level_of_the_label_shows_every_region(make_section, tiny_model, tmp_path):
    out = mend_by_stages(make_section(PLACES["within"]), tiny_model(), tmp_path)
    assert [set(np.unique(level(out / "labels" / "mended", i))) for i in range(3)] == [{0, 1, 2, 3}] * 3


def test_what_stands_under_the_mask_does_not_matter(make_section, tiny_model, tmp_path):
    section = make_section(PLACES["at the border"])
    first = level(mend_by_stages(section, tiny_model(), tmp_path / "a"))
    spoilt = np.where(section.grown(2), 255 - section.pixels, section.pixels)
    write_tiff(section.image, spoilt)
    assert np.array_equal(level(mend_by_stages(section, tiny_model(), tmp_path / "b")), first)


def test_another_seed_draws_other_pixels(make_section, tiny_model, tmp_path):
    section = make_section(PLACES["within"])
    a, b = (level(mend_by_stages(section, tiny_model(), tmp_path / str(s), mend=mend_settings(seed=s))) for s in (1, 2))
    assert (a != b)[section.grown(2)].mean() > 0.5


@pytest.mark.parametrize("sampler", ["repaint", "repaint-strided"])
def test_the_other_samplers_touch_no_more(make_section, tiny_model, tmp_path, sampler):
    section = make_section(PLACES["smaller than a window"])
    mended = level(mend_by_stages(section, tiny_model(), tmp_path, mend=mend_settings(sampler=sampler, steps=4)))
    assert np.array_equal(mended != section.pixels, (mended != section.pixels) & section.grown(2))
    assert (mended != section.pixels).any()


# Law 2: the result belongs to the section, not to the run

MANY = blobs((100, 130), *[(y, x, y + 5, x + 4 + y % 7) for y in (3, 45, 90) for x in (2, 55, 110)])


@pytest.fixture
def many(make_section, tiny_model, tmp_path):
    """A section of nine regions, and what comes of it when it is mended in one go."""
    section = make_section(MANY, "uint16")
    return section, level(mend_by_stages(section, tiny_model(), tmp_path / "reference"))


@pytest.mark.parametrize(
    ("name", "plan", "machine"),
    [
        ("four shards", plan_settings(shards=4), cpu()),
        ("more shards than regions", plan_settings(shards=11), cpu()),
        ("a window a batch", plan_settings(), cpu(batch_windows=1)),
        ("two threads", plan_settings(), cpu(threads=2)),
        ("every region alone", plan_settings(), cpu(group_px=1)),
        ("a few regions together", plan_settings(), cpu(group_px=9 * 32**2)),
        ("a few regions together, in three shards", plan_settings(shards=3), cpu(group_px=13 * 32**2)),
    ],
)
def test_the_pixels_do_not_depend_on_the_run(many, tiny_model, tmp_path, name, plan, machine):
    section, expected = many
    out = mend_by_stages(section, tiny_model(), tmp_path / "other", plan=plan, machine=machine)
    assert np.array_equal(level(out), expected), name


def test_the_pixels_do_not_depend_on_the_order_of_regions(many, tiny_model, tmp_path, monkeypatch):
    section, expected = many
    read = Plan.read

    def backwards(folder):
        plan = read(folder)
        return Plan(plan.facts, plan.regions.iloc[::-1], plan.windows.iloc[::-1], plan.labels)

    monkeypatch.setattr(mending.Plan, "read", backwards)
    assert np.array_equal(level(mend_by_stages(section, tiny_model(), tmp_path / "other")), expected)


def test_the_pixels_do_not_depend_on_how_the_pyramid_is_cut(many, tiny_model, tmp_path):
    section, expected = many
    out = mend_by_stages(section, tiny_model(), tmp_path / "other", pyramid=BlendSettings(512, 4096))
    assert np.array_equal(level(out), expected)


def test_a_region_far_from_the_others_is_mended_as_if_alone(make_section, tiny_model, tmp_path):
    both, alone = (blobs((60, 200), *boxes) for boxes in ([(20, 20, 30, 30), (20, 160, 30, 170)], [(20, 160, 30, 170)]))
    pixels = [
        level(mend_by_stages(make_section(m, name=n), tiny_model(), tmp_path / n))
        for n, m in {"both": both, "alone": alone}.items()
    ]
    assert np.array_equal(pixels[0][:, 100:], pixels[1][:, 100:])


# Law 5: cost follows the damage


@pytest.mark.parametrize("place", PLACES)
def test_no_window_is_planned_that_is_wholly_known(make_section, tmp_path, place):
    section = make_section(PLACES[place])
    plan_section(section.image, section.annotation, plan_settings(), tmp_path / "plan")
    plan = Plan.read(tmp_path / "plan")
    labels = plan.labels[...]
    for region, row, column in plan.windows.to_numpy():
        seen = plan.facts.lattice.window_box(row, column).clip(labels.shape)
        assert (labels[seen.slices] == region).any()
    assert plan.regions["windows"].sum() == len(plan.windows)


# Uncertainty: a region is mended several times

SPREAD = blobs((100, 120), (20, 30, 34, 60), (70, 10, 76, 14))


@pytest.fixture
def sampled(make_section, tiny_model, tmp_path):
    """A function that mends a section of two regions ``samples`` times and returns section and result."""

    def run(samples, folder=None, machine=None, dtype="uint8", channels=1):
        section = make_section(SPREAD, dtype, channels)
        plan = plan_settings(samples=samples, model_channels=channels)
        to = tmp_path / (folder or f"{samples} samples")
        return section, mend_by_stages(section, tiny_model(channels), to, plan=plan, machine=machine)

    return run


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 3), ("uint16", 1)])
def test_more_samples_leave_the_result_and_add_its_uncertainty(sampled, dtype, channels):
    section, once = sampled(1, dtype=dtype, channels=channels)
    _, often = sampled(3, dtype=dtype, channels=channels)
    for number in range(2):
        assert np.array_equal(level(once, number), level(often, number))
        assert np.array_equal(level(once / "labels" / "mended", number), level(often / "labels" / "mended", number))
    assert not (once / "labels" / "uncertainty").exists()
    assert dict(zarr.open_group(once / "labels", mode="r").attrs)["ome"]["labels"] == ["mended"]
    uncertainty, grown = level(often / "labels" / "uncertainty"), section.grown(2)
    assert uncertainty.dtype == np.dtype(dtype)
    assert not uncertainty[~grown].any()
    assert (uncertainty[grown] > 0).mean() > 0.9
    assert damaged_files(often) == []
    assert any("uncertainty" in line for line in (often / "checksums.tsv").read_text().splitlines())


def test_the_uncertainty_is_the_standard_deviation_of_single_fills(sampled, monkeypatch):
    fills, fill = [], group_mender.fill

    def keep(image, known, layout, *rest):
        filled = fill(image, known, layout, *rest)
        fills.extend(zip(layout.corners_px.tolist(), rest[-1].tolist(), filled, strict=True))
        return filled

    monkeypatch.setattr(group_mender, "fill", keep)
    section, out = sampled(4, machine=cpu(group_px=1))  # one sample of one region at a time
    grown, result = section.grown(2), level(out)
    uncertainty, canvases = level(out / "labels" / "uncertainty"), np.full((4, *grown.shape), np.nan)
    labels = level(out / "labels" / "mended")
    for (y, x), sample, cell in fills:
        c = cell.shape[-1]
        if 0 <= y <= grown.shape[0] - c and 0 <= x <= grown.shape[1] - c:
            part = canvases[sample, y : y + c, x : x + c]
            part[...] = np.rint((cell[0].astype(float) + 1) * 127.5)
    at = labels == 1  # the second region's canvas has overwritten what is beyond
    at[60:] = False
    assert at.sum() > 400
    assert np.array_equal(canvases[0][at], result[at])
    assert np.array_equal(np.rint(canvases[:, at].std(axis=0, ddof=1)), uncertainty[at])
    assert np.abs(np.corrcoef(canvases[:, at]) - np.eye(4)).max() < 0.9  # no sample is a copy of another


def test_the_uncertainty_does_not_depend_on_the_run(sampled):
    outs = [
        sampled(3, folder, machine)[1]
        for folder, machine in {
            "together": cpu(),
            "apart": cpu(group_px=1),
            "cut through a region's samples": cpu(group_px=10 * 32**2),
            "two threads": cpu(threads=2),
        }.items()
    ]
    for name in ("0", "labels/uncertainty/0", "labels/uncertainty/1"):
        arrays = [np.asarray(zarr.open_group(out, mode="r")[name]) for out in outs]
        assert all(np.array_equal(array, arrays[0]) for array in arrays)


def test_the_uncertainty_says_what_it_is_and_has_colours(sampled):
    section, out = sampled(3)
    opened = zarr.open_group(out, mode="r")
    assert dict(opened["labels"].attrs)["ome"]["labels"] == ["mended", "uncertainty"]
    record = dict(opened["labels/uncertainty"].attrs)
    label, said = record["ome"]["image-label"], record["cytomend"]
    uncertainty = level(out / "labels" / "uncertainty")
    colours = {colour["label-value"]: colour["rgba"] for colour in label["colors"]}
    assert set(np.unique(uncertainty)) <= {0, *colours}
    brightness = [sum(colours[value][:3]) for value in sorted(colours)]
    assert brightness == sorted(brightness)
    assert label["source"] == {"image": "../../"}
    assert {key: said[key] for key in ("unit", "samples", "full_scale")} == {
        "unit": "grey value",
        "samples": 3,
        "full_scale": 85.0,
    }
    assert said["mean"] == pytest.approx(uncertainty[section.grown(2)].mean())
    numbers = level(out / "labels" / "mended")
    assert said["regions"] == {str(n): pytest.approx(uncertainty[numbers == n].mean()) for n in (1, 2)}
    assert dict(opened.attrs)["cytomend"]["samples"] == 3


def test_independent_libraries_read_the_uncertainty(sampled):
    models = pytest.importorskip("ome_zarr_models.v05")
    assert models.ImageLabel.from_zarr(zarr.open_group(sampled(2)[1], mode="r")["labels/uncertainty"])


def test_mend_mends_as_often_as_asked(make_section, tiny_model, tmp_path, capsys):
    section = make_section(PLACES["smaller than a window"])
    out = tmp_path / "mended.ome.zarr"
    assert main(mend_command(section, tiny_model(), out, samples=2, precision="float32")) == 0
    assert level(out / "labels" / "uncertainty").any()
    assert main(mend_command(section, tiny_model(), tmp_path / "no.ome.zarr", samples=65)) == 2
    assert "mend.samples: 65 is greater than the maximum of 64" in capsys.readouterr().err
    assert main(mend_command(section, tiny_model(), tmp_path / "no.ome.zarr", precision="half")) == 2
    assert "mend.precision" in capsys.readouterr().err


# Law 7: a killed job leaves nothing that looks finished


ALONE = cpu(group_px=1)
"""Mends region by region."""


@pytest.fixture
def mended_regions(monkeypatch):
    """The regions that are mended and kept from now on, in order."""
    numbers, keep = [], GroupMender.keep

    def count(mender, mended):
        keep(mender, mended)
        numbers.extend(turn.region for turn in mended[0].turns)

    monkeypatch.setattr(GroupMender, "keep", count)
    return numbers


def failing(hand, region):
    """A hand of the mender, ``read``, ``mend`` or ``keep``, that fails at a region."""
    work = getattr(GroupMender, hand)

    def fail(mender, given):
        turns = {"read": lambda: given, "mend": lambda: given.turns, "keep": lambda: given[0].turns}[hand]()
        if region in [turn.region for turn in turns]:
            with mender._blaming(turns):
                raise MemoryError("as if the machine were full")
        return work(mender, given)

    return fail


@pytest.mark.parametrize("hand", ["read", "mend", "keep"])
def test_a_shard_that_failed_in_the_middle_is_continued(many, tiny_model, tmp_path, mended_regions, monkeypatch, hand):
    section, expected = many
    folder = tmp_path / "other"
    with monkeypatch.context() as patch:
        patch.setattr(GroupMender, hand, failing(hand, region=6))
        with pytest.raises(MemoryError) as failure:
            mend_by_stages(section, tiny_model(), folder, machine=ALONE)
    assert "section s1, region 6" in told(failure.value)
    assert not (folder / "0.zarr").exists()
    assert not manifest_of(folder / "0.zarr").exists()
    finished = len(list((folder / ".0.zarr.work" / "regions").iterdir()))
    assert finished == len(mended_regions) >= 4
    assert np.array_equal(level(mend_by_stages(section, tiny_model(), folder, machine=ALONE)), expected)
    assert mended_regions == list(range(1, 10))  # none of them twice


def test_a_group_that_failed_is_named_and_those_before_it_are_kept(
    many, tiny_model, tmp_path, mended_regions, monkeypatch
):
    section, expected = many
    folder, threes = tmp_path / "other", cpu(group_px=12 * 32**2)  # nine regions of 4 windows
    with monkeypatch.context() as patch:
        patch.setattr(GroupMender, "mend", failing("mend", region=5))
        with pytest.raises(MemoryError) as failure:
            mend_by_stages(section, tiny_model(), folder, machine=threes)
    kept = {int(path.stem) for path in (folder / ".0.zarr.work" / "regions").iterdir()}
    assert kept == set(mended_regions)
    assert 5 not in kept
    assert "section s1, regions 4, 5, 6" in told(failure.value)
    # Another packing goes on from there.
    assert np.array_equal(level(mend_by_stages(section, tiny_model(), folder, machine=cpu())), expected)
    assert mended_regions == list(range(1, 10))


def test_two_workers_mend_the_same_and_each_region_once(many, tiny_model, tmp_path):
    section, expected = many
    out = mend_by_stages(section, tiny_model(), tmp_path / "two", machine=replace(ALONE, workers=2))
    assert np.array_equal(level(out), expected)
    assert sorted(set(zarr.open_group(tmp_path / "two" / "0.zarr", mode="r")["region"][:])) == list(range(1, 10))


def test_a_worker_that_fails_ends_the_others_and_says_why(many, tiny_model, tmp_path, capfd):
    section, _ = many
    plan_section(section.image, section.annotation, plan_settings(window_px=64, stride_px=48), tmp_path / "plan")
    with pytest.raises(InputError, match=r"worker [01] of 2 ended with status 2"):
        mend_shard(
            section.image,
            tmp_path / "plan",
            0,
            tiny_model(),
            mend_settings(),
            replace(ALONE, workers=2),
            tmp_path / "0.zarr",
        )
    assert "window_px is 32, the plan was made for 64" in capfd.readouterr().err
    assert not (tmp_path / "0.zarr").exists()


ORPHANS = """
import signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from cytomend.stages.mend_shard import Machine, MendSettings, mend_shard
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a command that a script puts into the background
image, plan, model, out = map(Path, sys.argv[1:])
if __name__ == "__main__":
    machine = Machine(torch.device("cpu"), 2, 8, 1, workers=2)
    mend_shard(image, plan, 0, model, MendSettings("repaint", 60, 10, 10, 4), machine, out)
"""


def test_workers_do_not_outlive_what_holds_the_lock(many, tiny_model, tmp_path):
    section, _ = many
    plan_section(section.image, section.annotation, plan_settings(), tmp_path / "plan")
    (tmp_path / "orphans.py").write_text(ORPHANS)
    words = [section.image, tmp_path / "plan", tiny_model(), tmp_path / "0.zarr"]
    process = subprocess.Popen([sys.executable, tmp_path / "orphans.py", *map(str, words)], stderr=subprocess.DEVNULL)
    regions = tmp_path / ".0.zarr.work" / "regions"
    end = time.monotonic() + 120
    while not (regions.exists() and any(regions.iterdir())):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    workers = [number for number, parent, _ in _processes() if parent == process.pid]
    process.kill()
    process.wait()
    assert len(workers) >= 2
    end = time.monotonic() + 10  # of what would go on for a minute
    while any(number in workers and state != "Z" for number, _, state in _processes()):
        assert time.monotonic() < end
        time.sleep(0.05)


def _processes():
    """Yield number, parent and state of every process."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = place.read_text().rsplit(")", 1)[1].split()[:2]
            yield int(place.parent.name), int(parent), state


def test_a_scan_that_was_changed_since_the_plan_is_refused(make_section, tiny_model, tmp_path):
    section = make_section(PLACES["within"])
    mend_by_stages(section, tiny_model(), tmp_path)
    store, plan, pixels = tmp_path / "0.zarr", tmp_path / "plan", section.pixels.copy()
    write_tiff(section.image, pixels)  # the same pixels at another time
    blend_section(section.image, plan, [store], BlendSettings(64, 128), tmp_path / "same.ome.zarr")
    pixels[0, 0] ^= 1
    write_tiff(section.image, pixels)
    with pytest.raises(InputError, match=r"was changed since .*plan again"):
        mend_shard(section.image, plan, 0, tiny_model(), mend_settings(), cpu(), store)
    with pytest.raises(InputError, match=r"was changed since .*plan again"):
        blend_section(section.image, plan, [store], BlendSettings(64, 128), tmp_path / "other.ome.zarr")


class AsIfOnGpu(NamedTuple):
    """A GPU with this much memory, of which a network call takes some; ``Machine.device`` of it is on the CPU."""

    free_gb: float
    call_gb: float


@pytest.mark.parametrize(
    ("gpu", "sentence"),
    [
        pytest.param(AsIfOnGpu(1, 2), "a network call with 8 windows of 32 px does not fit", id="the network"),
        pytest.param(AsIfOnGpu(3, 2), r"take 3\.9 GB beside the network, 1\.0 of 80\.0 GB", id="a large region"),
        pytest.param(AsIfOnGpu(80, 2), None, id="enough"),
    ],
)
def test_too_little_memory_of_a_gpu_is_named_before_any_region_is_begun(
    make_section, tmp_path, monkeypatch, gpu, sentence
):
    section = make_section(PLACES["within"])
    plan_section(section.image, section.annotation, plan_settings(), tmp_path / "plan")
    facts, taken = Plan.read(tmp_path / "plan").facts, 0.0

    def ask(x, time):
        nonlocal taken
        assert x.shape == (8, 1, 32, 32)
        assert time.shape == (8, 1, 32, 32)
        if gpu.call_gb > gpu.free_gb:
            raise torch.OutOfMemoryError
        taken = gpu.call_gb
        return x

    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda shape, **_: zeros(shape))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: ((gpu.free_gb - taken) * 1e9, 80e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    machine = replace(cpu(), device=torch.device("cuda"))
    if sentence is None:
        mending.rehearse(ask, machine, facts, most_windows=40_000, channels=1)
    else:
        with pytest.raises(ResourceError, match=sentence):
            mending.rehearse(ask, machine, facts, most_windows=40_000, channels=1)


def test_an_interrupt_ends_a_shard_and_keeps_what_is_finished(many, tiny_model, tmp_path, monkeypatch):
    section, expected = many
    mend, folder = GroupMender.mend, tmp_path / "other"

    def interrupted(mender, group):
        if group.turns[0].region == 4:
            raise KeyboardInterrupt
        return mend(mender, group)

    with monkeypatch.context() as patch:
        patch.setattr(GroupMender, "mend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mend_by_stages(section, tiny_model(), folder, machine=ALONE)
    assert {path.name for path in (folder / ".0.zarr.work" / "regions").iterdir()} == {"1.npz", "2.npz", "3.npz"}
    assert np.array_equal(level(mend_by_stages(section, tiny_model(), folder)), expected)


@pytest.mark.parametrize("change", ["seed", "image", "model", "samples"])
def test_regions_left_by_a_failed_shard_are_not_used_for_another_result(
    make_section, tiny_model, tmp_path, monkeypatch, change
):
    section = make_section(PLACES["within"])
    with monkeypatch.context() as patch:
        patch.setattr(GroupMender, "mend", failing("mend", region=3))
        with pytest.raises(MemoryError):
            mend_by_stages(section, tiny_model(), tmp_path / "continued", machine=ALONE)
    mend, plan, model = mend_settings(), plan_settings(), tiny_model()
    if change == "seed":
        mend = mend_settings(seed=5)
    elif change == "samples":
        plan = plan_settings(samples=2)
    elif change == "image":
        write_tiff(section.image, 255 - section.pixels)
    else:
        weights = bytearray(model.read_bytes())
        weights[-1] ^= 0x80
        model = tmp_path / "edited.safetensors"
        model.write_bytes(weights)
    outs = [mend_by_stages(section, model, tmp_path / folder, plan=plan, mend=mend) for folder in ("continued", "new")]
    assert np.array_equal(*map(level, outs))
    if change == "samples":
        assert np.array_equal(*(level(out / "labels" / "uncertainty") for out in outs))


SMALL_GROUPS = "from cytomend.stages import mend_shard; mend_shard.GROUP_PX['cpu'] = 1; "


def start(words, tmp_path, prepare=""):
    """Start a stage as a process of its own."""
    log = (tmp_path / "log").open("w")
    environment = {**os.environ, "PYTHONPATH": str(Path(mending.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    program = f"{prepare}from cytomend.cli import main; raise SystemExit(main())"
    return subprocess.Popen([sys.executable, "-c", program, *words], env=environment, stdout=log, stderr=log)


def kill_when(process, ready, tmp_path):
    """Kill a process, as the machine's lack of memory would, as soon as something is there."""
    end = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < end, "nothing was there after a minute"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it had ended before it was killed"


def test_a_shard_killed_in_the_middle_is_continued_with_the_same_pixels(
    make_section, tiny_model, tmp_path, mended_regions
):
    section, model, settings = make_section(MANY), tiny_model(), mend_settings(steps=16)
    plan, store = tmp_path / "plan", tmp_path / "0.zarr"
    plan_section(section.image, section.annotation, plan_settings(), plan)
    words = command(
        "mend-shard",
        image=section.image,
        plan=plan,
        shard=0,
        model=model,
        settings=as_json(settings),
        out=store,
        device="cpu",
        threads=1,
    )
    done = tmp_path / ".0.zarr.work" / "regions"
    kill_when(start(words, tmp_path, SMALL_GROUPS), lambda: len(list(done.glob("[0-9]*.npz"))) > 2, tmp_path)
    finished = {int(path.stem) for path in done.glob("[0-9]*.npz")}
    assert 2 < len(finished) < 9
    assert not store.exists()
    assert not manifest_of(store).exists()

    assert main(words) == 0
    assert set(mended_regions) == set(range(1, 10)) - finished
    mend_shard(section.image, plan, 0, model, settings, cpu(), tmp_path / "undisturbed.zarr")
    mended, expected = (zarr.open_group(path, mode="r") for path in (store, tmp_path / "undisturbed.zarr"))
    assert all(np.array_equal(mended[name][...], expected[name][...]) for name in ("pixels", "corners", "region"))
    assert not done.parent.exists()
    assert json.loads(manifest_of(store).read_text()) == json.loads(
        manifest_of(tmp_path / "undisturbed.zarr").read_text()
    )


def test_a_pyramid_killed_in_the_middle_is_written_anew_with_the_same_pixels(make_section, tiny_model, tmp_path):
    section = make_section(blobs((800, 900), (480, 500, 500, 530)))
    plan, store, out = tmp_path / "plan", tmp_path / "0.zarr", tmp_path / "corrected.ome.zarr"
    plan_section(section.image, section.annotation, plan_settings(), plan)
    mend_shard(section.image, plan, 0, tiny_model(), mend_settings(), cpu(), store)
    settings = BlendSettings(chunk_px=64, shard_px=64)
    words = command(
        "blend-section",
        image=section.image,
        plan=plan,
        shards=[store],
        settings=as_json(settings),
        out=out,
    )
    begun = tmp_path / ".corrected.ome.zarr.work" / "0" / "c"
    kill_when(start(words, tmp_path), lambda: begun.exists() and len(list(begun.iterdir())) > 1, tmp_path)
    assert not out.exists()
    assert not manifest_of(out).exists()

    assert main(words) == 0
    blend_section(section.image, plan, [store], settings, tmp_path / "undisturbed.ome.zarr")
    assert manifest_of(out).read_text() == manifest_of(tmp_path / "undisturbed.ome.zarr").read_text()
    assert not begun.exists()


def test_a_second_result_replaces_the_first_only_when_it_is_whole(make_section, tiny_model, tmp_path, monkeypatch):
    section = make_section(PLACES["within"])
    out = mend_by_stages(section, tiny_model(), tmp_path)
    before = level(out)

    def fail(*_):
        raise RuntimeError("as if it were killed")

    monkeypatch.setattr("cytomend.stages.blend_section._describe", fail)
    with pytest.raises(RuntimeError):
        mend_by_stages(section, tiny_model(), tmp_path, mend=mend_settings(seed=9))
    assert np.array_equal(level(out), before)
    assert damaged_files(out) == []


# Law 8: bad input is refused, with a sentence


def mend_command(section, model, out, **options):
    """`cytomend mend` with little to do."""
    usual = {"mask": section.annotation, "model": model, "steps": 2, "device": "cpu", "threads": 1, "out": out}
    words = command("mend", **{**usual, **options})
    return [words[0], str(section.image), *words[1:]]


@pytest.fixture
def refused(make_section, tiny_model, tmp_path, capsys):
    """A function that runs `cytomend mend` and returns the sentence with which it is refused."""
    section = make_section(PLACES["within"])

    def run(change=lambda _: None, **options):
        change(section)
        out = options.pop("out", tmp_path / "mended.ome.zarr")
        assert main(mend_command(section, options.pop("model", tiny_model()), out, **options)) == 2
        assert not (tmp_path / "mended.ome.zarr").exists()
        assert not manifest_of(tmp_path / "mended.ome.zarr").exists()
        return capsys.readouterr().err.strip().splitlines()[-1]

    run.section = section
    return run


def test_masks_named_one_after_the_other_are_united(make_section, tiny_model, tmp_path):
    section, out = make_section(PLACES["within"]), tmp_path / "mended.ome.zarr"
    tifffile.imwrite(tmp_path / "more.tif", np.pad(np.ones((6, 6), np.uint8), ((0, 145), (0, 127))))
    line = mend_command(section, tiny_model(), out, grow_px=0)
    assert main([*line, "--mask", str(tmp_path / "more.tif")]) == 0
    label = zarr.open_array(out / "labels" / "mended" / "0", mode="r")[...]
    assert np.array_equal(label > 0, section.mask | (tifffile.imread(tmp_path / "more.tif") > 0))


def test_a_mask_that_a_sheet_would_split_is_refused(refused, tmp_path):
    assert "names with semicolons" in refused(mask=tmp_path / "x;other.geojson")


def test_a_result_that_is_not_what_was_mended_is_removed(make_section, tiny_model, tmp_path, monkeypatch):
    section, out = make_section(PLACES["within"]), tmp_path / "mended.ome.zarr"
    real = mend_stage.blend_section

    def blend_badly(*given):
        manifest = real(*given)
        array = zarr.open_array(out / "0", mode="r+")
        array[140, 120] = 255 - int(array[140, 120])
        return manifest

    monkeypatch.setattr(mend_stage, "blend_section", blend_badly)
    assert main(mend_command(section, tiny_model(), out)) == 1
    assert not manifest_of(out).exists()
    assert not out.exists()
    monkeypatch.undo()
    assert main(mend_command(section, tiny_model(), out)) == 0


def test_a_missing_image_is_named(refused):
    assert "scan.tif: expected" in refused(lambda section: section.image.unlink())


def test_a_missing_mask_is_named(refused, tmp_path):
    assert "nowhere.tif" in refused(mask=tmp_path / "nowhere.tif")


def test_a_truncated_image_is_named(refused):
    def cut(section):
        section.image.write_bytes(section.image.read_bytes()[:-6000])

    sentence = refused(cut)
    assert "scan.tif" in sentence


def test_an_image_of_floats_is_refused(refused):
    sentence = refused(lambda section: tifffile.imwrite(section.image, np.full((151, 133), np.nan, "float32")))
    assert "float32" in sentence
    assert "scan.tif" in sentence


def test_a_mask_of_another_size_is_refused_with_both_sizes(refused):
    sentence = refused(lambda section: tifffile.imwrite(section.annotation, np.ones((90, 133), "uint8")))
    assert "151 x 133" in sentence
    assert "90 x 133" in sentence


def test_a_section_without_anything_intact_is_refused(refused):
    def cover(section):
        tifffile.imwrite(section.annotation, np.ones((151, 133), "uint8"))

    assert "covers 100% of the tissue" in refused(cover)
    assert "nothing intact is left" in refused(cover, max_covered=1)


def test_an_annotation_outside_the_image_is_refused(refused, tmp_path):
    path = tmp_path / "outside.geojson"
    path.write_text(json.dumps(polygon([[500, 500], [520, 500], [520, 520], [500, 500]])))
    assert "expected coordinates inside the image" in refused(mask=path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04N."])
def test_a_file_that_is_no_checkpoint_is_refused(refused, tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    assert "not a safetensors file" in refused(model=path)


def test_an_unknown_model_is_refused(refused):
    assert "model 'splendid'" in refused(model="splendid")


def test_a_model_of_another_pixel_size_is_refused(refused):
    assert "pixel_size_um is 3" in refused(pixel_size_um=3, fill="draw")


def test_a_model_of_other_channels_does_where_all_can_be_copied(refused, tiny_model, tmp_path):
    out = tmp_path / "grafted.ome.zarr"
    assert main(mend_command(refused.section, tiny_model(3), out)) == 0
    assert dict(zarr.open_group(out, mode="r").attrs)["cytomend"]["joint"] == "blend"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_pixel_size_that_is_none_is_refused(refused, value):
    assert "pixel_size_um" in refused(pixel_size_um=value)


def test_a_model_of_other_channels_is_refused(refused, tiny_model):
    assert "has 1 channels, the model was trained on 3" in refused(model=tiny_model(3), fill="draw")


@pytest.mark.parametrize(("option", "value"), [("sampler", "ddim"), ("steps", 300), ("seed", -1), ("grow_px", 9999)])
def test_a_setting_out_of_bounds_is_named(refused, option, value):
    assert f"{option}: " in refused(**{option: value})


def test_an_existing_result_is_not_overwritten_unless_asked(refused, tiny_model, tmp_path):
    out = tmp_path / "there.ome.zarr"
    out.mkdir()
    (out / "zarr.json").write_text('{"attributes": {"cytomend": {}}}')
    assert "exists already" in refused(out=out)
    assert main(mend_command(refused.section, tiny_model(), out, overwrite=True)) == 2  # whose is it?
    (out / "checksums.tsv").write_text("")
    assert main(mend_command(refused.section, tiny_model(), out, overwrite=True)) == 0
    assert level(out).shape == (151, 133)


def test_a_folder_that_is_no_result_is_never_overwritten(refused, tmp_path):
    out = tmp_path / "photos.zarr"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"dear to someone")
    (tmp_path / "photos.manifest.json").write_text("{}")
    assert "was not made by cytomend" in refused(out=out, overwrite=True)
    assert (out / "holiday.jpg").read_bytes() == b"dear to someone"


def test_a_manifest_that_belongs_to_something_else_is_not_overwritten(refused, tmp_path):
    (tmp_path / "photos.manifest.json").write_text("dear to someone")
    assert "exists already" in refused(out=tmp_path / "photos.zarr")


def test_a_mended_section_is_not_mended_again_as_if_it_were_a_scan(refused, tiny_model, tmp_path, capsys):
    first = tmp_path / "first.ome.zarr"
    assert main(mend_command(refused.section, tiny_model(), first)) == 0
    again = mend_command(refused.section, tiny_model(), tmp_path / "again.ome.zarr")
    again[again.index(str(refused.section.image))] = str(first)
    assert main([*again, "--pixel-size-um", "1"]) == 2
    assert "is a mended section" in capsys.readouterr().err
    assert not (tmp_path / ".again.ome.zarr.mending").exists()


def test_nothing_is_written_into_or_over_the_scan(refused, tmp_path):
    assert "would replace or change" in refused(out=refused.section.image / "inside.ome.zarr")
    link = tmp_path / "link.ome.zarr"
    link.symlink_to(tmp_path / "nowhere")
    assert "symbolic link" in refused(out=link)


def test_a_place_that_can_hold_no_result_is_refused(refused, tmp_path):
    (tmp_path / "file").touch()
    assert "cannot be a place for results" in refused(out=tmp_path / "file" / "x.ome.zarr")
    assert "letters" in refused(out=tmp_path / ("x" * 230 + ".zarr"))


@pytest.mark.parametrize(("option", "value"), [("device", "abacus"), ("threads", 0), ("batch_windows", -1)])
def test_a_machine_that_is_none_is_refused(refused, option, value):
    assert f"--{option.replace('_', '-')}" in refused(**{option: value})


def test_a_second_run_on_the_same_output_is_refused_while_the_first_is_at_it(refused, tiny_model, tmp_path, capsys):
    with locked(tmp_path / ".mended.ome.zarr.mending"):
        command_line = mend_command(refused.section, tiny_model(), tmp_path / "mended.ome.zarr")
        assert main(command_line) == 1
    assert "another process is writing it" in capsys.readouterr().err


def test_a_jpeg_is_no_mask(refused, tmp_path):
    Image.fromarray(np.zeros((151, 133), np.uint8)).save(tmp_path / "mask.jpg")
    assert "a JPEG blurs the rim of a mask" in refused(mask=tmp_path / "mask.jpg")


def test_huge_coordinates_are_refused(refused, tmp_path):
    path = tmp_path / "huge.geojson"
    path.write_text(json.dumps(polygon([[0, 0], [0, 1e19], [20, 20], [0, 0]])))
    assert "coordinates in pixels" in refused(mask=path)


def test_a_scan_is_never_replaced_by_its_own_result(refused, tiny_model, tmp_path):
    scan = mend_by_stages(refused.section, tiny_model(), tmp_path)
    before = level(scan)
    words = mend_command(refused.section, tiny_model(), scan, overwrite=True)
    words[1] = str(scan)
    assert main(words) == 2
    assert np.array_equal(level(scan), before)


def test_a_result_must_be_called_zarr(refused, tmp_path):
    assert "ends in .ome.zarr" in refused(out=tmp_path / "mended.tif")


def polygon(corners, **properties):
    ring = [*corners, corners[0]]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def test_a_self_crossing_polygon_is_repaired_and_told(make_section, tmp_path):
    section = make_section(PLACES["within"])
    path = tmp_path / "bow-tie.geojson"
    path.write_text(json.dumps(polygon([[20, 20], [60, 60], [60, 20], [20, 60]])))
    plan_section(section.image, path, plan_settings(grow_px=0), tmp_path / "plan")
    plan = Plan.read(tmp_path / "plan")
    assert any("bow-tie.geojson" in warning for warning in plan.facts.warnings)
    assert 700 < plan.facts.masked_px < 900  # both triangles of 400 px


def test_an_empty_mask_gives_the_scan_back(make_section, tiny_model, tmp_path):
    section = make_section(np.zeros((70, 66), bool))
    out = mend_by_stages(section, tiny_model(), tmp_path)
    assert np.array_equal(level(out), section.pixels)
    assert not level(out / "labels" / "mended").any()
    assert dict(zarr.open_group(out, mode="r").attrs)["cytomend"]["mended_px"] == 0


def test_a_damaged_shard_store_is_refused(make_section, tiny_model, tmp_path):
    section = make_section(PLACES["within"])
    mend_by_stages(section, tiny_model(), tmp_path)
    next(
        path for path in (tmp_path / "0.zarr" / "pixels").rglob("*") if path.is_file() and path.parent.name != "pixels"
    ).unlink()
    with pytest.raises(InputError, match=r"0\.zarr"):
        blend_section(
            section.image, tmp_path / "plan", [tmp_path / "0.zarr"], BlendSettings(64, 128), tmp_path / "x.ome.zarr"
        )
    assert not (tmp_path / "x.ome.zarr").exists()


def test_a_shard_of_another_plan_is_refused(make_section, tiny_model, tmp_path):
    section = make_section(PLACES["within"])
    mend_by_stages(section, tiny_model(), tmp_path)
    plan_section(section.image, section.annotation, plan_settings(grow_px=5), tmp_path / "plan")
    with pytest.raises(InputError, match="was mended after another plan"):
        blend_section(
            section.image, tmp_path / "plan", [tmp_path / "0.zarr"], BlendSettings(64, 128), tmp_path / "x.ome.zarr"
        )


def test_half_a_plan_is_refused(make_section, tiny_model, tmp_path):
    section = make_section(PLACES["within"])
    plan_section(section.image, section.annotation, plan_settings(), tmp_path / "plan")
    (tmp_path / "plan" / "regions.parquet").unlink()
    with pytest.raises(InputError, match="not a whole plan"):
        mend_shard(section.image, tmp_path / "plan", 0, tiny_model(), mend_settings(), cpu(), tmp_path / "0.zarr")


def test_a_network_that_answers_with_no_numbers_is_not_believed(make_section, tiny_model, tmp_path, monkeypatch):
    section = make_section(PLACES["within"])
    monkeypatch.setattr("cytomend.diffusion.precondition.Denoiser.velocity", lambda _, x, _time: x * np.nan)
    with pytest.raises(InputError, match="not finite"):
        mend_by_stages(section, tiny_model(), tmp_path)


def test_a_full_disk_is_told_and_what_is_finished_is_kept(make_section, tiny_model, tmp_path, monkeypatch, capsys):
    section, kept, save = make_section(MANY), [], np.savez

    def full_after_three(path, **arrays):
        if len(kept) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        kept.append(path)
        save(path, **arrays)

    monkeypatch.setattr(np, "savez", full_after_three)
    out = tmp_path / "mended.ome.zarr"
    assert main(mend_command(section, tiny_model(), out)) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert len(list(tmp_path.rglob("regions/*.npz"))) == 3
    assert not out.exists()
    monkeypatch.setattr(np, "savez", save)
    assert main(mend_command(section, tiny_model(), out)) == 0
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of a few hundred kilobytes, and a function that makes it large enough."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", place], check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    yield place, lambda: subprocess.run(["mount", "-o", "remount,size=40m", place], check=True)
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_runs_full_leaves_nothing_that_looks_finished(
    make_section, tiny_model, tmp_path, small_disk, capsys
):
    section = make_section(blobs((300, 400), (20, 30, 40, 60), (200, 300, 220, 340)), "uint16")
    place, enlarge = small_disk
    out = place / "mended.ome.zarr"
    assert main(mend_command(section, tiny_model(), out)) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert not out.exists()
    assert not manifest_of(out).exists()
    enlarge()
    assert main(mend_command(section, tiny_model(), out)) == 0
    assert main(mend_command(section, tiny_model(), tmp_path / "roomy.ome.zarr")) == 0
    assert np.array_equal(level(out), level(tmp_path / "roomy.ome.zarr"))


# `cytomend mend`, and what others read of its result


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_mend_gives_the_same_pixels_as_the_stages(make_section, tiny_model, tmp_path, dtype):
    section = make_section(PLACES["at the border"], dtype)
    out = tmp_path / "mended.ome.zarr"
    words = mend_command(section, tiny_model(), out, steps=3, seed=4, grow_px=2)
    assert main(words) == 0
    assert np.array_equal(level(out), level(mend_by_stages(section, tiny_model(), tmp_path / "stages")))
    assert not [path.name for path in tmp_path.glob(".mended*")]


@pytest.mark.parametrize("name", ["brain.tif", "_.tif", "Schnitt 7 (ü).tif", "x" * 150 + ".tif"])
def test_mend_takes_a_scan_of_any_name(make_section, tiny_model, tmp_path, name):
    section = make_section(PLACES["smaller than a window"])
    words = mend_command(section, tiny_model(), tmp_path / "mended.ome.zarr")
    words[1] = str(shutil.copy(section.image, tmp_path / name))
    assert main(words) == 0


def test_results_of_similar_names_keep_their_own_manifests(make_section, tiny_model, tmp_path):
    section = make_section(PLACES["smaller than a window"])
    names = ["scan.first.ome.zarr", "scan.second.ome.zarr"]
    assert [main(mend_command(section, tiny_model(), tmp_path / name)) for name in names] == [0, 0]
    assert len({manifest_of(tmp_path / name) for name in names}) == 2
    assert all(manifest_of(tmp_path / name).is_file() for name in names)


@pytest.mark.parametrize("channels", [1, 3])
def test_independent_libraries_read_the_result(make_section, tiny_model, tmp_path, channels):
    io, reader, models = (pytest.importorskip(f"ome_zarr{part}") for part in (".io", ".reader", "_models.v05"))
    section = make_section(PLACES["within"], channels=channels)
    plan = plan_settings(model_channels=channels, pixel_size_um=1.1)
    out = mend_by_stages(section, tiny_model(channels), tmp_path, plan=plan)

    lead = () if channels == 1 else (3,)
    image, *labels = reader.Reader(io.parse_url(out))()
    assert [level.shape for level in image.data] == [(*lead, 151, 133), (*lead, 76, 67), (*lead, 38, 34)]
    assert np.array_equal(channels_last(np.asarray(image.data[0])), level_of(section, np.asarray(image.data[0])))
    scales = [scale["scale"][-2:] for scale, *_ in image.metadata["coordinateTransformations"]]
    assert scales == [[1.1, 1.1], [2.2, 2.2], [4.4, 4.4]]
    assert any(np.array_equal(np.asarray(node.data[0]) > 0, section.grown(2)) for node in labels if node.data)

    opened = zarr.open_group(out, mode="r")
    checked = models.Image.from_zarr(opened)
    assert [dataset.path for dataset in checked.ome_attributes.multiscales[0].datasets] == ["0", "1", "2"]
    assert models.ImageLabel.from_zarr(opened["labels/mended"])


def level_of(section, mended):
    """The scan, with the mended pixels of a result put in."""
    grown = section.grown(2)
    expected = section.pixels.copy()
    expected[grown] = channels_last(mended)[grown]
    return expected


def test_resample_is_the_samplers_own_unless_it_is_given():
    assert mend_settings(sampler="langevin", steps=20, resample=None).choose().calls == 100
    assert mend_settings(sampler="langevin", steps=20, resample=10).choose().calls == 200
    assert mend_settings(sampler="repaint", steps=256, jump=10, resample=None).choose().calls == 2506


def test_a_model_replaced_while_it_is_used_is_noticed(make_section, tiny_model, tmp_path, monkeypatch):
    hashes = iter(["first", "second"])
    monkeypatch.setattr("cytomend.stages.mend_shard.checkpoint_hash", lambda _: next(hashes))
    with pytest.raises(InputError, match=r"was replaced while section 's1' was mended with it"):
        mend_by_stages(make_section(PLACES["within"]), tiny_model(), tmp_path)
