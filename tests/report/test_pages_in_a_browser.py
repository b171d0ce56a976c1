"""The pages in Chromium: on a desktop and on a phone, with the light and the dark theme."""

import io
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distil_ray.config import Config
from distil_ray.report.comparison import compare
from tests.report.generated import drawn_rows, write_output

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra dev has it)")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {"phone": 390, "desk": 1280}
LEAST_CONTRAST = 4.5  # WCAG 2.2, AA, for text of the usual size

# Every text that can be seen: its contrast with what is behind it, by WCAG's formula.
CONTRASTS = """() => {
  const rgba = (css) => { const n = css.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const channel = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] > 0.99) return color;
    }
    return [255, 255, 255, 1];
  };
  const found = {};
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
    const both = [light(rgba(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
    const contrast = (both[0] + 0.05) / (both[1] + 0.05);
    const name = `${node.tagName}.${node.className}`;
    found[name] = Math.min(found[name] ?? 99, contrast);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no Chromium here ({', '.join(BROWSERS)}); Debian's package is chromium")
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def comparison(output: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    write_output(folder, list(drawn_rows(150, seed=0, error_rate=0.3)))
    target = folder / "comparison.html"
    compare(str(output), str(folder), str(target), Config(), Console(file=io.StringIO()))
    return target


class Opened:
    """An open page. `messages`: lines of its console; `requests`: URLs fetched beside the page itself."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, theme: str = "light") -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        self.page = context.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.requests = [url for url in self.requests if url != path.as_uri() and not url.startswith("data:")]

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]


@pytest.fixture(params=["page", "history", "comparison"])
def any_page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_a_page_has_no_console_messages_fits_the_screen_and_has_enough_contrast(
    browser: Any, any_page: Path, width: int, theme: str
) -> None:
    opened = Opened(browser, any_page, width, theme)

    assert opened.messages == []
    assert opened.requests == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = opened.page.evaluate(CONTRASTS)
    assert {name: value for name, value in contrasts.items() if value < LEAST_CONTRAST} == {}


def test_a_page_is_accessible_to_screen_readers(browser: Any, any_page: Path) -> None:
    opened = Opened(browser, any_page)
    levels = [
        int(name[1]) for name in opened.page.locator("h1,h2,h3,h4").evaluate_all("all => all.map(n => n.tagName)")
    ]

    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    unnamed = """all => all.filter(n => !(n.innerText || n.ariaLabel || n.labels?.length)).map(n => n.outerHTML)"""
    assert opened.page.locator("button, a, input, select").evaluate_all(unnamed) == []
    assert opened.page.locator("table:not(:has(caption))").count() == 0
    assert opened.page.locator("th:not([scope])").count() == 0
    assert opened.page.locator("svg:not([role=img][aria-label])").count() == 0


def test_tables_can_be_sorted_with_the_keyboard(browser: Any, page: Path) -> None:
    opened = Opened(browser, page)
    heading = opened.page.locator("#group-1 th", has_text="WER %")
    heading.locator("button").focus()
    opened.page.keyboard.press("Enter")
    rates = [float(text) for text in opened.texts("#group-1 tbody td:nth-child(2)")]

    assert heading.get_attribute("aria-sort") == "descending"
    assert rates == sorted(rates, reverse=True)
    opened.page.keyboard.press("Enter")
    assert [float(text) for text in opened.texts("#group-1 tbody td:nth-child(2)")] == sorted(rates)


def test_recordings_can_be_filtered_and_sorted(browser: Any, page: Path) -> None:
    opened = Opened(browser, page)
    box = opened.page.locator("input[data-filters=records]")
    box.fill("substituted low_logprob")

    assert opened.texts("#records li:visible h3") == ["substituted"]
    assert opened.texts("output[data-counts=records]")[0].startswith("1 of ")
    box.fill("")
    opened.page.locator("select[data-sorts=records]").select_option("wer")
    rates = [float(text.rstrip(" %")) for text in opened.texts("#records .facts b")]
    assert rates == sorted(rates, reverse=True)


def test_the_clip_of_a_recording_plays(browser: Any, page: Path) -> None:
    opened = Opened(browser, page)
    button = opened.page.locator("#records li", has_text="substituted").first.locator("button.play")
    assert button.get_attribute("aria-label") == "Play substituted, 0:00:00 to 0:00:02"
    button.click()
    audio = opened.page.locator("audio")
    played_s = audio.evaluate(
        """audio => new Promise(done => audio.addEventListener("timeupdate",
        () => audio.currentTime && done(audio.currentTime)))"""
    )

    assert played_s > 0
    assert audio.evaluate("audio => audio.duration") == pytest.approx(1.54, abs=0.1)
    assert opened.messages == []


def test_the_theme_button_switches_between_light_and_dark(browser: Any, page: Path) -> None:
    opened = Opened(browser, page)
    background = "getComputedStyle(document.body).backgroundColor"
    light = opened.page.evaluate(background)
    opened.page.locator("#theme").click()

    assert opened.page.evaluate(background) != light
    opened.page.locator("#theme").click()
    assert opened.page.evaluate(background) == light


def test_names_and_messages_are_escaped(browser: Any, page: Path) -> None:
    opened = Opened(browser, page)

    assert "<script>alert(1)</script>" in opened.texts("#failures-table tbody th")
    assert opened.page.locator("script").count() == 1
