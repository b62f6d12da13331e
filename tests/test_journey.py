"""A reviewer's way through a real run: from the page of all sections to her decisions, and back with the next run."""

import numpy as np
import pytest
import tifffile
from browser import Viewer, axe
from playwright.sync_api import expect
from test_workflow import CHECKOUT, Lab

from cytomend.phantom import damage, render_tissue
from cytomend.regions.plan import Plan

STAIN = "<img src=x onerror=document.title='hit'></script><script>document.title='hit'</script>"
COMMENT = "<b>dark</b> & \"small\"; </script><script>document.title='hit'</script>"


@pytest.fixture
def lab(tmp_path):
    """Two phantoms mended by the bundled model, as ``make demo`` does, but smaller and in fewer steps."""
    folder = tmp_path / "a lab #1"
    folder.mkdir()
    lab = Lab(folder, CHECKOUT / "models" / "tiny" / "model.safetensors")
    (folder / "models").symlink_to(CHECKOUT / "models")
    for row, seed in zip(lab.rows, (11, 12), strict=True):
        row["stain"] = STAIN
        damaged = damage(render_tissue((480, 480), seed).image, seed)
        tifffile.imwrite(folder / row["image"], damaged.image, tile=(64, 64))
        tifffile.imwrite(folder / row["annotation"], damaged.mask.astype(np.uint8))
    lab.config = {"mend": {"steps": 6}, "evaluate": {"trials": 2, "segmenters": ["classical"], "classifier": None}}
    lab.write()
    lab.snakemake()
    return lab


def test_a_reviewer_decides_and_the_next_run_does_as_she_said(lab, visit):
    results = lab.folder / "results"
    before = {name: lab.corrected(name) for name in ("left", "right")}
    numbers = np.asarray(Plan.read(results / "left" / "plan").labels)

    # All sections, sorted: by name from the last one on.
    brain = visit(results / "brain" / "report" / "index.html", within=results)
    names = brain.locator("#sections tbody th")
    expect(names).to_have_text(["left", "right"])
    head = brain.locator('#sections th[data-sort="section"] button')
    head.click()
    expect(names).to_have_text(["right", "left"])
    assert axe(brain) == ""
    brain.get_by_role("link", name="left").click()

    # One section: from region to region, and the curtain over each.
    seen = Viewer(brain, visit.guards[-1])
    assert seen.text("h1") == "Section left"
    assert STAIN in seen.text("header")
    order = seen.tab.eval_on_selector_all("#regions li", "items => items.map((item) => Number(item.dataset.region))")
    assert sorted(order) == sorted(set(numbers[numbers > 0].tolist()))
    for number in order[:2]:
        seen.press("j")
        assert seen.text("#chosen-title") == f"Region {number}"
        seen.tab.locator("#wiper").focus()
        scanned = seen.press("End").picture()
        assert (seen.press("Home").picture() != scanned).any()
    seen.tab.locator("#wiper").blur()

    # She leaves the second as scanned and accepts the first.
    second = order[1]
    seen.tab.keyboard.press("r")
    seen.tab.get_by_label("Your name").fill("Dr. Áñ")
    seen.tab.get_by_role("button", name="Keep").click()
    seen.tab.locator(f'[data-decides="{second}"] textarea').fill(COMMENT)
    seen.tab.keyboard.press("Escape")
    seen.press("k", "a")
    expect(seen.tab.locator("#review-progress")).to_contain_text(f"2 of {len(order)} regions decided")
    assert axe(seen.tab) == ""
    with seen.tab.expect_download() as download:
        seen.tab.get_by_role("button", name="Export decisions").click()
    table = lab.folder / "config" / "decisions" / download.value.suggested_filename
    download.value.save_as(table)

    # The workflow does as she said: with that section alone.
    lab.config["decisions"] = "config/decisions"
    lab.write()
    chain = (
        "plan_section",
        "mend_shard",
        "blend_section",
        "verify_section",
        "mend_trials",
        "evaluate_section",
        "report_section",
    )
    assert lab.would_run() == {*(f"{rule} left" for rule in chain), "summarise_brain"}
    lab.snakemake()
    after, scan = lab.corrected("left"), tifffile.imread(lab.folder / "data" / "left.tif")
    assert np.array_equal(after[numbers == second], scan[numbers == second])
    assert np.array_equal(after[numbers != second], before["left"][numbers != second])
    assert np.array_equal(lab.corrected("right"), before["right"])
    assert lab.would_run() == set()

    # The pages say who decided what; nothing waits to be saved.
    again = Viewer(visit(results / "left" / "report" / "index.html"), visit.guards[-1])
    decided = again.tab.locator(f'[data-decides="{second}"]')
    expect(decided.locator(".decided")).to_contain_text("Left as scanned, decided by Dr. Áñ")
    expect(decided.locator("q")).to_have_text(COMMENT)
    expect(again.tab.locator("#review-progress")).to_contain_text(f"2 of {len(order)} regions decided")
    expect(again.tab.locator("#review-progress")).not_to_contain_text("not yet in")
    again.tab.locator("#review-import").set_input_files(table)
    expect(again.tab.locator("#review-message")).to_contain_text("2 known already")
    brain = visit(results / "brain" / "report" / "index.html", within=results)
    expect(brain.locator("#sections tbody tr", has_text="left").locator(".review")).to_contain_text(f"{len(order) - 2}")
