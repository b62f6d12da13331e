"""The proof of a corrected section: a good one passes, and every planted fault is found and named."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import zarr
from conftest import blobs, mend_by_stages, plan_settings, write_tiff

from cytomend.cli import main
from cytomend.errors import InputError
from cytomend.regions.plan import Plan
from cytomend.stages.plan_section import plan_section
from cytomend.stages.verify_section import verify_section
from cytomend.storage import images
from cytomend.storage.ome_metadata import misplaced, ome_of, unlisted_labels
from cytomend.storage.proof import IMAGE, MENDED, Layer, Proof
from cytomend.storage.publish import CHECKSUMS, manifest_of
from cytomend.storage.pyramid import Grid, Pyramid, halve_by_maximum, halve_by_mean
from cytomend.verdict import CHECKS, Verdict

pytest.importorskip("yaozarrs")

TILE_PX = 128
MASK = blobs((301, 267), (40, 50, 52, 90), (100, 20, 130, 31), (0, 250, 9, 267), (128, 128, 140, 133))


@dataclass(frozen=True)
class Made:
    """A mended section on disk."""

    folder: Path
    image: Path

    @property
    def plan(self):
        return self.folder / "plan"

    @property
    def corrected(self):
        return self.folder / "corrected.ome.zarr"

    def verdict(self, **others):
        """The verdict, read in tiles so small that there are several."""
        paths = {"image_path": self.image, "plan_folder": self.plan, "corrected": self.corrected, **others}
        return verify_section(**paths, tile_px=TILE_PX)

    def wrong(self, **others):
        """The names of the checks that fail."""
        return {check.check for check in self.verdict(**others).checks if not check.holds}

    def array(self, name):
        return zarr.open_array(self.corrected / name, mode="r+")

    def edit(self, name, change):
        """Change the metadata of a group or array."""
        path = self.corrected / name / "zarr.json"
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    def seal(self, folder=None):
        """Write the checksums anew, as if the fault had been there when the result was written."""
        seal(folder or self.corrected)
        return self


def seal(folder):
    names = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)
    listing = "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}\t{p.relative_to(folder)}\n" for p in names)
    (folder / CHECKSUMS).write_text(listing)
    record = json.loads(manifest_of(folder).read_text())
    record["sha256"] = hashlib.sha256(listing.encode()).hexdigest()
    manifest_of(folder).write_text(json.dumps(record))


@pytest.fixture(scope="module")
def mended(tmp_path_factory, tiny_model):
    """A function that mends a section once for all tests of a kind; see `made`."""
    from conftest import make_section

    kept = {}

    def mend(mask="usual", dtype="uint8", channels=1, samples=1, decisions=()):
        kind = (mask, dtype, channels, samples, str(decisions))
        if kind not in kept:
            folder = tmp_path_factory.mktemp("mended")
            section = make_section._get_wrapped_function()(folder)(MASKS[mask], dtype, channels)
            plan = plan_settings(
                model_channels=channels, samples=samples, decisions=[dict(one) for one in decisions], pixel_size_um=0.5
            )
            mend_by_stages(section, tiny_model(channels), folder, plan=plan)
            kept[kind] = folder
        return kept[kind]

    return mend


MASKS = {
    "usual": MASK,
    "none": np.zeros((150, 131), bool),
    "one row": blobs((1, 290), (0, 30, 1, 44)),
    "a whole tile": blobs((300, 300), (120, 120, 270, 270)),
}


@pytest.fixture
def made(mended, tmp_path):
    """A function that gives a mended section of its own to a test, to be spoilt."""

    def copy(*kind, **settings):
        folder = tmp_path / "made"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(mended(*kind, **settings), folder)
        return Made(folder, folder / "scan.tif")

    return copy


# What is right passes


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"channels": 3},
        {"dtype": "uint16"},
        {"dtype": "uint16", "channels": 3, "samples": 2},
        {"samples": 3},
        {"mask": "none"},
        {"mask": "one row"},
        {"mask": "a whole tile"},
    ],
    ids=str,
)
def test_a_good_result_passes_and_every_pixel_is_accounted_for(made, kind):
    one = made(**kind)
    verdict = one.verdict()
    assert verdict.wrong == []
    assert verdict.holds
    assert verdict.advice == []
    grown = zarr.open_array(one.plan / "labels.zarr", mode="r")[...] > 0
    assert verdict.pixels == grown.size
    assert verdict.mended_px == grown.sum()
    assert verdict.compared_px == (~grown).sum()
    assert verdict.checksum["scan"] == verdict.checksum["result"]
    names = [check.check for check in verdict.checks]
    asked = {"uncertainty": kind.get("samples", 1) > 1, "grafts": False}  # all of it is drawn
    assert names == [name for name in CHECKS if asked.get(name, True)]


@pytest.mark.parametrize(
    "kind", [{}, {"dtype": "uint16", "channels": 3, "samples": 2}, {"mask": "a whole tile"}], ids=str
)
def test_anyone_can_make_the_checksum_again_from_scan_and_label(made, kind):
    one = made(**kind)
    scan, label = tifffile.imread(one.image), zarr.open_array(one.corrected / "labels/mended/0", mode="r")[...]
    tiles = b""
    for y in range(0, label.shape[0], TILE_PX):
        for x in range(0, label.shape[1], TILE_PX):
            here = np.s_[y : y + TILE_PX, x : x + TILE_PX]
            values = scan[here][label[here] == 0].astype(scan.dtype.newbyteorder("<"))  # (n,) or (n, channels)
            tiles += hashlib.sha256(np.moveaxis(values, -1, 0).tobytes()).digest()
    checksum = one.verdict().checksum
    assert checksum["scan"] == hashlib.sha256(tiles).hexdigest()
    assert f"{TILE_PX} px" in checksum["how"]


def test_the_checksum_does_not_depend_on_how_the_result_is_cut(made, tmp_path):
    one = made()
    before = one.verdict().checksum
    group = zarr.open_group(tmp_path / "other", mode="w")
    pixels = one.array("0")[...]
    Pyramid.create(group, None, pixels.shape, pixels.dtype, Grid(64, 64), halve_by_mean).fill(
        lambda b: pixels[b.slices]
    )
    layers = {
        IMAGE: Layer([group["0"]], halve_by_mean),
        MENDED: Layer([one.array("labels/mended/0")], halve_by_maximum),
    }
    label = one.array("labels/mended/0")[...]
    found = Proof(
        pixels.shape,
        lambda b: pixels[None, b.y0 : b.y1, b.x0 : b.x1],
        lambda b: label[b.slices],
        layers,
        tile_px=TILE_PX,
    ).run()
    assert found.result_sha256 == before["result"]


def test_the_verdict_is_read_back_as_it_was_written(made):
    one = made(samples=2)
    out = one.folder / "verdict.json"
    options = {"image": one.image, "plan": one.plan, "corrected": one.corrected, "out": out, "key": "k1"}
    assert main(["verify-section", *(f"--{name}={value}" for name, value in options.items())]) == 0
    verdict = Verdict.read(out)
    assert verdict.key == "k1"
    assert verdict.holds
    assert verdict.versions["validator"].startswith("yaozarrs ")
    assert json.loads(out.read_text())["checks"][0]["check"] == "scan"
    out.write_text("{")
    with pytest.raises(InputError, match=r"verdict\.json: expected the verdict"):
        Verdict.read(out)


def test_regions_that_were_left_are_the_scan(made):
    row = Plan.read(made().plan).regions.query("region == 2").iloc[0]
    box = [int(row[name]) for name in ("y0_px", "x0_px", "y1_px", "x1_px")]
    left = {"region": 2, "box": box, "area_px": int(row["area_px"]), "decision": "leave", "draw": 0}
    one = made(decisions=[left])
    verdict = one.verdict()
    assert verdict.wrong == []
    labels = Plan.read(one.plan).labels[...]
    assert verdict.mended_px == ((labels > 0) & (labels != 2)).sum()
    assert verdict.compared_px == ((labels == 0) | (labels == 2)).sum()
    y, x = np.argwhere(labels == 2)[0]
    flip(one.array("0"), y, x)
    assert one.verdict().first_altered == [(y, x)]
    one.array("labels/mended/0")[y, x] = 2
    assert {"labels", "files"} <= one.wrong()


# What is wrong is found and named


def flip(array, *place):
    array[place] = array[place] ^ 1


def alter(name, *place):
    return lambda one: flip(one.array(name), *place)


def image_entry(record):
    return record["attributes"]["ome"]["multiscales"][0]


def scale(level, values):
    def change(record):
        image_entry(record)["datasets"][level]["coordinateTransformations"][0]["scale"] = values

    return change


def drop(*path):
    def change(record):
        for name in path[:-1]:
            record = record[name]
        del record[path[-1]]

    return change


OME = ("attributes", "ome")
ENTRY = (*OME, "multiscales", 0)

PIXEL_FAULTS = {
    "a pixel of the scan": (alter("0", 200, 133), {"untouched", "levels"}, "found 1 px altered, first at y 200, x 133"),
    "the last pixel": (alter("0", 300, 266), {"untouched", "levels"}, "first at y 300, x 266"),
    "a label": (alter("labels/mended/0", 45, 60), {"labels"}, "found 1 px with others, first at y 45, x 60"),
    "a pixel missing from the label": (
        lambda one: one.array("labels/mended/0").__setitem__((45, 60), 0),
        {"labels", "untouched"},
        "px marked as mended",
    ),
    "a pixel too many in the label": (
        lambda one: one.array("labels/mended/0").__setitem__((200, 200), 1),
        {"labels", "levels"},
        "first at y 200, x 200",
    ),
    "a pixel of level 1": (
        alter("1", 150, 133),
        {"levels"},
        "made of those of level 0, found 1 others, first at y 150",
    ),
    "a pixel of level 2": (alter("2", 75, 66), {"levels"}, "2: expected pixels made of those of level 1"),
    "a label of level 1": (alter("labels/mended/1", 22, 30), {"levels"}, "mended/1: expected pixels made of those"),
    "a label of level 3 lost": (
        lambda one: one.array("labels/mended/3").__setitem__((slice(None), slice(None)), 0),
        {"levels"},
        "mended/3: expected",
    ),
}


@pytest.mark.parametrize("fault", PIXEL_FAULTS)
def test_a_wrong_pixel_is_found_although_the_checksums_fit(made, fault):
    spoil, checks, sentence = PIXEL_FAULTS[fault]
    one = made()
    spoil(one)
    verdict = one.seal().verdict()
    found = {check.check for check in verdict.checks if not check.holds}
    assert checks <= found <= checks | {"levels"}
    assert sentence in " ".join(verdict.wrong)
    assert not verdict.holds
    assert "report it as a bug" in verdict.advice[-1]
    if "untouched" in checks:
        assert verdict.checksum["scan"] != verdict.checksum["result"]


@pytest.mark.parametrize("fault", PIXEL_FAULTS)
def test_a_pixel_altered_later_is_found_by_the_checksums_too(made, fault):
    one = made()
    PIXEL_FAULTS[fault][0](one)
    assert "files" in one.wrong()


def test_one_channel_of_a_pixel_is_enough(made):
    one = made(channels=3)
    flip(one.array("0"), 2, 200, 133)
    verdict = one.verdict()
    assert (verdict.altered_px, verdict.first_altered) == (1, [(200, 133)])


def test_the_lowest_of_sixteen_bits_is_enough(made):
    one = made(dtype="uint16")
    flip(one.array("0"), 7, 7)
    assert one.verdict().first_altered == [(7, 7)]


def test_mended_pixels_may_be_anything_but_their_levels_may_not(made):
    one = made()
    one.array("0")[44:46, 60:62] ^= 128
    assert one.seal().wrong() == {"levels"}


UNCERTAINTY_FAULTS = {
    "outside the mask": (alter("labels/uncertainty/0", 200, 133), {"uncertainty", "levels"}),
    "another mean": (
        lambda one: one.edit("labels/uncertainty", lambda r: r["attributes"]["cytomend"].update(mean=3.0)),
        {"uncertainty"},
    ),
    "its level": (alter("labels/uncertainty/2", 12, 15), {"levels"}),
    "not listed": (
        lambda one: one.edit("labels", lambda r: r["attributes"]["ome"].update(labels=["mended"])),
        {"metadata"},
    ),
}


@pytest.mark.parametrize("fault", UNCERTAINTY_FAULTS)
def test_a_wrong_uncertainty_is_found(made, fault):
    spoil, checks = UNCERTAINTY_FAULTS[fault]
    one = made(samples=2)
    spoil(one)
    assert one.seal().wrong() == checks


FILE_FAULTS = {
    "a shard is gone": (lambda one: (one.corrected / "0/c/1/1").unlink(), {"untouched", "levels"}, "missing: 0/c/1/1"),
    "a shard of labels is gone": (
        lambda one: (one.corrected / "labels/mended/0/c/0/0").unlink(),
        {"labels", "untouched", "levels"},
        "missing: labels/mended/0/c/0/0",
    ),
    "a shard is cut off": (
        lambda one: (one.corrected / "0/c/1/1").write_bytes((one.corrected / "0/c/1/1").read_bytes()[:-7]),
        {"untouched", "levels"},  # nobody knows what the levels above should be made of
        "altered or damaged: 0/c/1/1",
    ),
    "a shard is empty": (lambda one: (one.corrected / "2/c/0/0").write_bytes(b""), {"levels"}, "damaged: 2/c/0/0"),
    "a folder that lies elsewhere": (
        lambda one: (one.corrected / "labels" / "more").symlink_to(one.folder),
        set(),
        "found also: labels/more",
    ),
    "a file too many": (lambda one: (one.corrected / "notes.txt").write_text("hi"), set(), "found also: notes.txt"),
    "a shard too many": (
        lambda one: shutil.copy(one.corrected / "0/c/0/0", one.corrected / "0/c/0/9"),
        set(),
        "found also: 0/c/0/9",
    ),
    "no checksums": (lambda one: (one.corrected / CHECKSUMS).unlink(), set(), f"missing: {CHECKSUMS}"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_a_file_that_is_lost_damaged_or_too_many_is_named(made, fault):
    spoil, others, sentence = FILE_FAULTS[fault]
    one = made()
    spoil(one)
    verdict = one.verdict()
    found = {check.check for check in verdict.checks if not check.holds}
    assert found - {"levels", "metadata"} == {"files"} | others - {"levels", "metadata"}
    assert others <= found
    assert sentence in " ".join(verdict.wrong)
    assert verdict.advice == [f"Do not use {one.corrected}. Delete {manifest_of(one.corrected)} and run again."]


METADATA_FAULTS = {
    "scale": (
        "",
        scale(1, [3.0, 3.0]),
        {"metadata"},
        "image, level 1: expected the scale [1.0, 1.0] µm, found [3.0, 3.0]",
    ),
    "scale of all levels": (
        "",
        lambda r: image_entry(r).update(coordinateTransformations=[{"type": "scale", "scale": [2.0, 2.0]}]),
        {"metadata"},
        "image: expected a scale of each level and none of all",
    ),
    "scale of the scan": ("", scale(0, [1.0, 1.0]), {"metadata"}, "level 0: expected the scale [0.5, 0.5] µm"),
    "scale of a label": (
        "labels/mended",
        scale(2, [1.0, 2.0]),
        {"metadata"},
        "labels/mended, level 2: expected the scale",
    ),
    "place": (
        "",
        lambda r: image_entry(r)["datasets"][1]["coordinateTransformations"].pop(),
        {"metadata"},
        "level 1: expected the translation [0.25, 0.25] µm, found [0.0, 0.0]",
    ),
    "unit": ("", lambda r: image_entry(r)["axes"][0].update(unit="millimeter"), {"metadata"}, "found y (millimeter)"),
    "no axes": ("", drop(*ENTRY, "axes"), {"metadata"}, "expected the axes y (micrometer), x (micrometer), found none"),
    "one axis": ("", drop(*ENTRY, "axes", 0), {"metadata"}, "found x (micrometer)"),
    "version": ("", lambda r: r["attributes"]["ome"].update(version="0.4"), {"metadata"}, "version 0.5, found '0.4'"),
    "no version of a label": (
        "labels/mended",
        drop(*OME, "version"),
        {"metadata"},
        "labels/mended: expected OME-Zarr version",
    ),
    "a level less": ("", drop(*ENTRY, "datasets", 3), {"metadata"}, "expected the levels 0 to 3, found 0, 1, 2"),
    "no list of labels": ("labels", drop("attributes", "ome"), {"metadata"}, "expected the list of labels"),
    "a label of nothing": (
        "labels/mended",
        drop(*OME, "image-label"),
        {"metadata"},
        "to be a label of the image at ../../",
    ),
    "no channels' window": ("", drop(*OME, "omero", "channels", 0, "window"), {"metadata"}, "yaozarrs"),
    "dimension names": ("1", lambda r: r.update(dimension_names=["x", "y"]), {"metadata"}, "('x', 'y')"),
    "shape": (
        "1",
        lambda r: r.update(shape=[151, 130]),
        {"metadata", "levels"},
        "expected (151, 134) uint8, found (151, 130)",
    ),
    "type": (
        "labels/mended/0",
        lambda r: r.update(data_type="uint16"),
        {"metadata", "labels", "levels"},
        "expected (301, 267) uint32, found (301, 267) uint16",
    ),
    "no provenance": ("", drop("attributes", "cytomend"), {"provenance"}, "expected how the section was mended"),
    "another scan": (
        "",
        lambda r: r["attributes"]["cytomend"].update(source_blake2b="0"),
        {"provenance"},
        "cytomend: expected source_blake2b",
    ),
    "fewer mended": ("", lambda r: r["attributes"]["cytomend"].update(mended_px=1), {"provenance"}, "found 1"),
    "no seed": ("", drop("attributes", "cytomend", "seed"), {"provenance"}, "expected seed"),
    "no checkpoint": (
        "",
        lambda r: r["attributes"]["cytomend"].update(checkpoint_sha256=""),
        {"provenance"},
        "checkpoint_sha256",
    ),
}


@pytest.mark.parametrize("fault", METADATA_FAULTS)
def test_wrong_metadata_are_named_although_the_checksums_fit(made, fault):
    where, change, checks, sentence = METADATA_FAULTS[fault]
    one = made()
    one.edit(where, change)
    verdict = one.seal().verdict()
    assert {check.check for check in verdict.checks if not check.holds} == checks
    assert sentence in " ".join(verdict.wrong)


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        ("", {"files", "metadata", "provenance"}),
        ("0", {"files", "metadata", "untouched", "levels"}),
        ("2", {"files", "metadata", "levels"}),
        ("labels", {"files", "metadata"}),
        ("labels/mended", {"files", "metadata"}),
        ("labels/mended/0", {"files", "metadata", "labels", "levels"}),
    ],
)
def test_damaged_metadata_are_named_and_the_rest_is_looked_at_still(made, name, checks):
    one = made()
    (one.corrected / name / "zarr.json").write_text("{ damaged")
    assert one.wrong() == checks


def test_a_level_that_is_gone_is_named(made):
    one = made()
    shutil.rmtree(one.corrected / "2")
    verdict = one.verdict()
    assert {check.check for check in verdict.checks if not check.holds} == {"files", "metadata", "levels"}
    assert any(sentence.startswith(f"{one.corrected / '2'}: expected an array") for sentence in verdict.wrong)


def nodes(value, path=()):
    """The paths of all entries of nested lists and objects."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from nodes(child, (*path, key))


