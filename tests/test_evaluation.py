"""The protocol of an evaluation: where trials lie, how they are mended, what is summed up, what is written."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
import zarr
from conftest import as_json, blobs, cpu, mend_settings, plan_settings, write_tiff
from scipy import ndimage

from cytomend.cli import main
from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.named_samplers import label_of, open_sampler, parse_sampler
from cytomend.diffusion.windows import window_denoiser
from cytomend.errors import InputError
from cytomend.evaluation import parts, summary
from cytomend.evaluation.fillers import FILLERS
from cytomend.evaluation.measurement import FLOOR, MEASURED, ORIGINAL, PASTED, RENOISED, TRUTH
from cytomend.evaluation.mending import TrialMender
from cytomend.evaluation.placement import ARTEFACT, INTACT, SMALL, Placement, place_intact
from cytomend.evaluation.tables import DICTIONARY, GATHERED, read_facts, read_table
from cytomend.evaluation.trial_store import TrialStore
from cytomend.geometry import Box
from cytomend.phantom import render_tissue
from cytomend.regions.lattice import Lattice
from cytomend.regions.plan import Plan
from cytomend.report.evaluation_shown import EvaluationShown
from cytomend.report.pages import write_page
from cytomend.settings import checked
from cytomend.sheet import chance
from cytomend.stages import evaluate_section as evaluate_stage
from cytomend.stages import mend_trials as stage
from cytomend.stages.evaluate_section import EvaluateSettings, Sources, evaluate_section
from cytomend.stages.mend_shard import mend_shard
from cytomend.stages.mend_trials import TrialSettings, mend_trials, place_trials
from cytomend.stages.plan_section import plan_section
from cytomend.stages.summarise_brain import summarise_evaluations
from cytomend.storage.images import open_image
from cytomend.storage.publish import damaged_files, manifest_of, publish

LATTICE = Lattice(32, 24)


class NoDamage:
    def __init__(self, shape, mask=None):
        self.shape = shape
        self.mask = np.zeros(shape, bool) if mask is None else mask

    def read(self, box):
        return self.mask[box.slices]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """A small phantom section on disk: scan, truth, mask, cells."""
    folder = tmp_path_factory.mktemp("phantom")
    tissue = render_tissue((420, 420), 900_100)
    mask = blobs(tissue.image.shape, (60, 60, 100, 110), (90, 90, 130, 120))
    write_tiff(folder / "section.tif", np.where(mask, np.uint8(250), tissue.image))
    write_tiff(folder / "truth.tif", tissue.image)
    tifffile.imwrite(folder / "mask.tif", mask.astype(np.uint8) * 255)
    tissue.cells.to_parquet(folder / "cells.parquet")
    return folder


TRIALS = {"trials": 5, "artefact_trials": 4, "windows": 2, "samplers": [], "sampler_trials": 2, "seed": 0}
LOOKS = {"segmenters": ["classical"], "classifier": None, "fillers": ["local mean"], "realism": False}


def trial_settings(**changes):
    return TrialSettings(**{key: changes.get(key, value) for key, value in TRIALS.items()})


def settings(**changes):
    return EvaluateSettings(**{key: changes.get(key, value) for key, value in LOOKS.items()})


def evaluated(phantom, model, out, *, machine=None, **changes):
    plan, trials = out.with_name(f"{out.name}-plan"), out.with_name(f"{out.name}-trials.zarr")
    scan = phantom / "section.tif"
    plan_section(scan, phantom / "mask.tif", plan_settings(), plan)
    mend_trials(scan, plan, model, mend_settings(), trial_settings(**changes), machine or cpu(), trials)
    sources = Sources(scan, phantom / "truth.tif", phantom / "cells.parquet")
    evaluate_section(sources, plan, trials, settings(**changes), (machine or cpu()).threads, out)
    return out


@pytest.fixture(scope="module")
def evaluation(phantom, tiny_model, tmp_path_factory):
    return evaluated(phantom, tiny_model(), tmp_path_factory.mktemp("evaluated") / "evaluation")


def place(image, mask, count=6, **changes):
    usual = {"count": count, "patch_px": 56, "margin_px": 8, "name": "s1", "seed": 0}
    return place_intact(image, mask, (0.0, 255.0), **{**usual, **changes})


# where trials lie


def test_views_lie_on_intact_tissue_alone_and_masks_within_their_patch(phantom):
    with open_image(phantom / "section.tif") as image:
        damaged = tifffile.imread(phantom / "mask.tif") > 0
        placed = place(image, NoDamage(image.shape, damaged), count=12)
    assert len(placed) == 12
    for trial in placed:
        assert not damaged[trial.view.slices].any()
        assert not damaged[trial.other.slices].any()
        assert trial.view.intersect(trial.other).is_empty
        inner = trial.patch.relative_to(trial.view).slices
        outside = trial.mask.copy()
        outside[inner] = False
        assert not outside.any()
        assert 0.03 < trial.fraction < 0.52


def test_mask_fractions_are_spread_over_5_to_50_per_cent(phantom):
    with open_image(phantom / "truth.tif") as image:
        fractions = sorted(t.fraction for t in place(image, NoDamage(image.shape), count=10))
    wanted = 0.05 + 0.45 * (np.arange(10) + 0.5) / 10
    np.testing.assert_allclose(fractions, wanted, atol=0.025)


def test_places_follow_from_name_and_seed_and_not_from_their_number(phantom):
    with open_image(phantom / "truth.tif") as image:
        whole = NoDamage(image.shape)
        few, many, again, other = (
            place(image, whole, count=3),
            place(image, whole, count=6),
            place(image, whole, count=6),
            place(image, whole, count=6, name="s2"),
        )
    assert [t.view for t in few] == [t.view for t in many][:3]
    assert all((a.mask == b.mask).all() and a.view == b.view for a, b in zip(many, again, strict=True))
    assert [t.view for t in many] != [t.view for t in other]


def test_trials_lie_within_the_outlines_of_tissue_and_off_damage_that_lies_outside(phantom, tmp_path):
    inside = {"type": "Polygon", "coordinates": [[[200, 40], [400, 40], [400, 400], [200, 400], [200, 40]]]}
    feature = {"type": "Feature", "geometry": inside, "properties": {"classification": {"name": "Tissue"}}}
    (tmp_path / "tissue.geojson").write_text(json.dumps(feature))
    scan = phantom / "section.tif"
    plan_section(scan, [phantom / "mask.tif", tmp_path / "tissue.geojson"], plan_settings(), tmp_path / "bounded")
    plan_section(scan, phantom / "mask.tif", plan_settings(), tmp_path / "free")
    with open_image(scan) as image:
        bounded, free = (
            place_trials(image, Plan.read(tmp_path / name), trial_settings(trials=6, artefact_trials=0))[SMALL]
            for name in ("bounded", "free")
        )
    frame = Box(40, 200, 400, 400)
    assert bounded
    assert all(view.intersect(frame) == view for trial in bounded for view in (trial.view, trial.other))
    assert any(trial.view.intersect(frame) != trial.view for trial in free)


def test_outlines_of_tissue_belong_to_their_plan(phantom, tmp_path):
    inside = {"type": "Polygon", "coordinates": [[[200, 40], [400, 40], [400, 400], [200, 400], [200, 40]]]}
    feature = {"type": "Feature", "geometry": inside, "properties": {"classification": {"name": "Tissue"}}}
    (tmp_path / "tissue.geojson").write_text(json.dumps(feature))
    scan, plan = phantom / "section.tif", tmp_path / "plan"
    plan_section(scan, [phantom / "mask.tif", tmp_path / "tissue.geojson"], plan_settings(), plan)
    assert Plan.read(plan).tissue.area == 200 * 360
    (tmp_path / ".other.work").mkdir()  # of a planner that was killed
    shutil.copy(plan / "tissue.wkb", tmp_path / ".other.work")
    plan_section(scan, phantom / "mask.tif", plan_settings(), tmp_path / "other")
    assert Plan.read(tmp_path / "other").tissue is None
    assert not (tmp_path / "other" / "tissue.wkb").exists()
    for content in (b"junk", shapely.to_wkb(shapely.Point(1, 1)), shapely.to_wkb(shapely.MultiPolygon()), None):
        (plan / "tissue.wkb").write_bytes(content) if content is not None else (plan / "tissue.wkb").unlink()
        with pytest.raises(InputError, match="not a whole plan"):
            Plan.read(plan)


def test_no_trial_lies_on_glass(tmp_path):
    picture = np.full((300, 300), 230, np.uint8)
    picture[:, :150] = render_tissue((300, 150), 900_200).image
    write_tiff(tmp_path / "half.tif", picture)
    with open_image(tmp_path / "half.tif") as image:
        placed = place(image, NoDamage(image.shape), count=8)
    assert placed
    assert all(t.view.x1 <= 150 + 20 for t in placed)


# how they are mended


def test_a_trial_is_mended_as_a_region_of_that_shape_would_be(make_section, tiny_model, tmp_path):
    """The same pixels, bit for bit, as the stage `mend_shard` draws where the mask is declared damage."""
    own = blobs((150, 170), (40, 60, 66, 81), (52, 70, 75, 100))
    section = make_section(own | blobs((150, 170), (90, 20, 110, 60)))
    plan_section(section.image, section.annotation, plan_settings(grow_px=0), tmp_path / "plan")
    mend_shard(section.image, tmp_path / "plan", 0, tiny_model(), mend_settings(), cpu(), tmp_path / "0.zarr")
    store, plan = zarr.open_group(tmp_path / "0.zarr", mode="r"), Plan.read(tmp_path / "plan")
    expected = np.zeros(own.shape, np.uint8)
    for (y, x), cell in zip(np.asarray(store["corners"]), np.asarray(store["pixels"]), strict=True):
        shown = Box(int(y), int(x), int(y) + 8, int(x) + 8).clip(own.shape)
        labels = np.asarray(plan.labels[shown.slices])
        number = plan.labels[40, 60]
        expected[shown.slices][labels == number] = cell[0, : shown.shape[0], : shown.shape[1]][labels == number]
    denoiser, _ = load_model(tiny_model())
    ask = window_denoiser(denoiser, cpu().device, batch=8, threads=1, precision="bfloat16")
    view = Box(20, 40, 116, 136)
    trial = Placement(0, INTACT, view, 20, own[view.slices], view)
    with open_image(section.image) as image:
        mender = TrialMender(
            image, plan.mask, LATTICE, (0.0, 255.0), ask, mend_settings().choose(), 4, cpu().device, 64
        )
        drawn = mender([trial])[0][0]
    np.testing.assert_array_equal(drawn[trial.mask], expected[view.slices][trial.mask])
    assert (drawn[~trial.mask] == 0).all()


def test_trials_mended_together_come_out_as_alone(phantom, tiny_model):
    denoiser, _ = load_model(tiny_model())
    ask = window_denoiser(denoiser, cpu().device, batch=8, threads=1, precision="bfloat16")
    with open_image(phantom / "truth.tif") as image:
        places = place(image, NoDamage(image.shape), count=4)

        def mender(group_windows):
            sampler = mend_settings().choose()
            whole = NoDamage(image.shape)
            return TrialMender(image, whole, LATTICE, (0.0, 255.0), ask, sampler, 4, cpu().device, group_windows)

        together, alone = mender(1000)(places), [mender(1)([p])[0] for p in places]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, other)


# what is written


def test_pictures_equal_the_original_outside_the_mask_and_every_filler_has_a_row(evaluation):
    rows = read_table(evaluation, "measurements")
    fillers = set(rows["filler"])
    assert fillers == {ORIGINAL, TRUTH, "timemap", FLOOR, PASTED, RENOISED, "local mean"}
    counts = rows.groupby(["kind", "filler"]).size().unstack()
    assert counts.nunique(axis=1).eq(1).all()
    assert counts.loc[INTACT, "timemap"] == 5
    assert counts.loc[ARTEFACT, "timemap"] > 0
    # Pixels are counted in the mask alone, and the rim of the original is found again in itself.
    same = rows[rows["filler"] == ORIGINAL]
    assert (same["rim matched"].dropna() == 1).all()
    np.testing.assert_allclose(rows["pixels"], rows["area_mm2"] * 1e6)


def test_every_column_is_in_the_dictionary_and_tsv_says_what_parquet_says(evaluation):
    dictionary = pd.read_csv(evaluation / "dictionary.tsv", sep="\t", keep_default_na=False)
    for name in DICTIONARY:
        parquet = read_table(evaluation, name)
        tsv = pd.read_csv(evaluation / f"{name}.tsv", sep="\t")
        told = dictionary[dictionary["table"] == name]
        assert list(parquet.columns) == list(tsv.columns) == list(told["column"])
        assert len(parquet) == len(tsv)
        assert (told["meaning"].str.len() > 5).all()


def test_masked_pixels_hold_the_fraction_that_is_said(evaluation):
    trials = read_table(evaluation, "trials")
    np.testing.assert_allclose(trials["masked_px"] / trials["patch_px"] ** 2, trials["fraction"])


def test_cells_of_the_truth_are_the_known_cells_under_the_mask(evaluation, phantom):
    known = pd.read_parquet(phantom / "cells.parquet")
    listed = read_table(evaluation, "cells")
    listed = listed[listed["filler"] == TRUTH]
    keys = set(zip(known["y_um"].round(2), known["x_um"].round(2), strict=True))
    assert len(listed)
    assert (
        set(zip(listed["y_um"].astype("float32").round(2), listed["x_um"].astype("float32").round(2), strict=True))
        <= keys
    )


def test_an_evaluation_says_what_it_was_made_with(evaluation):
    facts = read_facts(evaluation)
    assert facts["sampler"] == "timemap"
    assert facts["trials"][INTACT] == facts["wanted"] == 5
    assert len(facts["checkpoint_sha256"]) == 64
    assert damaged_files(evaluation) == []
    assert set(json.loads((evaluation / "figures" / "captions.json").read_text())) >= {"errors", "classes", "exemplars"}


def test_batches_threads_and_chunks_reach_no_number(phantom, tiny_model, evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "CHUNK", 3)
    monkeypatch.setattr(evaluate_stage, "CHUNK", 2)
    other = evaluated(phantom, tiny_model(), tmp_path / "evaluation", machine=cpu(threads=2, group_px=1))
    for name in DICTIONARY:
        pd.testing.assert_frame_equal(
            read_table(evaluation, name).reset_index(drop=True), read_table(other, name).reset_index(drop=True)
        )


def test_killed_trials_go_on_and_give_the_same(phantom, tiny_model, tmp_path):
    scan, plan, whole, out = phantom / "section.tif", tmp_path / "plan", tmp_path / "whole.zarr", tmp_path / "out.zarr"
    plan_section(scan, phantom / "mask.tif", plan_settings(), plan)
    mend_trials(scan, plan, tiny_model(), mend_settings(), trial_settings(), cpu(), whole)
    slow = (
        "import sys, cytomend.stages.mend_trials as s; s.CHUNK = 1;"
        " from cytomend.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    options = [
        *("mend-trials", "--image", scan, "--plan", plan, "--model", tiny_model(), "--out", out, "--device", "cpu"),
        *("--threads", "1", "--mend", as_json(mend_settings()), "--settings", as_json(trial_settings())),
    ]
    command = [sys.executable, "-c", slow, *map(str, options)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    done, end = tmp_path / ".out.zarr.work" / "parts" / "0", time.monotonic() + 120
    while not list(done.glob("[0-9]*.npz")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    kept = {path: path.stat().st_mtime_ns for path in done.glob("[0-9]*.npz")}
    assert kept
    log = subprocess.run(command, check=True, capture_output=True, text=True)
    assert out.exists(), log
    assert not done.exists()
    for one, other in zip(
        TrialStore.open(whole).read(SMALL, 0, 99), TrialStore.open(out).read(SMALL, 0, 99), strict=True
    ):
        assert one.place.view == other.place.view
        np.testing.assert_array_equal(one.fills["timemap"], other.fills["timemap"])


def test_a_section_without_intact_tissue_is_no_error(make_section, tiny_model, tmp_path):
    section = make_section(blobs((100, 100), (40, 0, 60, 100)))
    plan_section(section.image, section.annotation, plan_settings(), tmp_path / "plan")
    out, trials = tmp_path / "evaluation", tmp_path / "trials.zarr"
    mend_trials(section.image, tmp_path / "plan", tiny_model(), mend_settings(), trial_settings(), cpu(), trials)
    evaluate_section(Sources(section.image), tmp_path / "plan", trials, settings(), 1, out)
    assert read_facts(out)["trials"] == {INTACT: 0, ARTEFACT: 0}
    assert read_table(out, "summary").empty


def test_colour_and_16_bit_are_evaluated_as_grey(make_section, tiny_model, tmp_path):
    for name, kind in {"deep": {"dtype": "uint16"}, "colour": {"channels": 3}}.items():
        section = make_section(blobs((220, 220), (0, 0, 4, 4)), name=name, **kind)
        channels = kind.get("channels", 1)
        plan_section(section.image, section.annotation, plan_settings(model_channels=channels), tmp_path / name)
        out, model, trials = tmp_path / f"{name}-out", tiny_model(channels), tmp_path / f"{name}-trials.zarr"
        plan, asked = tmp_path / name, trial_settings(windows=1)
        mend_trials(section.image, plan, model, mend_settings(), asked, cpu(), trials)
        evaluate_section(Sources(section.image), plan, trials, settings(), 1, out)
        assert set(read_table(out, "measurements")["filler"]) >= {"timemap", "floor"}


def test_a_page_shows_model_and_controls_and_escapes_their_names(evaluation, tmp_path):
    copy = tmp_path / "evaluation"
    shutil.copytree(evaluation, copy)
    summary = read_table(copy, "summary").replace({"filler": {"local mean": "<script>alert(1)</script>"}})
    summary.to_parquet(copy / "summary.parquet")
    shown = EvaluationShown.read(copy, tmp_path / "report" / "index.html")
    assert [(table.kind, table.reference) for table in shown.tables] == [
        (INTACT, "original"),
        (ARTEFACT, "original"),
        (ARTEFACT, "truth"),
    ]
    out = tmp_path / "report" / "index.html"
    write_page("evaluation.html.j2", out, evaluation=shown)
    page = out.read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert re.search(r'<tr class="model">\s*<th scope="row">timemap</th>', page)
    assert page.count('<figure class="plot">') == len(shown.figures) >= 6
    for figure in shown.figures:
        assert (out.parent / figure.src).resolve() == (out.parent / figure.href).resolve()
        assert (out.parent / figure.src).is_file()


def test_the_evaluations_of_sections_add_up(evaluation, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(evaluation, tmp_path / "work")
    for name in GATHERED:
        read_table(evaluation, name).assign(section="s2").to_parquet(tmp_path / "work" / f"{name}.parquet")
    facts = json.dumps({**read_facts(evaluation), "section": "s2"})
    (tmp_path / "work" / "evaluation.json").write_text(facts)
    publish(tmp_path / "work", other, {})
    summarise_evaluations([evaluation, other], tmp_path / "brain")
    one, both = (read_table(folder, "summary").query("bin == 'all'") for folder in (evaluation, tmp_path / "brain"))
    assert both["trials"].tolist() == [2 * n for n in one["trials"]]
    np.testing.assert_allclose(both["pooled_error"], one["pooled_error"])
    assert read_facts(tmp_path / "brain")["trials"][INTACT] == 10


# what is summed up


def measurement_rows(found, original, fractions, name="cell density"):
    ratio = MEASURED[name]
    sums = {column for r in MEASURED.values() for column in (r.top, r.bottom)}
    rows = []
    for filler, tops in (("mine", found), (ORIGINAL, original)):
        for i, (top, fraction) in enumerate(zip(tops, fractions, strict=True)):
            row = {
                "section": "s",
                "trial": i,
                "kind": INTACT,
                "size": SMALL,
                "filler": filler,
                "segmenter": "any",
                "fraction": fraction,
            }
            row |= dict.fromkeys(sums, 1.0) | dict.fromkeys(MEASURED, 1.0)
            rows.append(row | {ratio.top: top, ratio.bottom: 2.0, name: top / 2.0})
    return pd.DataFrame(rows)


def test_errors_are_those_of_the_formula():
    table = summary.summarise(measurement_rows([1.0, 3.0, 6.0], [2.0, 2.0, 8.0], [0.1, 0.2, 0.45]))
    row = table[(table["statistic"] == "cell density") & (table["bin"] == "all")].iloc[0]
    assert row["median_error"] == 0.5  # of 0.5, 0.5 and 0.25
    assert row["pooled_error"] == pytest.approx(10 / 12 - 1)
    assert row["trials"] == 3
    one = table[(table["statistic"] == "cell density") & (table["bin"] == "41-50 %")].iloc[0]
    assert (one["trials"], one["median_error"]) == (1, 0.25)


def test_a_perfect_filler_has_no_error():
    counts = np.random.default_rng(0).poisson(5, 40).astype(float)
    table = summary.summarise(measurement_rows(counts, counts, np.linspace(0.05, 0.5, 40)))
    rows = table[table["statistic"] == "cell density"]
    assert (rows[["median_error", "median_high", "pooled_error", "pooled_low", "pooled_high"]] == 0).all(axis=None)
    assert set(rows["bin"]) == {name for name, *_ in summary.bins()}
    assert rows[rows["bin"] != "all"]["trials"].sum() == 40


def test_the_interval_of_a_median_is_that_of_a_bootstrap():
    values = np.random.default_rng(1).gamma(2, size=41)
    draws = np.median(values[np.random.default_rng(2).integers(41, size=(40_000, 41))], axis=1)
    middle, low, high = summary.median_interval(values)
    assert middle == np.median(values)
    np.testing.assert_allclose((low, high), np.quantile(draws, (0.025, 0.975)), rtol=0.02)


def test_the_interval_of_a_rate_is_that_of_a_bootstrap():
    hits = np.arange(60) < 9
    draws = hits[np.random.default_rng(2).integers(60, size=(40_000, 60))].mean(1)
    rate, low, high = summary.rate_interval(hits)
    assert rate == 0.15
    np.testing.assert_allclose((low, high), np.quantile(draws, (0.025, 0.975)), atol=1 / 60)


def test_flips_and_top_2_are_counted_against_the_original():
    before = {
        "kind": INTACT,
        "size": SMALL,
        "classifier": "c",
        "section": "s",
        "top2": "x",
        "margin": 0.5,
        "fraction": 0.2,
    }
    rows = [{**before, "trial": i, "filler": ORIGINAL, "top1": "a"} for i in range(4)]
    answers = [("a", "b"), ("b", "a"), ("b", "c"), ("a", "c")]
    rows += [
        {**before, "trial": i, "filler": "mine", "top1": one, "top2": two, "margin": 0.4}
        for i, (one, two) in enumerate(answers)
    ]
    found = summary.summarise_classes(pd.DataFrame(rows))
    row = found[found["bin"] == "all"].iloc[0]
    assert (row["flip_rate"], row["top2_rate"]) == (0.5, 0.75)
    assert row["margin_change"] == pytest.approx(-0.1)


def test_windows_are_judged_only_where_that_is_asked_for(phantom, tiny_model, evaluation, tmp_path):
    assert read_table(evaluation, "windows").empty
    assert read_table(evaluation, "realism_summary").empty
    out = evaluated(phantom, tiny_model(), tmp_path / "out", trials=4, artefact_trials=0, windows=5, realism=True)
    rows = read_table(out, "windows")
    assert set(rows["filler"]) == {ORIGINAL, "timemap", FLOOR, PASTED, RENOISED, "local mean"}
    assert rows.groupby("filler").size().nunique() == 1
    assert (rows[rows["filler"] == "local mean"]["grain"] < rows[rows["filler"] == ORIGINAL]["grain"].min()).all()


# names, files and the command line


def test_a_developers_own_parts_get_their_rows(phantom, tiny_model, tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text(
        "import dataclasses, numpy as np, pandas as pd\n"
        "from cytomend.diffusion.samplers import SAMPLERS\n"
        "SAMPLER = dataclasses.replace(SAMPLERS['timemap'], steps=2)\n"
        "def black(picture, unknown):\n    return np.where(unknown, picture.dtype.type(0), picture)\n"
        "class Nothing:\n"
        "    name = 'nothing'\n"
        "    def find(self, image, *, pixel_size_um, value_range, surroundings=None):\n"
        "        empty = {c: np.zeros(0) for c in ('y_um', 'x_um', 'area_um2', 'score')}\n"
        "        return pd.DataFrame({**empty, 'contour_y_um': [], 'contour_x_um': []})\n"
        "class Coin:\n"
        "    name = 'coin'\n    classes = ('light', 'dark')\n"
        "    def predict(self, patches, pixel_size_um):\n"
        "        m = patches.mean((1, 2))\n        return np.stack([m, -m], 1).astype('float32')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = evaluated(
        phantom,
        tiny_model(),
        tmp_path / "evaluation",
        segmenters=["classical", "my_parts:Nothing"],
        classifier="my_parts:Coin",
        fillers=["my_parts:black"],
        samplers=["my_parts:SAMPLER", "timemap:steps=4"],
    )
    rows = read_table(out, "measurements")
    assert set(rows["filler"]) >= {"my_parts:black", "my_parts:SAMPLER", "timemap:steps=4"}
    assert set(rows["segmenter"]) >= {"my_parts:Nothing"}
    assert (
        rows[(rows["filler"] == "my_parts:SAMPLER") & (rows["segmenter"] == "classical")]["kind"] == INTACT
    ).sum() == 2
    classes = read_table(out, "class_summary")
    assert set(classes["classifier"]) == {"my_parts:Coin"}
    black = read_table(out, "classes").query("filler == 'my_parts:black' and fraction > 0.4")
    assert (black["top1"] == "dark").all()


BROKEN = """
import numpy as np, pandas as pd
from cytomend.diffusion.samplers import SAMPLERS

