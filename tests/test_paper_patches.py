"""Patches as large as those of the paper stand beside small ones, are never pooled with them, and fill no memory."""

import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from conftest import blobs, cpu, mend_settings, plan_settings, write_tiff

from cytomend.cli import main
from cytomend.evaluation import summary
from cytomend.evaluation.measurement import MEASURED, ORIGINAL
from cytomend.evaluation.placement import (
    ARTEFACT,
    INTACT,
    LARGE,
    SIZES,
    SMALL,
    Placement,
    Placements,
    Spot,
    next_number,
    place_intact,
    place_on_artefacts,
)
from cytomend.evaluation.tables import (
    DICTIONARY,
    GATHERED,
    TableFiles,
    cell_areas,
    pieces,
    read_facts,
    read_table,
    table,
    total_facts,
)
from cytomend.evaluation.trial_store import TrialStore, write_trials
from cytomend.evaluation.trials import COARSE_PX, TOLERANCE, mask_of, stratified_masks
from cytomend.geometry import Box
from cytomend.phantom import render_tissue
from cytomend.regions.plan import Plan
from cytomend.report.evaluation_shown import EvaluationShown
from cytomend.report.evaluation_text import error_text, summary_text
from cytomend.report.pages import write_page
from cytomend.settings import checked
from cytomend.sheet import settings_of
from cytomend.stages import mend_trials as stage
from cytomend.stages.evaluate_section import EvaluateSettings, Sources, evaluate_section
from cytomend.stages.mend_trials import KeptFills, TrialSettings, mend_trials
from cytomend.stages.plan_section import plan_section
from cytomend.storage.images import open_image
from cytomend.storage.publish import publish

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import paper_patches

PATCH_UM, WANTED = 160.0, 9
"""Of the tests: two small patches wide, and more trials than the phantom has room for."""
SETTINGS = TrialSettings(
    trials=4,
    artefact_trials=2,
    windows=3,
    samplers=["timemap:steps=2"],
    sampler_trials=1,
    seed=0,
    patch_trials=WANTED,
    patch_um=PATCH_UM,
)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    tissue = render_tissue((460, 480), 940_000)
    damaged = blobs(tissue.image.shape, (60, 60, 90, 90))
    write_tiff(folder / "section.tif", np.where(damaged, np.uint8(250), tissue.image))
    write_tiff(folder / "truth.tif", tissue.image)
    tifffile.imwrite(folder / "mask.tif", damaged.astype(np.uint8) * 255)
    tissue.cells.to_parquet(folder / "cells.parquet")
    plan_section(folder / "section.tif", folder / "mask.tif", plan_settings(), folder / "plan")
    return folder


@pytest.fixture(scope="module")
def trials(phantom, tiny_model):
    out = phantom / "trials.zarr"
    mend_trials(phantom / "section.tif", phantom / "plan", tiny_model(), mend_settings(), SETTINGS, cpu(), out)
    return out


@pytest.fixture(scope="module")
def evaluation(phantom, trials):
    sources = Sources(phantom / "section.tif", phantom / "truth.tif", phantom / "cells.parquet")
    settings = EvaluateSettings(["classical"], "layers", ["local mean"])
    evaluate_section(sources, phantom / "plan", trials, settings, 2, phantom / "evaluation")
    return phantom / "evaluation"


# masks and places


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_masks_of_large_patches_are_the_shapes_of_small_ones_scaled(fraction):
    for i in range(6):
        small, large = (mask_of(np.random.default_rng([7, i]), side, fraction) for side in (COARSE_PX, 2 * COARSE_PX))
        assert abs(large.mean() - fraction) <= TOLERANCE
        scaled = small.repeat(2, 0).repeat(2, 1)
        assert (scaled & large).sum() > 0.9 * (scaled | large).sum()


def test_large_masks_are_drawn_when_they_are_asked_for(phantom, monkeypatch):
    with open_image(phantom / "truth.tif") as image:
        placed = place_intact(
            image,
            NoDamage(image.shape),
            (0.0, 255.0),
            count=4,
            patch_px=160,
            margin_px=8,
            name="s",
            seed=3,
            size=LARGE,
            first=10,
        )
    assert [trial.trial for trial in placed] == [10, 11, 12, 13]
    for trial, mask in zip(placed, stratified_masks(4, 160, 3), strict=True):
        assert trial.size == LARGE
        np.testing.assert_array_equal(trial.mask, np.pad(mask, 8))
    monkeypatch.setattr("cytomend.evaluation.placement.stratified_mask", lambda *_: pytest.fail("was drawn"))
    assert isinstance(placed[1:3], Placements)
    assert len(placed[1:3]) == 2