@pytest.mark.parametrize("group", ["", "labels", "labels/mended"])
def test_metadata_of_any_form_are_told_of_in_words(made, group):
    one = made()
    path = one.corrected / group / "zarr.json"
    whole = path.read_text()
    for place in nodes(json.loads(whole)):
        for strange in (None, [], {}, [None], [[1]], {"a": 1}, "x", -1, 1e300, True):
            record = json.loads(whole)
            owner = record
            for key in place[:-1]:
                owner = owner[key]
            owner[place[-1]] = strange
            path.write_text(json.dumps(record))
            ome_of(path.parent)
            for name, store in (("image", one.corrected), ("mended", one.corrected / "labels/mended")):
                found = misplaced(store, name=name, levels=4, channels=1, pixel_size_um=0.5)
                assert all(isinstance(sentence, str) for sentence in found)
            assert all(isinstance(sentence, str) for sentence in unlisted_labels(one.corrected, ["mended"]))


def test_without_a_validator_there_is_no_verdict(made, monkeypatch, capsys):
    one = made()
    monkeypatch.setitem(sys.modules, "yaozarrs", None)
    options = {"image": one.image, "plan": one.plan, "corrected": one.corrected, "out": one.folder / "verdict.json"}
    assert main(["verify-section", *(f"--{name}={value}" for name, value in options.items())]) == 1
    assert "expected the package yaozarrs" in capsys.readouterr().err


