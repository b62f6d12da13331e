"""Decisions: from the table of reviewers, through the plan, to the pixels, and onto the page that they came from."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import zarr
from conftest import blobs, cpu, mend_by_stages, mend_settings, plan_settings
from playwright.sync_api import expect

from cytomend.decisions import (
    MOST_CHANGED,
    MOST_DRAWS,
    Decision,
    changes,
    decisions_key,
    read_decisions,
    section_decisions,
)
from cytomend.errors import InputError
from cytomend.evaluation.placement import place_intact
from cytomend.geometry import Box
from cytomend.regions.plan import LeftRegion, Plan
from cytomend.report.decisions import decisions_shown
from cytomend.settings import schema
from cytomend.stages.group_mender import MOST_SAMPLES
from cytomend.stages.plan_section import plan_section
from cytomend.stages.report_section import ReportSettings, report_section
from cytomend.storage.images import open_image

COLUMNS = list(schema("decisions")["properties"])
ROW = {
    "section": "s1",
    "region": 2,
    "y0_px": 10,
    "x0_px": 20,
    "y1_px": 14,
    "x1_px": 26,
    "area_px": 24,
    "decision": "leave",
    "comment": "",
    "who": "Anna",
    "when": "2026-07-01T12:30:00Z",
    "seen": "",
}


def row(**changed):
    return Decision(**{**ROW, **changed})


# --- the table ----------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    """A function that writes rows, or any text, as a table and returns its path."""

    def write(*rows, text=None, columns=COLUMNS, name="decisions.tsv"):
        lines = ["\t".join(columns), *("\t".join(str({**ROW, **one}.get(c, "")) for c in columns) for one in rows)]
        path = tmp_path / name
        path.write_bytes(("\n".join(lines) + "\n" if text is None else text).encode())
        return path

    return write


def test_a_table_is_read_into_the_rows_of_each_section_the_earliest_first(table):
    path = table({"when": "2026-07-03T08:00:00Z"}, {"section": "s2"}, {"when": "2026-07-02T08:00:00Z", "who": "Bo"})
    found = read_decisions(path)
    assert sorted(found) == ["s1", "s2"]
    assert [one.who for one in found["s1"]] == ["Bo", "Anna"]
    assert found["s2"] == (row(section="s2"),)
    assert section_decisions(path, "s2") == found["s2"]
    assert section_decisions(path, "s3") == section_decisions(None, "s1") == ()


def test_what_a_spreadsheet_makes_of_a_table_is_read(table):
    text = "\ufeff" + "\r\n".join(
        [
            "\t".join(COLUMNS),
            's1\t2.0\t10\t20\t14\t26\t24\tLeave\t"fold, ""dark""\t\nbelow"\tAnna\t2026-07-01 12:30\t',
            "# a remark of ours",
            "\t" * 11,
            "",
        ]
    )
    assert read_decisions(table(text=text))["s1"] == (row(comment='fold, "dark"\t\nbelow'),)


def test_a_time_of_another_zone_is_told_in_utc(table):
    (one,) = read_decisions(table({"when": "2026-07-01T14:30:00+02:00"}))["s1"]
    assert one == row()


def test_a_decision_that_was_taken_back_in_the_table_says_nothing(table):
    assert read_decisions(table({"decision": ""})) == {}


def test_a_cell_that_a_spreadsheet_would_reckon_is_marked(table):
    (one,) = read_decisions(table({"comment": "'=SUM(A1:A9)", "who": "''-x"}))["s1"]
    assert (one.comment, one.who) == ("=SUM(A1:A9)", "'-x")


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_a_table_without_a_header_was_damaged(table, text):
    with pytest.raises(InputError, match=r"decisions.tsv: expected a table with the header"):
        read_decisions(table(text=text))


def test_tables_of_a_folder_are_read_as_one_and_the_same_row_twice_is_one(table, tmp_path):
    table({}, {"region": 3, "y0_px": 1}, name="anna.tsv")
    table({}, {"who": "Bo"}, name="bo.TSV")
    assert len(read_decisions(tmp_path)["s1"]) == 3


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"decision": "reject"}, "decision: 'reject' is not one of"),
        ({"region": "two"}, "region: 'two' is not of type 'integer'"),
        ({"region": 0}, "region: 0 is less than the minimum"),
        ({"area_px": "2.5"}, "area_px: 2.5"),
        ({"who": ""}, "'who' is a required property"),
        ({"when": ""}, "'when' is a required property"),
        ({"when": "01.07.2026"}, "when is '01.07.2026', expected date and time as 2026-07-01T12:30:00Z"),
        ({"area_px": 25}, "holds no region of 25 px"),
        ({"y1_px": 10}, "holds no region"),
        ({"comment": "x" * 10001}, "comment"),
    ],
)
def test_a_wrong_row_is_named(table, changed, sentence):
    path = table({}, changed)
    with pytest.raises(InputError) as refused:
        read_decisions(path)
    assert str(refused.value).startswith(f"{path}, row 3: ")
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("section\tregion\tverdict\n", "row 1: column 'verdict' is unknown or doubled"),
        ("\t".join([*COLUMNS, "who"]), "row 1: column 'who' is unknown or doubled"),
        ("section\tregion\n", "row 1: column 'y0_px' is missing"),
        (";".join(COLUMNS), "separated by tabs"),
        ("\t".join(COLUMNS) + "\n" + "\t".join(["x"] * 13), "row 2: 13 cells, expected at most 12"),
        ("\t".join(COLUMNS) + '\n"s1\t2', "row 2: not a row of cells"),
    ],
)
def test_a_file_that_is_no_table_of_decisions_is_refused(table, text, sentence):
    with pytest.raises(InputError) as refused:
        read_decisions(table(text=text))
    assert "decisions.tsv" in str(refused.value)
    assert sentence in str(refused.value)


def test_a_file_of_another_encoding_is_refused(tmp_path):
    (tmp_path / "d.tsv").write_bytes("Übersicht".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_decisions(tmp_path / "d.tsv")


def test_a_missing_file_is_an_error_only_when_it_is_named(tmp_path):
    assert read_decisions(None) == {}
    with pytest.raises(InputError, match=r"no such file, though `decisions` of the configuration names it"):
        read_decisions(tmp_path / "decisions.tsv")


def test_of_other_sections_no_row_is_looked_at(table):
    path = table({}, {"section": "s2", "decision": "nonsense"})
    assert list(read_decisions(path, {"s1"})) == ["s1"]


# --- what reaches pixels ------------------------------------------------------------------------------------------

EARLY, LATE, LATER = "2026-07-01T08:00:00Z", "2026-07-02T08:00:00Z", "2026-07-03T08:00:00Z"


def test_a_filling_is_rejected_once_whoever_says_so_and_however_late():
    said = [
        row(decision="redraw", seen="f1", when=EARLY),
        row(decision="redraw", seen="f1", who="Bo", when=LATE),
        row(decision="accept", seen="f2", when=LATE),
        row(decision="redraw", seen="f1", comment="as I said", when=LATER),
    ]
    assert [change["draw"] for change in changes(said)] == [1]
    assert [change["draw"] for change in changes([*said, row(decision="redraw", seen="f2", when=LATER)])] == [2]
    # Of the scan there is one only: whoever has it mended again after all wants another filling each time.
    again = [row(decision="redraw", seen="scan", when=when) for when in (EARLY, LATE)]
    assert [change["draw"] for change in changes(again)] == [2]


@pytest.mark.parametrize(
    ("decisions", "expected"),
    [
        ([("accept", EARLY)], None),
        ([("", EARLY)], None),
        ([("leave", EARLY)], ("leave", 0)),
        ([("leave", EARLY), ("accept", LATE)], None),
        ([("leave", EARLY), ("", LATE)], ("leave", 0)),
        ([("redraw", EARLY)], ("redraw", 1)),
        ([("redraw", EARLY), ("accept", LATE)], ("redraw", 1)),
        ([("redraw", EARLY), ("redraw", LATE)], ("redraw", 2)),
        ([("redraw", EARLY), ("redraw", EARLY)], ("redraw", 1)),
        ([("redraw", EARLY), ("leave", LATE)], ("leave", 0)),
        ([("redraw", EARLY), ("leave", LATE), ("accept", LATER)], ("redraw", 1)),
    ],
)
def test_the_last_decision_counts_and_every_redraw_of_the_past(decisions, expected):
    rows = [row(decision=decision, when=when, comment="why") for decision, when in decisions]
    found = [(one["decision"], one["draw"]) for one in changes(rows)]
    assert found == ([expected] if expected else [])


def test_of_equal_times_the_last_row_counts(table):
    path = table({}, {"decision": "accept"})
    assert changes(read_decisions(path)["s1"]) == []
    path = table({"decision": "accept"}, {})
    assert [one["decision"] for one in changes(read_decisions(path)["s1"])] == ["leave"]


def test_names_times_comments_and_acceptance_do_not_reach_the_plan_but_the_page():
    rows = [row(), row(region=3, y0_px=0, decision="accept")]
    others = [replace(one, who="Bo", when=LATER, comment="<b>") for one in rows[:1]]
    assert (
        changes(rows)
        == changes(others)
        == [{"region": 2, "box": [10, 20, 14, 26], "area_px": 24, "decision": "leave", "draw": 0}]
    )
    assert len({decisions_key(rows), decisions_key(others), decisions_key(rows[:1]), decisions_key([])}) == 4


def test_a_later_acceptance_under_another_number_changes_nothing():
    redrawn = row(decision="redraw", when=EARLY)
    assert changes([redrawn]) == changes([redrawn, row(region=7, decision="accept", when=LATE)])


def test_more_than_can_be_told_apart_is_refused():
    many = [row(decision="redraw", when=f"{2000 + i}-01-01T00:00:00Z") for i in range(MOST_DRAWS + 1)]
    with pytest.raises(InputError, match="1001 times"):
        changes(many)
    with pytest.raises(InputError, match="out of the annotation"):
        changes([row(y1_px=20 + i) for i in range(MOST_CHANGED + 1)])
    assert (MOST_DRAWS + 1) * MOST_SAMPLES <= 1 << 16
    assert schema("config")["properties"]["mend"]["properties"]["samples"]["maximum"] == MOST_SAMPLES


# --- pixels -------------------------------------------------------------------------------------------------------

HOLES = blobs((110, 140), (20, 20, 32, 40), (38, 24, 52, 44), (20, 90, 30, 110), (80, 60, 90, 80))
"""Four regions; the first two lie in each other's windows."""


