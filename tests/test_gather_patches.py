"""Patches are intact tissue and nothing else, and no section is learned from and held out."""

from __future__ import annotations

import csv
import json
import os
import weakref

import numpy as np
import pytest
import shapely
import tifffile
import yaml
import zarr
from conftest import blobs, write_tiff
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from cytomend.cli import main
from cytomend.diffusion.record import load_settings
from cytomend.errors import InputError
from cytomend.fingerprint import _reached
from cytomend.phantom import render_tissue
from cytomend.regions.intact import PASSES, intact_squares
from cytomend.regions.tissue import tissue_share
from cytomend.stages import gather_patches as gathering
from cytomend.stages import train as train_stage
from cytomend.stages.gather_patches import gather_patches, is_gathered, settings_from
from cytomend.storage import patches as storage
from cytomend.storage.patches import Patch, PatchStore, write_patches
from cytomend.storage.publish import damaged_files, manifest_of, read_manifest
from cytomend.storage.tiff import TiffImage
from cytomend.training_data import read_data
from cytomend.training_file import held_out, read_training_file

SHAPE = (300, 260)
GLASS = blobs(SHAPE, (0, 0, 300, 96))
DAMAGE = blobs(SHAPE, (140, 0, 150, 260), (20, 180, 40, 200))
NAMES = st.sets(st.text("abcdefgh0123", min_size=1, max_size=6), min_size=2, max_size=40)
SHARES = st.floats(0.01, 0.99)


# The split


@settings(max_examples=200)
@given(NAMES, SHARES)
def test_every_split_has_sections_on_both_sides(names, share):
    assert 0 < len(held_out(names, share)) < len(names)


@settings(max_examples=200)
@given(NAMES, NAMES, SHARES)
def test_adding_sections_moves_none_but_one_that_stood_in(names, more, share):
    moved = held_out(names, share) ^ (held_out(names | more, share) & names)
    stood_in = {name for name in moved if held_out(names, share) in ({name}, names - {name})}
    assert moved == stood_in
    assert len(moved) <= 1 or len(names) == 2


@settings(max_examples=100)
@given(NAMES, st.randoms())
def test_the_order_of_the_sheet_does_not_matter(names, chance):
    shuffled = sorted(names)
    chance.shuffle(shuffled)
    assert held_out(shuffled, 0.2) == held_out(sorted(names), 0.2)


def test_about_as_many_sections_are_held_out_as_asked_for():
    names = {f"section-{i:04}" for i in range(2000)}
    assert 160 < len(held_out(names, 0.1)) < 240
    assert held_out(names, 0.0) == set()


# Squares


def write_scan(folder, name="scan", seed=1, dtype=np.uint8):
    """Write a phantom scan, a part of it glass, and its mask; return both paths."""
    noise = np.random.default_rng(seed).normal(238, 3, SHAPE)
    pixels = np.where(GLASS, noise, render_tissue(SHAPE, seed).image).clip(0, 255).astype(dtype)
    mask = write_tiff(folder / f"{name}-mask.tif", DAMAGE.astype(np.uint8) * 255)
    return write_tiff(folder / f"{name}.tif", pixels * dtype(1 if dtype == np.uint8 else 256)), mask


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return write_scan(tmp_path_factory.mktemp("scan"))


SETTINGS = {
    "section": "s1",
    "channels": 1,
    "pixel_size_um": 1.0,
    "value_range": None,
    "patch_px": 48,
    "patches_per_section": 30,
    "tissue_share": 0.9,
    "grow_px": 3,
    "include_classes": [],
    "exclude_classes": [],
    "tissue_classes": ["Tissue"],
    "licence": "CC0",
    "attribution": "nobody",
}


def gathered(scan, out, **changes):
    image, *annotations = scan
    gather_patches(image, annotations, settings_from({**SETTINGS, **changes}), out)
    group = zarr.open_group(out, mode="r")
    return np.asarray(group["pixels"]), np.asarray(group["corners"]), dict(group.attrs)