class NoDamage:
    def __init__(self, shape):
        self.shape = shape

    def read(self, box):
        return np.zeros(box.shape, bool)


# what lies on disk


def test_a_large_trial_has_a_chunk_to_itself_and_numbers_are_unique(trials):
    store = TrialStore.open(trials)
    assert store.group["large/mask"].chunks[0] == store.group["large/fill-0"].chunks[0] == 1
    assert store.patch_px(LARGE) == PATCH_UM
    listed = store.listed()
    assert len({trial.trial for trial in listed}) == len(listed) == len(store)
    assert {(trial.size, trial.kind) for trial in listed} == {(SMALL, INTACT), (SMALL, ARTEFACT), (LARGE, INTACT)}


def test_trials_are_read_few_at_a_time(trials):
    store = TrialStore.open(trials)
    batches = list(store.batches(3, 2))
    assert [trial.place.trial for batch in batches for trial in batch] == [trial.trial for trial in store.listed()]
    for batch in batches:
        (size,) = {trial.place.size for trial in batch}
        assert len(batch) <= {SMALL: 3, LARGE: 2}[size]
        for trial in batch:
            own = next(listed for listed in store.listed() if listed.trial == trial.place.trial)
            assert own.fraction == pytest.approx(trial.place.fraction)
            assert (trial.fills["timemap"][:, ~trial.place.mask] == 0).all()


def test_other_samplers_fill_the_first_trials_of_each_size(trials):
    store = TrialStore.open(trials)
    filled = [t.place for batch in store.batches(9, 9) for t in batch if "timemap:steps=2" in t.fills]
    assert sorted((place.size, place.kind) for place in filled) == [
        (LARGE, INTACT),
        (SMALL, ARTEFACT),
        (SMALL, INTACT),
    ]


def test_a_large_trial_is_mended_alone_and_fills_stay_on_disk(phantom, tiny_model, tmp_path, monkeypatch):
    calls, mend = [], stage.TrialMender.__call__

    def counted(self, places):
        calls.append([place.size for place in places])
        return mend(self, places)

    monkeypatch.setattr(stage.TrialMender, "__call__", counted)
    args = (phantom / "section.tif", phantom / "plan", tiny_model(), mend_settings(), SETTINGS, cpu())
    mend_trials(*args, tmp_path / "trials.zarr")
    assert [call for call in calls if LARGE in call] == [[LARGE]] * sum(LARGE in call for call in calls)
    assert max(len(call) for call in calls) > 1
    kept, part = KeptFills(), tmp_path / "part.npz"
    np.savez(part, **{"3": np.ones((1, 2, 2))})
    kept.keep(part)
    assert (3 in kept, 4 in kept, list(kept), kept[3].sum()) == (True, False, [3], 4)
    assert kept.parts == {3: part}


@pytest.mark.parametrize("size", SIZES)
def test_memory_does_not_grow_with_the_number_of_trials(size, tmp_path, monkeypatch):
    side, monkey = 300, "cytomend.evaluation.placement.stratified_mask"
    monkeypatch.setattr(monkey, lambda number, *_: np.random.default_rng(number).random((side, side)) < 0.2)

    def peak(count):
        spots = [Spot(i, Box(0, 0, side, side), Box(0, 0, side, side), i, 0.2) for i in range(count)]
        places, fills, store = Placements(spots, size, side, 0, 0), KeptFills(), tmp_path / f"{count}"
        for place in places:
            np.savez(tmp_path / f"{place.trial}.npz", **{f"{place.trial}": place.mask[None].astype(np.uint8)})
            fills.keep(tmp_path / f"{place.trial}.npz")
        tracemalloc.start()
        write_trials(tmp_path / "work", {size: places}, {"mine": fills}, 1, np.dtype(np.uint8), {})
        publish(tmp_path / "work", store, {})
        batches = TrialStore.open(store).batches(16, 1)
        read = [(trial.place.trial, trial.fills["mine"].sum()) for batch in batches for trial in batch]
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert read == [(place.trial, place.mask.sum()) for place in places]
        return most

    peak(1)  # what is loaded once
    few = 16 if size == SMALL else 4
    assert peak(4 * few) < 1.5 * peak(few)


def test_numbers_go_on_after_a_trial_without_a_floor(phantom):
    whole = Box(0, 0, 90, 90)
    placed = [Placement(number, INTACT, whole, 8, np.zeros((90, 90), bool), whole) for number in (0, 3)]
    assert (next_number(placed), next_number([])) == (4, 0)
    far = [replace(place, view=Box(300, 300, 390, 390)) for place in placed]
    damage = Plan.read(phantom / "plan")
    known = place_on_artefacts([Box(60, 60, 90, 90)], damage.mask, far, count=1, patch_px=74, margin_px=8, seed=0)
    assert [place.trial for place in known] == [4]


