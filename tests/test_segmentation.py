"""Cells as contours: descriptors, networks, blocks, rivals, names, tables and files."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import torch
from conftest import blobs, write_tiff
from scipy import ndimage

from cytomend.cli import main
from cytomend.errors import InputError
from cytomend.phantom import render_tissue
from cytomend.segmentation import celldetection
from cytomend.segmentation.blocks import blocks, margin_px
from cytomend.segmentation.cpn import ContourProposalNetwork, contours, refined
from cytomend.segmentation.cpn_segmenter import CpnSegmenter, save_segmenter
from cytomend.segmentation.decoding import Cells, best, peaks
from cytomend.segmentation.fourier import describe, walk_contour
from cytomend.segmentation.pictures import FRAME_PX, Phantoms, label_image
from cytomend.segmentation.polygons import clipped, match, polygons
from cytomend.segmentation.record import CpnRecord, CpnSettings
from cytomend.segmentation.resampling import Resampled, grid_for
from cytomend.segmentation.segmenters import BUNDLED, open_segmenter
from cytomend.segmentation.table import COLUMNS, label_contours, table_contours
from cytomend.stages.segment import _ring

GREY = {"value_range": (0.0, 255.0)}


def ellipse(y, x, long, short, turn=0.0, points=400, start=0.0):
    t = 2 * np.pi * np.arange(points) / points + start
    a, b = long * np.cos(t), short * np.sin(t)
    return np.stack([y + a * np.sin(turn) + b * np.cos(turn), x + a * np.cos(turn) - b * np.sin(turn)], axis=1)


def square(y, x, side):
    return np.array([[y, x], [y, x + side], [y + side, x + side], [y + side, x]], float)


# Fourier descriptors


def test_the_descriptors_of_a_circle_are_its_centre_and_radius():
    found = describe(ellipse(7, 5, 3, 3, start=1.3), 4)
    assert np.allclose(found.centre, [7, 5], atol=1e-3)
    assert np.allclose(found.coefficients[0], [3, 0, 0, 3], atol=1e-3)
    assert np.abs(found.coefficients[1:]).max() < 1e-3


@pytest.mark.parametrize("turn", [0.0, 0.7, 2.1])
def test_an_ellipse_comes_back_with_its_area(turn):
    outline = ellipse(20, 30, 9, 5, turn)
    found = describe(outline, 8)
    assert found.area() == pytest.approx(np.pi * 45, rel=2e-3)
    # Each point of the contour lies on the ellipse: its distance is that of the coarsest of 400 corners at most.
    far = np.linalg.norm(found.contour(64)[:, None] - outline[None], axis=2).min(axis=1)
    assert far.max() < 0.1


def test_a_square_comes_back_ever_better_and_its_area_tends_to_the_true_one():
    area = [describe(square(2, 3, 10), order).area() for order in (1, 4, 16, 64)]
    assert sorted(abs(100 - a) for a in area) == [abs(100 - a) for a in area][::-1]
    assert area[-1] == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize("shift", [1, 17, 200])
def test_like_shapes_have_like_descriptors_wherever_and_whichever_way_they_are_drawn(shift):
    outline = ellipse(20, 30, 9, 5, 0.4)
    usual = describe(outline, 4)
    for other in (np.roll(outline, shift, axis=0), outline[::-1]):
        assert np.allclose(describe(other, 4).coefficients, usual.coefficients, atol=2e-2)
        assert np.linalg.norm(walk_contour(other, 16) - walk_contour(outline, 16), axis=1).max() < 0.2


def test_the_network_draws_what_descriptors_say():
    found = describe(ellipse(20, 30, 9, 5, 0.4), 4)
    centre, fourier = (torch.tensor(part, dtype=torch.float64) for part in (found.centre, found.coefficients))
    drawn = contours(centre[None], fourier.flatten()[None], 32)[0].numpy()
    assert np.allclose(drawn, found.contour(32))


def test_refinement_moves_points_by_what_the_field_says_where_they_are():
    field = torch.zeros(1, 2, 8, 8)
    field[0, 0, 2, 3], field[0, 1, 3, 3] = 1.0, 2.0
    contour = torch.tensor([[[2.5, 3.5], [6.5, 6.5]]])
    moved = refined(contour, field, torch.tensor([0]), 2)
    assert moved.tolist() == [[[3.5, 5.5], [6.5, 6.5]]]


# polygons and rivals


def test_matching_finds_the_most_pairs():
    true = polygons([square(0, 0, 10), square(0, 10, 10)])
    found = polygons([square(0, 1, 10), square(0, 30, 10)])
    matched = match(found, true, 0.5)
    assert (matched.found.tolist(), matched.true.tolist(), matched.f1) == ([0], [0], 0.5)
    assert match(found, true, 0.9).f1 == 0  # 9/11 of the union
    assert match(polygons([]), polygons([]), 0.5).f1 == 1


def test_a_contour_ends_at_the_rim_of_its_picture():
    assert polygons([clipped(square(-4, 2, 10), (20, 20))])[0].area == pytest.approx(60)
    assert len(clipped(square(30, 30, 5), (20, 20))) == 0


def test_labels_and_outlines_are_inverse():
    labels = label_image([ellipse(12, 14, 8, 5), ellipse(30, 30, 6, 6)], (40, 44))
    again = label_image(label_contours(labels), (40, 44))
    assert np.array_equal(labels, again)
    assert (labels == 1).sum() == pytest.approx(np.pi * 40, rel=0.05)


def cells(*entries):
    """Squares of 10 px: (y, x, score)."""
    drawn = np.array([square(y, x, 10) for y, x, _ in entries], np.float32)
    place = np.array([[y + 5, x + 5] for y, x, _ in entries], np.float32)
    return Cells(place, np.array([s for *_, s in entries], np.float32), drawn, polygons(drawn))


def test_of_cells_that_overlap_the_better_stays_and_neighbours_stay():
    kept = best(cells((0, 0, 0.6), (0, 2, 0.9), (0, 11, 0.5), (0, 40, 0.5)), 0.3)
    assert kept.place[:, 1].tolist() == [7, 16, 45]


def test_of_equal_cells_the_first_stays_whatever_their_order():
    one, two = (0, 0, 0.5), (2, 0, 0.5)
    assert best(cells(one, two), 0.3).place.tolist() == best(cells(two, one), 0.3).place.tolist() == [[5, 5]]


def test_peaks_are_highest_among_their_neighbours():
    score = torch.zeros(6, 7)
    score[1, 1], score[1, 2], score[4, 5], score[4, 2] = 0.9, 0.8, 0.7, 0.3
    assert peaks(score, 0.5).tolist() == [[1, 1], [4, 5]]


# the network


def random_segmenter(seed=3):
    """A tiny network with random weights and statistics that finds many cells of any shape."""
    torch.manual_seed(seed)
    network = ContourProposalNetwork(CpnSettings(widths=(4, 8, 12), reach_px=16))
    network.train()
    with torch.no_grad():
        network(torch.randn(4, 1, 64, 64))
        network.contour[-1].bias[[2, 5]] = 1.5  # a and d of the first order: about circles of 6 px
    record = CpnRecord(network.settings, 1.0, score=0.3)
    return CpnSegmenter(network, record)


def test_the_bound_of_the_receptive_field_holds_and_is_not_far_off():
    segmenter = random_segmenter()
    pixels = torch.randn(1, 1, 160, 160, requires_grad=True)
    says = segmenter.network(pixels)
    (says.score[0, 40, 40] + says.fourier[0, :, 40, 40].sum() + says.field[0, :, 81, 81].sum()).backward()
    reached = torch.nonzero(pixels.grad[0, 0])
    far = int((reached - 81).abs().max())
    assert 0.4 * segmenter.record.network.receptive_px < far <= segmenter.record.network.receptive_px


def same_cells(one, other, places_um=1e-3):
    one, other = (t.sort_values(["y_um", "x_um"], ignore_index=True) for t in (one, other))
    assert len(one) == len(other) > 0
    assert np.allclose(one[["y_um", "x_um"]], other[["y_um", "x_um"]], atol=places_um)
    assert np.allclose(one["area_um2"], other["area_um2"], atol=0.05)
    assert np.allclose(one["score"], other["score"], atol=1e-4)
    for a, b in zip(table_contours(one), table_contours(other), strict=True):
        assert np.allclose(a, b, atol=0.01)


@pytest.mark.parametrize("block_px", [64, 120])
@pytest.mark.parametrize("pixel_size_um", [1.0, 0.7])
def test_a_picture_in_blocks_gives_the_cells_of_the_whole(block_px, pixel_size_um):
    image = render_tissue((310, 283), 930_000).image
    segmenter = open_segmenter("cpn")
    how = {"pixel_size_um": pixel_size_um, **GREY}
    pieces = segmenter.find_blockwise(lambda box: image[box.slices], image.shape, block_px=block_px, **how)
    same_cells(pd.concat(list(pieces)), segmenter.find(image, **how))


def test_a_random_network_too_gives_the_same_cells_in_blocks():
    """Contours of any shape and many rivals: harder than a trained network on tissue."""
    image = np.random.default_rng(1).integers(0, 255, (200, 230)).astype(np.uint8)
    segmenter = random_segmenter()
    pieces = segmenter.find_blockwise(
        lambda box: image[box.slices], image.shape, block_px=64, pixel_size_um=1.0, **GREY
    )
    whole = segmenter.find(image, pixel_size_um=1.0, **GREY)
    assert len(whole) > 50
    same_cells(pd.concat(list(pieces)), whole)


def test_cores_cover_the_picture_once_and_windows_hold_all_that_matters():
    settings = CpnSettings()
    seen = np.zeros((700, 900), int)
    for block in blocks(seen.shape, settings, 256):
        seen[block.core.slices] += 1
        assert block.window == block.core.grow(margin_px(settings)).clip(seen.shape)
        assert block.window.y0 % settings.divisor_px == block.window.x0 % settings.divisor_px == 0
    assert (seen == 1).all()


def test_the_same_picture_gives_the_same_cells_bit_for_bit():
    image = render_tissue((128, 128), 930_001).image
    one, other = (open_segmenter("cpn").find(image, pixel_size_um=1.0, **GREY) for _ in range(2))
    assert all(
        np.array_equal(np.concatenate(one[c].map(np.atleast_1d)), np.concatenate(other[c].map(np.atleast_1d)))
        for c in COLUMNS
    )


# pixel sizes


@pytest.mark.parametrize("step_um", [0.4, 2.0])
def test_resampling_box_by_box_is_resampling_the_whole(step_um):
    image = np.random.default_rng(0).standard_normal((150, 170)).astype(np.float32)
    grid = grid_for(image.shape, step_um, 1.0)
    pixels = Resampled(lambda box: image[box.slices], image.shape, grid)
    from cytomend.geometry import Box

    whole = pixels.read(Box(0, 0, *grid.shape))
    for box in Box(0, 0, *grid.shape).tiles(23):
        assert np.allclose(pixels.read(box), whole[box.slices], atol=1e-5)


def test_cells_are_where_they_are_and_as_large_as_they_are_at_another_pixel_size():
    image = render_tissue((256, 256), 930_002).image
    usual = open_segmenter("cpn").find(image, pixel_size_um=1.0, **GREY)
    fine = ndimage.zoom(image.astype(np.float32), 2, order=1, grid_mode=True, mode="nearest")
    twice = open_segmenter("cpn").find(fine, pixel_size_um=0.5, **GREY)
    assert match(polygons(table_contours(twice)), polygons(table_contours(usual)), 0.7).f1 > 0.85
    assert twice["area_um2"].median() == pytest.approx(usual["area_um2"].median(), rel=0.1)
    # Within a tenth of the model's pixel size nothing is resampled, and lengths scale.
    near = open_segmenter("cpn").find(image, pixel_size_um=1.05, **GREY)
    assert np.allclose(near["area_um2"], usual["area_um2"] * 1.05**2)


@pytest.mark.parametrize("pixel_size_um", [0.01, 8.0])
def test_a_pixel_size_far_from_the_models_is_refused(pixel_size_um):
    with pytest.raises(InputError, match=r"expected between 0.1 and 2.5 µm .* learned at 1 µm"):
        open_segmenter("cpn").find(np.zeros((64, 64), np.uint8), pixel_size_um=pixel_size_um, **GREY)


# segmenters by name


@pytest.mark.parametrize("name", ["cpn", "classical"])
def test_a_segmenter_returns_its_table(name):
    image = render_tissue((160, 176), 930_003).image
    found = open_segmenter(name).find(image, pixel_size_um=1.0, surroundings=image, **GREY)
    assert tuple(found) == COLUMNS
    assert len(found) > 5
    assert found["score"].between(0, 1).all()
    shapes = polygons(table_contours(found))
    assert np.allclose([s.area for s in shapes], found["area_um2"], rtol=0.25, atol=6)
    assert np.allclose([[s.centroid.y, s.centroid.x] for s in shapes], found[["y_um", "x_um"]], atol=0.6)
    assert found["contour_x_um"].iloc[0].dtype == np.float32


@pytest.mark.parametrize("name", ["cpn", "classical"])
def test_an_even_picture_holds_no_cells(name):
    found = open_segmenter(name).find(np.full((40, 50), 190, np.uint8), pixel_size_um=1.0, **GREY)
    assert (len(found), tuple(found)) == (0, COLUMNS)


@pytest.mark.parametrize("name", ["cpn", "classical"])
def test_a_colour_picture_is_refused(name):
    with pytest.raises(InputError, match=r"expected a grey picture"):
        open_segmenter(name).find(np.zeros((3, 8, 8), np.uint8), pixel_size_um=1.0, **GREY)


def test_an_unknown_name_is_refused_with_what_is_possible():
    with pytest.raises(InputError, match=r"segmenter 'cnp': expected 'cpn' \(bundled\), 'classical', the path"):
        open_segmenter("cnp")


def test_a_developers_own_segmenter_is_imported():
    assert open_segmenter("cytomend.segmentation.segmenters:ClassicalSegmenter").name == "classical"
    with pytest.raises(InputError, match=r"no_such.module:thing.*cannot be imported"):
        open_segmenter("no_such.module:thing")


def test_celldetection_is_refused_in_words_where_it_cannot_be_loaded(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no such file; expected a checkpoint of celldetection"):
        open_segmenter(f"celldetection:{tmp_path / 'none.pt'}")
    (tmp_path / "cpn.pt").write_bytes(b"x")

    def broken(_):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(celldetection.importlib, "import_module", broken)
    with pytest.raises(InputError, match=r"torchvision::nms .* torchvision that fits torch; .*envs/celldetection.yaml"):
        open_segmenter(f"celldetection:{tmp_path / 'cpn.pt'}")


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (print, ("executed",))


def test_a_celldetection_checkpoint_with_pickled_code_is_refused_unread(tmp_path, monkeypatch, capsys):
    torch.save({"cd.models": Evil(), "state_dict": {}}, tmp_path / "evil.pt")
    monkeypatch.setattr(celldetection, "_models", lambda: celldetection)
    with pytest.raises(InputError, match=r"evil.pt: expected a checkpoint of tensors and plain settings"):
        open_segmenter(f"celldetection:{tmp_path / 'evil.pt'}")
    assert "executed" not in capsys.readouterr().out


class FakeCpn(torch.nn.Module):
    """Answers as a model of celldetection: contours (x, y) between pixel centres."""

    def __init__(self, in_channels=3):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(in_channels))

    def forward(self, x):
        assert x.shape == (1, 3, 20, 30)
        return {
            "contours": [torch.tensor([[[1.5, 3.5], [9.5, 3.5], [9.5, 7.5], [1.5, 7.5]]])],
            "scores": [torch.tensor([0.8])],
        }


def test_contours_of_celldetection_come_in_our_units(tmp_path, monkeypatch):
    torch.save(
        {"cd.models": {"model": "CpnFake", "kwargs": {}}, "state_dict": FakeCpn().state_dict()}, tmp_path / "m.pt"
    )
    monkeypatch.setattr(celldetection, "_models", lambda: type("models", (), {"CpnFake": FakeCpn}))
    found = open_segmenter(f"celldetection:{tmp_path / 'm.pt'}").find(
        np.zeros((20, 30), np.uint8), pixel_size_um=0.5, **GREY
    )
    assert found[["y_um", "x_um", "area_um2"]].to_numpy().tolist() == [[3.0, 3.0, 8.0]]


# checkpoints


def test_a_checkpoint_comes_back_and_a_damaged_one_is_refused(tmp_path):
    segmenter, path = random_segmenter(), tmp_path / "mine.safetensors"
    network = ContourProposalNetwork(segmenter.record.network)
    save_segmenter(path, network.state_dict(), segmenter.record)
    again = open_segmenter(str(path))
    assert (again.name, again.record) == ("mine", segmenter.record)
    save_segmenter(path, network.state_dict(), replace(segmenter.record, network=CpnSettings(widths=(4, 8, 16))))
    with pytest.raises(InputError, match=r"the weights do not fit the settings record"):
        open_segmenter(str(path))
    path.write_bytes(b"no tensors at all")
    with pytest.raises(InputError, match=r"not a safetensors file"):
        open_segmenter(str(path))
    with pytest.raises(InputError, match=r"no such segmenter"):
        open_segmenter("none.safetensors")


def test_a_diffusion_model_is_no_segmenter(tiny_model):
    with pytest.raises(InputError, match=r"without the settings record of a segmenter"):
        open_segmenter(str(tiny_model()))


def test_the_bundled_model_is_small_and_finds_the_cells_of_fresh_phantoms():
    assert BUNDLED.stat().st_size < 3_000_000
    segmenter = open_segmenter("cpn")
    f1 = []
    for picture in (Phantoms(2, 256, 940_000)[i] for i in range(2)):
        found = segmenter.find(picture.values, pixel_size_um=1.0, value_range=(-1.0, 1.0))
        f1.append(match(polygons(table_contours(found)), polygons(picture.contours), 0.5).f1)
    assert np.mean(f1) > 0.82  # over 16 such phantoms the mean is 0.866, that of the worst pair 0.835


# what phantoms know of their cells


def test_contours_of_a_phantom_enclose_its_cells():
    tissue = render_tissue((200, 200), 930_004)
    shapes = polygons(tissue.contours_px())
    assert len(shapes) == len(tissue.cells)
    assert np.allclose([s.area for s in shapes], tissue.cells["area_um2"], rtol=0.05)
    inside = label_image(list(tissue.contours_px()), (200, 200)) > 0
    around = ndimage.binary_dilation(inside, iterations=4) & ~ndimage.binary_dilation(inside, iterations=1)
    assert np.median(tissue.image[inside]) < np.median(tissue.image[around]) - 60
    # Moved by a pixel any way, the outlines hold lighter pixels: they are where the stain is.
    grey = tissue.image.astype(float)
    here = grey[inside].mean()
    assert all(
        here < np.roll(inside, by, axis).astype(float).ravel() @ grey.ravel() / inside.sum()
        for by in (-1, 1)
        for axis in (0, 1)
    )


def test_a_framed_phantom_shows_the_cells_that_reach_in():
    picture = Phantoms(1, 128, 930_005)[0]
    assert picture.values.shape == (128, 128)
    points = np.concatenate(picture.contours)
    assert points.min() >= 0
    assert points.max() <= 128
    assert len(picture.contours) > 5
    assert FRAME_PX > 0


# the stage


@pytest.fixture
def scan(tmp_path):
    return write_tiff(tmp_path / "scan.tif", render_tissue((200, 180), 930_006).image, 1.0)


def test_segment_writes_cells_and_contours(scan, tmp_path):
    out, drawn = tmp_path / "cells.parquet", tmp_path / "cells.geojson"
    assert main(["segment", str(scan), "--out", str(out), "--geojson", str(drawn)]) == 0
    table = pd.read_parquet(out)
    assert tuple(table) == COLUMNS
    assert len(table) > 5
    features = json.loads(drawn.read_text())["features"]
    assert len(features) == len(table)
    ring = np.array(features[0]["geometry"]["coordinates"][0])
    assert np.allclose(ring[:-1, 0], table["contour_x_um"][0], atol=0.01)
    assert ring[0].tolist() == ring[-1].tolist()
    facts = json.loads(pq.read_schema(out).metadata[b"cytomend"])
    assert facts == {
        "image": "scan.tif",
        "segmenter": "cpn",
        "pixel_size_um": 1.0,
        "value_range": [0.0, 255.0],
        "stain": None,
    }


def test_segment_leaves_out_masked_cells_and_overwrites_only_when_asked(scan, tmp_path, capsys):
    out = tmp_path / "cells.parquet"
    mask = write_tiff(tmp_path / "mask.tif", blobs((200, 180), (0, 0, 100, 180)).astype(np.uint8) * 255)
    command = ["segment", str(scan), "--out", str(out), "--segmenter", "classical"]
    assert main(command) == 0
    everything = pd.read_parquet(out)
    assert main([*command, "--mask", str(mask)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--mask", str(mask), "--overwrite"]) == 0
    assert len(pd.read_parquet(out)) == (everything["y_um"] >= 100).sum() > 0


def test_segment_counts_no_cells_outside_of_the_outlines_of_tissue(scan, tmp_path):
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[x0, 0], [x1, 0], [x1, 200], [x0, 200], [x0, 0]]]},
            "properties": {"classification": {"name": name}},
        }
        for name, x0, x1 in (("Tissue", 0, 90), ("Pen", 100, 180), ("Fold", 60, 80))
    ]
    (tmp_path / "pen.geojson").write_text(json.dumps(features))
    line = ["segment", str(scan), "--out", str(tmp_path / "c.parquet"), "--segmenter", "classical"]
    assert main([*line, "--mask", str(tmp_path / "pen.geojson")]) == 0
    x = pd.read_parquet(tmp_path / "c.parquet")["x_um"]
    assert len(x) > 5
    assert not ((x >= 90) | ((x >= 60) & (x < 80))).any()


def test_segment_refuses_what_it_cannot_use(scan, tmp_path, capsys):
    for command, sentence in [
        ([str(scan), "--out", str(scan), "--overwrite"], "would replace or change a file from which it is made"),
        ([str(scan), "--out", str(tmp_path / "a"), "--geojson", str(tmp_path / "a")], "expected two files"),
        ([str(scan), "--out", str(tmp_path / "a"), "--pixel-size-um", "-1"], "expected a positive number"),
        ([str(scan), "--out", str(tmp_path / "a"), "--segmenter", "x"], "segmenter 'x': expected"),
    ]:
        assert main(["segment", *command]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_a_contour_that_crosses_itself_is_written_as_a_valid_polygon():
    bow = np.array([(0, 0), (10, 10), (10, 0), (0, 9)], float)
    ring = shapely.Polygon(_ring(bow))
    assert ring.is_valid
    assert ring.area > 20
    square = np.array([(1, 2), (1, 6), (5, 6), (5, 2)], float)
    assert shapely.Polygon(_ring(square)).equals(shapely.Polygon(square[:, ::-1]))
