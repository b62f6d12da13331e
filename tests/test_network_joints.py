"""Joints that the network draws on pixels of its own size: laws 1, 2 and 9 at any pixel size, and how they meet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile
import zarr
from conftest import blobs, cpu, mend_by_stages, mend_settings, plan_settings, write_tiff
from scipy import ndimage
from test_graft_section import array, assert_graft_record
from test_grafts import texture, tissue_of

from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.windows import window_denoiser
from cytomend.errors import InputError
from cytomend.evaluation.mending import Grafting, TrialMender
from cytomend.evaluation.placement import INTACT, Placement
from cytomend.geometry import Box
from cytomend.grafts.join import Joining
from cytomend.grafts.network_canvas import changed, laid_back, network_canvas
from cytomend.grafts.network_grid import NetworkGrid
from cytomend.grafts.record import DRAWN, FIRST
from cytomend.grafts.region import Grafted, Tissue, graft_region
from cytomend.grafts.settings import GraftSettings
from cytomend.regions.lattice import Lattice
from cytomend.regions.plan import Plan
from cytomend.sheet import check_pixel_size
from cytomend.stages import group_mender
from cytomend.stages.verify_section import verify_section
from cytomend.storage.images import open_image

SMALL = {"block_um": 24.0, "step_um": 16.0, "search_um": 60.0, "joint_um": 2.0, "narrow_um": 8.0, "apart_um": 30.0}
SIZES = (0.25, 0.46, 0.5, 2.0)
"""Of the pixels of a scan, in µm. At 2 µm a section is blended, but the geometry is that of any ratio."""
BOXES_UM = ((30, 35, 55, 65), (75, 10, 90, 30), (10, 90, 12, 105))
"""Two regions and a strip that is narrow."""


def damage(um):
    return blobs((round(100 / um), round(110 / um)), *([round(edge / um) for edge in box] for box in BOXES_UM))


def grafting(**changes):
    return mend_settings(fill="graft", graft={**SMALL, **changes})


def planned(um, **changes):
    return plan_settings(fill="graft", pixel_size_um=um, **changes)


def mended(section, model, folder, um, *, machine=None, mend=None, **changes):
    folder.mkdir(exist_ok=True)
    plan = planned(um, **changes)
    return mend_by_stages(section, model, folder, plan=plan, mend=mend or grafting(), machine=machine)


def joint_of(out):
    return dict(zarr.open_group(out, mode="r").attrs)["cytomend"]["joint"]


@pytest.mark.parametrize(
    ("um", "dtype", "channels"), [*((um, "uint8", 1) for um in (0.25, 0.46, 0.65)), (0.5, "uint16", 3)]
)
def test_laws_1_and_9_hold_and_the_network_makes_the_joints(make_section, tiny_model, tmp_path, um, dtype, channels):
    section = make_section(damage(um), dtype, channels)
    out = mended(section, tiny_model(channels), tmp_path / "network", um, model_channels=channels)
    grown = section.grown(2)
    pixels = array(out, "0")
    shown = pixels if channels == 1 else np.moveaxis(pixels, 0, -1)
    assert np.array_equal(shown[~grown], section.pixels[~grown])
    origin, table = assert_graft_record(out, section, grown)
    assert set(table["region"]) == {1, 2, 3}  # the narrow one too
    assert (origin >= FIRST).any()
    assert verify_section(section.image, tmp_path / "network" / "plan", out).wrong == []
    assert joint_of(out) == "network@1"
    left = mended(
        section, tiny_model(channels), tmp_path / "none", um, mend=grafting(joint_um=0.0), model_channels=channels
    )
    joint = (array(left, "labels/origin/0") >= FIRST) & (origin == DRAWN)
    assert (pixels != array(left, "0"))[..., joint].mean() > 0.5


@pytest.mark.parametrize("how", ["three shards", "small groups", "two threads"])
def test_law_2_shards_groups_and_threads_reach_no_pixel(make_section, tiny_model, tmp_path, how):
    section, um = make_section(damage(0.46)), 0.46
    machine = {"small groups": cpu(group_px=1), "two threads": cpu(threads=2)}.get(how, cpu())
    one = mended(section, tiny_model(), tmp_path / "usual", um)
    shards = 3 if how == "three shards" else 1
    other = mended(section, tiny_model(), tmp_path / "other", um, machine=machine, shards=shards)
    for place in ("0", "labels/origin/0", "labels/origin/grafts"):
        assert np.array_equal(array(one, place), array(other, place))


@pytest.mark.parametrize("um", [0.5, 0.46])
def test_the_first_of_several_samples_is_the_only_one(make_section, tiny_model, tmp_path, um):
    section = make_section(damage(um))
    one = mended(section, tiny_model(), tmp_path / "one", um)
    out = mended(section, tiny_model(), tmp_path / "three", um, samples=3)
    assert np.array_equal(array(one, "0"), array(out, "0"))
    drawn = array(one, "labels/origin/0") == DRAWN
    assert (array(out, "labels/uncertainty/0")[drawn] > 0).mean() > 0.5


def test_nothing_under_damage_reaches_a_pixel(make_section, tiny_model, tmp_path):
    um = 0.46
    section, outs = make_section(damage(um)), []
    for name, value in (("black", 0), ("white", 255)):
        image = tmp_path / f"{name}.tif"
        pixels = np.where(section.grown(2), np.uint8(value), tifffile.imread(section.image))
        write_tiff(image, pixels, um)
        outs.append(mended(replace(section, image=image), tiny_model(), tmp_path / name, um))
    assert np.array_equal(array(outs[0], "0"), array(outs[1], "0"))


@pytest.mark.parametrize("um", [2.0, 0.15])
def test_a_scan_of_larger_or_far_smaller_pixels_is_blended(make_section, tiny_model, tmp_path, monkeypatch, um):
    section = make_section(blobs((120, 140), (50, 60, 80, 90)))
    monkeypatch.setattr(group_mender, "fill", None)  # the network must not be asked
    scaled = {name: um * value for name, value in SMALL.items()}
    out = mended(section, tiny_model(), tmp_path / "far", um, mend=mend_settings(fill="graft", graft=scaled))
    assert joint_of(out) == "blend"


def test_without_joints_the_network_draws_nothing(make_section, tiny_model, tmp_path):
    section = make_section(damage(0.5))
    out = mended(section, tiny_model(), tmp_path / "none", 0.5, mend=grafting(joint_um=0.0))
    assert not (array(out, "labels/origin/0") == DRAWN).any()


def test_drawing_all_is_refused_at_another_pixel_size():
    with pytest.raises(InputError, match=r"let mend\.fill be graft"):
        check_pixel_size(0.5, 1.0, "section 's1'")


# Joints on arrays


def region_at(um, side_um=110):
    """A region with grafts in a texture, and the network's grid over it."""
    shape = (round(side_um / um), round(side_um / um))
    pixels, hole = texture(shape), np.zeros(shape, dtype=bool)
    middle = np.s_[round(40 / um) : round(70 / um), round(35 / um) : round(75 / um)]
    hole[middle] = True
    grid = NetworkGrid(shape, um, 1.0, Lattice(32, 24))
    settings = Joining("network", grid).settings(GraftSettings(**SMALL))
    tissue = tissue_of(pixels, hole, pixel_size_um=um)
    box = Box(*(int(edge) for edge in (middle[0].start, middle[1].start, middle[0].stop, middle[1].stop)))
    grafted = graft_region(tissue, box, hole[box.slices], settings, 0, 0, grid)
    assert grafted is not None
    assert grafted.box == Box(0, 0, *shape)
    return tissue, grafted, grid