@pytest.fixture
def mended(make_section, tiny_model, tmp_path):
    """A function from decisions, as (region, decision, draw), to the plan and the pyramid of one section."""
    section = make_section(HOLES)

    def mend(*decisions, samples=1, machine=None):
        folder = tmp_path / ("decided" + "".join(f"-{n}{d}{k}" for n, d, k in decisions) + str(samples))
        records = []
        if decisions:
            boxes = {int(r["region"]): r for r in Plan.read(tmp_path / "decided1" / "plan").regions.to_dict("records")}
            records = [
                {
                    "region": n,
                    "box": [int(boxes[n][side]) for side in ("y0_px", "x0_px", "y1_px", "x1_px")],
                    "area_px": int(boxes[n]["area_px"]),
                    "decision": decision,
                    "draw": draw,
                }
                for n, decision, draw in decisions
            ]
        settings = plan_settings(decisions=records, samples=samples)
        out = mend_by_stages(section, tiny_model(), folder, plan=settings, mend=mend_settings(), machine=machine)
        return section, Plan.read(folder / "plan"), zarr.open_group(out, mode="r")

    return mend


def pixels(group, name="0"):
    return np.asarray(group[name])


def test_a_region_that_is_left_stays_as_scanned_and_its_neighbours_as_they_were(mended):
    section, whole, before = mended()
    _, plan, after = mended((1, "leave", 0))
    numbers = np.asarray(whole.labels)
    own = numbers == 1
    assert np.array_equal(pixels(after)[own], section.pixels[own])
    assert not np.array_equal(pixels(before)[own], section.pixels[own])
    # The neighbour sees no more of it than before: what is left is no tissue to go by.
    assert np.array_equal(pixels(after)[~own], pixels(before)[~own])
    assert np.array_equal(pixels(after, "labels/mended/0"), np.where(own, 0, numbers))
    assert plan.regions["region"].tolist() == [2, 3, 4]
    assert 1 not in set(plan.windows["region"])
    assert plan.facts.masked_px == whole.facts.masked_px - own.sum()
    (left,) = plan.facts.left
    assert (left.number, left.area_px) == (1, own.sum())
    assert own[left.box.slices].sum() == own.sum()
    assert plan.facts.mask_blake2b != whole.facts.mask_blake2b
    said = dict(after.attrs)["cytomend"]
    assert (said["left_regions"], said["regions"], said["mended_px"]) == ([1], 3, plan.facts.masked_px)
    colours = dict(after["labels/mended"].attrs)["ome"]["image-label"]["colors"]
    assert [colour["label-value"] for colour in colours] == [2, 3, 4]


