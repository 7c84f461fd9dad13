"""The pages as people open them: a real browser, offline, by keyboard and screen reader, on a phone, dark, on paper."""

import base64
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from browser import Tab, browser, program
from test_report import Run
from test_study import data

from eval.report import RunFacts, report
from eval.study.page import write

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="no browser here; apt-get install chromium"),
]
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
LOCAL = ("file:", "data:", "about:")


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module", params=["report", "study"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "study":
        write(data(), folder)
        return folder / "index.html"
    run = Run(folder)
    facts = RunFacts(name="demo", seconds=1.0, commands=("make demo",))
    made = report(
        run.recipe, [run.video], [run.shards], run.checkpoint, run.scores, run.machine, failures={"coco": "no data"},
        run=facts,
    )  # fmt: skip
    return made.path


def test_nothing_leaves_the_page_and_the_console_stays_empty(tab: Tab, page: Path):
    tab.open(page)
    asked = {request["request"]["url"] for request in tab.told("Network.requestWillBeSent")}
    assert asked and all(url.startswith(LOCAL) for url in asked)
    assert [one for one in asked if one.startswith("file:")] == [page.as_uri()]
    entries = [entry["entry"] for entry in tab.told("Log.entryAdded")]
    assert not entries, json.dumps(entries, indent=1)
    assert not tab.told("Runtime.exceptionThrown") and not tab.told("Runtime.consoleAPICalled")


def test_a_screen_reader_finds_a_name_for_everything(tab: Tab, page: Path):
    tab.open(page)
    nodes = tab.do("Accessibility.getFullAXTree")["nodes"]
    named = ("link", "image", "region", "table", "navigation", "Video", "button")
    nameless = [
        node["role"]["value"] for node in nodes
        if not node["ignored"] and node["role"]["value"] in named and not node.get("name", {}).get("value", "").strip()
    ]  # fmt: skip
    assert not nameless
    levels = tab.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert tab.evaluate("document.documentElement.lang") == "en"
    headers = "[...document.querySelectorAll('thead th')].every(h => h.scope == 'col')"
    assert tab.evaluate(headers)


def test_the_keyboard_reaches_every_link_and_everything_that_scrolls(tab: Tab, page: Path):
    tab.open(page)
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    focusable = tab.evaluate("document.querySelectorAll('a[href],summary,[tabindex=\"0\"],video[controls]').length")
    reached: set[str] = set()
    for _ in range(focusable + 5):
        tab.press("Tab", 9)
        reached.add(tab.evaluate("(document.activeElement.outerHTML || '').slice(0, 200)"))
    wanted = tab.evaluate(
        "[...document.querySelectorAll('a[href],summary,[tabindex=\"0\"]')].map(e => e.outerHTML.slice(0, 200))"
    )
    assert set(wanted) <= reached
    scrolls = "[...document.querySelectorAll('.scroll,.strips,.plot,pre')].every(e => e.tabIndex === 0)"
    assert tab.evaluate(scrolls)


def test_a_phone_scrolls_tables_and_never_the_page(tab: Tab, page: Path):
    tab.do("Emulation.setDeviceMetricsOverride", **PHONE)
    try:
        tab.open(page)
        width = tab.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"]
    finally:
        tab.do("Emulation.clearDeviceMetricsOverride")


def test_a_dark_page_has_light_letters_of_enough_contrast(tab: Tab, page: Path):
    for scheme in ("light", "dark"):
        tab.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.open(page)
        colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color, \
            getComputedStyle(document.querySelector('.eyebrow')).color]"
        ground, ink, soft = (_luminance(colour) for colour in tab.evaluate(colours))
        assert (ink > ground) == (scheme == "dark")
        assert _contrast(ink, ground) >= 7 and _contrast(soft, ground) >= 4.5  # WCAG 2.2: AAA, AA
    tab.do("Emulation.setEmulatedMedia", features=[])


def test_it_prints(tab: Tab, page: Path):
    tab.open(page)
    pdf = base64.b64decode(tab.do("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"])
    assert pdf.startswith(b"%PDF") and 1 <= pdf.count(b"/Type /Page\n") <= 40


def _luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)", as WCAG defines it."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