def change_by(um, amount):
    """By how much pixels change where the network adds an amount to all that it draws."""
    tissue, grafted, grid = region_at(um)
    canvas = network_canvas(tissue, grafted, grid)
    drawn = canvas.image + np.where(canvas.known, np.float32(0), np.float32(amount))
    read = laid_back(canvas, drawn, grid, tissue.value_range)
    return read(grafted.box)[0], grafted, grid, read


@pytest.mark.parametrize("um", SIZES)
def test_what_the_network_leaves_as_it_was_changes_no_pixel(um):
    change, *_ = change_by(um, 0)
    assert not change.any()


@pytest.mark.parametrize("um", SIZES)
def test_a_change_is_whole_up_to_the_outline_and_none_beside_kept_pixels(um):
    change, grafted, *_ = change_by(um, 0.1)
    whole, joint = 0.1 * 255 / 2, grafted.hole & ~grafted.kept
    from_kept_um = um * ndimage.distance_transform_cdt(~grafted.kept, "chessboard")
    far = joint & (from_kept_um > (1 if um < 1 else 0))
    outline = joint & ndimage.binary_dilation(~grafted.hole)
    assert (far & outline).sum() > 0.9 * outline.sum()
    assert change[far] == pytest.approx(np.full(int(far.sum()), whole), rel=1e-4)
    if um < 1:
        beside = joint & (from_kept_um < 1.5 * um)
        assert np.abs(change[beside]).mean() < 0.6 * whole


