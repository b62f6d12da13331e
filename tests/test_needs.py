"""Needs: what a job asks for follows the damage, and bounds what is asked of the network."""

import json
from dataclasses import asdict, replace

import pytest
from conftest import blobs, plan_settings

from cytomend.diffusion.samplers import SAMPLERS
from cytomend.needs import (
    PATCH_MB,
    Needs,
    blend_request,
    calls_at_most,
    evaluate_request,
    mend_request,
    plan_request,
    report_request,
    stream_request,
    trials_request,
)
from cytomend.regions.plan import Plan
from cytomend.stages.plan_section import plan_section

BRAIN = Needs(98_304 * 81_920, 1, 256, (40_000, 20_000), 9_000)
TRIALS = {
    "trials": 16,
    "artefact_trials": 0,
    "windows": 2,
    "samplers": [],
    "sampler_trials": 8,
    "patch_trials": 0,
    "patch_um": 1000.0,
}


def test_a_plan_tells_the_needs_of_its_section(make_section, tmp_path):
    section = make_section(blobs((100, 150), (10, 10, 60, 70), (80, 120, 84, 124)))
    manifest = plan_section(section.image, section.annotation, plan_settings(shards=2, samples=3), tmp_path / "plan")
    needs, regions = Needs.read(manifest), Plan.read(tmp_path / "plan").regions
    assert needs == Needs.of(Plan.read(tmp_path / "plan"))
    assert (needs.pixels, needs.value_bytes, needs.window_px) == (15_000, 1, 32)
    assert sum(needs.windows) == 3 * regions["windows"].sum()
    assert needs.largest_windows == regions["windows"].max()
    assert len(needs.windows) == 2


def test_a_section_without_damage_needs_no_windows(make_section, tmp_path):
    section = make_section(blobs((100, 150)))
    needs = Needs.read(plan_section(section.image, section.annotation, plan_settings(), tmp_path / "plan"))
    assert needs.windows == (0,)
    assert mend_request(needs, 0, 50) == mend_request(None, 0, 50)


@pytest.mark.parametrize("text", ["", "{}", '{"needs": {}}', '{"needs": {"windows": 3}}'])
def test_without_a_whole_plan_nothing_is_known(tmp_path, text):
    (tmp_path / "plan.manifest.json").write_text(text)
    assert Needs.read(tmp_path / "plan.manifest.json") is None
    assert Needs.read(tmp_path / "none.json") is None


def test_requests_grow_with_what_they_are_for():
    larger = replace(BRAIN, pixels=2 * BRAIN.pixels, largest_windows=18_000, windows=(80_000, 20_000), value_bytes=3)
    for ask in (lambda n: mend_request(n, 0, 50), stream_request, report_request, lambda n: blend_request(n, 4096)):
        few, many = ask(BRAIN), ask(larger)
        assert many.runtime > few.runtime
        assert many.mem_mb >= few.mem_mb
    assert report_request(BRAIN).runtime > stream_request(BRAIN).runtime
    assert blend_request(larger, 4096).mem_mb > blend_request(BRAIN, 4096).mem_mb
    assert mend_request(larger, 0, 50).mem_mb > mend_request(BRAIN, 0, 50).mem_mb
    assert mend_request(BRAIN, 1, 50).runtime < mend_request(BRAIN, 0, 50).runtime
    assert trials_request(BRAIN, TRIALS, 2560).runtime > trials_request(BRAIN, TRIALS, 50).runtime
    assert evaluate_request({**TRIALS, "trials": 1000}).mem_mb > evaluate_request(TRIALS).mem_mb
    large = {**TRIALS, "patch_trials": 100}
    assert trials_request(BRAIN, large, 50).runtime > trials_request(BRAIN, TRIALS, 50).runtime
    assert trials_request(BRAIN, large, 50, 0.5).mem_mb > trials_request(BRAIN, large, 50).mem_mb
    # Large patches are looked at so many at a time, whatever their number.
    assert evaluate_request(large).mem_mb > evaluate_request(TRIALS).mem_mb + 4 * PATCH_MB
    assert evaluate_request({**large, "patch_trials": 10_000}).mem_mb < 3 * evaluate_request(large).mem_mb
    again = mend_request(BRAIN, 0, 50).again(2)
    assert (again.mem_mb, again.runtime) == tuple(2 * v for v in asdict(mend_request(BRAIN, 0, 50)).values())


def test_planning_asks_for_the_time_that_its_files_take(tmp_path):
    (tmp_path / "store").mkdir()
    for name, size in (("scan.tif", 20_000_000_000), ("store/chunk", 20_000_000_000)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)  # without taking room on the disk
    small = plan_request([tmp_path / "none"])
    assert plan_request([tmp_path / "scan.tif"]).runtime == small.runtime + 6
    assert plan_request([tmp_path / "store"]).runtime == small.runtime + 6


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 25, 256])
def test_the_bound_of_calls_holds_for_every_sampler(name, steps):
    sampler = replace(SAMPLERS[name], steps=steps)
    resample = None if name != "langevin" else sampler.resample
    assert calls_at_most({"sampler": name, "steps": steps, "resample": resample}) >= sampler.calls


def test_a_damaged_number_of_shards_still_asks_for_enough():
    assert mend_request(BRAIN, 7, 50).runtime > mend_request(BRAIN, 0, 50).runtime


def test_the_record_in_a_manifest_is_plain():
    assert json.loads(json.dumps(asdict(BRAIN)))["windows"] == [40_000, 20_000]