# Another scan, another plan


def test_another_scan_of_the_same_size_is_named_and_the_result_is_not_blamed(made, tmp_path):
    one = made()
    other = write_tiff(tmp_path / "other.tif", tifffile.imread(one.image) ^ 1)
    verdict = one.verdict(image_path=other)
    assert {check.check for check in verdict.checks if not check.holds} == {"scan", "untouched"}
    assert verdict.altered_px == verdict.compared_px
    assert "expected the scan that was planned" in verdict.wrong[0]
    assert len(verdict.advice) == 1
    assert verdict.advice[0].startswith("Put back the scan")


@pytest.mark.parametrize("change", [lambda p: p[:-1], lambda p: p.astype("uint16"), lambda p: np.stack([p] * 3, -1)])
def test_a_scan_that_cannot_be_compared_is_named_and_labels_are_looked_at_still(made, tmp_path, change):
    one = made()
    other = write_tiff(tmp_path / "other.tif", change(tifffile.imread(one.image)))
    verdict = one.verdict(image_path=other)
    assert {check.check for check in verdict.checks if not check.holds} == {"scan", "untouched"}
    assert verdict.compared_px == 0
    assert verdict.checksum["scan"] is None
    assert any("could compare 0 only" in sentence for sentence in verdict.wrong)


