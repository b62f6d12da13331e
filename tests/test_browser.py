"""The browser with which pages are tested: it opens them from disk and lets nothing pass."""

import pytest
from browser import DESK, NIGHT, Guard, axe

PAGE = '<!doctype html><html lang="en"><head><title>a</title>{}</head><body>{}</body></html>'


def written(folder, body, head=""):
    path = folder / "a page #1.html"
    path.write_text(PAGE.format(head, f"<main><h1>A</h1>{body}</main>"))
    return path


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("<script>throw new Error('torn')</script>", "torn"),
        ("<script>console.error('worn')</script>", "worn"),
        ("<script>alert('asked')</script>", "dialog: asked"),
        ("<img src='../elsewhere.png' alt=''>", "request: file:"),
        ("<img src='missing.png' alt=''>", "failed: file:"),
        ("<img src='http://127.0.0.1:9/x.png' alt=''>", "request: http://127.0.0.1:9/x.png"),
    ],
)
def test_what_goes_wrong_on_a_page_is_noted(chromium, tmp_path, body, sentence):
    path, page, guard = written(tmp_path, body), chromium.new_page(), Guard(tmp_path)
    guard.watch(page)
    page.goto(path.as_uri())
    page.wait_for_load_state("networkidle")
    page.close()
    assert any(sentence in wrong for wrong in guard.wrong), guard.wrong


@pytest.mark.parametrize("view", [DESK, NIGHT], ids=str)
def test_a_page_is_shown_in_the_size_and_scheme_asked_for(visit, tmp_path, view):
    page = visit(written(tmp_path, ""))
    assert page.evaluate("[innerWidth, innerHeight, matchMedia('(prefers-color-scheme: dark)').matches]") == [
        view.width,
        view.height,
        view.scheme == "dark",
    ]


def test_axe_finds_what_is_withheld_also_under_a_strict_policy(visit, tmp_path):
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'
    page = visit(written(tmp_path, "<button></button><p>Text.</p>", policy))
    assert axe(page).startswith("button-name: ")
    assert axe(page, "p") == ""
