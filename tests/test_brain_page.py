"""The page of all sections in a browser: a brain's table is sorted, filtered, turned, sent and read, and stays text."""

from __future__ import annotations

import csv
import json

import pandas as pd
import pytest
from browser import DESK, NIGHT, PROJECTOR, axe
from PIL import Image

from cytomend.costs import Hours
from cytomend.report.archive import rst
from cytomend.report.metrics import SectionMetrics
from cytomend.stages.summarise_brain import BrainSettings, summarise_brain

HOSTILE = "</script><script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">&amp;\u2028"
BIGBRAIN = 7404
PAGE_ROWS = 100
WALK = """(following) => {
  const names = () => [...document.querySelectorAll('#sections tbody th')].map((head) => head.textContent);
  const seen = names();
  for (; !following.disabled; seen.push(...names())) following.click();
  return seen;
}"""


def metrics(section, number=0, **other):
    """The metrics of a section whose numbers follow from its number."""
    return SectionMetrics(
        **{
            "section": section,
            "stain": "cell bodies",
            "shape": (1000, 2000 + number),
            "channels": 1,
            "dtype": "uint8",
            "pixel_size_um": 1.0,
            "regions": 5,
            "windows": 9,
            "mended_px": 100 * number,
            "mended_share": number / 20_000,
            "mended_mm2": number / 10_000,
            "largest_region_um2": 64.0,
            "model": "tiny",
            "checkpoint_sha256": "15656c50" * 8,
            "sampler": "timemap",
            "sampler_steps": 25,
            "sampler_jump": 10,
            "sampler_resample": 5,
            "network_calls": 25,
            "seed": 0,
            "samples": 1,
            "precision": "float32",
            "uncertainty_grey": None,
            "region_uncertainty_grey": {},
            "grafts": 0,
            "copied_px": 0,
            "drawn_px": 100 * number,
            "region_grafts": {},
            "grow_px": 0,
            "window_px": 64,
            "stride_px": 48,
            "source_blake2b": f"{number:040x}"[::-1],
            "mask_blake2b": "0" * 40,
            "cytomend": "0.1.0",
            "evaluated": False,
            "proved": None,
            "warnings": (),
            "flagged": 0,
            "regions_accepted": 0,
            "regions_left": 0,
            "regions_redrawn": 0,
            "regions_undecided": 5,
            "reviewed_until": {},
            **other,
        }
    )


class Brain:
    """Sections on disk, as far as the page of all of them asks for them."""

    def __init__(self, folder, sections, hours=None, errors=None, are_whole=True):
        self.folder = folder / "results #1"
        pages = []
        for place, own in enumerate(sections):
            report = self.folder / f"{place} & more" / "report"
            (report / "images").mkdir(parents=True)
            own.write(report / "metrics.json")
            if are_whole:
                Image.new("L", (96, 40), 128).save(report / "images" / "thumbnail.webp")
                (report / "index.html").write_text(f'<!doctype html><html lang="en"><title>{place}</title>')
            pages.append(report / "index.html")
        self.table = self.folder / "brain" / "metrics.tsv"
        tables = [page.with_name("metrics.json") for page in pages]
        self.page = self.folder / "brain" / "report" / "index.html"
        evaluations = [evaluated(self.folder / name, name, *pair) for name, pair in (errors or {}).items()]
        settings = BrainSettings(2.0, "CHF")
        summarise_brain(tables, pages, self.table, self.page, evaluations, hours=hours, settings=settings)


def evaluated(folder, section, error, floor):
    """What an evaluation says of the density of cells, and much that the table does not show."""
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps({"section": section, "filler": "timemap"}))
    key = {
        "size": "small",
        "kind": "intact",
        "segmenter": "cpn",
        "bin": "all",
        "reference": "original",
        "statistic": "cell density",
    }
    other = {"kind": "artefact", "segmenter": "classical", "bin": "5-14 %", "reference": "truth"}
    rows = [
        {**key, "filler": "timemap", "median_error": error},
        {**key, "filler": "floor", "median_error": floor},
        *(
            {**key, "filler": filler, entry: value, "median_error": 9.0}
            for entry, value in other.items()
            for filler in ("timemap", "floor")
        ),
    ]
    pd.DataFrame(rows).astype({"median_error": float}).to_parquet(folder / "summary.parquet")
    return folder