def test_patches_are_crops_of_the_scan_without_masked_pixels_their_margin_or_glass(scan, tmp_path):
    pixels, corners, facts = gathered(scan, tmp_path / "s1.zarr")
    whole = tifffile.imread(scan[0])
    grown = distance_transform_edt(~DAMAGE) <= SETTINGS["grow_px"]
    assert len(pixels) == facts["patches"] > 8
    assert pixels.dtype == whole.dtype
    for patch, (y, x) in zip(pixels, corners, strict=True):
        box = np.s_[y : y + 48, x : x + 48]
        assert np.array_equal(patch[0], whole[box])
        assert not grown[box].any()
        assert not GLASS[y : y + 32, x : x + 32].all()  # the one whole square of 32 px in a patch of 48
    assert len(np.unique(corners, axis=0)) == len(corners)


def test_without_the_tissue_rule_glass_would_be_taken(scan, tmp_path):
    _, corners, _ = gathered(scan, tmp_path / "s1.zarr", tissue_share=0.0, patches_per_section=200)
    assert any(GLASS[y : y + 48, x : x + 48].all() for y, x in corners)


@pytest.mark.parametrize("ground", [0, 120, 255])
def test_glass_of_any_grey_is_no_tissue_and_tissue_of_every_layer_is(ground):
    noise = np.random.default_rng(0).normal(ground, 4, (1, 256, 256)).clip(0, 255).astype(np.uint8)
    assert tissue_share(noise, (0, 255)) == 0
    for seed in range(4):
        tissue = render_tissue((256, 256), seed).image[None]
        assert tissue_share(tissue, (0, 255)) == 1
        half = np.where(np.arange(256) < 128, noise, tissue)
        assert tissue_share(half, (0, 255)) == pytest.approx(0.5, abs=0.07)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 40), st.text("abc", min_size=1, max_size=3))