def test_a_scan_that_is_damaged_somewhere_is_named_with_the_place(made):
    one = made()
    data = bytearray(one.image.read_bytes())
    with tifffile.TiffFile(one.image) as file:
        offsets = file.pages[0].tags["TileOffsets"]
        at = offsets.valueoffset + 4 * (len(offsets.value) - 1)
    data[at : at + 4] = b"\xff\xff\xff\x7f"
    one.image.write_bytes(data)
    try:
        verdict = one.verdict()
    except InputError:
        return  # found out as the file was opened
    assert {"scan", "untouched"} <= {check.check for check in verdict.checks if not check.holds}
    assert verdict.checksum["scan"] is None


def test_a_plan_of_another_mask_is_named(made):
    one = made()
    mask = write_tiff(one.folder / "mask-2.tif", np.roll(MASK, 5, axis=0).astype(np.uint8) * 255)
    shutil.rmtree(one.plan)
    plan_section(one.image, mask, plan_settings(pixel_size_um=0.5), one.plan)
    verdict = one.verdict()
    found = {check.check for check in verdict.checks if not check.holds}
    assert found >= {"files", "provenance", "labels"}
    assert found <= {"files", "provenance", "labels", "metadata"}
    said = " ".join(verdict.wrong)
    assert "corrected.manifest.json: expected plan" in said
    assert "expected mask_blake2b" in said


