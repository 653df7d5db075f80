"""The pages in a real browser: Debian's Chromium or another, driven by Playwright, without a network."""

import shutil

import pytest

from salcr.retrieval import Hit, Ranking, write_rankings
from salcr.retrieval.report import write_report
from salcr.retrieval.report_pictures import ContactSheets, Picture, Ranked, Sheet
from salcr.retrieval.report_run import read_runs
from tests.retrieval.pictures import write_pictures
from tests.retrieval.run_folders import write_run

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'salcr[browser]'")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
PAGES = ("report", "search")
LONG = "b" * 60
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(23, 24, 26)"


@pytest.fixture(scope="module")
def tab():
    """One browser and one page in it for all tests here."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])  # root has none
        page = browser.new_page()
        page.set_default_timeout(10_000)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report of two runs and a page of search results, with names as long as paths are."""
    room = tmp_path_factory.mktemp("pages")
    files = sorted(map(str, write_pictures(room / ("long" * 20)).rglob("*.png")))
    runs = read_runs([write_run(room / name, epochs, finished=epochs > 4) for name, epochs in (("a", 4), (LONG, 12))])
    for run in runs:
        run.settings = {"data.root": str(room / ("long" * 20)), "seed": run.name}
        run.notes.append(f"no clusters: {files[0]}")
        hits = [Picture(file, n % 2 == 0) for n, file in enumerate(files[:8])]
        run.ranked = run.worst = [Ranked(files[0], 0.5, 1, hits)] * 2
        run.clusters = [ContactSheets("visible", 3, 1, 0, [Sheet(0, 9, 2, 1, hits)])]
    write_report(room / "report.html", runs)
    hits = tuple(Hit(file, 0.5, False, n) for n, file in enumerate(files))
    write_rankings(room / "search.html", [Ranking(files[0], True, hits)], title=files[0], summary="found")
    return room


@pytest.fixture
def opened(tab, pages):
    """Opens a page; at the end nothing may have been said or asked for."""
    said, asked = [], []
    listeners = {
        "console": lambda message: said.append(message.text),
        "pageerror": lambda error: said.append(str(error)),
        "request": lambda request: asked.append(request.url),
    }

    def open_page(name, viewport=DESK, scheme="light"):
        tab.set_viewport_size(viewport)
        tab.emulate_media(color_scheme=scheme)
        tab.goto((pages / f"{name}.html").as_uri())
        return tab

    for event, listener in listeners.items():
        tab.on(event, listener)
    yield open_page
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [tab.url]


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_is_shown(opened, name):
    page = opened(name)
    assert page.locator("img").count() >= 12
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0 && image.clientHeight > 20)")


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_scrolls_in_one_direction(opened, name):
    page = opened(name, PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.mouse.wheel(500, 0)
    assert page.evaluate("window.scrollX") == 0


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("scheme", "colours"), [("light", (LIGHT, DARK)), ("dark", (DARK, LIGHT))])
def test_the_switch_turns_light_and_dark(opened, name, scheme, colours):
    page = opened(name, scheme=scheme)
    assert background(page) == colours[0]
    page.get_by_label("light or dark").click()
    assert background(page) == colours[1]
    page.get_by_label("light or dark").click()
    assert background(page) == colours[0]


def column(table, number):
    return table.locator(f"tbody td:nth-child({number})").all_inner_texts()


def test_a_click_sorts_numbers_the_largest_first_and_a_second_one_turns_them(opened):
    page = opened("report")
    table = page.locator("section", has_text="Retrieval by protocol").locator("table")
    head = table.get_by_role("columnheader", name="mAP", exact=True)
    before = [float(text) for text in column(table, 6)]
    head.get_by_role("button").click()
    assert [float(text) for text in column(table, 6)] == sorted(before, reverse=True) != before
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").click()
    assert [float(text) for text in column(table, 6)] == sorted(before)
    assert head.get_attribute("aria-sort") == "ascending"


def test_a_click_sorts_names_and_what_is_not_known_stays_last(opened):
    page = opened("report")
    table = page.locator("table").first
    head = table.get_by_role("columnheader", name="run", exact=True)
    for expected in (["a", LONG], [LONG, "a"]):
        head.get_by_role("button").click()
        assert column(table, 1) == expected
    table.locator("tbody tr:first-child td:nth-child(3)").evaluate("cell => cell.removeAttribute('data-value')")
    for _ in range(2):
        table.get_by_role("columnheader", name="epochs").get_by_role("button").click()
        assert column(table, 3) == ["4", "12"]


def test_curves_are_drawn_in_the_colours_of_their_runs(opened):
    page = opened("report")
    colours = "(discs, key) => discs.map(disc => getComputedStyle(disc)[key])"
    discs = page.locator("p i").evaluate_all(colours, "backgroundColor")
    lines = page.locator(".line").evaluate_all(colours, "stroke")
    assert set(lines) == set(discs) and len(discs) == len(set(discs)) == 2
    page.get_by_label("light or dark").click()
    assert not set(lines) & set(page.locator(".line").evaluate_all(colours, "stroke"))
    assert all(length > 10 for length in page.locator(".line").evaluate_all("all => all.map(x => x.getTotalLength())"))