def test_squares_lie_inside_hold_no_masked_pixel_and_overlap_no_sooner_than_need_be(height, width, side, name):
    chance = np.random.default_rng([height, width, side])
    mask = chance.random((height, width)) < 0.001

    class Mask:
        def read(self, box):
            assert box.clip((height, width)) == box
            return mask[box.slices]

    found = list(intact_squares((height, width), Mask(), side, name))
    assert len(set(found)) == len(found) <= PASSES * (height // side) * (width // side)
    assert not any(mask[box.slices].any() or box.shape != (side, side) for box in found)
    if not mask.any() and min(height, width) >= side:
        first = found[: (height // side) * (width // side)]
        covered = np.zeros((height, width), int)
        for box in first:
            covered[box.slices] += 1
        assert covered.max() == 1
        assert covered.sum() == len(first) * side**2


# Annotations


def outlines(path, **classes):
    """Write boxes (x0, y0, x1, y1) as annotations of classes, as QuPath does."""
    features = [
        {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(shapely.box(*box))),
            "properties": {"classification": {"name": name}},
        }
        for name, box in classes.items()
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def meets(corners, y0, x0, y1, x1, side=48):
    return [(y, x) for y, x in corners.tolist() if y < y1 and y + side > y0 and x < x1 and x + side > x0]


def test_nothing_is_learned_from_what_any_of_several_annotations_says(scan, tmp_path):
    more = outlines(tmp_path / "more.geojson", Fold=(110, 200, 250, 290))
    assert meets(gathered(scan, tmp_path / "one.zarr")[1], 200, 110, 290, 250)
    _, corners, facts = gathered((*scan, more), tmp_path / "both.zarr")
    assert len(corners) > 3
    assert not meets(corners, 200, 110, 290, 250)
    assert not meets(corners, 140, 0, 150, 260)
    assert len(facts["annotations_blake2b"]) == 2
    ignored = gathered((*scan, more), tmp_path / "ignored.zarr", exclude_classes=["Fold"])[1]
    assert meets(ignored, 200, 110, 290, 250)


def test_where_tissue_is_outlined_nothing_is_learned_outside_nor_from_damage_that_lies_there(scan, tmp_path):
    tissue = outlines(tmp_path / "tissue.geojson", Tissue=(100, 0, 260, 130), Tear=(180, 100, 260, 300))
    corners = gathered((scan[0], tissue), tmp_path / "in.zarr")[1]
    assert len(corners) > 3
    assert not meets(corners, 130 - 3, 0, 300, 260)
    assert not meets(corners, 100 - 3, 180 - 3, 130, 260)
    free = gathered((scan[0], tissue), tmp_path / "free.zarr", tissue_classes=[], exclude_classes=["Tissue"])[1]
    assert meets(free, 140, 0, 300, 170)
    assert not meets(free, 100, 180, 300, 260)


# The store


def test_the_store_says_what_it_holds(tmp_path):
    _, _, facts = gathered(write_scan(tmp_path, "deep", dtype=np.uint16), tmp_path / "s1.zarr")
    for key in ("section", "pixel_size_um", "licence", "attribution", "patch_px", "grow_px"):
        assert facts[key] == SETTINGS[key]
    assert facts["image"] == "deep.tif"
    assert [len(name) for name in (facts["blake2b"], *facts["annotations_blake2b"])] == [64, 64]
    assert 0 <= facts["value_range"][0] < 30000 < 60000 < facts["value_range"][1]
    assert damaged_files(tmp_path / "s1.zarr") == []
    assert read_manifest(manifest_of(tmp_path / "s1.zarr"))["patches"] == facts["patches"]


def test_what_is_gathered_follows_from_the_name_and_nothing_is_gathered_twice(scan, tmp_path):
    one, two, other = (
        gathered(scan, tmp_path / f"{i}.zarr", section=name)[1].tolist() for i, name in enumerate(("a", "a", "b"))
    )
    assert one == two != other
    before = manifest_of(tmp_path / "0.zarr").stat().st_mtime_ns
    gathered(scan, tmp_path / "0.zarr", section="a")
    assert manifest_of(tmp_path / "0.zarr").stat().st_mtime_ns == before
    gathered(scan, tmp_path / "0.zarr", section="a", patches_per_section=3)
    assert manifest_of(tmp_path / "0.zarr").stat().st_mtime_ns > before
    fewer = gathered(scan, tmp_path / "0.zarr", section="a", patches_per_section=3)[1]
    assert fewer.tolist() == one[:3]


def test_patches_of_many_shards_come_back_and_few_are_held_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SHARD_BYTES", 3 * 20 * 20)
    monkeypatch.setattr(storage, "CHUNK_PX", 16)  # 20 px are no whole number of chunks
    all_pixels = np.random.default_rng(0).integers(0, 255, (8, 1, 20, 20), dtype=np.uint8)
    alive = []

    def coming():
        for i, pixels in enumerate(all_pixels):
            mine = pixels.copy()
            alive.append(weakref.ref(mine))
            yield Patch((i, 2 * i), mine)
            del mine
            assert sum(ref() is not None for ref in alive) <= 4

    assert write_patches(tmp_path / "s.zarr", coming(), (11, 1, 20, 20), "uint8", {"value_range": [0, 255]}) == 8
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    assert np.array_equal(group["pixels"], all_pixels)
    assert group["corners"][:].tolist() == [[i, 2 * i] for i in range(8)]
    assert len([path for path in (tmp_path / "s.zarr" / "pixels" / "c").rglob("*") if path.is_file()]) == 3
    drawn = PatchStore(tmp_path / "s.zarr").square(np.random.default_rng(0), 20)
    assert any(np.allclose(drawn, pixels / 127.5 - 1, atol=1e-6) for pixels in all_pixels.astype(np.float32))
    assert PatchStore(tmp_path / "s.zarr").square(np.random.default_rng(0), 7).shape == (1, 7, 7)
    with pytest.raises(ValueError, match="no square of 21 px"):
        PatchStore(tmp_path / "s.zarr").square(np.random.default_rng(0), 21)


def test_an_interrupted_gathering_leaves_nothing_that_looks_finished(scan, tmp_path, monkeypatch):
    whole = gathered(scan, tmp_path / "whole.zarr")[0]
    out = tmp_path / "s1.zarr"
    with monkeypatch.context() as patch:
        read = TiffImage._read
        left = iter([True] * 5)
        patch.setattr(TiffImage, "_read", lambda image, box: read(image, box) if next(left, None) else interrupt())
        with pytest.raises(KeyboardInterrupt):
            gathered(scan, out)
    assert not out.exists()
    assert not manifest_of(out).exists()
    assert np.array_equal(gathered(scan, out)[0], whole)
    assert not list(tmp_path.glob(".*"))


def interrupt():
    raise KeyboardInterrupt


def test_a_section_without_intact_tissue_gives_an_empty_store_and_a_warning(scan, tmp_path, caplog):
    pixels, corners, _ = gathered(scan, tmp_path / "s1.zarr", patch_px=256)
    assert pixels.shape == (0, 1, 256, 256)
    assert corners.shape == (0, 2)
    assert "0 of 30 patches of 256 px" in caplog.text


def test_nothing_but_a_patch_store_is_replaced(scan, tmp_path):
    image = tmp_path / "scans" / "scan.tif"
    image.parent.mkdir()
    image.write_bytes(scan[0].read_bytes())
    for out in (image, image.parent, image / "within.zarr", scan[1]):
        with pytest.raises(InputError, match="would overwrite"):
            gather_patches(image, scan[1:], settings_from(SETTINGS), out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="expected nothing or a patch store"):
        gather_patches(image, scan[1:], settings_from(SETTINGS), tmp_path / "other")
    assert (tmp_path / "other" / "letter.txt").exists()
    assert image.exists()


def test_a_touched_scan_is_not_gathered_again_and_a_changed_one_is(scan, tmp_path):
    image, out = tmp_path / "scan.tif", tmp_path / "s1.zarr"
    image.write_bytes(scan[0].read_bytes())
    what = (image, scan[1:], settings_from(SETTINGS), out)
    gather_patches(*what)
    (out / "mark").touch()
    os.utime(image, ns=(0, 0))
    assert not is_gathered(*what)
    gather_patches(*what)
    assert is_gathered(*what)
    assert (out / "mark").exists()
    image.write_bytes(image.read_bytes() + b"more")
    gather_patches(*what)
    assert not (out / "mark").exists()


def test_planning_does_not_depend_on_gathering_nor_gathering_on_planning():
    assert "cytomend.stages.plan_section" not in _reached("cytomend.stages.gather_patches")
    assert "cytomend.stages.gather_patches" not in _reached("cytomend.stages.plan_section")


# Training from a sheet


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """A function that writes a sheet of four phantom sections and a training file, changed as said."""
    folder = tmp_path_factory.mktemp("sheet")
    rows = []
    for i, name in enumerate(("left", "middle", "right", "rest")):
        image, mask = write_scan(folder, name, seed=i)
        rows.append({"section": name, "image": str(image), "annotation": str(mask), "pixel_size_um": "1.0"})

    def write(*, first=None, count=4, source=None, **changes):
        number = len(list(folder.iterdir()))
        path = folder / f"sections-{number}.tsv"
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, ["section", "image", "annotation", "pixel_size_um"], delimiter="\t")
            table.writeheader()
            table.writerows([{**rows[0], **(first or {})}, *rows[1:count]])
        training = {
            "network": {"widths": [8, 16], "attention": [1], "heads": 2},
            "window_px": 32,
            "steps": 4,
            "batch": 4,
            "report_every": 2,
            "validation_patches": 4,
            "sources": [
                {"sheet": str(path), "patch_px": 48, "patches_per_section": 12, "licence": "CC0", **(source or {})}
            ],
            **changes,
        }
        (folder / f"train-{number}.yaml").write_text(yaml.safe_dump(training))
        return folder / f"train-{number}.yaml"

    write.folder = folder
    return write


@pytest.fixture(autouse=True)
def quick_samples(monkeypatch):
    monkeypatch.setattr(train_stage, "draw_samples", lambda _denoiser, _held_out, path: path.write_bytes(b"samples"))


def test_a_section_of_several_annotations_is_learned_from_and_a_screened_one_is_not(sheet, tmp_path):
    (sheet.folder / "other.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    both = f"{sheet.folder / 'left-mask.tif'};{sheet.folder / 'other.geojson'}"
    section = read_training_file(sheet(first={"annotation": both})).sections["left"]
    assert section.annotations == (sheet.folder / "left-mask.tif", sheet.folder / "other.geojson")
    gather_patches(section.image, section.annotations, settings_from(section.gather), tmp_path / "left.zarr")
    assert PatchStore(tmp_path / "left.zarr").patches > 0
    with pytest.raises(InputError, match="look at proposals before they are trusted"):
        read_training_file(sheet(first={"annotation": "auto"}))


def test_a_training_file_says_which_sections_are_learned_from(sheet):
    training = read_training_file(sheet())
    sides = {name: section.side for name, section in training.sections.items()}
    assert set(sides) == {"left", "middle", "right", "rest"}
    assert {name for name, side in sides.items() if side == "validation"} == held_out(sides, 0.1)
    assert all(section.gather["grow_px"] == 3 for section in training.sections.values())


def test_one_command_trains_from_a_sheet_and_resumes(sheet, tmp_path):
    words = ["train", str(sheet()), "--device", "cpu", "--out", str(tmp_path / "model"), "--workers", "2"]
    assert main(words) == 0
    record = load_settings(tmp_path / "model" / "model.safetensors").training
    (source,) = record["sources"]
    learned, kept = source["sources"]["sections"], source["validation"]["sections"]
    assert set(learned) | set(kept) == {"left", "middle", "right", "rest"}
    assert not set(learned) & set(kept)
    assert not {*learned.values()} & {*kept.values()}
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert f"patches of 48 px from {len(learned)} section(s)" in card
    assert ", ".join(sorted(kept)) in card
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert main(words) == 0
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_training_never_sees_what_is_held_out(sheet, tmp_path):
    training = read_training_file(sheet())
    for section in training.sections.values():
        gather_patches(
            section.image, section.annotations, settings_from(section.gather), tmp_path / f"{section.section}.zarr"
        )
    data = read_data(training, tmp_path)
    sides = [{store.facts["section"] for store in side} for side in (data.sources, data.validation)]
    assert sides == [{n for n, s in training.sections.items() if s.side == side} for side in ("sources", "validation")]
    assert sum(store.weight for store in data.sources) == pytest.approx(1)


def test_stores_are_known_by_content_and_a_lost_file_is_missed(sheet, tmp_path, monkeypatch):
    training = read_training_file(sheet())
    sections = training.sections.values()
    calls = {
        name: [
            (s.image, s.annotations, settings_from(s.gather), tmp_path / name / f"{s.section}.zarr") for s in sections
        ]
        for name in ("one", "two")
    }
    for name, version in (("one", "1.0"), ("two", "2.0")):
        monkeypatch.setattr(gathering, "__version__", version)
        for call in calls[name]:
            gather_patches(*call)
    assert read_data(training, tmp_path / "one").identity == read_data(training, tmp_path / "two").identity
    call = calls["two"][0]
    assert is_gathered(*call)
    next(path for path in (call[3] / "pixels" / "c").rglob("*") if path.is_file()).unlink()
    assert not is_gathered(*call)
    with pytest.raises(InputError, match=r"1 of its files are lost, such as pixels/c/.*; delete the store and gather"):
        read_data(training, tmp_path / "two")
    gather_patches(*call)
    assert is_gathered(*call)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 1}, "1 section(s) in it, expected at least two"),
        ({"source": {"patch_px": 24}}, "sources.0.patch_px is 24, expected at least window_px, 32"),
        ({"source": {"validation_share": 0}}, "validation is empty"),
        ({"source": {"patches": 3}}, "sources.0"),
        ({"source": {"patch_px": 256}}, "no patch of sources is intact and shows tissue"),
        ({"first": {"pixel_size_um": "2"}}, "row 2: pixel_size_um is 2, the model was trained at 1"),
        ({"first": {"image": "nowhere.tif"}}, "row 2: image nowhere.tif: no such file"),
        ({"first": {"section": "right"}}, "section 'right' stands in row 2 already"),
        (
            {"network": {"channels": 3, "widths": [8, 16], "attention": [1]}},
            "has 1 channels, expected 3 (network.channels",
        ),
    ],
)
def test_a_sheet_that_cannot_be_used_is_refused(sheet, tmp_path, capsys, changes, words):
    path = sheet(**changes)
    assert main(["train", str(path), "--device", "cpu", "--out", str(tmp_path / "model")]) == 2
    assert words in capsys.readouterr().err