def test_what_is_left_is_no_intact_tissue_for_trials(mended):
    mended()
    section, plan, _ = mended((1, "leave", 0))
    with open_image(section.image) as image:
        sides = {"count": 50, "patch_px": 16, "margin_px": 2, "name": "s1", "seed": 1}
        trials = place_intact(image, plan.mask, (0.0, 255.0), **sides)
    damaged = section.grown(2)
    assert trials
    assert not any(damaged[box.slices].any() for trial in trials for box in (trial.view, trial.other))


def test_a_section_whose_regions_are_all_left_is_a_copy_of_the_scan(mended):
    mended()
    section, plan, after = mended(*((n, "leave", 0) for n in (1, 2, 3, 4)), samples=1)
    assert np.array_equal(pixels(after), section.pixels)
    assert not pixels(after, "labels/mended/0").any()
    assert (len(plan.regions), plan.facts.masked_px, len(plan.facts.left)) == (0, 0, 4)


def test_a_redraw_changes_that_region_alone_and_each_one_draws_anew(mended):
    _, whole, before = mended()
    own = np.asarray(whole.labels) == 2
    drawings = [pixels(before)]
    for draw in (1, 2):
        _, plan, after = mended((2, "redraw", draw))
        assert plan.regions["draw"].tolist() == [0, draw, 0, 0]
        assert dict(after.attrs)["cytomend"]["redrawn"] == {"2": draw}
        assert np.array_equal(pixels(after)[~own], pixels(before)[~own])
        drawings.append(pixels(after))
    for i, one in enumerate(drawings):
        assert all(np.mean(one[own] != other[own]) > 0.5 for other in drawings[:i])


