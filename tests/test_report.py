"""The pages: one file, every fact, nothing hidden, and whatever a name is made of stays text."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, field, replace
from html.parser import HTMLParser

import numpy as np
import pytest
import tifffile
import torch
import zarr
from browser import section_data
from PIL import Image
from scipy import ndimage

from cytomend.cli import main
from cytomend.costs import Hours
from cytomend.diffusion.checkpoint import save_model
from cytomend.diffusion.record import ModelSettings, UNetSettings
from cytomend.diffusion.unet import UNet
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.heat import RAMP, heat
from cytomend.regions.plan import Plan
from cytomend.report.comparison import choose_crop
from cytomend.report.corrected import CorrectedSection
from cytomend.report.metrics import SectionMetrics
from cytomend.report.outlines import outline, region_outline
from cytomend.report.overview import MENDED_COLOUR, draw_overview
from cytomend.report.pictures import fitted, to_display
from cytomend.report.regions import region_facts
from cytomend.report.scale import scale_bar
from cytomend.stages.blend_section import BlendSettings, blend_section
from cytomend.stages.mend_shard import Machine, MendSettings, mend_shard
from cytomend.stages.plan_section import PlanSettings, plan_section
from cytomend.stages.report_section import ReportSettings, report_section
from cytomend.stages.summarise_brain import COLUMNS, BrainSettings, summarise_brain
from cytomend.stages.verify_section import verify_section
from cytomend.verdict import CHECKS, Verdict

HOSTILE = "</script><script>alert(1)</script><img src=http://evil.example/x onerror=\"alert('2')\">{{ 7 * 7 }}"
SHOW = ReportSettings(overview_px=128, context_px=8, crop_px=64, pictures=60, segmenter="classical")
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


# --- a small mended section --------------------------------------------------------------------------------------


def three_holes():
    """Return a (160, 200) mask: a long bar, a square, a dot at the upper border."""
    mask = np.zeros((160, 200), dtype=bool)
    mask[100:112, 10:150] = True
    mask[40:56, 60:76] = True
    mask[0:4, 180:184] = True
    return mask


def tissue(channels=1, dtype="uint8", shape=(160, 200)):
    values = np.random.default_rng(3).integers(0, 256, (*shape, channels))
    if dtype == "uint16":
        values = values * 12 + 1000  # a scanner of 12 bit
    return values.astype(dtype)[..., 0] if channels == 1 else values.astype(dtype)


@pytest.fixture(scope="session")
def model_of(tmp_path_factory):
    """Return a function that gives an untrained checkpoint for this many channels."""

    def make(channels):
        path = tmp_path_factory.getbasetemp() / f"random-{channels}" / "model.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            settings = UNetSettings(channels=channels, widths=(8, 16), attention=(1,), heads=2)
            save_model(path, UNet(settings).state_dict(), ModelSettings(settings, 256, 32, 1.0))
        return path

    return make


@dataclass
class Mended:
    image: object
    plan: object
    corrected: object

    def report(self, out, settings=SHOW, verdict=None):
        return report_section(self.image, self.plan, self.corrected, settings, out, verdict=verdict)

    def verify(self):
        return verify_section(self.image, self.plan, self.corrected)


@pytest.fixture(scope="session")
def mender(model_of):
    """Return a function that takes an image and a mask through plan, mend and blend, in a folder."""

    def run(folder, image, mask, *, section="B07", stain="cresyl violet", tag_um=None, samples=1):
        folder.mkdir(parents=True)
        channels = 1 if image.ndim == 2 else 3
        resolution = {"resolution": (1e4 / tag_um, 1e4 / tag_um), "resolutionunit": "CENTIMETER"} if tag_um else {}
        tifffile.imwrite(folder / "scan.tif", image, photometric="rgb" if channels == 3 else "minisblack", **resolution)
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "mask.png")
        settings = PlanSettings(section, 1.0, stain, None, 0, [], 1, 24, 32, channels, samples, max_covered=1)
        plan_section(folder / "scan.tif", folder / "mask.png", settings, folder / "plan")
        machine = Machine(torch.device("cpu"), 1, 8)
        how = MendSettings("timemap", 2, 10, 10, 11)
        mend_shard(folder / "scan.tif", folder / "plan", 0, model_of(channels), how, machine, folder / "0.zarr")
        corrected = folder / "corrected.ome.zarr"
        shards, cut = [folder / "0.zarr"], BlendSettings(64, 128)
        blend_section(folder / "scan.tif", folder / "plan", shards, cut, corrected)
        return Mended(folder / "scan.tif", folder / "plan", corrected)

    return run


@pytest.fixture
def mend(mender, tmp_path):
    """Return a function that mends a section of this test's own."""
    return lambda image, mask, **how: mender(tmp_path / how.get("section", "B07"), image, mask, **how)


