"""The page in a browser without a network: tooltips, filters, sorting, safety and themes."""

import contextlib
import csv
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest

from tests.harness.report.samples import EVIL

pytestmark = pytest.mark.slow  # they start a browser

PLOT = "figure[data-plot]"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browser_path():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None and os.environ.get("CI") == "true":
        pytest.fail(f"none of {', '.join(BROWSERS)} is installed, which CI needs")
    if path is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    return path


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    path = browser_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, root, expected=None, **options):
    """The page without a network. Checks at the end that it requested nothing from a network,
    and that there was no error but the `expected` one."""
    context = browser.new_context(**options)
    context.set_offline(True)
    page, messages = context.new_page(), []
    page.on(
        "console", lambda m: messages.append(m.text) if m.type in ("error", "warning") else 0
    )
    page.on("pageerror", lambda error: messages.append(str(error)))
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto((root / "page" / "index.html").as_uri())
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    see(page.locator(PLOT).first)
    yield page
    surprises = [message for message in messages if not (expected and expected in message)]
    assert (surprises, len(messages)) == ([], int(expected is not None))
    assert {url.partition(":")[0] for url in requested} <= {"file", "data", "blob"}
    context.close()


def run_section(page):
    return page.locator("section").filter(has=page.locator("h2", has_text="a run, 100 %"))


def see(plot):
    plot.scroll_into_view_if_needed()
    plot.locator("svg path").first.wait_for(state="attached")


@pytest.mark.slow
def test_tooltips_show_method_attack_and_the_values_of_all_seeds(browser, root):
    with open(root / "r" / "a run, 100 %" / "results.csv") as file:
        last = {
            row["seed"]: 100 * float(row["test_accuracy"])
            for row in csv.DictReader(file)
            if (row["method"], row["attack"], row["event"]) == ("async_sgd", "none", "60")
        }
    with opened(browser, root) as page:
        section = run_section(page)
        plots = section.locator(PLOT)
        assert plots.count() == 2
        section.get_by_label("Horizontal").select_option("event")
        see(plots.first)
        page.wait_for_timeout(300)
        mark = plots.first.locator(".mark-symbol path[aria-label*='async_sgd']").last
        box = mark.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2 - 2, box["y"] + box["height"] / 2)
        tooltip = page.locator("#vg-tooltip-element.visible")
        tooltip.wait_for()
        shown = dict(re.findall(r"(.+?)\t(.+)", tooltip.inner_text()))
        assert shown.pop("method") == "async_sgd" and shown.pop("attack") == "none"
        assert shown.pop("events") == "60"
        assert float(shown.pop("mean")) == pytest.approx(np.mean([*last.values()]), abs=0.01)
        assert {k: float(v) for k, v in shown.items()} == {
            f"seed {seed}": pytest.approx(value, abs=0.01) for seed, value in last.items()
        }
        with page.expect_download() as download:
            section.get_by_role("button", name="Save the plotted curves").click()
        saved = json.loads(pathlib.Path(download.value.path()).read_text())
        assert [curve["line"] for curve in saved] == [
            "far_sign",
            "far_sign",
            "async_sgd",
            "async_sgd",
        ]


def test_all_plots_are_drawn_along_events_though_nobody_scrolls(browser, root):
    silent = "window.IntersectionObserver = class {observe() {} unobserve() {}}"
    undrawn = "[...document.querySelectorAll('figure[data-plot]')]"
    undrawn += ".filter(f => !f.hidden && !f.querySelector('svg')).length"
    for script in ("", "delete window.IntersectionObserver", silent):
        context = browser.new_context(viewport={"width": 800, "height": 200})
        page = context.new_page()
        page.add_init_script(script)
        page.goto((root / "page" / "index.html").as_uri())
        for _ in range(100):
            if not (left := page.evaluate(undrawn)):
                break
            page.wait_for_timeout(100)
        assert left == 0, script
        assert run_section(page).get_by_label("Horizontal").input_value() == "event"
        context.close()