def test_a_redraw_draws_none_of_the_samples_again(mended):
    _, whole, _ = mended()
    own = np.asarray(whole.labels) == 2
    _, _, sampled = mended(samples=2)
    _, _, redrawn = mended((2, "redraw", 1), samples=2)
    spread = "labels/uncertainty/0"
    assert np.mean(pixels(sampled, spread)[own] != pixels(redrawn, spread)[own]) > 0.5
    assert np.array_equal(pixels(sampled, spread)[~own], pixels(redrawn, spread)[~own])


def test_decisions_do_not_make_a_result_depend_on_the_run(mended):
    mended()
    _, _, one = mended((1, "leave", 0), (2, "redraw", 1))
    expected = pixels(one)
    _, _, other = mended((2, "redraw", 1), (1, "leave", 0), machine=cpu(threads=2, group_px=1))
    assert np.array_equal(pixels(other), expected)


# --- the plan -----------------------------------------------------------------------------------------------------


def planned(section, folder, *records, **changed):
    plan_section(section.image, section.annotation, plan_settings(decisions=list(records), **changed), folder)
    return Plan.read(folder)


def record_of(plan, number, decision="leave", draw=0, **changed):
    facts = plan.regions.set_index("region").loc[number]
    box = [int(facts[side]) for side in ("y0_px", "x0_px", "y1_px", "x1_px")]
    record = {"region": number, "box": box, "area_px": int(facts["area_px"]), "decision": decision, "draw": draw}
    return {**record, **changed}


def test_a_decision_about_another_mask_is_not_applied_and_a_warning_says_so(make_section, tmp_path):
    section = make_section(HOLES)
    plan = planned(section, tmp_path / "plan")
    stale = planned(section, tmp_path / "stale", record_of(plan, 2, area_px=5), record_of(plan, 3, box=[0, 0, 9, 9]))
    assert stale.facts.left == ()
    assert stale.facts.mask_blake2b == plan.facts.mask_blake2b
    assert len(stale.facts.warnings) == len(plan.facts.warnings) + 2
    assert "'leave' was said of region 2 when it had 5 px" in stale.facts.warnings[-2]


def test_a_decision_follows_its_region_to_another_number(make_section, tmp_path):
    plan = planned(make_section(HOLES), tmp_path / "plan")
    more = HOLES.copy()
    more[2:6, 2:6] = True  # a further artefact, before all others
    shifted = planned(make_section(more), tmp_path / "more", record_of(plan, 2), record_of(plan, 3, "redraw", 2))
    assert [(left.number, left.area_px) for left in shifted.facts.left] == [(3, record_of(plan, 2)["area_px"])]
    assert shifted.regions.set_index("region")["draw"].to_dict() == {1: 0, 2: 0, 4: 2, 5: 0}
    assert shifted.facts.warnings == plan.facts.warnings


def test_what_is_left_stands_in_the_plans_file(make_section, tmp_path):
    section = make_section(HOLES)
    plan = planned(section, tmp_path / "plan")
    left = planned(section, tmp_path / "left", record_of(plan, 4))
    stored = json.loads((tmp_path / "left" / "section.json").read_text())["left"]
    assert [one["number"] for one in stored] == [4]
    assert LeftRegion.read(stored[0]) == left.facts.left[0]


# --- what the page says -------------------------------------------------------------------------------------------

MADE = {"checkpoint_sha256": "c", "sampler": "timemap", "seed": 1, "source_blake2b": "s"}


@pytest.fixture
def plans(make_section, tmp_path):
    """A function from regions that are left and drawn again to a plan."""
    section = make_section(HOLES)
    plan = planned(section, tmp_path / "plan")

    def make(left=(), redrawn=None):
        records = [record_of(plan, n) for n in left]
        records += [record_of(plan, n, "redraw", draw) for n, draw in (redrawn or {}).items()]
        return planned(section, tmp_path / f"{left}{redrawn}".replace("/", ""), *records)

    return make


def said(plan, number, **changed):
    """A row about a region of a plan that leaves nothing."""
    record = record_of(plan, number)
    sides = dict(zip(("y0_px", "x0_px", "y1_px", "x1_px"), record["box"], strict=True))
    return row(region=number, area_px=record["area_px"], **sides, **changed)


