"""Grafts through the stages: what is copied, what is recorded and proved, and what reaches no pixel (laws 1, 2, 9)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from conftest import PYRAMID, blobs, cpu, mend_by_stages, mend_settings, plan_settings

from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.windows import window_denoiser
from cytomend.errors import InputError
from cytomend.evaluation.mending import Grafting, TrialMender
from cytomend.evaluation.placement import INTACT, Placement
from cytomend.geometry import Box
from cytomend.grafts.record import DRAWN, FIRST, read_grafts
from cytomend.grafts.region import Tissue
from cytomend.grafts.settings import GraftSettings, parse_grafts
from cytomend.regions.lattice import Lattice
from cytomend.regions.plan import Plan
from cytomend.stages import group_mender
from cytomend.stages.blend_section import blend_section
from cytomend.stages.group_mender import GroupMender
from cytomend.stages.mend_shard import mend_shard
from cytomend.stages.plan_section import plan_section
from cytomend.stages.verify_section import verify_section
from cytomend.storage.images import open_image
from cytomend.storage.publish import manifest_of

SMALL = {"block_um": 24.0, "step_um": 16.0, "search_um": 100.0, "joint_um": 2.0, "narrow_um": 8.0, "apart_um": 30.0}
WIDE = blobs((200, 220), (60, 70, 110, 130), (150, 20, 180, 60), (20, 180, 24, 210))
"""Two regions that are grafted and a strip that is too narrow."""


def grafting(**changes):
    return mend_settings(fill="graft", graft={**SMALL, **changes})


def planned(**changes):
    return plan_settings(fill="graft", **changes)


def array(store, name):
    return zarr.open_array(store / name, mode="r")[...]


def assert_graft_record(out, section, grown):
    """Every mended pixel has an origin, and every copied one equals its intact source."""
    pixels, origin, table = array(out, "0"), array(out, "labels/origin/0"), read_grafts(out)
    scan = section.pixels if section.pixels.ndim == 2 else np.moveaxis(section.pixels, -1, 0)
    assert np.array_equal(origin > 0, grown)
    assert set(np.unique(origin[origin >= FIRST]) - FIRST) <= set(range(len(table)))
    for row, graft in table.iterrows():
        ys, xs = np.nonzero(origin == row + FIRST)
        assert ((ys >= graft.y) & (ys < graft.y + graft.side_px)).all()
        there = (..., ys - int(graft.y) + int(graft.source_y), xs - int(graft.x) + int(graft.source_x))
        assert np.array_equal(pixels[..., ys, xs], scan[there])
        assert not grown[there[1:]].any()
    return origin, table


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 3), ("uint16", 1)])
def test_laws_1_and_9_hold_for_a_section_with_grafts(make_section, tiny_model, tmp_path, dtype, channels):
    section = make_section(WIDE, dtype, channels)
    plan = planned(model_channels=channels)
    out = mend_by_stages(section, tiny_model(channels), tmp_path, plan=plan, mend=grafting())
    grown = section.grown(2)
    pixels = array(out, "0")
    shown = pixels if channels == 1 else np.moveaxis(pixels, 0, -1)
    assert np.array_equal(shown[~grown], section.pixels[~grown])
    origin, table = assert_graft_record(out, section, grown)
    assert (origin[60:110, 70:130] >= FIRST).mean() > 0.4
    assert (origin[20:24, 180:210] == DRAWN).all()
    assert set(table["region"]) == {2, 3}
    verdict = verify_section(section.image, tmp_path / "plan", out)
    assert verdict.wrong == []
    assert "grafts" in [check.check for check in verdict.checks]
    record = zarr.open_group(out, mode="r").attrs["cytomend"]
    assert (record["fill"], record["joint"], record["graft_block_um"]) == ("graft", "network", 24.0)


def test_drawing_all_leaves_no_origin_and_no_grafts(make_section, tiny_model, tmp_path):
    out = mend_by_stages(make_section(WIDE), tiny_model(), tmp_path)
    assert not (out / "labels" / "origin").exists()
    assert read_grafts(out).empty
    assert dict(zarr.open_group(out, mode="r").attrs)["cytomend"]["fill"] == "draw"


def test_narrow_regions_are_the_same_bit_for_bit_as_if_all_were_drawn(make_section, tiny_model, tmp_path):
    section = make_section(WIDE)
    for name, how in {"graft": grafting(), "draw": mend_settings()}.items():
        (tmp_path / name).mkdir()
        mend_by_stages(section, tiny_model(), tmp_path / name, mend=how)
    graft, draw = (array(tmp_path / name / "corrected.ome.zarr", "0") for name in ("graft", "draw"))
    assert np.array_equal(graft[15:30, 170:220], draw[15:30, 170:220])
    assert not np.array_equal(graft[60:110, 70:130], draw[60:110, 70:130])


@pytest.mark.parametrize("how", ["three shards", "small groups", "two threads"])
def test_law_2_shards_groups_and_threads_reach_no_pixel(make_section, tiny_model, tmp_path, how):
    section = make_section(WIDE)
    machine = {"small groups": cpu(group_px=1), "two threads": cpu(threads=2)}.get(how, cpu())
    plan = planned(shards=3 if how == "three shards" else 1)
    for name, one, where in (("usual", planned(), cpu()), ("other", plan, machine)):
        (tmp_path / name).mkdir()
        mend_by_stages(section, tiny_model(), tmp_path / name, plan=one, mend=grafting(), machine=where)
    one, other = (tmp_path / name / "corrected.ome.zarr" for name in ("usual", "other"))
    for place in ("0", "labels/origin/0", "labels/origin/grafts"):
        assert np.array_equal(array(one, place), array(other, place))


def test_a_shard_that_failed_goes_on_with_the_same_grafts(make_section, tiny_model, tmp_path, monkeypatch):
    section, machine = make_section(WIDE), cpu(group_px=1)
    (tmp_path / "whole").mkdir()
    whole = mend_by_stages(section, tiny_model(), tmp_path / "whole", plan=planned(), mend=grafting(), machine=machine)
    keep, kept = GroupMender.keep, []

    def failing(mender, mended):
        if kept:
            raise OSError("disk is gone")
        kept.append(keep(mender, mended))

    with monkeypatch.context() as patch:
        patch.setattr(GroupMender, "keep", failing)
        with pytest.raises(OSError, match="disk is gone"):
            mend_by_stages(section, tiny_model(), tmp_path, plan=planned(), mend=grafting(), machine=machine)
    stores, plan = [tmp_path / "0.zarr"], tmp_path / "plan"
    mend_shard(section.image, plan, 0, tiny_model(), grafting(), machine, stores[0])
    blend_section(section.image, plan, stores, PYRAMID, tmp_path / "corrected.ome.zarr")
    for place in ("0", "labels/origin/0", "labels/origin/grafts"):
        assert np.array_equal(array(whole, place), array(tmp_path / "corrected.ome.zarr", place))


def test_samples_are_grafted_apart_and_their_spread_covers_what_is_copied(make_section, tiny_model, tmp_path):
    section = make_section(WIDE)
    out = mend_by_stages(section, tiny_model(), tmp_path, plan=planned(samples=3), mend=grafting())
    origin, spread = array(out, "labels/origin/0"), array(out, "labels/uncertainty/0")
    assert (spread[origin >= FIRST] > 0).mean() > 0.5
    assert verify_section(section.image, tmp_path / "plan", out).wrong == []
    (tmp_path / "one").mkdir()
    one = mend_by_stages(section, tiny_model(), tmp_path / "one", plan=planned(), mend=grafting())
    assert np.array_equal(array(one, "0"), array(out, "0"))


def test_a_region_that_is_drawn_again_gets_other_grafts(make_section, tiny_model, tmp_path):
    section = make_section(WIDE)
    grown = section.grown(2)[50:120, 60:140]
    decided = {"region": 2, "box": [58, 68, 112, 132], "area_px": int(grown.sum()), "decision": "redo", "draw": 1}
    tables = []
    for name, plan in {"first": planned(), "again": planned(decisions=[decided])}.items():
        (tmp_path / name).mkdir()
        out = mend_by_stages(section, tiny_model(), tmp_path / name, plan=plan, mend=grafting())
        facts = json.loads((tmp_path / name / "plan" / "section.json").read_text())
        assert [warning for warning in facts["warnings"] if "not applied" in warning] == []
        tables.append(read_grafts(out))
    again = [table[table["region"] == 2].reset_index(drop=True) for table in tables]
    same = [table[table["region"] == 3].reset_index(drop=True) for table in tables]
    assert not again[0].equals(again[1])
    assert same[0].equals(same[1])


def test_a_scan_that_no_model_fits_is_grafted_and_blended(make_section, tiny_model, tmp_path, monkeypatch):
    section = make_section(WIDE, "uint8", 3)
    monkeypatch.setattr(group_mender, "fill", None)  # the network must not be asked
    out = mend_by_stages(section, tiny_model(1), tmp_path, plan=planned(), mend=grafting())
    origin, table = assert_graft_record(out, section, section.grown(2))
    assert set(table["region"]) == {1, 2, 3}
    assert zarr.open_group(out, mode="r").attrs["cytomend"]["joint"] == "blend"
    assert verify_section(section.image, tmp_path / "plan", out).wrong == []
    joint = array(out, "0")[:, origin == DRAWN]
    assert joint.std() > 0.5 * section.pixels.std()


def test_without_grafts_such_a_scan_is_refused(make_section, tiny_model, tmp_path):
    section = make_section(WIDE, "uint8", 3)
    with pytest.raises(InputError, match="has 3 channels, the model was trained on 1"):
        mend_by_stages(section, tiny_model(1), tmp_path, plan=plan_settings(fill="draw"))


def test_where_nothing_fits_and_nothing_can_be_copied_the_region_is_named(make_section, tiny_model, tmp_path):
    mask = np.ones((60, 60), bool)
    mask[:, :4] = False
    section = make_section(mask, "uint8", 3)
    with pytest.raises(InputError, match="region 1: the model cannot draw it"):
        mend_by_stages(section, tiny_model(1), tmp_path, plan=planned(grow_px=0, max_covered=1.0), mend=grafting())


# Proof


def _altered_copy(out, origin):
    place = np.argwhere(origin >= FIRST)[0]
    image = zarr.open_array(out / "0", mode="r+")
    image[tuple(place)] = int(image[tuple(place)]) ^ 1


def _source_in_damage(out, _):
    table = zarr.open_array(out / "labels" / "origin" / "grafts", mode="r+")
    table[0, 4:6] = table[0, 2:4]


def _source_outside(out, _):
    zarr.open_array(out / "labels" / "origin" / "grafts", mode="r+")[0, 4] = -5


def _another_region(out, _):
    zarr.open_array(out / "labels" / "origin" / "grafts", mode="r+")[0, 0] = 9


def _unmarked(out, origin):
    place = np.argwhere(origin >= FIRST)[0]
    zarr.open_array(out / "labels" / "origin" / "0", mode="r+")[tuple(place)] = 0


def _no_table(out, _):
    (out / "labels" / "origin" / "grafts" / "zarr.json").unlink()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (_altered_copy, "expected the pixels of its source"),
        (_source_in_damage, "expected a source of intact tissue"),
        (_source_outside, "expected its source inside the section"),
        (_another_region, "expected its pixels in that region"),
        (_unmarked, "expected an origin of every mended pixel"),
        (_no_table, "expected the table of grafts"),
    ],
)
def test_a_graft_that_is_not_what_its_record_says_is_found(make_section, tiny_model, tmp_path, fault, told):
    section = make_section(WIDE)
    out = mend_by_stages(section, tiny_model(), tmp_path, plan=planned(), mend=grafting())
    fault(out, array(out, "labels/origin/0"))
    verdict = verify_section(section.image, tmp_path / "plan", out)
    grafts = next(check for check in verdict.checks if check.check == "grafts")
    assert not grafts.holds
    assert any(told in sentence for sentence in grafts.wrong)


# Trials


def test_a_trial_is_grafted_as_a_region_of_that_shape_would_be(make_section, tiny_model, tmp_path):
    section = make_section(WIDE)
    plan_section(section.image, section.annotation, planned(grow_px=0), tmp_path / "plan")
    mend_shard(section.image, tmp_path / "plan", 0, tiny_model(), grafting(), cpu(), tmp_path / "0.zarr")
    out = tmp_path / "corrected.ome.zarr"
    blend_section(section.image, tmp_path / "plan", [tmp_path / "0.zarr"], PYRAMID, out)
    plan, view = Plan.read(tmp_path / "plan"), Box(40, 50, 130, 140)
    own = np.asarray(plan.labels[view.slices]) == plan.labels[80, 100]
    denoiser, _ = load_model(tiny_model())
    ask = window_denoiser(denoiser, cpu().device, batch=8, threads=1, precision="bfloat16")
    with open_image(section.image) as image:
        how = Grafting(GraftSettings(**SMALL), Tissue.of(image, plan))
        sampler, lattice = mend_settings().choose(), Lattice(32, 24)
        mender = TrialMender(image, plan.mask, lattice, (0.0, 255.0), ask, sampler, 4, cpu().device, 64, how)
        drawn = mender([Placement(0, INTACT, view, 10, own, view)])[0][0]
    assert np.array_equal(drawn[own], array(out, "0")[view.slices][own])
    assert (drawn[~own] == 0).all()


def test_grafts_are_named_with_their_settings():
    default = GraftSettings()
    assert parse_grafts("graft", default) == default
    assert parse_grafts("graft:block_um=128,step_um=96", default).block_um == 128
    with pytest.raises(InputError, match="found blok_um"):
        parse_grafts("graft:blok_um=128", default)
    with pytest.raises(InputError, match="expected numbers"):
        parse_grafts("graft:block_um=wide", default)


def test_a_store_of_another_way_to_fill_is_not_taken_for_this_one(make_section, tiny_model, tmp_path):
    section = make_section(WIDE)
    plan_section(section.image, section.annotation, planned(), tmp_path / "plan")
    manifests = []
    for how in (mend_settings(), grafting(), grafting(block_um=32.0)):
        mend_shard(section.image, tmp_path / "plan", 0, tiny_model(), how, cpu(), tmp_path / "0.zarr")
        manifests.append(json.loads(manifest_of(tmp_path / "0.zarr").read_text())["made_from"])
    assert len(set(manifests)) == 3
