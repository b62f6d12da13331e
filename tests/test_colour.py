"""RGB from end to end: stains in optical density, phantoms in colour, a grey network that goes on in colour, a run."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import zarr
from conftest import blobs, random_network
from hypothesis import given, settings
from hypothesis import strategies as st
from test_workflow import Lab

from cytomend.diffusion.checkpoint import save_model
from cytomend.diffusion.colour import spread_over_colours
from cytomend.diffusion.record import ModelSettings, UNetSettings
from cytomend.diffusion.unet import UNet
from cytomend.errors import InputError
from cytomend.evaluation.colours import colour_rows, summarise_colours
from cytomend.evaluation.placement import INTACT, Placement
from cytomend.geometry import Box
from cytomend.phantom import damage, render_tissue
from cytomend.segmentation.segmenters import open_segmenter
from cytomend.segmentation.stain import PLAIN, section_stain
from cytomend.stains import LUMINANCE, MEASURED, STAINS, parse_stain, stain_vector, unit
from cytomend.storage.small import SmallImage

VALUES = (0.0, 255.0)
SEED = 930_100


def image_of(pixels):
    return SmallImage(Path("scan.tif"), pixels, 1.0)


def absorbed(amounts, vectors, clear=240.0, top=255):
    """Pixels (3, h, w) behind these amounts (n, h, w) of stains with these absorptions (n, 3)."""
    density = np.tensordot(np.array(vectors).T, np.array(amounts), axes=1)
    dtype = np.uint8 if top == 255 else np.uint16
    return np.rint(clear / 255 * top * np.exp(-density)).astype(dtype)


def squares(*boxes, amount=1.2, side=192):
    """A flat density with square cells."""
    return blobs((side, side), *boxes) * amount


# Stains


@pytest.mark.parametrize("stain", STAINS)
def test_cells_are_as_many_in_every_stain_as_in_grey(stain):
    segmenter = open_segmenter("cpn")
    counts, places = [], []
    for name in (None, stain):
        tissue = render_tissue((256, 256), SEED, stain=name)
        pixels = tissue.image.reshape(-1, 256, 256)
        shown = section_stain(image_of(pixels), None, VALUES).grey(pixels)
        counts.append(len(segmenter.find(shown, pixel_size_um=1.0, value_range=VALUES)))
        places.append(tissue.cells)
    assert places[0].equals(places[1])
    assert counts[1] == pytest.approx(counts[0], rel=0.05)


def test_a_counterstain_is_measured_and_left_out():
    cells = squares((20, 20, 40, 40), (100, 60, 130, 80))
    others = squares((30, 120, 60, 150), (140, 130, 170, 170), (150, 20, 180, 50))
    stains = stain_vector("nissl-blue"), stain_vector("eosin")
    pixels = absorbed([cells, others], stains)
    shown = section_stain(image_of(pixels), None, VALUES)
    assert len(shown.vectors) == 2
    for found, true in zip(shown.vectors, stains, strict=True):
        assert float(np.dot(found, true)) > np.cos(np.radians(2))
    grey = shown.grey(pixels)
    assert np.ptp(grey[cells == 0].astype(int)) <= 4
    assert grey[cells > 0].max() < grey[cells == 0].min() - 100
    # By luminance the others are as dark as pale cells.
    seen = section_stain(image_of(pixels), None, VALUES, LUMINANCE).grey(pixels)
    assert seen[others > 0].max() < seen[(cells == 0) & (others == 0)].min() - 60


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[st.floats(0.05, 1.0)] * 3).filter(lambda v: max(v) > 0.3),
    st.sampled_from([255, 65535]),
    st.floats(150, 255),
)
def test_the_picture_of_a_single_stain_does_not_depend_on_its_hue(vector, top, clear):
    absorption = unit(vector) / unit(vector).max()
    amounts = np.linspace(0, 2, 192 * 192).reshape(192, 192)
    amounts[:40] = 0
    pixels = absorbed([amounts], [absorption], clear, top)
    shown = section_stain(image_of(pixels), None, (0.0, float(top)), ",".join(map(str, vector)))
    grey = shown.grey(pixels)
    assert grey.dtype == pixels.dtype
    np.testing.assert_allclose(grey / top, np.exp(-amounts) * np.mean(shown.clear) / top, atol=0.02)


def test_masked_pixels_do_not_decide_and_the_same_section_gives_the_same_stain():
    cells = squares((20, 20, 60, 60), (100, 60, 160, 120))
    pixels = absorbed([cells], [stain_vector("cresyl-violet")])
    red = np.zeros((192, 192), bool)
    red[:, 150:] = True
    spoilt = np.where(red, np.array([200, 10, 10], np.uint8)[:, None, None], pixels)

    class Mask:
        shape = red.shape

        def read(self, box):
            return red[box.slices]

    clean, masked = (
        section_stain(image_of(pixels[:, :, :150]), None, VALUES),
        section_stain(image_of(spoilt), Mask(), VALUES),
    )
    assert len(masked.vectors) == 1
    np.testing.assert_allclose(clean.vectors, masked.vectors, atol=0.01)
    assert masked == section_stain(image_of(spoilt), Mask(), VALUES)


def test_grey_sections_are_shown_as_they_are_whatever_stain_is_asked_for():
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(1, 64, 64)
    for how in (MEASURED, LUMINANCE, "eosin"):
        assert np.array_equal(section_stain(image_of(pixels), None, VALUES, how).grey(pixels), pixels[0])
    assert np.array_equal(PLAIN.grey(pixels), pixels[0])
    assert section_stain(image_of(pixels), None, VALUES).record() is None


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("nissl", "expected 'measured', 'luminance'"),
        ("0.5,0.5", "expected 'measured', 'luminance'"),
        ("0,0,0", "expected 'measured', 'luminance'"),
        ("1,-1,0", "expected 'measured', 'luminance'"),
        ("nan,1,1", "expected 'measured', 'luminance'"),
        ("eosin/eosin", "at least 10° apart"),
        ("eosin/haematoxylin/nissl-blue", "found 3 stains"),
    ],
)
def test_other_stains_are_refused(how, said):
    with pytest.raises(InputError, match=said):
        parse_stain(how)


def test_a_section_without_stain_says_what_to_do():
    pixels = np.full((3, 128, 128), 240, np.uint8)
    with pytest.raises(InputError, match=r"scan\.tif: found 0 stained pixels, .* or use stain luminance"):
        section_stain(image_of(pixels), None, VALUES)
    assert section_stain(image_of(pixels), None, VALUES, LUMINANCE).grey(pixels).shape == (128, 128)


# Phantoms


@pytest.mark.parametrize("stain", STAINS)
def test_a_phantom_in_colour_absorbs_along_its_stain_and_is_damaged_where_the_grey_one_is(stain):
    grey, colour = render_tissue((200, 220), SEED), render_tissue((200, 220), SEED, stain=stain)
    assert colour.image.shape == (3, 200, 220)
    assert colour.cells.equals(grey.cells)
    most = int(np.argmax(STAINS[stain]))
    assert np.corrcoef(colour.image[most].ravel(), grey.image.ravel())[0, 1] > 0.9
    spoilt, plain = damage(colour.image, SEED), damage(grey.image, SEED)
    assert spoilt.features == plain.features
    assert np.array_equal(spoilt.mask, plain.mask)
    assert np.array_equal(spoilt.image[:, ~spoilt.mask], colour.image[:, ~spoilt.mask])
    assert (spoilt.image[:, spoilt.mask] != colour.image[:, spoilt.mask]).mean() > 0.5


def test_an_unknown_stain_of_a_phantom_is_refused():
    with pytest.raises(InputError, match="stain 'golgi': expected one of nissl-blue"):
        render_tissue((64, 64), 1, stain="golgi")


# A grey network goes on in colour


@pytest.mark.parametrize("stem", [1, 2])
def test_a_grey_network_in_colour_answers_in_each_channel_as_it_did_in_grey(stem):
    shape = {"widths": (8, 16), "attention": (1,), "heads": 2, "stem": stem}
    torch.manual_seed(1)
    grey, coloured = UNet(UNetSettings(**shape)), UNet(UNetSettings(channels=3, **shape))
    weights = {name: torch.randn_like(p) * 0.2 for name, p in grey.named_parameters()}
    grey.load_state_dict(weights)
    coloured.load_state_dict(spread_over_colours(weights, coloured.settings))
    x, time = torch.randn(2, 1, 32, 32), torch.rand(2, 1, 32, 32) * (torch.rand(2, 1, 32, 32) < 0.5)
    with torch.no_grad():
        torch.testing.assert_close(
            coloured(x.repeat(1, 3, 1, 1), time), grey(x, time).repeat(1, 3, 1, 1), atol=1e-5, rtol=1e-4
        )


# What an evaluation says of colour


def test_the_shift_of_each_channel_is_that_of_the_fill():
    mask = blobs((40, 40), (10, 10, 30, 30))
    before = np.random.default_rng(0).integers(60, 190, (3, 40, 40)).astype(np.uint8)
    after = before + np.array([5, 0, 40], np.uint8)[:, None, None]
    whole = Box(0, 0, 40, 40)
    rows = []
    for trial in range(3):
        place = Placement(trial, INTACT, whole, 0, mask, whole)
        rows += [{"section": "s", **row} for row in colour_rows(place, {"original": before, "timemap": after})]
        assert colour_rows(place, {"original": before[:1]}) == []
    summary = summarise_colours(pd.DataFrame(rows))
    assert summary["channel"].tolist() == ["red", "green", "blue"]
    np.testing.assert_allclose(summary[["shift", "shift_low", "shift_high"]].to_numpy().T, [[5, 0, 40]] * 3)
    np.testing.assert_allclose(summary["original"], before[:, mask].mean(1))


# The workflow


def test_an_rgb_section_goes_through_the_workflow(tmp_path, visit):
    folder = tmp_path / "a lab"
    folder.mkdir()
    network = random_network(channels=3)
    path = tmp_path / "model.safetensors"
    record = ModelSettings(network.settings, times=256, window_px=32, pixel_size_um=1.0)
    save_model(path, dict(network.named_parameters()), record)
    lab = Lab(folder, path)
    lab.rows = lab.rows[:1]
    tissue = render_tissue((150, 420), SEED, stain="nissl-blue").image
    mask = blobs((150, 420), (40, 30, 70, 90), (100, 100, 110, 130))
    scan = np.where(mask, 250, tissue).astype(np.uint8)
    for name, pixels in (("left", scan), ("left-truth", tissue)):
        tifffile.imwrite(folder / "data" / f"{name}.tif", np.moveaxis(pixels, 0, -1), tile=(64, 64), photometric="rgb")
    tifffile.imwrite(folder / "data" / "left-mask.tif", mask.astype(np.uint8) * 255)
    lab.rows[0] |= {"stain": "blue Nissl", "truth": "data/left-truth.tif"}
    lab.write()
    lab.snakemake()
    results = folder / "results" / "left"
    store = zarr.open_group(results / "corrected.ome.zarr", mode="r")
    corrected, label = store["0"][...], store["labels/mended/0"][...]
    assert corrected.shape == (3, 150, 420)
    assert store["0"].shards == (3, 64, 64)  # of the 128 px that grey ones have: no more bytes in memory
    assert store["labels/mended/0"].shards == (128, 128)
    assert np.array_equal(corrected[:, label == 0], scan[:, label == 0])
    assert (corrected[:, label > 0] != scan[:, label > 0]).mean() > 0.5
    facts = json.loads((results / "evaluation" / "evaluation.json").read_text())
    assert facts["stain"]["how"] == MEASURED
    assert float(np.dot(facts["stain"]["vectors"][0], stain_vector("nissl-blue"))) > np.cos(np.radians(9))
    colours = pd.read_parquet(results / "evaluation" / "colour_summary.parquet")
    assert set(colours["channel"]) == {"red", "green", "blue"}
    assert {"graft", "floor", "pasted tissue"} <= set(colours["filler"])
    page = visit(results / "report" / "index.html", within=folder / "results")
    caption = page.locator("table caption", has_text="Mean value of each channel")
    assert caption.count() == 1