@pytest.fixture
def brain(tmp_path):
    """A function that writes the page of some sections."""
    return lambda *sections, **how: Brain(tmp_path, sections, **how)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """As many sections as BigBrain's, every seventh flagged."""
    sections = (metrics(f"B20_{i}", i, flagged=int(i % 7 == 0)) for i in range(BIGBRAIN))
    return Brain(tmp_path_factory.mktemp("large"), sections, are_whole=False)


@pytest.fixture
def shown(visit):
    """A function that opens the page of a brain."""

    def open_brain(brain, hash_=""):
        page = visit(brain.page, within=brain.folder, hash_=hash_)
        page.wait_for_selector("html[data-ready]")
        return page

    return open_brain


def several():
    return (
        metrics("B10", 3, flagged=2, regions_accepted=5, regions_undecided=0, stain="cresyl violet"),
        metrics("B9", 1, warnings=("1.5 µm a pixel in the file", "a second one")),
        metrics("B11", 2, flagged=1, regions_accepted=3, regions_left=1, regions_redrawn=2, regions_undecided=0),
    )


def names(page):
    return page.locator("#sections tbody th").all_text_contents()


def cells(page, what):
    return page.locator(f'#sections tbody [data-text="{what}"]').all_text_contents()


def head(page, text):
    return page.locator("#sections thead th").filter(has_text=text)


def address(page):
    return page.evaluate("window.location.hash")


# --- sorted, filtered, sent ---------------------------------------------------------------------------------------


def test_names_are_sorted_as_people_count(brain, shown):
    assert names(shown(brain(*several()))) == ["B9", "B10", "B11"]


def test_a_click_sorts_by_a_column_and_another_the_other_way(brain, shown):
    page = shown(brain(*several()))
    head(page, "flagged").get_by_role("button").click()
    assert (names(page), head(page, "flagged").get_attribute("aria-sort")) == (["B10", "B11", "B9"], "descending")
    head(page, "flagged").get_by_role("button").click()
    assert (names(page), head(page, "flagged").get_attribute("aria-sort")) == (["B9", "B11", "B10"], "ascending")
    head(page, "stain").get_by_role("button").click()
    assert names(page) == ["B9", "B11", "B10"]
    assert page.locator("th[aria-sort]").count() == 1


def test_keys_sort_too_and_stay_where_they_are(brain, shown):
    page = shown(brain(*several()))
    head(page, "mended (mm²)").get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert names(page) == ["B10", "B11", "B9"]
    page.keyboard.press("Space")
    assert names(page) == ["B9", "B11", "B10"]
    assert page.evaluate("document.activeElement.textContent") == "mended (mm²)"


def test_what_is_unknown_comes_last_both_ways(brain, shown):
    sections = [metrics(name, evaluated=name != "B9") for name in ("B9", "B10", "B11", "B12")]
    errors = {"B10": (0.25, 0.375), "B11": (0.5, None), "B12": (None, 0.1)}
    page = shown(brain(*sections, errors=errors), "#sort=-density_error")
    assert names(page) == ["B11", "B10", "B9", "B12"]
    assert cells(page, "density_error") == ["50.0", "25.0", "–", "–"]
    assert cells(page, "density_floor") == ["", "floor 37.5", "", "floor 10.0"]
    head(page, "error of density").get_by_role("button").click()
    assert names(page) == ["B10", "B11", "B9", "B12"]