def test_the_page_says_who_decided_what_and_counts(plans):
    plan = plans()
    rows = [
        said(plan, 1, decision="leave", when=EARLY, comment="<script>alert(1)</script>"),
        said(plan, 2, decision="accept", who="Bo"),
        said(plan, 3, decision="redraw"),
    ]
    shown = decisions_shown(rows, plans(left=(1,), redrawn={3: 1}), MADE)
    assert shown.of[1].text == "Left as scanned, decided by Anna on 2026-07-01."
    assert shown.of[2].text == "Accepted, decided by Bo on 2026-07-01."
    assert shown.of[3].text == "Drawn again, decided by Anna on 2026-07-01; look at the new filling."
    assert shown.of[4].text == "Not decided yet."
    assert [left.number for left in shown.left] == [1]
    assert list(shown.counts.values()) == [1, 1, 1, 1]
    assert shown.warnings == ()
    assert shown.record["regions"][0]["at"] == [*record_of(plan, 1)["box"], rows[0].area_px]
    assert shown.record["rows"] == [asdict(one) for one in rows]


@pytest.mark.parametrize("change", ["draw", "seed"])
def test_an_acceptance_of_an_earlier_filling_does_not_count(plans, change):
    plan = plans()
    seen = decisions_shown([], plan, MADE).of[2].seen
    accepted = said(plan, 2, decision="accept", seen=seen)
    assert decisions_shown([accepted], plan, MADE).of[2].decision == "accept"
    now = plans(redrawn={2: 1}) if change == "draw" else plan
    shown = decisions_shown([accepted], now, MADE if change == "draw" else {**MADE, "seed": 2})
    assert shown.of[2].decision == ""
    assert "Anna accepted an earlier filling" in shown.of[2].text


def test_an_acceptance_survives_what_does_not_reach_the_filling(plans):
    plan = plans()
    seen = decisions_shown([], plan, MADE).of[2].seen
    other = decisions_shown([], plans(left=(1,), redrawn={3: 1}), {**MADE, "cytomend": "9", "mended_px": 3}).of[2].seen
    assert seen == other


def test_a_left_region_that_is_mended_after_all_waits_for_review(plans):
    plan = plans()
    rows = [said(plan, 1, decision="leave", when=EARLY), said(plan, 1, decision="accept", when=LATE, seen="scan")]
    assert decisions_shown(rows, plans(left=(1,)), MADE).of[1].decision == "accept"
    shown = decisions_shown(rows, plan, MADE).of[1]
    assert (shown.decision, shown.text[:17]) == ("", "Mended after all,")


def test_a_decision_about_no_region_of_the_page_is_told_once(plans):
    plan = plans()
    lost = said(plan, 1, decision="accept")
    shown = decisions_shown([replace(lost, area_px=1)], plan, MADE)
    assert len(shown.warnings) == 1
    assert "'accept' was said of region 1 when it had 1 px" in shown.warnings[0]
    assert shown.counts["regions_undecided"] == 4


def test_two_regions_of_one_box_and_area_are_told_apart_by_number():
    from cytomend.regions.decided import Decided, apply_decisions
    from cytomend.regions.find import Region

    twins = [Region(n, Box(0, 0, 9, 9), 12, (4.0, 4.0), np.zeros((1, 2), np.int64)) for n in (1, 2)]
    applied = apply_decisions(twins, [Decided(2, Box(0, 0, 9, 9), 12, "leave", 0)])
    assert [region.number for region in applied.left] == [2]


# --- from the page to the pixels and back, in a browser -----------------------------------------------------------

SHOW = ReportSettings(overview_px=128, context_px=8, crop_px=64, pictures=60)
HOSTILE = '</script><script>alert(1)</script>\n"quoted"\t<img src=x onerror=alert(2)>'
NAME = 'Änne <b>O\'Hara</b> "A"'