def test_a_damaged_plan_proves_nothing(made):
    one = made()
    chunk = next(path for path in (one.plan / "labels.zarr").rglob("*") if path.is_file() and path.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:20])
    verdict = one.verdict()
    found = {check.check for check in verdict.checks if not check.holds}
    assert {"plan", "labels"} <= found
    assert verdict.advice == [
        f"Delete {manifest_of(one.plan)} and run again: the plan cannot be trusted, nor what was made from it."
    ]


@pytest.mark.parametrize("name", ["plan", "corrected.ome.zarr", "plan.manifest.json", "corrected.manifest.json"])
def test_what_is_unfinished_has_no_verdict(made, name, capsys):
    one = made()
    path = one.folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    options = {"image": one.image, "plan": one.plan, "corrected": one.corrected, "out": one.folder / "verdict.json"}
    assert main(["verify-section", *(f"--{name}={value}" for name, value in options.items())]) == 2
    assert str(path) in capsys.readouterr().err
    assert not (one.folder / "verdict.json").exists()


def test_a_result_of_other_settings_has_no_verdict(made, capsys):
    one = made()
    options = {"image": one.image, "plan": one.plan, "corrected": one.corrected, "out": one.folder / "verdict.json"}
    words = ["verify-section", *(f"--{name}={value}" for name, value in options.items())]
    assert main([*words, "--after", "another"]) == 2
    assert "made from other files, settings or code" in capsys.readouterr().err