@pytest.mark.parametrize("um", [0.25, 0.46, 2.0])
def test_a_step_on_the_outline_goes_where_the_network_draws_none(um):
    shape = (60, 60)
    hole = blobs(shape, (21, 22, 39, 37))  # its outline crosses network pixels
    pixels = np.full((1, *shape), 100, np.uint8)
    base = np.where(hole, np.uint8(160), pixels)
    nothing = np.zeros(shape, dtype=bool)
    grafted = Grafted(Box(0, 0, *shape), base, base, hole, nothing, nothing.astype(np.uint32), [])
    grid, tissue = NetworkGrid(shape, um, 1.0, Lattice(32, 24)), tissue_of(pixels, hole, pixel_size_um=um)
    canvas = network_canvas(tissue, grafted, grid)
    drawn = np.full_like(canvas.image, 2 * 100 / 255 - 1)
    change = laid_back(canvas, drawn, grid, tissue.value_range)(grafted.box)[0]
    assert change[hole] == pytest.approx(np.full(int(hole.sum()), -60), abs=0.01)


@pytest.mark.parametrize("um", SIZES)
def test_a_change_is_read_alike_in_every_box(um):
    change, _, _, read = change_by(um, 0.1)
    height, width = change.shape
    for box in (Box(height // 3, width // 3, height // 2, width // 2), Box(0, 0, height // 2, width)):
        assert np.array_equal(read(box)[0], change[box.slices])


@pytest.mark.parametrize("um", SIZES)
def test_a_network_pixel_is_known_only_if_all_beneath_is(um):
    tissue, grafted, grid = region_at(um)
    canvas = network_canvas(tissue, grafted, grid)
    free = grafted.hole & ~grafted.kept
    box = Box(0, 0, *grid.network_shape)
    unknown = grid.to_network(box, free[None].astype(np.float32))[0] > 0
    side, seen = grid.lattice.cell_px, np.zeros_like(unknown)
    for (y, x), known in zip(canvas.layout.corners_px, canvas.known[:, 0], strict=True):
        cell = Box(int(y), int(x), int(y) + side, int(x) + side)
        part = cell.intersect(box)
        if not part.is_empty:
            shown = known[part.relative_to(cell).slices]
            assert np.array_equal(~shown, unknown[part.slices])
            seen[part.slices] = True
    assert seen[unknown].all()


def test_joints_consist_of_whole_network_pixels():
    _, grafted, grid = region_at(0.25)
    free = grafted.hole & ~grafted.kept
    assert np.array_equal(grid.whole(grafted.box, free) & grafted.hole, free)


@pytest.mark.parametrize("um", SIZES)
def test_joints_are_at_least_two_network_pixels_wide(um):
    _, grafted, _ = region_at(um)
    depth_um = um * ndimage.distance_transform_cdt(grafted.hole, "chessboard")
    assert not (grafted.kept & (depth_um <= 2)).any()


def test_a_changed_pixel_is_rounded_and_stays_in_the_range_of_its_type():
    pixels = np.array([0, 10, 250], np.uint8)
    assert changed(pixels, np.array([-3.0, 0.6, 9.0])).tolist() == [0, 11, 255]


@pytest.mark.parametrize("um", [0.5, 0.46])
def test_a_trial_is_joined_as_a_region_of_that_shape_would_be(make_section, tiny_model, tmp_path, um):
    section = make_section(damage(um))
    out = mended(section, tiny_model(), tmp_path / "section", um, grow_px=0)
    plan, view = Plan.read(tmp_path / "section" / "plan"), Box(*(round(edge / um) for edge in (25, 30, 60, 70)))
    view = Box(view.y0, view.x0, view.y0 + max(view.shape), view.x0 + max(view.shape))
    own = np.asarray(plan.labels[view.slices]) == plan.labels[round(40 / um), round(50 / um)]
    denoiser, record = load_model(tiny_model())
    ask = window_denoiser(denoiser, cpu().device, batch=8, threads=1, precision="bfloat16")
    with open_image(section.image) as image:
        lattice = plan.facts.lattice
        joining = Joining.of(image.shape, 1, um, lattice, 1, record.pixel_size_um)
        how = Grafting(GraftSettings(**SMALL), Tissue.of(image, plan), joining)
        sampler, levels = mend_settings().choose(), plan.facts.value_range
        mender = TrialMender(image, plan.mask, lattice, levels, ask, sampler, 4, cpu().device, 64, how)
        drawn = mender([Placement(0, INTACT, view, 10, own, view)])[0][0]
    assert np.array_equal(drawn[own], array(out, "0")[view.slices][own])
    assert (drawn[~own] == 0).all()