@pytest.fixture
def reviewer(chromium):
    """A function that opens a page for a reviewer; what goes wrong in it, or leaves it, fails the test."""
    wrong, contexts = [], []

    def sit_down():
        contexts.append(chromium.new_context(accept_downloads=True, viewport={"width": 1280, "height": 900}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else wrong.append(request.url),
        )
        return page

    yield sit_down
    for context in contexts:
        context.close()
    assert wrong == []


def sign(page, name):
    """Give one's name when it is asked for."""
    page.locator("#review-name-field").fill(name)
    page.get_by_role("button", name="Keep").click()


def choose(page, number, key=None):
    page.locator(f'#regions a[href="#region-{number}"]').click()
    if key:
        page.keyboard.press(key)


def told(page, number):
    return page.locator(f'[data-decides="{number}"] .decided').text_content()


def export(page, path):
    with page.expect_download() as download:
        page.get_by_role("button", name="Export decisions").click()
    assert re.fullmatch(r"decisions-s1-\d{8}T\d{6}\.tsv", download.value.suggested_filename)
    download.value.save_as(path)
    return path


@pytest.fixture
def written(make_section, tiny_model, tmp_path):
    """A function from a table of decisions to what the workflow makes of it: the page, the plan, the pyramid."""
    section = make_section(HOLES)

    def make(table=None):
        folder = tmp_path / ("undecided" if table is None else table.stem)
        settings = plan_settings(decisions=changes(section_decisions(table, "s1")))
        out = mend_by_stages(section, tiny_model(), folder, plan=settings)
        page = report_section(section.image, folder / "plan", out, SHOW, folder / "report" / "index.html", None, table)
        return section, page.as_uri(), Plan.read(folder / "plan"), zarr.open_group(out, mode="r")

    return make


def test_decisions_go_from_the_page_to_the_pixels_and_back(written, reviewer, tmp_path):
    section, first, whole, before = written()
    page = reviewer()
    page.clock.set_fixed_time("2026-07-01T12:30:00Z")
    page.goto(first)
    assert page.locator("#review-progress").text_content().startswith("0 of 4 regions decided")
    choose(page, 1, "r")
    sign(page, NAME)
    page.locator('[data-decides="1"] textarea').fill(HOSTILE)
    choose(page, 2, "e")
    choose(page, 3)
    page.locator('[data-decides="3"]').get_by_label("accept").check()
    assert page.locator("#review-progress").text_content().startswith("3 of 4 regions decided")
    assert (
        told(page, 1)
        == f"To be left as scanned, decided by {NAME} on 2026-07-01 — not yet in the table of the workflow."
    )
    page.reload()
    assert page.locator('[data-decides="2"]').get_by_label("draw again").is_checked()
    table = export(page, tmp_path / "decided.tsv")

    rows = section_decisions(table, "s1")
    assert [(one.region, one.decision, one.who) for one in sorted(rows, key=lambda one: one.region)] == [
        (1, "leave", NAME),
        (2, "redraw", NAME),
        (3, "accept", NAME),
    ]
    assert {one.comment for one in rows} == {HOSTILE, ""}
    section, second, plan, after = written(table)
    numbers = np.asarray(whole.labels)
    assert np.array_equal(pixels(after)[numbers == 1], section.pixels[numbers == 1])
    assert np.mean(pixels(after)[numbers == 2] != pixels(before)[numbers == 2]) > 0.5
    others = ~np.isin(numbers, [1, 2])
    assert np.array_equal(pixels(after)[others], pixels(before)[others])
    assert [left.number for left in plan.facts.left] == [1]

    page.goto(second)  # the same browser: what the table holds is no more kept here
    assert told(page, 1) == f"Left as scanned, decided by {NAME} on 2026-07-01. From the file."
    assert told(page, 2) == f"Drawn again, decided by {NAME} on 2026-07-01; look at the new filling. From the file."
    assert told(page, 3) == f"Accepted, decided by {NAME} on 2026-07-01. From the file."
    assert page.locator("#review-progress").text_content().startswith("2 of 4 regions decided")
    assert "not yet in" not in page.locator("#review-progress").text_content()
    assert page.locator('[data-decides="1"] q').text_content() == HOSTILE
    page.clock.set_fixed_time("2026-07-02T12:30:00Z")
    choose(page, 2, "e")  # once more
    again = section_decisions(export(page, tmp_path / "again.tsv"), "s1")
    assert len(again) == 4
    assert {one["region"]: (one["decision"], one["draw"]) for one in changes(again)} == {
        1: ("leave", 0),
        2: ("redraw", 2),
    }


def test_decisions_of_others_are_imported_and_what_is_wrong_is_named(written, reviewer, table, tmp_path):
    _, address, plan, _ = written()
    known = asdict(said(plan, 2, decision="accept", who="Bo", comment=HOSTILE.replace("\n", " ").replace("\t", " ")))
    quoted = {**known, "comment": '"' + known["comment"].replace('"', '""') + '"'}
    given = table(
        quoted,
        {**known, "comment": "", "section": "s2"},
        {**known, "comment": "", "section": "s3"},
        {**known, "comment": "", "area_px": 7},
        {**known, "comment": "", "decision": "<b>maybe</b>"},
        {**known, "comment": "", "region": 3, **box_of(plan, 3), "decision": "redraw", "when": "2026-07-01 12:30"},
        name="bo.tsv",
    )
    page = reviewer()
    page.goto(address)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import decisions").click()
    chooser.value.set_files(given)
    message = page.locator("#review-message")
    expect(message).to_have_text("2 rows taken from bo.tsv, 2 of other sections ignored.")
    assert page.locator("#review-errors li").all_text_contents() == [
        "bo.tsv, row 5: region 2 of that box and area is not on this page; not taken",
        "bo.tsv, row 6: decision is “<b>maybe</b>”, expected accept, leave, redraw or nothing",
    ]
    assert told(page, 2) == "Accepted, decided by Bo on 2026-07-01 — not yet in the table of the workflow."
    assert page.locator("#review-progress").text_content().startswith("2 of 4 regions decided")
    page.locator("#review-import").set_input_files(given)
    expect(message).to_have_text("0 rows taken from bo.tsv, 2 known already, 2 of other sections ignored.")
    rows = section_decisions(export(page, tmp_path / "out.tsv"), "s1")
    assert {one.region: one.comment for one in rows} == {2: known["comment"], 3: ""}
    assert {one.when for one in rows} == {"2026-07-01T12:30:00Z"}
    (tmp_path / "no.tsv").write_text("section\tverdict\n")
    page.locator("#review-import").set_input_files(tmp_path / "no.tsv")
    expect(page.locator("#review-errors li")).to_have_text(
        ["no.tsv: column “verdict” is unknown; expected a table that a section's page exported"]
    )


def box_of(plan, number):
    record = record_of(plan, number)
    return dict(zip(("y0_px", "x0_px", "y1_px", "x1_px"), record["box"], strict=True)) | {"area_px": record["area_px"]}


def test_a_decision_can_be_changed_and_taken_back_and_letters_in_a_comment_are_no_keys(written, reviewer, tmp_path):
    _, address, plan, _ = written()
    page = reviewer()
    page.goto(address)
    page.evaluate(
        """() => {
          window.heard = [];
          const hear = ({ detail }) => window.heard.push(`${detail.region} ${detail.decision}`);
          document.addEventListener('cytomend:decision', hear);
        }"""
    )
    choose(page, 4, "a")
    page.get_by_role("button", name="Cancel").click()
    assert told(page, 4) == "Not decided yet."
    choose(page, 4, "a")
    sign(page, "Anna")
    page.keyboard.press("n")
    page.keyboard.type("are rare near")
    assert page.locator('[data-decides="4"]').get_by_label("accept").is_checked()
    page.locator('[data-decides="4"]').get_by_label("leave as scanned").check()
    (row,) = section_decisions(export(page, tmp_path / "one.tsv"), "s1")
    assert (row.decision, row.comment, row.place) == ("leave", "are rare near", said(plan, 4).place)
    page.evaluate(
        """() => {
          for (const item of document.querySelectorAll('[data-flagged]')) delete item.dataset.flagged;
          document.querySelector('#region-4').dataset.flagged = '';
        }"""
    )
    page.get_by_role("button", name="Take back what is not saved about region 4").click()
    assert told(page, 4) == "Not decided yet."
    assert page.locator("#review-progress").text_content() == "0 of 4 regions decided, 1 flagged left"
    assert page.evaluate("heard") == ["4 accept", "4 leave", "4 "]
    assert section_decisions(export(page, tmp_path / "none.tsv"), "s1") == ()


def test_a_browser_that_keeps_nothing_says_so_and_exports_all_the_same(written, reviewer, tmp_path):
    _, address, _, _ = written()
    page = reviewer()
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('forbidden'); } })")
    page.goto(address)
    assert page.locator("#review-keeping").is_visible()
    choose(page, 1, "r")
    sign(page, "Anna")
    assert [one.decision for one in section_decisions(export(page, tmp_path / "out.tsv"), "s1")] == ["leave"]


