"""The dashboard as a browser shows it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dashboard.serving import PATIENCE, Dashboard

CHROMIUM = Path("/usr/bin/chromium")
# Nothing but the page is asked for.
QUIET = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
]
VARIANTS = ["memory-base", "memory-level-1", "memory-level-2"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        path = str(CHROMIUM) if CHROMIUM.exists() else None
        try:
            started = running.chromium.launch(executable_path=path, args=QUIET)
        except playwright.Error as error:
            pytest.skip(f"there is no browser: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that asks nobody but the dashboard."""
    context = browser.new_context(viewport={"width": 1500, "height": 1100})
    context.set_default_timeout(1000 * PATIENCE)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    yield context.new_page()
    context.close()
    assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []


def test_time_series_show_the_variants_and_their_losses(page: Any, dashboard: Dashboard) -> None:
    page.goto(f"{dashboard.url}#timeseries")
    for variant in VARIANTS:
        page.get_by_text(variant, exact=True).first.wait_for()
    final = dashboard.get("data/plugin/scalars/scalars", run=VARIANTS[1], tag="bits_per_byte/validation")[-1][2]
    page.get_by_text(f"{final:.4f}".rstrip("0"), exact=True).first.wait_for()


def test_custom_scalars_show_their_groups_with_every_variant_checked(page: Any, dashboard: Dashboard) -> None:
    page.goto(f"{dashboard.url}#custom_scalars")
    page.get_by_text("loss/validation: mean over seeds, 95 % interval").first.wait_for()
    titles = page.get_by_text("mean over seeds, 95 % interval").all_inner_texts()
    assert titles[0].startswith("loss/validation")
    for group in ("Loss", "Throughput", "Stability"):
        page.get_by_text(group, exact=True).first.wait_for()
    for variant in VARIANTS:
        page.get_by_text(variant, exact=True).first.wait_for()
    page.get_by_text("Matches (3)").first.wait_for()
    assert page.get_by_text("Missing Tags").count() == 0


def test_hparams_show_axes_seeds_and_final_values(page: Any, dashboard: Dashboard) -> None:
    page.goto(f"{dashboard.url}#hparams")
    page.get_by_text("level-2", exact=True).first.wait_for()
    final = dashboard.get("data/plugin/scalars/scalars", run=VARIANTS[2], tag="loss/validation")[-1][2]
    for text in ("memory", "seed", "mean", "loss/validation", f"{final:.4f}"):
        page.get_by_text(text, exact=True).first.wait_for()


def test_text_shows_question_and_verdicts(page: Any, dashboard: Dashboard) -> None:
    page.goto(f"{dashboard.url}#text")
    for text in ("Does the memory help?", "worse by", "OutOfMemoryError"):
        page.get_by_text(text).first.wait_for()


def test_images_show_the_pictures(page: Any, dashboard: Dashboard) -> None:
    page.goto(f"{dashboard.url}#images")
    for tag in ("differences", "loss_by_position"):
        page.get_by_text(f"tag: {tag}").first.wait_for()
    page.wait_for_function(
        """() => {
            const found = [];
            const look = (root) => root.querySelectorAll('*').forEach((element) => {
                if (element.tagName === 'IMG' && element.naturalWidth > 300) found.push(element);
                if (element.shadowRoot) look(element.shadowRoot);
            });
            look(document);
            return found.length >= 2;
        }"""
    )