def test_a_wrong_result_is_no_error_of_the_stage(made):
    one = made()
    flip(one.array("0"), 200, 133)
    out = one.folder / "verdict.json"
    options = {"image": one.image, "plan": one.plan, "corrected": one.corrected, "out": out}
    assert main(["verify-section", *(f"--{name}={value}" for name, value in options.items())]) == 0
    assert not Verdict.read(out).holds


# For people


@pytest.fixture
def run(made, tmp_path):
    """A run of one section, with configuration and sheet, and what `cytomend verify` says of it."""
    one = made()
    results = tmp_path / "results"
    results.mkdir()
    one.folder.rename(results / "s1")
    one = Made(results / "s1", results / "s1" / "scan.tif")
    sheet, config = tmp_path / "sections.tsv", tmp_path / "config.yaml"
    sheet.write_text(f"section\timage\tannotation\tpixel_size_um\ns1\t{one.image}\t{one.image}\t0.5\n")
    config.write_text(f"sections: {sheet}\n")
    return SimpleNamespace(made=one, words=["verify", "s1", f"--results={results}", f"--configfile={config}"])


def test_verify_finds_everything_by_the_name_and_says_that_all_is_well(run, capsys):
    assert main(run.words) == 0
    said = capsys.readouterr().out
    assert "corrected.ome.zarr can be trusted" in said
    assert "yes  every pixel outside the mask equals the scan, bit for bit" in said
    assert "NO" not in said