def test_the_same_scan_in_two_sections_on_both_sides_is_refused_even_as_a_copy(sheet, tmp_path, capsys):
    sections = read_training_file(sheet()).sections
    other = next(section for section in sections.values() if section.side != sections["left"].side)
    copy = tmp_path / "copy.tif"
    copy.write_bytes(other.image.read_bytes())
    for image in (other.image, copy):
        path = sheet(first={"image": str(image)})
        assert main(["train", str(path), "--device", "cpu", "--out", str(tmp_path / "model")]) == 2
        assert "both show the same tissue; hold out another section" in capsys.readouterr().err


def test_stores_of_other_settings_or_none_are_refused(sheet, tmp_path, capsys):
    training = read_training_file(sheet())
    words = ["train", str(training.path), "--device", "cpu", "--out", str(tmp_path / "m"), "--patches", str(tmp_path)]
    assert main(words) == 2
    assert "left.manifest.json: expected the manifest of a finished result" in capsys.readouterr().err
    for section in training.sections.values():
        gather = settings_from({**section.gather, "patch_px": 40})
        gather_patches(section.image, section.annotations, gather, tmp_path / f"{section.section}.zarr")
    assert main(words) == 2
    assert "patch_px is 40, expected 48; gather the patches of section" in capsys.readouterr().err


def test_nothing_is_learned_from_a_mended_section(scan, tmp_path):
    mended = zarr.open_group(tmp_path / "mended.ome.zarr", mode="w", zarr_format=3)
    mended.create_array("0", data=tifffile.imread(scan[0]))
    scale = [{"type": "scale", "scale": [1.0, 1.0]}]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    mended.attrs.update(
        {"ome": {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}, "cytomend": {}}
    )
    with pytest.raises(InputError, match="nothing is learned from synthetic pixels"):
        gather_patches(tmp_path / "mended.ome.zarr", scan[1:], settings_from(SETTINGS), tmp_path / "s1.zarr")
    assert not (tmp_path / "s1.zarr").exists()


def test_the_command_of_a_section_gathers_it(scan, tmp_path):
    words = ["gather-patches", "--image", str(scan[0]), "--annotation", str(scan[1]), "--source", "0" * 64]
    assert main([*words, "--settings", json.dumps(SETTINGS), "--out", str(tmp_path / "s1.zarr")]) == 0
    assert PatchStore(tmp_path / "s1.zarr").facts["blake2b"] == "0" * 64
