"""The report as people see it: narrow and wide, dark and light, with everything on it loaded. Needs Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from awac_pl.report.page import write_report
from tests.run_folders import make_rows, make_run

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of two presets, one of them unfinished, one with videos and a picture."""
    root = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    for preset, start in (("quick", 0.3), ("default", 0.1)):
        for seed in range(3):
            rates = np.clip(start + np.linspace(0, 0.6, 8) + rng.normal(0, 0.05, 8), 0, 1)
            tags = {"task": "pen", "preset": preset, "seed": str(seed), "commit": "0123456789abcdef" * 2}
            unfinished = {"status": "interrupted"} if (preset, seed) == ("default", 2) else {}
            make_run(root / f"runs/pen-{preset}-seed{seed}", make_rows(list(rates)), seed=seed, tags=tags,
                     config={"preset": preset, "model": {"temperature": start}}, **unfinished)  # fmt: skip
    videos = root / "runs/pen-quick-seed0/videos"
    videos.mkdir()
    frames = [np.full((128, 512, 3), (20 * index, 120, 200), np.uint8) for index in range(10)]
    imageio.mimsave(videos / "last.mp4", frames, fps=10, codec="libx264", macro_block_size=16)
    imageio.mimsave(videos / "last.gif", frames, loop=0)
    imageio.mimsave(videos / "updates-500.mp4", frames[:5], fps=10, codec="libx264", macro_block_size=16)
    imageio.imwrite(videos / "last.png", frames[-1])
    write_report([root / "runs"], root / "report.html", compare=True)
    return root / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_and_loads(browser, page_file: Path, width: int, scheme: str, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url[:80]))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    page.screenshot(path=tmp_path / "page.png", full_page=True)

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)") == [512, 512]
    if page.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.64000a\"')"):
        page.wait_for_function("[...document.querySelectorAll('video')].every(video => video.readyState >= 1)")
        assert page.evaluate("[...document.querySelectorAll('video')].map(video => video.videoWidth)") == [512, 512]
    assert page.locator("svg").count() == 2
    wide = page.evaluate("[...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().width)")
    assert all(300 < each <= width for each in wide)
    # Text, also that of the figures, stands out from the page.
    colours = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        " ...[...document.querySelectorAll('svg text, svg g[id^=text] > g')].slice(0, 5).map(g => getComputedStyle(g).fill)]"
    )
    luminance = [np.mean([float(part) for part in colour.strip("rgb()").split(",")]) for colour in colours]
    assert all(abs(each - luminance[0]) > 150 for each in luminance[1:]), colours
    assert len(colours) > 2
    assert (luminance[0] > 128) == (scheme == "light")
    assert complaints == []
    assert [url[:5] for url in requests if not url.startswith("data:")] == ["file:"]
    page.close()


def test_wide_tables_scroll_in_their_own_place(browser, page_file: Path) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.goto(page_file.as_uri())
    boxes = page.evaluate("[...document.querySelectorAll('.scroll')].map(box => [box.scrollWidth, box.clientWidth])")
    assert any(inner > outer for inner, outer in boxes)
    assert all(outer <= 400 for _, outer in boxes)
    page.close()


def test_no_column_hides_on_a_desk(browser, page_file: Path) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(page_file.as_uri())
    boxes = page.evaluate("[...document.querySelectorAll('.scroll')].map(box => [box.scrollWidth, box.clientWidth])")
    assert all(inner <= outer for inner, outer in boxes)
    page.close()


def test_what_is_folded_unfolds(browser, page_file: Path) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.goto(page_file.as_uri())
    for summary in page.locator("summary").all():
        summary.click()
    assert page.locator("details pre", has_text="temperature: 0.3").is_visible()
    assert page.locator("details video").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()