def test_verify_ends_with_one_if_anything_is_wrong(run, capsys):
    flip(run.made.array("0"), 200, 133)
    with pytest.raises(SystemExit) as stopped:
        main(run.words)
    assert stopped.value.code == 1
    said = capsys.readouterr().out
    assert "IS WRONG" in said
    assert "NO   every pixel outside the mask equals the scan" in said
    assert "1 of them differ" in said
    assert "Do not use" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["verify", "s2"], "expected the results of section 's2'"),
        (["verify", "s1", "s3", "--image=x.tif"], "expected one section with it, found 2"),
    ],
)
def test_verify_says_what_it_cannot_find(run, words, sentence, capsys):
    assert main([*words, *run.words[2:]]) == 2
    assert sentence in capsys.readouterr().err


def test_verify_asks_for_the_image_of_a_section_that_the_sheet_does_not_have(run, capsys):
    results = run.made.folder.parent
    shutil.copytree(run.made.folder, results / "s9")
    assert main(["verify", "s9", *run.words[2:]]) == 2
    assert "give --image" in capsys.readouterr().err
    assert main(["verify", "s9", f"--image={run.made.image}", *run.words[2:]]) == 0


# Memory


def test_no_more_than_a_tile_is_read_at_a_time_and_every_pixel_of_every_level_once(made, monkeypatch):
    one, asked = made(samples=2), list[tuple[str, tuple[int, ...]]]()
    read, scan = zarr.Array.__getitem__, images.SectionImage.read

    def counted(array, selection):
        found = read(array, selection)
        if str(one.corrected) in str(array.store_path):
            asked.append((array.path or str(array.store_path), np.shape(found)))
        return found

    def scanned(image, box):
        if box.shape != (1, 1):  # as it is opened, to see whether it can be decoded
            asked.append(("scan", box.shape))
        return scan(image, box)

    monkeypatch.setattr(zarr.Array, "__getitem__", counted)
    monkeypatch.setattr(images.SectionImage, "read", scanned)
    assert one.verdict().holds
    assert max(max(shape) for _, shape in asked) <= TILE_PX
    total: dict[str, int] = {}
    for name, shape in asked:
        total[name] = total.get(name, 0) + int(np.prod(shape))
    assert total["scan"] == MASK.size
    assert len(total) == 1 + 3 * 4  # the scan; four levels of image, mask, uncertainty
    sizes = [-(-301 // 2**i) * -(-267 // 2**i) for i in range(4)]
    assert sorted(total.values()) == sorted([MASK.size, *sizes * 3])