@pytest.mark.parametrize(
    ("choice", "kept"),
    [("flagged", ["B10", "B11"]), ("to review", ["B9", "B11"]), ("with warnings", ["B9"])],
)
def test_a_choice_keeps_the_sections_that_it_names(brain, shown, choice, kept):
    page = shown(brain(*several()))
    page.get_by_label(choice, exact=True).check()
    assert names(page) == kept
    assert page.locator("#count").text_content() == f"{len(kept)} of 3 sections"
    page.get_by_role("button", name="Show all").click()
    assert names(page) == ["B9", "B10", "B11"]


def test_words_and_the_stain_narrow_the_table(brain, shown):
    page = shown(brain(*several()))
    page.get_by_label("Find").fill("b1 BODIES")
    assert names(page) == ["B11"]
    page.get_by_label("Find").fill("b1")
    page.get_by_label("Stain").select_option("cresyl violet")
    assert names(page) == ["B10"]
    page.get_by_label("Find").fill("B9")
    assert (names(page), page.locator(".nothing").text_content()) == ([], "No section fits.")


def test_an_address_holds_the_view_and_shows_it_to_others(brain, shown):
    written = brain(*several())
    page = shown(written)
    page.get_by_label("Find").fill("b1 & #?")
    page.get_by_label("Find").fill("b1")
    page.get_by_label("flagged", exact=True).check()
    page.get_by_label("to review", exact=True).check()
    head(page, "regions").get_by_role("button").click()
    other = shown(written, address(page))
    assert names(other) == names(page) == ["B11"]
    assert other.get_by_label("Find").input_value() == "b1"
    assert head(other, "regions").get_attribute("aria-sort") == "descending"
    assert shown(written, "#find=b1+%26+%23").get_by_label("Find").input_value() == "b1 & #"


def test_an_address_that_says_nonsense_shows_all(brain, shown):
    page = shown(brain(*several()), "#sort=constructor&only=__proto__,x&stain=none&page=-7e9&find=%00")
    page.get_by_label("Find").fill("")
    assert names(page) == ["B9", "B10", "B11"]


def test_a_link_to_the_sections_with_warnings_shows_them(brain, shown):
    page = shown(brain(*several()))
    page.get_by_role("link", name="show it").click()
    assert names(page) == ["B9"]
    page.locator(".warned summary").first.click()
    assert page.locator(".warned li").all_text_contents() == ["1.5 µm a pixel in the file", "a second one"]


def test_sections_that_are_not_what_they_say_come_before_all_else(brain, shown):
    proved = {"B9": True, "B10": None, "B11": False}
    written = brain(*(metrics(name, 2, proved=holds) for name, holds in proved.items()))
    page = shown(written)
    wrong = page.get_by_role("alert", name="Wrong sections")
    assert "Do not use 1 corrected section: it is not what it says." in wrong.text_content()
    assert wrong.get_by_role("link").all_text_contents() == ["B11"]
    assert "1 proved" in page.locator(".facts").text_content()
    rows = csv.DictReader(written.table.read_text().splitlines(), delimiter="\t")
    assert {row["section"]: row["proved"] for row in rows} == {"B9": "True", "B10": "", "B11": "False"}
    wrong.get_by_role("link", name="B11").click()
    assert page.title() == "2"


# --- what a row says ----------------------------------------------------------------------------------------------


