"""Training a classifier: it learns, goes on where it was interrupted, and takes what an anatomist has drawn."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import write_tiff
from safetensors.torch import load_file
from scipy import ndimage

from cytomend.classification.areas import LabelledSection, open_areas, read_names
from cytomend.classification.classifiers import open_classifier
from cytomend.classification.patches import LabelledPatches, Phantoms
from cytomend.cli import main
from cytomend.errors import InputError
from cytomend.settings import read_yaml
from cytomend.stages import train_classifier as stage
from cytomend.stages.train_classifier import read_data, read_settings, train_classifier

SIDE = 320


def square(y0, x0, y1, x1, name, **properties):
    corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    classification = {"classification": {"name": name}} if name else {}
    geometry = {"type": "Polygon", "coordinates": [corners]}
    return {"type": "Feature", "properties": {**classification, **properties}, "geometry": geometry}


def make_scan(folder, name, seed, pixel_size_um=1.0):
    """A scan with coarse grain at its left and fine grain at its right, and its areas in both forms."""
    chance = np.random.default_rng(seed)
    coarse, fine = (ndimage.gaussian_filter(chance.standard_normal((SIDE, SIDE)), sigma) for sigma in (4, 1))
    left = np.arange(SIDE)[None, :] < SIDE // 2
    grain = np.where(left, coarse / coarse.std(), fine / fine.std())
    pixels = np.clip(128 + 40 * grain, 0, 255).astype(np.uint8)
    image = write_tiff(folder / f"{name}.tif", pixels, pixel_size_um)
    labels = np.where(left, 3, 7).astype(np.uint8) * np.ones((SIDE, 1), np.uint8)
    labels[:20] = 0
    label_image = write_tiff(folder / f"{name}-areas.tif", labels)
    half = SIDE // 2
    polygons = [square(20, 0, SIDE, half, "coarse"), square(20, half, SIDE, SIDE, "fine")]
    geojson = folder / f"{name}.geojson"
    geojson.write_text(json.dumps({"type": "FeatureCollection", "features": polygons}))
    return {"image": str(image), "geojson": str(geojson), "labels": str(label_image)}


@pytest.fixture
def scans(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({"3": "coarse", "7": "fine", "9": "absent"}))
    (tmp_path / "names.tsv").write_text("value\tname\n3\tcoarse\n7\tfine\n")
    return {name: make_scan(tmp_path, name, seed) for seed, name in enumerate(("s1", "s2", "s3"))}


TINY = {
    "widths": [4, 8],
    "sides_px": [64, 64],
    "patch_px": 64,
    "steps": 20,
    "batch": 8,
    "learning_rate": 0.02,
    "warmup_steps": 2,
    "report_every": 10,
    "validation_patches": 24,
}


def from_scans(scans, **changes):
    """A training file on three scans: areas as GeoJSON for one, as label images for the others."""
    names = str(next(iter(scans.values()))["image"]).replace("s1.tif", "names.json")
    training = [
        {"image": scans["s1"]["image"], "areas": scans["s1"]["geojson"]},
        {"image": scans["s2"]["image"], "areas": scans["s2"]["labels"], "names": names},
    ]
    validation = [
        {"image": scans["s3"]["image"], "areas": scans["s3"]["labels"], "names": names.replace("json", "tsv")}
    ]
    return {**TINY, "training": training, "validation": validation, **changes}


def write(folder, record, name="train.yaml"):
    (folder / name).write_text(yaml.safe_dump(record, sort_keys=False))
    return folder / name


# Learning


def test_it_learns_areas_from_polygons_and_label_images(scans, tmp_path, capsys):
    out = tmp_path / "mine"
    config = write(tmp_path, from_scans(scans))
    assert main(["train-classifier", str(config), "--out", str(out), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip() == str(out / "model.safetensors")
    table = pd.read_csv(out / "loss.tsv", sep="\t")
    assert list(table) == ["step", "seconds", "train_loss", "validation_loss", "top1", "top2"]
    assert table["top1"].max() > 0.9
    classifier = open_classifier(str(out / "model.safetensors"))
    assert (classifier.name, classifier.classes) == ("mine", ("coarse", "fine"))
    make_scan(tmp_path, "s4", 9)
    section = LabelledSection(tmp_path / "s4.tif", tmp_path / "s4.geojson", pixel_size_um=1.0, wanted_um=1.0)
    rng = np.random.default_rng(0)
    for label, name in enumerate(classifier.classes):
        shown = np.stack([section.patch(rng, name, 64, 0.8) for _ in range(12)])
        assert (classifier.predict(shown, 1.0).argmax(1) == label).mean() > 0.8
    card = (out / "MODEL_CARD.md").read_text()
    assert "| class | coarse | fine | patches |" in card
    assert "`s1.tif`, areas `s1.geojson`" in card
    assert str(tmp_path) not in card


def test_an_interrupted_training_gives_the_same_curve(scans, tmp_path, monkeypatch):
    config = write(tmp_path, from_scans(scans))
    train_classifier(config, tmp_path / "whole")
    report, reports = stage.Course._report, []

    def killed_after_one(self, *args):
        report(self, *args)
        reports.append(self.training.steps_done)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage.Course, "_report", killed_after_one)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(config, tmp_path / "parts")
    monkeypatch.undo()
    torch.manual_seed(99)  # nothing may depend on what else was drawn
    train_classifier(config, tmp_path / "parts")
    assert reports == [10]
    tables = (pd.read_csv(tmp_path / name / "loss.tsv", sep="\t") for name in ("whole", "parts"))
    one, two = (table.drop(columns="seconds") for table in tables)
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_finished_training_is_shown_again_and_not_repeated(scans, tmp_path):
    config = write(tmp_path, from_scans(scans, steps=2, report_every=1))
    model = train_classifier(config, tmp_path / "out")
    before = model.read_bytes()
    (tmp_path / "out" / "MODEL_CARD.md").unlink()
    train_classifier(config, tmp_path / "out")
    assert model.read_bytes() == before
    assert (tmp_path / "out" / "MODEL_CARD.md").exists()
    changed = write(tmp_path, from_scans(scans, steps=3, report_every=1))
    with pytest.raises(InputError, match=r"other settings: steps is 3, was 2"):
        train_classifier(changed, tmp_path / "out")
    (tmp_path / "out" / "training.safetensors").unlink()
    with pytest.raises(InputError, match="found a finished model, which would be overwritten"):
        train_classifier(config, tmp_path / "out")


def phantoms(size_px, **seeds):
    """The sides of a training file, on phantoms of these first seeds."""
    return {side: [{"phantom": {"count": 5, "size_px": size_px, "seed": seed}}] for side, seed in seeds.items()}


def test_phantoms_are_a_source_and_the_weights_with_the_lowest_loss_are_kept(tmp_path):
    sides = phantoms(256, training=700_000, validation=690_000)
    classes = {"upper": ["II", "III"], "lower": ["IV", "V", "VI"]}
    config = write(tmp_path, {**TINY, "steps": 4, "report_every": 1, "classes": classes, **sides})
    model = train_classifier(config, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "loss.tsv", sep="\t")
    best = table.loc[table["validation_loss"].idxmin()]
    classifier = open_classifier(str(model))
    assert classifier.classes == ("upper", "lower")
    members = {name: tuple(layers) for name, layers in classes.items()}
    held_out = LabelledPatches([Phantoms(5, 256, 690_000)], members, (64, 64), 24, 0.8, 1, augmented=False).draw(0)
    right = classifier.predict(held_out.image[:, 0].numpy(), 1.0).argmax(1) == held_out.label.numpy()
    assert right.mean() == pytest.approx(best["top1"])


# Labelled sections


@pytest.mark.usefixtures("scans")
def test_areas_of_both_kinds_say_the_same(tmp_path):
    kinds = [(tmp_path / "s1.geojson", None), (tmp_path / "s1-areas.tif", tmp_path / "names.json")]
    for path, names in kinds:
        section = LabelledSection(tmp_path / "s1.tif", path, pixel_size_um=1.0, wanted_um=1.0, names=names)
        assert set(section.names) == {"coarse", "fine"}, path
        areas = open_areas(path, names, (SIDE, SIDE))
        share = areas.shares(stage.Box(0, 140, 40, 180))
        assert share == pytest.approx({"coarse": 0.25, "fine": 0.25})
        assert section.patch(np.random.default_rng(0), "coarse", 512, 0.8) is None
        assert section.patch(np.random.default_rng(0), "coarse", 300, 0.8) is None


@pytest.mark.usefixtures("scans")
def test_patches_come_from_their_area_at_the_pixel_size_that_is_wanted(tmp_path):
    section = LabelledSection(tmp_path / "s1.tif", tmp_path / "s1.geojson", pixel_size_um=0.5, wanted_um=1.0)
    patch = section.patch(np.random.default_rng(0), "coarse", 64, 0.8)
    assert patch.shape == (64, 64)
    assert patch.dtype == np.float32
    fine = LabelledSection(tmp_path / "s1.tif", tmp_path / "s1.geojson", pixel_size_um=1.0, wanted_um=1.0)
    cut = [fine.patch(np.random.default_rng(i), name, 64, 1.0) for name in ("coarse", "fine") for i in (0, 1)]
    rough = [np.abs(np.diff(patch)).mean() for patch in cut]
    assert max(rough[:2]) < min(rough[2:])


@pytest.mark.usefixtures("scans")
def test_a_place_that_two_areas_claim_belongs_to_neither(tmp_path):
    polygons = [square(0, 0, SIDE, SIDE, "a"), square(0, 0, SIDE, SIDE // 2, "b")]
    (tmp_path / "both.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": polygons}))
    section = LabelledSection(tmp_path / "s1.tif", tmp_path / "both.geojson", pixel_size_um=1.0, wanted_um=1.0)
    rng = np.random.default_rng(0)
    assert section.patch(rng, "b", 64, 0.8) is None
    rough = np.abs(np.diff(section.patch(rng, "a", 64, 1.0))).mean()
    assert rough > 0.1, "the right half alone, which is the fine one"


@pytest.mark.usefixtures("scans")
def test_names_of_labels_come_from_json_or_tsv(tmp_path):
    assert read_names(tmp_path / "names.tsv") == {3: "coarse", 7: "fine"}
    assert read_names(tmp_path / "names.json") == {3: "coarse", 7: "fine", 9: "absent"}
    (tmp_path / "bad.tsv").write_text("number\tarea\n3\tcoarse\n")
    said = {"bad.tsv": "cannot be used .* expected JSON such as", "none.json": "the table of names cannot be read"}
    for name, sentence in said.items():
        with pytest.raises(InputError, match=rf"{re.escape(name)}: {sentence}"):
            read_names(tmp_path / name)


# Refusals


def changed(part, **entries):
    return lambda record: record[part][0].update(entries)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r.update(step=3), r"'step' was unexpected"),
        (lambda r: r.update(sides_px=[128, 64]), r"sides_px is \[128, 64\], expected the smaller one first"),
        (changed("training", image="gone.tif"), r"training\.0\.image: gone\.tif: no such file"),
        (changed("training", value_range=[9, 1]), r"value_range is \[9, 1\], expected \[low, high\]"),
        (lambda r: r["validation"][0].pop("names"), r"a label image, but `names` is absent"),
        (
            lambda r: r.update(classes={"a": ["coarse"], "b": ["III"]}),
            r"class 'b' is not shown by any tissue of training",
        ),
        (lambda r: r.update(classes={"a": ["coarse", "fine"], "b": ["absent"]}), r"class 'b' is not shown"),
        (lambda r: r.update(validation=[r["training"][0]]), r"s1\.tif is held out, and .*s1\.tif, the same scan"),
        (lambda r: r.update(share=0.4), r"share: 0\.4 is less than or equal to the minimum"),
        (
            lambda r: r.update(training=[{"phantom": {"count": 2, "size_px": 64, "seed": 0}}], patch_px=96),
            r"training\.0\.phantom\.size_px is 64, expected at least 96",
        ),
        (
            lambda r: r.update(phantoms(96, training=0, validation=4)),
            r"phantoms of the seeds 4 to 4 are learned from and held out",
        ),
    ],
)
def test_a_training_file_that_cannot_be_used_is_refused(change, sentence, scans, tmp_path):
    record = from_scans(scans)
    change(record)
    config = write(tmp_path, record)
    with pytest.raises(InputError, match=sentence):
        read_data(config, read_settings(config))


def test_areas_too_small_for_a_patch_are_told(scans, tmp_path):
    config = write(tmp_path, from_scans(scans, sides_px=[304, 304]))
    with pytest.raises(InputError, match=r"no patch of 304 px shows a class over 80% of it; lower share or sides_px"):
        train_classifier(config, tmp_path / "out")


@pytest.mark.usefixtures("scans")
def test_an_annotation_without_class_and_a_label_image_of_another_size_are_refused(tmp_path):
    (tmp_path / "bare.geojson").write_text(json.dumps(square(0, 0, 9, 9, None)))
    with pytest.raises(InputError, match=r"feature 1 has no class, expected the name of an area"):
        open_areas(tmp_path / "bare.geojson", None, (SIDE, SIDE))
    with pytest.raises(InputError, match=r"a label image of 320 x 320 px .* expected the section's 640 x 640"):
        open_areas(tmp_path / "s1-areas.tif", tmp_path / "names.json", (640, 640))


def test_the_training_file_of_the_bundled_classifier_keeps_off_the_evaluation():
    settings = read_yaml(stage.Path(__file__).parents[1] / "config" / "classifier.yaml", "classifier")
    for side in ("training", "validation"):
        for source in settings[side]:
            first, count = source["phantom"]["seed"], source["phantom"]["count"]
            assert not {1, 2} & set(range(first, first + count))
            assert first + count <= 900_000