@pytest.fixture(scope="session")
def mended(mender, tmp_path_factory):
    """A grey 8 bit section with three holes, to be read only."""
    return mender(tmp_path_factory.mktemp("mended") / "B07", tissue(), three_holes())


# --- a page as a browser parses it --------------------------------------------------------------------------------


@dataclass
class Page(HTMLParser):
    text: str = ""
    scripts: str = ""
    tags: list = field(default_factory=list)

    def __post_init__(self):
        super().__init__()
        self.inside = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, _tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts += data
        elif self.inside != "style":
            self.text += data

    def all(self, tag, css=None):
        return [a for name, a in self.tags if name == tag and (css is None or css in a.get("class", "").split())]

    @classmethod
    def read(cls, path):
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        page.text = " ".join(page.text.replace("\u202f", " ").split())
        return page


def opened(path):
    return np.asarray(Image.open(path))


def flagged_in(metrics):
    """Return how many regions the page beside these metrics flags."""
    return len([one for one in Page.read(metrics.with_name("index.html")).all("li") if "data-flagged" in one])


def brain_data(path):
    """Return what the script of the brain's page knows."""
    (found,) = re.findall(r'id="brain-data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(found)


def linked(path):
    """Return the addresses of the sections' pages on the brain's."""
    told = brain_data(path)
    return [row[told["columns"].index("page")] for row in told["rows"]]


def policy(page):
    """Return the page's security policy, by directive."""
    (content,) = [meta["content"] for meta in page.all("meta") if "Content-Security" in meta.get("http-equiv", "")]
    return dict(directive.strip().split(" ", 1) for directive in content.split(";"))


def requests(page):
    """Return every address that a browser would load for a page."""
    return [
        attributes[name]
        for _, attributes in page.tags
        for name in ("src", "srcset", "data", "poster", "action")
        if name in attributes
    ] + [attributes["href"] for tag, attributes in page.tags if tag in {"link", "use", "image", "base"}]


def has_no_request(page, path):
    assert all(address.startswith(("data:", "#", "images/")) for address in requests(page))
    assert policy(page)["default-src"] == "'none'"  # which refuses whatever a script would ask for
    text = re.sub(r"data:image/[^\"]*|<script.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.search(r"url\((?!#)|@import", text)
    return True


# --- the page of a section ----------------------------------------------------------------------------------------


def test_a_page_with_its_pictures_tells_every_fact(mended, tmp_path):
    path = mended.report(tmp_path / "report" / "index.html")
    page = Page.read(path)
    names = ["images", "images.manifest.json", "index.html", "metrics.json"]
    assert sorted(p.name for p in path.parent.iterdir()) == names
    assert has_no_request(page, path)
    metrics = json.loads((path.parent / "metrics.json").read_text())
    assert metrics["shape"] == [160, 200]
    assert metrics["mended_px"] == int(three_holes().sum())
    assert metrics["regions"] == 3
    for fact in (
        "B07",
        "cresyl violet",
        "200 × 160 px",
        "0.002 mm²",
        "1 680",
        "random-1",
        "timemap",
        metrics["source_blake2b"],
        "seed 11",
    ):
        assert fact in page.text, fact
    assert metrics["checkpoint_sha256"] in page.text
    assert metrics["mask_blake2b"] in page.text
    assert "What lies inside orange lines is synthetic" in page.text
    told = section_data(path)
    assert {region["number"]: region["area_px"] for region in told["regions"]} == {1: 16, 2: 256, 3: 1680}
    assert {region["number"] for region in told["regions"] if region["border"]} == {1}


def test_metrics_are_small_and_read_back(mended, tmp_path):
    path = mended.report(tmp_path / "index.html").with_name("metrics.json")
    metrics = SectionMetrics.read(path)
    assert path.stat().st_size < 40_000
    assert metrics.mended_share == pytest.approx(three_holes().mean())
    assert metrics.network_calls == 2
    assert (metrics.flagged, metrics.regions_undecided, metrics.reviewed_until) == (flagged_in(path), 3, {})
    assert "thumbnail" not in json.loads(path.read_text())
    assert opened(path.with_name("images") / "thumbnail.webp").shape[:2] == (77, 96)


def test_the_same_section_gives_the_same_page_and_pictures(mended, tmp_path):
    first, second = (mended.report(tmp_path / name / "index.html") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    manifests = [page.with_name("images.manifest.json").read_bytes() for page in (first, second)]
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("channels", [1, 3])
def test_plain_pictures_show_exactly_the_pixels(mend, tmp_path, channels):
    image, mask = tissue(channels), three_holes()
    folder = mend(image, mask).report(tmp_path / "index.html").with_name("images") / "regions"
    before, after = (opened(folder / f"2-{name}.png") for name in ("before", "after"))  # region 2, the square
    crop = (slice(32, 64), slice(52, 84))
    np.testing.assert_array_equal(before, image[crop])
    outside = ~mask[crop]
    np.testing.assert_array_equal(after[outside], image[crop][outside])
    assert (after[~outside] != image[crop][~outside]).any()


def test_16_bit_is_shown_over_the_value_range_of_the_plan(mend, tmp_path):
    image = tissue(dtype="uint16")
    mended = mend(image, three_holes())
    path = mended.report(tmp_path / "index.html")
    low, high = Plan.read(mended.plan).facts.value_range
    shown = opened(path.with_name("images") / "regions" / "2-before.png")
    expected = np.clip(np.rint((image[32:64, 52:84].astype(np.float32) - low) * (255 / (high - low))), 0, 255)
    np.testing.assert_array_equal(shown, expected)
    assert "are shown from black to white" in Page.read(path).text


def test_only_some_regions_have_pictures_and_all_are_listed(mended, tmp_path):
    settings = replace(SHOW, pictures=1)
    path = mended.report(tmp_path / "index.html", settings)
    regions = section_data(path)["regions"]
    assert len(regions) == 3
    assert [region["native"] for region in regions] == [True, False, False]
    pictures = {picture.name for picture in (tmp_path / "images" / "regions").iterdir()}
    assert pictures == {f"{regions[0]['number']}-{name}.png" for name in ("before", "after")}


def test_a_page_without_pictures_still_lists_and_outlines_regions(mended, tmp_path):
    path = mended.report(tmp_path / "index.html", replace(SHOW, pictures=0))
    assert all(region["outline"] and not region["native"] for region in section_data(path)["regions"])
    assert not (tmp_path / "images" / "regions").exists()


def test_of_a_region_larger_than_the_picture_the_middle_is_shown(mended, tmp_path):
    mended.report(tmp_path / "index.html")
    assert opened(tmp_path / "images" / "regions" / "3-before.png").shape == (28, 64)


def test_the_middle_of_a_bent_region_lies_in_the_region(mend):
    mask = np.zeros((160, 200), dtype=bool)
    mask[20:140, 20:28] = mask[132:140, 20:180] = True
    mended = mend(tissue(), mask)
    plan = Plan.read(mended.plan)
    corrected = CorrectedSection.open(mended.corrected, plan.facts)
    crop = choose_crop(region_facts(plan.regions)[0], corrected, plan.facts.shape, context_px=8, crop_px=64)
    assert crop.shape == (64, 64)
    assert mask[crop.slices].any()


def test_a_section_without_damage_says_so(mend, tmp_path):
    path = mend(tissue(), np.zeros((160, 200), dtype=bool)).report(tmp_path / "index.html")
    assert "Nothing was mended" in Page.read(path).text
    assert section_data(path)["regions"] == []


def test_a_hostile_stain_stays_text(mend, tmp_path):
    mended = mend(tissue(), three_holes(), stain=HOSTILE)
    path = mended.report(tmp_path / "index.html")
    page = Page.read(path)
    assert HOSTILE in page.text
    assert section_data(path)["section"] == "B07"
    scripts = [attributes for attributes in page.all("script") if "type" not in attributes]
    assert len(scripts) == policy(page)["script-src"].count("sha256-")
    assert has_no_request(page, path)
    summary = summarise_brain([path.with_name("metrics.json")], [path], tmp_path / "t.tsv", tmp_path / "b.html")
    brain = Page.read(summary)
    assert brain_data(summary)["stains"] == [HOSTILE]
    assert len(brain.all("script")) == 2
    assert has_no_request(brain, summary)


def test_a_warning_stands_in_front_of_everything_else(mend, tmp_path):
    page = Page.read(mend(tissue(), three_holes(), tag_um=0.5).report(tmp_path / "index.html"))
    assert page.all("section", "warnings")
    assert "0.5 µm a pixel" in page.text
    assert page.text.index("1 warning") < page.text.index("curtain")


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (3, "uint8"), (1, "uint16")])
def test_what_was_mended_several_times_shows_how_far_the_fillings_differ(mend, tmp_path, channels, dtype):
    mended = mend(tissue(channels, dtype), three_holes(), samples=3, stain=HOSTILE)
    path = mended.report(tmp_path / "index.html")
    page, metrics = Page.read(path), SectionMetrics.read(path.with_name("metrics.json"))
    plan = Plan.read(mended.plan)
    label = zarr.open_group(mended.corrected / "labels" / "uncertainty", mode="r")
    numbers, deviation = plan.labels[...], label["0"][...]
    assert metrics.samples == 3
    assert metrics.uncertainty_grey == pytest.approx(deviation[three_holes()].mean())
    assert metrics.region_uncertainty_grey == {str(n): pytest.approx(deviation[numbers == n].mean()) for n in (1, 2, 3)}
    assert "Each region was mended 3 times" in page.text
    told = section_data(path)
    assert told["uncertainty"]["samples"] == 3
    means = {region["number"]: region["uncertainty"] for region in told["regions"]}
    assert means == {n: pytest.approx(metrics.region_uncertainty_grey[str(n)], rel=1e-4) for n in (1, 2, 3)}
    assert has_no_request(page, path)
    (tile,) = (tmp_path / "images").glob("*/uncertainty/0/0_0.png")
    shown = opened(tile)
    mask = three_holes()
    np.testing.assert_array_equal(
        shown[mask][:, :3], heat(deviation[mask] / dict(label.attrs)["cytomend"]["full_scale"])
    )
    assert (shown[..., 3] == np.where(mask, 255, 0)).all()
    brain = summarise_brain([path.with_name("metrics.json")], [path], tmp_path / "t.tsv", tmp_path / "b.html")
    assert brain.is_file()
    header, row = ((tmp_path / "t.tsv").read_text().splitlines()[i].split("\t") for i in (0, 1))
    assert float(dict(zip(header, row, strict=True))["uncertainty_grey"]) == metrics.uncertainty_grey


def test_what_was_mended_once_says_nothing_of_uncertainty(mended, tmp_path):
    path = mended.report(tmp_path / "index.html")
    page = Page.read(path)
    assert "ncertainty" not in page.text
    assert not list(path.with_name("images").glob("*/uncertainty"))
    assert SectionMetrics.read(path.with_name("metrics.json")).uncertainty_grey is None


def test_the_ramp_grows_ever_lighter_and_ends_where_it_ends():
    colours = heat(np.linspace(-1, 2, 100)).astype(int)
    lightness = colours @ [299, 587, 114]
    assert (np.diff(lightness) >= 0).all()
    assert colours[0].tolist() == list(RAMP[0])
    assert colours[-1].tolist() == list(RAMP[-1])


@pytest.mark.parametrize("longest_px", [96, 1200])
def test_an_overview_encloses_every_mended_region_in_orange(mended, longest_px):
    facts = Plan.read(mended.plan).facts
    corrected = CorrectedSection.open(mended.corrected, facts)
    drawn = draw_overview(corrected, facts, longest_px)
    labels = corrected.read_labels(corrected.whole(0))
    factor = drawn.shape[0] / labels.shape[0]
    is_orange = (drawn == MENDED_COLOUR).all(axis=-1)
    for box in ndimage.find_objects(labels):
        rows, columns = (slice(int(s.start * factor), int(s.stop * factor) + 1) for s in box)
        assert is_orange[rows, columns].any()
    small = Image.fromarray((labels > 0).astype(np.float32)).resize(drawn.shape[1::-1], Image.Resampling.BOX)
    assert not is_orange[np.asarray(small) == 0].any()
    assert 0 < is_orange.sum() < is_orange.size / 2


def test_the_plain_overview_is_no_larger_than_it_should_be(mended, tmp_path):
    mended.report(tmp_path / "index.html")
    assert opened(tmp_path / "images" / "overview.webp").shape[:2] == (160, 200)


def test_an_altered_scan_is_refused(mend, tmp_path):
    mended = mend(tissue(), three_holes())
    tifffile.imwrite(mended.image, 255 - tissue())
    with pytest.raises(InputError, match=r"was changed since .* was written; plan again"):
        mended.report(tmp_path / "index.html")
    assert not (tmp_path / "index.html").exists()


def test_a_corrected_section_of_another_plan_is_refused(mend, tmp_path):
    one, other = mend(tissue(), three_holes()), mend(tissue(), ~three_holes(), section="B08")
    with pytest.raises(InputError, match="expected the section mended by this plan"):
        report_section(one.image, one.plan, other.corrected, SHOW, tmp_path / "index.html")
    with pytest.raises(InputError, match="expected a corrected section"):
        report_section(one.image, one.plan, one.plan, SHOW, tmp_path / "index.html")


# --- what is proved of it -----------------------------------------------------------------------------------------


def test_the_page_shows_what_is_proved_of_the_section(mended, tmp_path):
    page = mended.report(tmp_path / "index.html", verdict=mended.verify())
    assert SectionMetrics.read(page.with_name("metrics.json")).proved is True
    told = Page.read(page).text
    compared, all_px = (f"{count:,}".replace(",", " ") for count in ((~three_holes()).sum(), three_holes().size))
    assert f"{compared} of {all_px} pixels were compared with the scan, and all are equal" in told
    assert all(what in told for name, what in CHECKS.items() if name not in ("uncertainty", "grafts"))
    assert "Do not use" not in told


def test_the_page_warns_of_a_section_that_is_not_what_it_says(mend, tmp_path):
    mended = mend(tissue(), three_holes())
    level = zarr.open_array(mended.corrected / "1")
    level[0, 0] = 255 - level[0, 0]
    verdict = mended.verify()
    page = mended.report(tmp_path / "index.html", verdict=verdict)
    assert SectionMetrics.read(page.with_name("metrics.json")).proved is False
    told = Page.read(page)
    assert "Do not use this corrected section" in told.text
    assert "found 1 others, first at y 0, x 0" in told.text
    assert len(told.all("li", "wrong")) == sum(not check.holds for check in verdict.checks) > 0


def test_the_page_of_a_section_without_a_verdict_claims_no_proof(mended, tmp_path):
    page = mended.report(tmp_path / "index.html")
    assert SectionMetrics.read(page.with_name("metrics.json")).proved is None
    assert "Proof" not in Page.read(page).text


def test_a_verdict_on_another_section_is_refused(mended, mend, tmp_path):
    other = mend(tissue(), ~three_holes(), section="B08")
    with pytest.raises(
        InputError, match=r"expected the section that the verdict speaks of .* run `cytomend verify-section`"
    ):
        mended.report(tmp_path / "index.html", verdict=other.verify())
    told = verify_section(mended.image, mended.plan, mended.corrected, key="as it was").write(tmp_path / "verdict.json")
    with pytest.raises(InputError, match=r"verdict on the section as it is now \(key as it is\)"):
        Verdict.read(told, "as it is")


# --- the page of the brain ----------------------------------------------------------------------------------------


def test_the_brain_has_a_row_and_a_working_link_for_every_section(mend, tmp_path):
    pages = []
    for name in ("B07", "B08.a"):
        mended = mend(tissue(), three_holes(), section=name)
        pages.append(mended.report(tmp_path / "results" / f"{name} #1" / "report" / "index.html"))
    table, out = tmp_path / "results/brain/metrics.tsv", tmp_path / "results/brain/report/index.html"
    summarise_brain([page.with_name("metrics.json") for page in pages], pages, table, out)
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert tuple(rows[0]) == COLUMNS
    assert [row["section"] for row in rows] == ["B07", "B08.a"]
    assert [row["height_px"] for row in rows] == ["160", "160"]
    brain = Page.read(out)
    assert has_no_request(brain, out)
    assert linked(out) == ["../../B07%20%231/report/index.html", "../../B08.a%20%231/report/index.html"]
    assert "../metrics.tsv" in [a.get("href") for a in brain.all("a")]
    assert all(image["loading"] == "lazy" for image in brain.all("img"))
    assert "Regions mended6 " in brain.text


def test_the_brain_refuses_what_does_not_pair(mended, tmp_path):
    page = mended.report(tmp_path / "index.html")
    metrics, outs = page.with_name("metrics.json"), (tmp_path / "t.tsv", tmp_path / "b.html")
    with pytest.raises(InputError, match="found 1 pages"):
        summarise_brain([metrics, metrics], [page], *outs)
    with pytest.raises(InputError, match="'B07' stands in"):
        summarise_brain([metrics, metrics], [page, page], *outs)
    metrics.write_text("{}")
    with pytest.raises(InputError, match="expected the metrics of a section"):
        summarise_brain([metrics], [page], *outs)


def test_the_command_line_writes_both_pages_and_finds_sections_by_the_sheet(mended, tmp_path):
    results, brain = tmp_path / "results", tmp_path / "results" / "brain" / "report" / "index.html"
    page = results / "B07" / "report" / "index.html"
    settings = json.dumps({**asdict(SHOW), "pictures": 2})
    places = ["--image", str(mended.image), "--plan", str(mended.plan), "--corrected", str(mended.corrected)]
    assert main(["report-section", *places, "--settings", settings, "--out", str(page)]) == 0
    (results / "B07" / "evaluation").mkdir()  # of trials that the section has no more
    (tmp_path / "sections.tsv").write_text("section\timage\nB07\tgone-meanwhile.tif\n")
    inputs = ["--sheet", str(tmp_path / "sections.tsv"), "--results", str(results)]
    table = tmp_path / "metrics.tsv"
    outputs = [
        "--out-table",
        str(table),
        "--out-page",
        str(brain),
        "--out-evaluation",
        str(results / "brain/evaluation"),
    ]
    assert main(["summarise-brain", *inputs, *outputs]) == 0
    assert linked(brain) == ["../../B07/report/index.html"]
    assert (results / "brain/evaluation.manifest.json").is_file()
    (tmp_path / "sections.tsv").write_text("section\timage\nB07\tx\nB08\ty\n")
    assert main(["summarise-brain", *inputs, *outputs]) == 2


def test_the_brain_says_what_mending_took_and_cost(mended, tmp_path):
    pages, metrics = [], []
    for name in ("B07", "B08"):
        page = mended.report(tmp_path / name / "index.html")
        record = json.loads(page.with_name("metrics.json").read_text())
        page.with_name("metrics.json").write_text(json.dumps({**record, "section": name}))
        pages.append(page)
        metrics.append(page.with_name("metrics.json"))
    table, out = tmp_path / "t.tsv", tmp_path / "b.html"
    hours = {"B07": Hours(gpu=2.5), "B08": Hours(cpu=7.25)}

    def shown(settings):
        summarise_brain(metrics, pages, table, out, hours=hours, settings=settings)
        rows = list(csv.DictReader(table.read_text().splitlines(), delimiter="\t"))
        return Page.read(out).text, [(row["gpu_hours"], row["cpu_hours"], row["cost"]) for row in rows]

    text, cells = shown(BrainSettings(2.0, "CHF"))
    assert cells == [("2.5", "0.0", "5.0"), ("0.0", "7.25", "0.0")]
    assert "cost (CHF)" in text
    assert "5.00 CHF" in text
    assert "7.25 of jobs without a GPU" in text
    text, cells = shown(BrainSettings())
    assert cells == [("2.5", "0.0", ""), ("0.0", "7.25", "")]
    assert "cost" not in text
    hours.clear()
    assert "hours" not in shown(BrainSettings(2.0))[0]


# --- its parts ----------------------------------------------------------------------------------------------------


def points(path):
    """Return the rings of a path of steps, in its units: (n, 2) of (x, y) each."""
    rings, at = [], np.zeros(2)
    for ring in path.split("z")[:-1]:
        steps = np.array(re.findall(r"-?\d+", ring), dtype=float).reshape(-1, 2)
        rings.append(at + np.cumsum(steps, axis=0))
        at = rings[-1][0]
    return rings


def test_an_outline_follows_the_pixels_and_closes_at_the_border():
    assert outline(np.zeros((3, 3), dtype=bool)) == ""
    (ring,) = points(outline(np.ones((2, 3), dtype=bool), origin=(10, 20), scale=2))
    assert (ring.min(axis=0) / 2).tolist() == [40, 20]  # half pixels
    assert (ring.max(axis=0) / 2).tolist() == [46, 24]


def test_an_outline_with_a_hole_has_two_rings():
    mask = np.ones((5, 5), dtype=bool)
    mask[2, 2] = False
    outer, inner = sorted(points(outline(mask)), key=np.ptp, reverse=True)
    assert (outer.min(), outer.max()) == (0, 10)
    assert (inner.min(), inner.max()) == (4, 6)


def test_a_long_outline_is_drawn_more_simply(mend, monkeypatch):
    ragged = np.zeros((160, 200), dtype=bool)
    ragged[40:120, 20:180] = np.random.default_rng(0).random((80, 160)) > 0.4
    ragged[60:100, 30:170] = True
    mended = mend(tissue(), ragged)
    plan = Plan.read(mended.plan)
    corrected = CorrectedSection.open(mended.corrected, plan.facts)
    largest = max(region_facts(plan.regions), key=lambda region: region.area_px)
    whole = region_outline(largest, corrected, plan.facts)
    monkeypatch.setattr("cytomend.report.outlines.LONGEST_PATH", len(whole) // 2)
    assert 0 < len(region_outline(largest, corrected, plan.facts)) <= len(whole) // 2


@pytest.mark.parametrize(
    ("width_um", "length_um", "text"), [(100, 20, "20 µm"), (740, 200, "200 µm"), (80_000, 20_000, "20 mm")]
)
def test_a_scale_bar_has_a_round_length(width_um, length_um, text):
    bar = scale_bar(width_um)
    assert (bar.length_um, bar.text) == (length_um, text)
    assert bar.share == pytest.approx(length_um / width_um)


def test_values_beyond_the_range_are_cut_off():
    pixels = np.array([[[0, 100, 150, 200, 65535]]], dtype=np.uint16)
    assert to_display(pixels, (100.0, 200.0)).tolist() == [[0, 0, 128, 255, 255]]


def test_a_small_picture_is_not_enlarged():
    image = tissue(shape=(4, 300))
    assert fitted(image, 300) is image
    assert fitted(image, 30).shape == (1, 30)


def test_a_box_inside_is_unchanged_by_a_large_crop(mended):
    plan = Plan.read(mended.plan)
    corrected = CorrectedSection.open(mended.corrected, plan.facts)
    crop = choose_crop(region_facts(plan.regions)[1], corrected, plan.facts.shape, context_px=1000, crop_px=400)
    assert crop == Box(0, 0, 160, 200)


# --- in a browser -------------------------------------------------------------------------------------------------


def dumped(path, profile):
    """Return the page after its script ran."""
    quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-sync", *quiet]
    run = subprocess.run(
        [*command, f"--user-data-dir={profile}", "--window-size=1000,800", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    page = Page()
    page.feed(run.stdout)
    return page


@needs_chromium
def test_the_script_of_both_pages_runs_without_error(mend, tmp_path):
    page = mend(tissue(), three_holes(), stain=HOSTILE).report(tmp_path / "index.html")
    brain = summarise_brain([page.with_name("metrics.json")], [page], tmp_path / "t.tsv", tmp_path / "brain.html")
    for number, path in enumerate((page, brain)):
        root = dumped(path, tmp_path / f"profile{number}").all("html")[0]
        assert root.get("data-ready") == "yes"
        assert "data-error" not in root