# tables, figures, page


def test_both_sizes_stand_in_every_table_and_are_never_pooled(evaluation):
    facts = read_facts(evaluation)
    count = {SMALL: facts["trials"][INTACT], LARGE: facts["patches"]["trials"]}
    assert count[SMALL] == SETTINGS.trials
    assert 2 <= count[LARGE] < WANTED
    for name in DICTIONARY:
        if name not in ("colours", "colour_summary", "windows", "realism_summary"):
            assert set(read_table(evaluation, name)["size"]) == set(SIZES), name
    rows, told = read_table(evaluation, "measurements"), read_table(evaluation, "summary")
    told = told[(told["bin"] == "all") & (told["kind"] == INTACT) & (told["filler"] == "timemap")]
    assert told.groupby("size")["trials"].unique().map(list).to_dict() == {size: [n] for size, n in count.items()}
    for size, part in rows[rows["kind"] == INTACT].groupby("size"):
        density = part.groupby("filler")[["cells", "area_mm2"]].sum()
        own = told[(told["size"] == size) & (told["statistic"] == "cell density") & (told["reference"] == "original")]
        assert own["original"].item() == pytest.approx(
            density.loc[ORIGINAL, "cells"] / density.loc[ORIGINAL, "area_mm2"]
        )
    patches = read_table(evaluation, "trials").groupby("size")["patch_px"].unique().map(list)
    assert patches[LARGE] == [PATCH_UM]
    names = ("summary", "class_summary", "colour_summary", "area_summary", "realism_summary")
    areas, text = read_table(evaluation, "area_summary"), summary_text(*(read_table(evaluation, n) for n in names))
    for size in SIZES:
        (part,) = (t for t in text.split("###") if f"On intact tissue, {size} patches, against the original" in t)
        own = (areas["size"] == size) & (areas["kind"] == INTACT) & (areas["filler"] == "timemap")
        own &= (areas["statistic"] == "area q50") & (areas["reference"] == ORIGINAL)
        assert areas.loc[own, "trials"].item() == count[size]
        assert f" {error_text(areas[own].iloc[0], 'pooled')} |" in part.split("The same of large cells, %:")[1]


def test_a_page_shows_large_patches_apart_and_how_many_there_was_room_for(evaluation, tmp_path):
    out = tmp_path / "report" / "index.html"
    shown = EvaluationShown.read(evaluation, out)
    write_page("evaluation.html.j2", out, evaluation=shown)
    page, found = " ".join(out.read_text().split()), read_facts(evaluation)["patches"]["trials"]
    assert f"Intact tissue for {found} of {WANTED} trials on patches of 0.0256 mm²." in page
    assert "On intact tissue, patches of 0.0256 mm², against the original" in page
    assert {"errors", "errors-large", "classes-large", "exemplars-large"} <= {figure.name for figure in shown.figures}
    for figure in shown.figures:
        assert ("0.0256 mm²" in figure.title) == ("0.0256 mm²" in figure.caption) == figure.name.endswith("-large")
        assert (out.parent / figure.src).is_file()


def test_sections_add_up_their_large_patches(evaluation):
    facts = read_facts(evaluation)
    both = total_facts([facts, {**facts, "patches": {"trials": 0, "wanted": 0, "patch_um": 5.0}}])
    assert both["patches"] == facts["patches"]


def test_sizes_of_one_section_are_summed_up_apart():
    sums = {column for ratio in MEASURED.values() for column in (ratio.top, ratio.bottom)}
    rows = [
        {"section": "s", "trial": trial, "kind": INTACT, "size": size, "filler": filler, "segmenter": "any"}
        | {"fraction": 0.2, **dict.fromkeys(sums, 1.0), **dict.fromkeys(MEASURED, 1.0), "cells": cells}
        for trial, (size, found) in enumerate([(SMALL, 2.0), (LARGE, 5.0), (SMALL, 4.0)])
        for filler, cells in (("mine", found), (ORIGINAL, 1.0))
    ]
    told = summary.summarise(pd.DataFrame(rows))
    told = told[(told["bin"] == "all") & (told["statistic"] == "cell density")].set_index("size")
    assert told["pooled_error"].to_dict() == {SMALL: 2.0, LARGE: 4.0}


# tables in pieces


