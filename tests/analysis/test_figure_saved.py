"""What a notebook keeps of a figure: whole without style sheet and drawing, in light and dark."""

import base64
import io
import re
import shutil
from xml.etree import ElementTree

import pytest
from pages import Page, assert_inert
from PIL import Image
from playwright.sync_api import sync_playwright
from sample_run import write_run

from eeflib.analysis import figures
from eeflib.analysis.compare import compare_runs
from eeflib.analysis.findings import Findings
from eeflib.analysis.run import Run

STYLES = re.compile(r"<style>.*?</style>", re.DOTALL)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    run = Run(write_run(tmp_path_factory.mktemp("run"), seeds=(1, 2), tasks=20))
    found = Findings(run)
    best = found.annotated[0]
    return {
        "failure_kinds": figures.failure_kinds(found.failures),
        "lengths": figures.lengths(found.trajectories),
        "win_rates": figures.win_rates(found.evaluations),
        "recovery_map": figures.recovery_map(found.states),
        "newly_solved": figures.newly_solved(found.changes),
        "ribbon": figures.segment_ribbon(best.trajectory, best.segments, best.states),
        "compared": figures.compared(compare_runs(run, run, method_b="SFT")),
    }


def pictures(html):
    found = re.findall(r'src="data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)"', html)
    return [base64.b64decode(data).decode() for data in found]


def test_no_number_and_no_word_is_lost(drawn):
    for name, figure in drawn.items():
        kept = figure._repr_html_()
        assert "<svg" not in kept
        assert_inert(Page(re.sub(r"<img [^>]*>", "", kept)))
        shown = pictures(kept)
        assert len(shown) == figure.body.count("<svg"), name
        for picture in shown:
            assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
        drawings = "".join(re.findall(r"<svg.*?</svg>", figure.body, re.DOTALL))
        words = re.findall(r"<text[^>]*>([^<]+)", drawings)
        assert [w for w in words if not any(w in p for p in shown)] == []
        outside = Page(re.sub(r"<svg.*?</svg>", "", figure.body, flags=re.DOTALL)).text
        bare = Page(STYLES.sub("", kept)).text
        assert re.sub(r"[\s·]", "", outside) == re.sub(r"[\s·]", "", bare), name


def test_colours_that_mean_something_need_no_style_sheet(drawn):
    bare = STYLES.sub("", drawn["recovery_map"]._repr_html_())
    won = re.findall(r'<td class="c won" style="([^"]*)"', bare)
    assert won
    assert all("background-color:rgba(0,96,156,." in x.replace("0.", ".") for x in won)
    parts = re.findall(r'<span style="flex[^"]*"', STYLES.sub("", drawn["ribbon"]._repr_html_()))
    assert parts
    assert all("background-color:rgba(" in x and "border-bottom:4px solid #" in x for x in parts)


def test_a_chart_follows_the_notebooks_theme_and_shows_where_nothing_is_styled(drawn):
    html = drawn["lengths"]._repr_html_()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    papers = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, light, body in (
            ("light", "true", html),
            ("dark", "false", html),
            ("bare", "true", STYLES.sub("", html)),
        ):
            page = browser.new_page(viewport={"width": 900, "height": 700})
            page.set_content(f'<body data-jp-theme-light="{light}">{body}</body>')
            image = page.locator("img")
            assert image.evaluate("x => x.decode().then(() => x.naturalWidth)") > 800
            picture = Image.open(io.BytesIO(image.screenshot())).convert("L")
            papers[name] = picture.getpixel((3, 3))
            dark, bright = picture.getextrema()
            assert bright - dark > 150, "something is drawn on it"
        browser.close()
    assert papers["light"] == papers["bare"] == 255
    assert papers["dark"] < 40