def test_filters_hold_for_tables_and_curves_by_keyboard_alone(browser, root):
    from playwright.sync_api import expect  # waits, as plots are drawn little by little

    with opened(browser, root) as page:
        section = run_section(page)
        rows, plots = (
            section.locator("tbody tr:visible"),
            section.locator("figure[data-plot]:visible"),
        )
        before = rows.count()
        assert before == 8 and plots.count() == 2
        box = page.get_by_label("sign_flip:scale=10", exact=True)
        box.focus()
        page.keyboard.press("Space")
        expect(box).not_to_be_checked()
        expect(rows).to_have_count(4)
        expect(plots).to_have_count(1)
        assert "sign_flip" not in "".join(rows.all_inner_texts())
        see(plots.first)
        page.get_by_label("async_sgd", exact=True).press("Space")
        expect(rows).to_have_count(2)
        page.wait_for_function(
            """([plot]) => !plot.querySelector("[aria-label*='async_sgd']")
                 && plot.querySelector("[aria-label*='far_sign']")""",
            arg=[plots.first.element_handle()],
        )
        # Of the other table, the attack has a column.
        page.get_by_label("none", exact=True).press("Space")
        expect(rows).to_have_count(0)
        expect(plots).to_have_count(0)
        assert (
            page.locator("#shown")
            .inner_text()
            .endswith(f"of {page.locator(PLOT).count()} plots")
        )
        page.get_by_role("button", name="All attacks").press("Enter")
        page.get_by_role("button", name="All methods").press("Enter")
        expect(rows).to_have_count(8)
        expect(plots).to_have_count(2)
        # Who clicks faster than plots are drawn sees what was chosen last, and no warning of
        # a plot that has nothing left to draw.
        page.evaluate("""async () => {
            const boxes = [...document.querySelectorAll("#filters input")];
            for (let n = 0; n < 40; n++) {
                boxes[7 * n % boxes.length].click();
                await new Promise(resolve => setTimeout(resolve, 17 * n % 40));
            }
            for (const box of boxes)
                if (box.checked !== (box.value !== "async_sgd")) box.click();
        }""")
        for plot in plots.all():
            see(plot)
            expect(plot.locator("[aria-label*='async_sgd']")).to_have_count(0)
            expect(plot.locator("[aria-label*='far_sign']")).not_to_have_count(0)


def test_tables_are_sorted_by_keyboard_alone_and_announce_it(browser, root):
    with opened(browser, root) as page:
        evil = page.locator("section").filter(has=page.locator("h2", has_text="evil"))
        table = evil.locator("table").first
        header = table.locator("th", has_text="none")
        cells = lambda: table.locator("tbody tr td:nth-child(3)").all_inner_texts()  # noqa: E731
        assert header.get_attribute("aria-sort") is None
        header.get_by_role("button").press("Enter")
        assert header.get_attribute("aria-sort") == "ascending" and cells() == ["1", "-"]
        header.get_by_role("button").press("Enter")
        assert header.get_attribute("aria-sort") == "descending" and cells() == ["-", "1"]
        table.locator("th").nth(1).get_by_role("button").press("Enter")  # 9.5 before 10
        assert header.get_attribute("aria-sort") is None and cells() == ["1", "-"]
        # Dates sort as text, sizes by what they are; names that begin with a digit are names.
        table = page.locator("nav table")
        column = table.locator("th", has_text="written")
        dates = table.locator("tbody tr td:nth-child(7)")
        column.get_by_role("button").press("Enter")
        texts = dates.all_inner_texts()
        assert texts[:2] == ["2025-09-22 05:16", "2025-11-22 05:16"] and texts == sorted(texts)
        column.get_by_role("button").press("Enter")
        assert dates.all_inner_texts() == sorted(texts, reverse=True)
        for texts in (
            ["7 B", "575 kB", "1.26 MB", "2 GB"], ["4.5 ± 3.0", "24.9 ± 4.0", "1,000", "nan"],
            ["155 k", "6.98 M"], ["10xyz", "3abc", "none"], ["-inf", "-.5", "1e-3", "inf", "-"],
        ):  # fmt: skip
            assert page.evaluate("texts => sorted(texts, texts)", texts[::-1]) == texts


def test_the_content_of_folders_is_shown_and_never_executed(browser, root):
    with opened(browser, root, expected="Content Security Policy") as page:
        for plot in page.locator(PLOT).all():
            see(plot)
        assert page.locator("img:not([src^='data:image/png'])").count() == 0
        assert page.locator("a[href^='javascript']").count() == 0
        assert page.locator("h3", has_text=EVIL).count() == 1
        assert page.locator("dd", has_text=EVIL).count() >= 1
        assert page.get_by_label(EVIL, exact=True).count() == 2  # a method and an attack
        # Nor could any of it run: no script may but the two of the page.
        page.evaluate("""() => {
            const button = document.createElement("div");
            button.innerHTML = `<button id=b onclick="document.title = 'hit'">`;
            document.querySelector("main").prepend(button);
        }""")
        page.locator("#b").dispatch_event("click")
        assert page.title() == "Results of farsign_jax"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_themes_and_a_phone(browser, root, scheme):
    phone = {"width": 390, "height": 844}
    with opened(browser, root, color_scheme=scheme, viewport=phone) as page:
        tone = lambda: sum(map(int, re.findall(r"\d+", page.evaluate(  # noqa: E731
            "getComputedStyle(document.body).backgroundColor"))[:3]))  # fmt: skip
        assert (tone() > 600) == (scheme == "light")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        # The first stop of the keyboard leads to the results, the second changes the theme.
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        assert (tone() > 600) == (scheme == "dark")