def table(**columns):
    usual = {"y_um": [5.0], "x_um": [5.0], "area_um2": [50.0], "score": [1.0]}
    return pd.DataFrame({**usual, **columns, "contour_y_um": [np.zeros(3)], "contour_x_um": [np.zeros(3)]})

class Finds:
    found = table()
    def find(self, image, **how):
        image[:] = 0
        return self.found

class NoNumber(Finds):
    found = table(area_um2=[np.nan])

class Outside(Finds):
    found = table(y_um=[-3.0])

class Raises(Finds):
    def find(self, image, **how):
        raise RuntimeError("out of order")

class OneClass:
    name, classes = "one", ("a",)
    def predict(self, patches, pixel_size_um):
        return np.zeros((len(patches), 1), np.float32)

class Nothing:
    calls = 1
    def run(self, denoise, image, known, alpha_bar, noise):
        yield image * float("nan")

NAN = Nothing()
"""


@pytest.fixture
def broken_parts(tmp_path, monkeypatch):
    (tmp_path / "broken_parts.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_parts", raising=False)


@pytest.mark.usefixtures("broken_parts")
@pytest.mark.parametrize(
    ("parts_given", "sentence"),
    [
        ({"segmenters": ["broken_parts:NoNumber"]}, "NoNumber.*finite places and positive areas"),
        ({"segmenters": ["broken_parts:Raises"]}, "Raises.*RuntimeError: out of order"),
        ({"classifier": "broken_parts:OneClass"}, "OneClass.*at least 2"),
        ({"samplers": ["broken_parts:NAN"]}, "NAN.*not finite"),
    ],
)
def test_a_broken_plug_in_is_named(parts_given, sentence, phantom, tiny_model, tmp_path):
    with pytest.raises(InputError, match=sentence):
        evaluated(phantom, tiny_model(), tmp_path / "evaluation", trials=1, artefact_trials=0, **parts_given)
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.usefixtures("broken_parts")
def test_a_segmenter_cannot_change_the_picture_and_cells_outside_it_do_not_count(phantom, tiny_model, tmp_path):
    named = ["broken_parts:Finds", "broken_parts:Outside"]
    out = evaluated(phantom, tiny_model(), tmp_path / "out", trials=1, artefact_trials=0, segmenters=named)
    rows = read_table(out, "measurements").query("filler == 'original'")
    assert (rows["grey mean"] > 20).all()
    assert (rows["cells"] == 0).all()


def test_damaged_trials_and_evaluations_are_refused(phantom, tiny_model, evaluation, tmp_path):
    plan, trials = tmp_path / "plan", tmp_path / "trials.zarr"
    scan = phantom / "section.tif"
    plan_section(scan, phantom / "mask.tif", plan_settings(), plan)
    mend_trials(scan, plan, tiny_model(), mend_settings(), trial_settings(trials=1), cpu(), trials)
    chunk = next(path for path in sorted((trials / "small" / "fill-0" / "c").rglob("*")) if path.is_file())
    chunk.unlink()
    with pytest.raises(InputError, match="is missing or was altered"):
        evaluate_section(Sources(scan), plan, trials, settings(), 1, tmp_path / "out")
    copy = tmp_path / "evaluation"
    shutil.copytree(evaluation, copy)
    shutil.copy(manifest_of(evaluation), manifest_of(copy))
    with pytest.raises(InputError, match="evaluated twice"):
        summarise_evaluations([evaluation, copy], tmp_path / "brain")
    read_table(copy, "measurements").head(3).to_parquet(copy / "measurements.parquet")
    with pytest.raises(InputError, match=r"measurements\.parquet is missing or was altered"):
        summarise_evaluations([copy], tmp_path / "brain")


def test_an_evaluation_does_not_replace_what_it_is_made_from(phantom, tmp_path):
    for out in (tmp_path / "trials.zarr", tmp_path, phantom):
        with pytest.raises(InputError, match="would replace or change"):
            evaluate_section(
                Sources(phantom / "section.tif"), tmp_path / "plan", tmp_path / "trials.zarr", settings(), 1, out
            )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda cells: cells.assign(area_um2=0.0), "positive areas"),
        (lambda cells: cells.assign(y_um=cells["y_um"] + 1e6), "given in µm"),
        (lambda cells: cells.assign(y_um="far"), "expected a table of cells"),
    ],
)
def test_known_cells_that_mean_nothing_are_refused(change, sentence, phantom, tmp_path):
    change(pd.read_parquet(phantom / "cells.parquet")).to_parquet(tmp_path / "cells.parquet")
    plan_section(phantom / "section.tif", phantom / "mask.tif", plan_settings(), tmp_path / "plan")
    with pytest.raises(InputError, match=sentence):
        evaluate_stage._known_cells(tmp_path / "cells.parquet", Plan.read(tmp_path / "plan").facts)


def test_names_are_known_before_any_job():
    assert parts.BUILT_IN["fillers"] == tuple(FILLERS)
    block = checked({}, "config", "defaults")["evaluate"]
    assert set(parts.identities(block)) == {"cpn", "layers"}
    for part, name in (
        ("fillers", "blur"),
        ("segmenters", "cellpose"),
        ("classifier", "no/such.safetensors"),
        ("samplers", "ddim:steps=3"),
        ("fillers", "no_such_module:name"),
    ):
        wrong = {**block, part: name if part == "classifier" else [name]}
        with pytest.raises(InputError, match=name.partition(":")[0].replace(".", r"\.")):
            parts.identities(wrong)


def test_sections_with_few_trials_cover_all_fractions_together():
    fractions = []
    for i in range(60):
        drawn = chance(f"section-{i}", 0)
        order = np.random.default_rng([drawn["seed"], 0]).permutation(2)
        fractions += list(0.05 + 0.45 * (order + drawn["offset"]) / 2)
    counts = np.histogram(fractions, summary.EDGES)[0]
    assert counts.min() >= 12  # of 24
    assert chance("a", 0) == chance("a", 0) != chance("a", 1)


def test_samplers_are_named_with_their_settings():
    sampler = parse_sampler("timemap:steps=25,eta=0.5")
    assert (sampler.steps, sampler.eta) == (25, 0.5)
    assert parse_sampler(label_of(sampler)) == sampler
    with pytest.raises(InputError, match="expected a name out of"):
        open_sampler("ddim")
    with pytest.raises(InputError, match="expected settings out of"):
        open_sampler("timemap:stride=3")
    with pytest.raises(InputError, match="cannot be imported"):
        open_sampler("no_such_module:SAMPLER")


def test_one_command_evaluates_a_scan_and_prints_the_summary(phantom, tiny_model, tmp_path, capsys):
    out = tmp_path / "out"
    command = [
        *("evaluate", str(phantom / "truth.tif"), "--out", str(out), "--trials", "3", "--model", str(tiny_model())),
        *("--steps", "2", "--segmenters", "classical", "--classifier", "none", "--fillers", "local mean"),
        *("--device", "cpu", "--threads", "1"),
    ]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "| graft |" in printed
    assert "| floor |" in printed
    assert "| filler | local coherence | direction strength | direction kept | direction of the rim |" in printed
    assert "| filler | share above q75 | share above q90 | density above q75 |" in printed
    assert not list(tmp_path.glob(".out*"))
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    assert main([*command[:3], str(tmp_path / "mine"), *command[4:], "--overwrite"]) == 2
    assert "is no evaluation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--segmenters", "cellpose"], "cellpose"),
        (["--fillers", "blur"], "filler 'blur'"),
        (["--samplers", "ddim"], "sampler ddim"),
        (["--trials", "-1"], "trials"),
        (["--classifier", "nothing"], "nothing"),
        (["--truth", "TRUTH"], "expected the undamaged"),
        (["--cells", "MASK"], "expected a table of cells"),
    ],
)
def test_what_cannot_be_used_is_named(options, sentence, phantom, tiny_model, tmp_path, capsys):
    tifffile.imwrite(tmp_path / "other.tif", ndimage.zoom(tifffile.imread(phantom / "truth.tif"), 0.5))
    files = {"TRUTH": str(tmp_path / "other.tif"), "MASK": str(phantom / "mask.tif")}
    command = ["evaluate", str(phantom / "section.tif"), "--out", str(tmp_path / "out"), "--model", str(tiny_model())]
    plain = ["--segmenters", "classical", "--classifier", "none", "--device", "cpu"]
    assert main([*command, *plain, *(files.get(word, word) for word in options)]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