def test_what_is_kept_about_another_mask_is_not_taken_for_a_region_that_has_its_number_now(written, reviewer, tmp_path):
    _, address, _, _ = written()
    page = reviewer()
    page.goto(address)
    choose(page, 1, "a")
    sign(page, "Anna")
    page.wait_for_function("() => Object.keys(localStorage).some((name) => name.startsWith('cytomend:s1:'))")
    page.evaluate(
        """() => {
          const key = Object.keys(localStorage).find((name) => name.startsWith('cytomend:s1:'));
          const kept = JSON.parse(localStorage[key]);
          kept[2] = { ...kept[1], decision: 'leave', at: '0 0 9 9 70' };
          localStorage[key] = JSON.stringify(kept);
        }"""
    )
    page.reload()
    assert told(page, 2) == "Not decided yet."
    assert len(section_decisions(export(page, tmp_path / "out.tsv"), "s1")) == 2  # nothing is lost


def test_what_the_table_holds_by_now_is_not_kept_any_longer(written, reviewer, tmp_path):
    _, address, _, _ = written()
    page = reviewer()
    page.goto(address)
    choose(page, 1, "r")
    sign(page, "Anna")
    table = export(page, tmp_path / "decided.tsv")
    _, second, _, _ = written(table)
    page.goto(second)
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('cytomend:s1:'))") == []