def test_a_row_tells_its_numbers_and_leads_to_its_page(brain, shown):
    page = shown(brain(*several(), hours={"B11": Hours(gpu=1.5)}), "#find=b11")
    told = {what: cells(page, what) for what in ("mended_share", "flagged", "open", "decided", "gpu_hours", "cost")}
    assert told == {
        "mended_share": ["0.010"],
        "flagged": ["1"],
        "open": ["2 of 6"],
        "decided": ["3 accepted, 1 left, 2 redrawn"],
        "gpu_hours": ["1.50"],
        "cost": ["3.00"],
    }
    assert page.locator("#sections img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 96
    page.get_by_role("link", name="B11").click()
    assert page.title() == "2"


def test_what_was_copied_has_a_column_where_anything_was(brain, shown):
    rows = [
        metrics("B1", 2, grafts=3, copied_px=150, drawn_px=50),
        metrics("B2", 1),
        metrics("B3", 0, mended_px=0, drawn_px=0, regions=0, regions_undecided=0),
    ]
    page = shown(brain(*rows))
    assert cells(page, "copied_share") == ["75.0", "0", "–"]
    page.get_by_role("button", name="of these copied (%)").click()
    assert names(page) == ["B1", "B2", "B3"]


def test_where_nothing_was_copied_no_column_says_so(brain, shown):
    assert cells(shown(brain(*several())), "copied_share") == []


def test_the_table_of_numbers_says_the_same(brain):
    rows = list(csv.DictReader(brain(*several()).table.read_text().splitlines(), delimiter="\t"))
    assert [(row["flagged"], row["regions_accepted"], row["regions_redrawn"]) for row in rows] == [
        ("2", "5", "0"),
        ("0", "0", "0"),
        ("1", "3", "2"),
    ]
    assert {row["density_error"] for row in rows} == {""}


# --- what this browser keeps --------------------------------------------------------------------------------------


def said(who="Ada", when="2026-07-02T10:00:00Z", decision="accept", **other):
    return {"decision": decision, "comment": "", "who": who, "when": when, **other}


def keep(page, section, source, entries):
    page.evaluate("([key, text]) => localStorage.setItem(key, text)", [f"cytomend:{section}:{source[:12]}", entries])


def test_decisions_that_only_this_browser_keeps_are_told(brain, shown):
    source = "abc" * 12
    written = brain(
        metrics("B9", 1, source_blake2b=source, reviewed_until={"Ada": "2026-07-01T12:00:00Z"}),
        metrics("B10", 2),
    )
    page = shown(written)
    assert not page.locator("#kept").is_visible()
    assert not page.get_by_label("decided here").is_visible()
    entries = {
        "1": said(),
        "2": said(when="2026-07-01T12:00:00Z"),  # exported, and in the table
        "3": said(who="Bo", when="2026-06-01T00:00:00Z"),  # of another reviewer, who is not in the table
        "4": said(decision="", comment="look"),
        "5": said(decision="", earlier=[said(who="Bo")]),
    }
    keep(page, "B9", source, json.dumps(entries))
    keep(page, "B10", "of another scan", json.dumps(entries))
    page.reload()
    told = page.locator("#kept span").filter(has_text="3 decisions of 1 section are kept in this browser")
    told.wait_for(timeout=600_000)  # the page counts them once it is shown
    assert cells(page, "kept") == ["3 decided here, not yet in the table of the workflow", ""]
    page.get_by_role("button", name="Show these sections").click()
    assert names(page) == ["B9"]


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "7", '{"1": null}', '{"1": {"decision": "accept", "earlier": 3}}']
)
def test_whatever_else_a_browser_keeps_there_does_no_harm(brain, shown, text):
    page = shown(brain(metrics("B9", 1, source_blake2b="abc" * 12)))
    keep(page, "B9", "abc" * 12, text)
    page.reload()
    assert names(page) == ["B9"]


def test_a_browser_that_keeps_nothing_shows_the_table(brain, chromium):
    written = brain(*several())
    page = chromium.new_page()
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } });")
    page.goto(written.page.as_uri())
    page.wait_for_selector("html[data-ready]")
    assert names(page) == ["B9", "B10", "B11"]
    page.close()


# --- a whole brain ------------------------------------------------------------------------------------------------


def without_pictures(page):
    """Let no row ask for a picture, of which a simulated brain has none."""
    page.add_init_script("Object.defineProperty(HTMLImageElement.prototype, 'src', { set() {} });")


@pytest.fixture
def turned(large, chromium):
    """The page of a whole brain."""
    page = chromium.new_page()
    without_pictures(page)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(large.page.as_uri())
    page.wait_for_selector("html[data-ready]")
    yield page
    page.close()
    assert not wrong