def test_a_table_written_in_pieces_is_the_table(tmp_path):
    rows = [
        {"section": "s", "trial": i, "kind": INTACT, "size": SMALL, "fraction": 0.1, "filler": "f", "segmenter": "c"}
        | {"y_um": 0.5 * i, "x_um": 1.0, "area_um2": 10.0 + i}
        for i in range(5)
    ]
    with TableFiles(tmp_path, GATHERED) as files:
        for start, stop in ((0, 2), (2, 2), (2, 5)):
            files.add("cells", table("cells", rows[start:stop]))
    whole = table("cells", rows)
    pd.testing.assert_frame_equal(read_table(tmp_path, "cells"), whole)
    pd.testing.assert_frame_equal(pd.concat(pieces(tmp_path, "cells"), ignore_index=True), whole)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "cells.tsv", sep="\t"), whole, check_dtype=False)
    assert files.columns["classes"] == list(DICTIONARY["classes"])
    assert read_table(tmp_path, "classes").empty
    assert cell_areas(tmp_path, "c", INTACT)[SMALL]["f"].tolist() == [10, 11, 12, 13, 14]
    assert cell_areas(tmp_path, "other", INTACT) == {}


def test_a_figure_shows_the_cells_of_the_first_trials(tmp_path, monkeypatch):
    monkeypatch.setattr("cytomend.evaluation.tables.MOST_CELLS", 3)
    row = {"section": "s", "trial": 0, "kind": INTACT, "size": LARGE, "fraction": 0.1, "segmenter": "c"}
    with TableFiles(tmp_path, ["cells"]) as files:
        for area in range(5):
            place = {"y_um": 0.0, "x_um": 0.0, "area_um2": float(area)}
            files.add("cells", table("cells", [{**row, "filler": name, **place} for name in "ab"]))
    assert {name: areas.tolist() for name, areas in cell_areas(tmp_path, "c", INTACT)[LARGE].items()} == {
        "a": [0, 1, 2],
        "b": [0, 1, 2],
    }


# settings


def section_settings(row_trials, **evaluate):
    row = {"section": "s", "image": "a.tif", "annotation": "a.geojson", "pixel_size_um": 1.0, "trials": row_trials}
    config = checked({"evaluate": evaluate}, "config", "test")
    return settings_of(checked(row, "sections", "test"), config, "test")


def test_large_patches_are_asked_for_and_a_row_without_trials_has_none_either():
    assert section_settings(None).trials["patch_trials"] == 0
    only = section_settings(None, trials=0, patch_trials=3)
    assert (only.is_evaluated, only.trials["patch_trials"], only.trials["patch_um"]) == (True, 3, 1000.0)
    none = section_settings(0, patch_trials=3)
    assert (none.is_evaluated, none.trials["patch_trials"]) == (False, 0)
    assert TrialSettings(**only.trials).patch_trials == 3


def test_one_command_evaluates_large_patches_alone(phantom, tiny_model, tmp_path, capsys):
    out = tmp_path / "out"
    command = [
        *("evaluate", str(phantom / "truth.tif"), "--out", str(out), "--model", str(tiny_model()), "--steps", "2"),
        *("--trials", "0", "--patch-trials", "2", "--patch-um", "160", "--device", "cpu", "--threads", "1"),
        *("--segmenters", "classical", "--classifier", "none", "--fillers", "local mean"),
    ]
    assert main(command) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "large patches" in printed
    assert "small patches" not in printed
    assert read_facts(out)["patches"]["patch_um"] == 160
    assert {path.stem for path in (out / "figures").glob("*.svg")} >= {"errors-large", "distributions-large"}


# the benchmark


def test_the_benchmark_goes_on_where_it_was_stopped(tiny_model, tmp_path, capsys):
    words = [
        *("--trials", "5", "--patch-um", "100", "--model", str(tiny_model()), "--steps", "2", "--out", str(tmp_path)),
        *("--samplers", "timemap:steps=3", "--fillers", "local mean", "--segmenters", "classical"),
    ]
    paper_patches.main([*words, "--part", "1/2"])
    assert capsys.readouterr().out.startswith("1 of 5 trials of 0.01 mm² on 1 phantom sections")
    kept = (tmp_path / "phantom-001" / "evaluation.manifest.json").stat().st_mtime_ns
    paper_patches.main(words)
    text = capsys.readouterr().out
    assert text.startswith("5 of 5 trials")
    for name in ("graft", "timemap:steps=3", "floor", "pasted tissue", "local mean", "renoised"):
        assert text.count(f"| {name} | 5 |") == 4, name
        assert text.count(f"| {name} |") == 6, name
    assert "| filler | local coherence | direction strength | direction kept | direction of the rim |" in text
    assert "Large cells by classical, the same:\n\n| filler | share above q75 |" in text
    assert (tmp_path / "phantom-001" / "evaluation.manifest.json").stat().st_mtime_ns == kept
    assert (tmp_path / "report.md").read_text() in text
    with pytest.raises(SystemExit, match=r"holds another study \(steps was 2, is 9\)"):
        paper_patches.main([*words, "--steps", "9"])