def test_a_full_browser_says_so_as_long_as_it_is_full_and_exports_all_the_same(written, reviewer, tmp_path):
    _, address, _, _ = written()
    page = reviewer()
    page.add_init_script("Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceededError'); }")
    page.goto(address)
    choose(page, 1, "r")
    sign(page, "Anna")
    choose(page, 2, "a")
    assert page.locator("#review-keeping").is_visible()
    assert page.locator("#review-progress").text_content().startswith("2 of 4 regions decided")
    assert len(section_decisions(export(page, tmp_path / "out.tsv"), "s1")) == 2
    assert page.locator("#review-keeping").is_visible()


def test_arrows_go_to_the_next_region_after_a_click_and_decide_nothing(written, reviewer):
    _, address, _, _ = written()
    page = reviewer()
    page.goto(address)
    first, second = page.eval_on_selector_all(
        "#regions li", "items => items.map((item) => Number(item.dataset.region))"
    )[:2]
    choose(page, first, "a")
    sign(page, "Anna")
    page.locator(f'[data-decides="{first}"]').get_by_label("accept").click()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("location.hash") == f"#region-{second}"
    assert told(page, first).startswith("Accepted")
    page.locator(f'[data-decides="{second}"]').get_by_label("accept").focus()
    page.keyboard.press("ArrowRight")
    assert told(page, second) == "Not decided yet."
    page.keyboard.press("Space")
    assert told(page, second).startswith("To be left as scanned")
    page.keyboard.press("r")  # focus still in it
    page.evaluate(f"document.querySelector('#regions a[href=\"#region-{first}\"]').click()")
    page.keyboard.press("e")
    assert told(page, first).startswith("To be drawn again")


def test_a_comment_is_no_decision_and_changes_none(written, reviewer, tmp_path):
    _, address, _, _ = written()
    page = reviewer()
    page.clock.set_fixed_time("2026-07-01T12:30:00Z")
    page.goto(address)
    choose(page, 1, "a")
    sign(page, "Anna")
    page.evaluate(
        """() => {
          const key = Object.keys(localStorage).find((name) => name.startsWith('cytomend:s1:'));
          const kept = JSON.parse(localStorage[key]);
          kept[1].seen = 'fanother';
          kept[1].earlier = [null];
          localStorage[key] = JSON.stringify(kept);
        }"""
    )
    page.reload()
    assert "earlier filling" in told(page, 1)
    page.locator('[data-decides="1"] textarea').fill("the new one is worse")
    assert "Accepted" not in told(page, 1)
    choose(page, 2, "a")
    page.clock.set_fixed_time("2026-07-02T12:30:00Z")
    page.locator('[data-decides="2"] textarea').fill("=fine")
    rows = {
        (one.region, one.decision, one.comment, one.when[:10])
        for one in section_decisions(export(page, tmp_path / "out.tsv"), "s1")
    }
    assert rows == {
        (1, "accept", "", "2026-07-01"),
        (1, "", "the new one is worse", "2026-07-01"),
        (2, "accept", "=fine", "2026-07-01"),
    }
    assert "\t'=fine\t" in (tmp_path / "out.tsv").read_text(encoding="utf-8")


def test_what_the_workflow_would_refuse_is_not_imported(written, reviewer, table):
    _, address, plan, _ = written()
    known = asdict(said(plan, 2, decision="accept", who="Bo", comment=""))
    page = reviewer()
    page.goto(address)
    given = table(
        {**known, "when": "01.07.2026 12:30"},
        {**known, "when": "Jul 1"},
        {**known, "comment": "x" * 10_001},
        {**known, "who": "x" * 201},
    )
    page.locator("#review-import").set_input_files(given)
    expect(page.locator("#review-errors li")).to_have_count(4)
    expect(page.locator("#review-message")).to_have_text("0 rows taken from decisions.tsv.")
    given.write_bytes("section\tregi\xf6n\n".encode("latin-1"))
    page.locator("#review-import").set_input_files(given)
    expect(page.locator("#review-errors li")).to_have_text(["decisions.tsv: is not text in UTF-8; save it as such"])


def test_taking_back_spares_what_others_said(written, reviewer, table, tmp_path):
    _, address, plan, _ = written()
    page = reviewer()
    page.goto(address)
    page.locator("#review-import").set_input_files(
        table(asdict(said(plan, 2, decision="accept", who="Bo", comment="")))
    )
    choose(page, 2, "r")
    sign(page, "Anna")
    page.get_by_role("button", name="Take back what is not saved about region 2").click()
    (row,) = section_decisions(export(page, tmp_path / "out.tsv"), "s1")
    assert (row.who, row.decision) == ("Bo", "accept")