def test_the_page_of_a_whole_brain_is_small_and_shows_a_page_of_rows(large, turned):
    assert large.page.stat().st_size < 3_000_000
    assert names(turned) == [f"B20_{i}" for i in range(PAGE_ROWS)]
    assert turned.locator("#sections").get_attribute("aria-rowcount") == str(BIGBRAIN + 1)
    assert turned.locator("#sections tbody tr").first.get_attribute("aria-rowindex") == "2"


def test_every_section_is_reached_by_turning_pages(turned):
    turned.get_by_label("Find").fill("_7")
    following = turned.get_by_role("navigation", name="Pages of the table", exact=True).get_by_role("button").last
    sevens = [f"B20_{i}" for i in range(BIGBRAIN) if str(i).startswith("7")]
    assert following.evaluate(WALK) == sevens
    assert turned.evaluate("document.activeElement.dataset.turn") == "-1"
    assert address(turned) == f"#find=_7&page={-(-len(sevens) // PAGE_ROWS)}"
    turned.get_by_label("Find").fill("")
    turned.evaluate(f"window.location.hash = 'page={-(-BIGBRAIN // PAGE_ROWS)}'")
    last = turned.locator(f'#sections tbody tr[aria-rowindex="{BIGBRAIN + 1}"]')
    assert last.locator("th").text_content() == f"B20_{BIGBRAIN - 1}"


def test_a_whole_brain_is_sorted_and_filtered_as_one(turned):
    head(turned, "mended (mm²)").get_by_role("button").click()
    assert names(turned)[:2] == [f"B20_{BIGBRAIN - 1}", f"B20_{BIGBRAIN - 2}"]
    turned.get_by_label("flagged", exact=True).check()
    assert (
        turned.locator("#count").text_content().replace("\u202f", "") == f"{-(-BIGBRAIN // 7)} of {BIGBRAIN} sections"
    )
    turned.get_by_label("Find").fill("_7392")
    assert names(turned) == ["B20_7392"]


# --- craft --------------------------------------------------------------------------------------------------------


def test_whatever_names_are_made_of_stays_text(brain, shown):
    told = {"stain": HOSTILE, "model": HOSTILE, "warnings": (HOSTILE,), "reviewed_until": {HOSTILE: "2026"}}
    page = shown(brain(metrics(HOSTILE, 1, **told), metrics("__proto__", 2, stain="constructor")))
    assert names(page) == ["__proto__", HOSTILE]
    assert cells(page, "stain_text") == ["constructor", HOSTILE]
    assert page.get_by_label("Stain").locator("option").all_text_contents() == ["all", HOSTILE, "constructor"]
    assert page.locator(".warned li").all_text_contents() == [HOSTILE]
    page.get_by_label("Stain").select_option(HOSTILE)
    assert names(shown_again(page)) == [HOSTILE]
    assert page.title() == "All sections: mended regions"


def shown_again(page):
    page.reload()
    page.wait_for_selector("html[data-ready]")
    return page


@pytest.mark.parametrize("view", [DESK, NIGHT, PROJECTOR], ids=str)
def test_axe_finds_nothing_wrong(brain, shown, view):
    page = shown(brain(*several(), hours={"B9": Hours(gpu=2.0, cpu=1.0)}))
    page.locator(".warned summary").first.click()
    assert axe(page) == ""
    assert page.evaluate("document.documentElement.scrollWidth") <= view.width


def test_captions_of_an_archive_hold_no_markup():
    docutils = pytest.importorskip("docutils.core")
    caption = "*floor*, |bars|, `cpn`_, 95 % [0.1, -2.5]_ <script>"
    found = docutils.publish_parts(rst(caption), writer="html")["body"]
    assert found.strip() == "<p>*floor*, |bars|, `cpn`_, 95 % [0.1, -2.5]_ &lt;script&gt;</p>"
