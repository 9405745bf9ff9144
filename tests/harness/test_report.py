"""The page of everything: what it gathers; and in a browser, without a network."""

import contextlib
import datetime
import json
import math
import os
import pathlib
import re
import shlex
import shutil
from urllib.parse import unquote

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import asynchrony, compare, report, table3
from farsign_jax.harness import plots as plots_lib
from farsign_jax.harness import series
from farsign_jax.harness.command import folder_for
from farsign_jax.harness.flags import FLAGS, configure
from farsign_jax.harness.report import reader, reproduce, vega
from farsign_jax.io import files, run_folder
from farsign_jax.validation import InvalidConfig

EVIL = "</script><img src=x onerror=document.title='hit'>"
PLOT = "figure[data-plot]"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def rows_of(methods=("far_sign", "basgd"), attacks=("none", "alie:z=1.5"), seeds=(0, 3)):
    """Tidy rows, as a panel leaves them: accuracy tells method, attack, seed and record."""
    return [
        {"method": method, "aggregator": "median" if method == "basgd" else ""}
        | {"attack": attack, "partition": "iid", "seed": seed, "event": 50 * record}
        | {"evaluations": 100 * record, "seconds": 0.1 * record, "bits_up": 10 * record}
        | {"test_accuracy": (40 * i + 10 * j + seed + record) / 100, "test_loss": 1 / record}
        for i, method in enumerate(methods)
        for j, attack in enumerate(attacks)
        for seed in seeds
        for record in (1, 2, 3, 4)
    ]


def write(path, rows, table="| method | attack |\n|-|-|\n| far_sign | none |\n", **config):
    folder = run_folder.RunFolder(
        path, {"experiment": "compare", "dataset": "mnist_subset"} | config
    )
    folder.write_rows(rows)
    if table:
        files.write_text(folder.path / "table.md", table)
    return folder.path


def make(out, *places):
    """The page of the command with these flags, in this process."""
    with flagsaver.flagsaver():
        FLAGS(["report", f"--from={','.join(map(str, places))}", f"--out={out}"])
        report.report()
    return (pathlib.Path(out) / "index.html").read_text()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A page at root/page of: a sweep that was really run, one with every trap, and wrecks."""
    root = tmp_path_factory.mktemp("report")
    flags = ["--methods=far_sign,async_sgd", "--attacks=none,sign_flip:scale=10", "--events=60"]
    flags += ["--model=softmax_regression", "--workers=5", "--byzantine=1", "--batch_size=4"]
    flags += ["--eval_every=20", "--seeds=2", f"--out={root}/r/a run, 100 %"]
    with flagsaver.flagsaver():
        FLAGS(["compare", *flags])
        compare.compare()
    rows = rows_of((EVIL, "basgd"), (EVIL, "none"))
    rows[1]["test_accuracy"], rows[2]["test_loss"] = math.nan, math.inf
    table = f"# {EVIL}\n\n{EVIL} [a](javascript:alert(1)) ![b](http://127.0.0.1:9/b.png)\n\n"
    table += f"| method | {EVIL} | none |\n|-|-|-|\n| {EVIL} | 9.5 | 1 |\n| basgd | 10 | - |\n"
    evil = write(root / "r" / "evil<img src=x onerror=alert()>", rows, table, model=EVIL)
    (evil / "figure.png").write_bytes(next((root / "r").glob("a run*/*.png")).read_bytes())
    config = json.loads((evil / "config.json").read_text())
    (root / "r" / "begun").mkdir()
    (root / "r" / "begun" / "config.json").write_text(json.dumps(config))
    write(root / "r" / "torn", rows_of()[:3])
    torn = root / "r" / "torn" / "results.json"
    torn.write_text(torn.read_text()[:100])
    write(root / "r" / "going on", rows_of()[:3], table=None)
    for folder, month in (("begun", 11), ("torn", 9)):
        written = datetime.datetime(2025, month, 22, 5, 16, tzinfo=datetime.UTC).timestamp()
        for path in (root / "r" / folder).iterdir():
            os.utime(path, (written, written))
    (root / "r" / "nothing").mkdir()
    make(root / "page", root / "r")
    return root


def test_every_folder_is_named_with_what_is_wrong_with_it(root, capsys):
    found, empty = reader.gather([str(root / "r")], root / "page")
    states = {folder.path.name: folder.state for folder in found}
    assert states == {"a run, 100 %": "complete", "evil<img src=x onerror=alert()>": "complete",
                      "begun": "unfinished", "going on": "unfinished",
                      "torn": "damaged"}  # fmt: skip
    assert [pathlib.Path(name).name for name in empty] == ["nothing"]
    text = (root / "page" / "index.html").read_text()
    assert "Unfinished: it has a configuration, and no results yet." in text
    assert "Unfinished: the command has not come to its tables" in text
    assert "Damaged: results.json is no JSON that can be read" in text
    assert f"No results in {root}/r/nothing." in text
    assert text.count("Damaged: ") == 1 and "python -m experiments.compare --methods" in text


def test_the_same_folders_are_the_same_bytes_and_a_page_is_no_folder_of_results(root):
    text = (root / "page" / "index.html").read_text()
    assert make(root / "page", root / "r") == text
    # A page below what is gathered, even another one, is neither results nor named.
    inside = make(root / "r" / "page", root / "r")
    assert "r/page" not in re.sub('href="[^"]*"', "", inside)
    assert re.sub('href="[^"]*"', "", inside) == re.sub('href="[^"]*"', "", text)
    shutil.rmtree(root / "r" / "page")


def test_links_lead_from_the_page_to_the_data(root):
    links = re.findall('<a href="([^"#][^"]*)">', (root / "page" / "index.html").read_text())
    assert any(link.endswith("/results.csv") for link in links)
    assert all((root / "page" / unquote(link)).is_file() for link in links)


def test_what_cannot_be_reported_is_one_error(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    foreign = tmp_path / "site"
    foreign.mkdir()
    (foreign / "index.html").write_text("<h1>mine</h1>")
    write(tmp_path / "run", rows_of())
    for out, place, message in (
        ("page", "empty", "no results in "),
        ("page", "none", "^/.*none: no such folder"),
        ("page", "file", "^/.*file: no such folder"),
        ("file", "run", "file is a file: --out names a folder"),
        ("site", "run", "index.html is no page of this command: choose another --out"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            make(tmp_path / out, tmp_path / place)
    with pytest.raises(InvalidConfig, match="--from names no folder"):
        make(tmp_path / "page")
    assert not (tmp_path / "page").exists()
    assert (foreign / "index.html").read_text() == "<h1>mine</h1>"


@pytest.mark.parametrize(
    "content",
    ["[]", "null", '"x"', '{"rows": 3}', '{"rows": [1]}', "\x00\xff",
     '{"rows": [{}, {"a": [1]}]}', '{"rows": [{"event": 1}, {"event": 2}]}',
     '{"config": 3, "rows": [{"event": "x", "test_accuracy": null, "method": 3, "seed": [1]}]}',
     '{"config": {"experiment": [1], "seeds": 3}, "rows": [{"event": NaN, "attack": {}}]}',
     '{"config": {"experiment": "compare", "seeds": 3, "varied": [1]}, "rows": []}',
     '{"config": {"model": "\\ud800"}, "rows": [{"event": 1, "method": "\\ud800"}]}',
     '{"rows": [{"event": 1%s, "test_accuracy": 1}]}' % ("0" * 400)],
)  # fmt: skip
def test_no_content_of_a_folder_breaks_the_page(tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(content, encoding="latin-1")
    (tmp_path / "run" / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "run" / "table.md").write_bytes(b"\xff | a |\n")
    text = make(tmp_path / "page", tmp_path / "run")
    assert "Damaged: broken.png is no PNG" in text


def test_a_folder_that_cannot_be_shown_is_damaged_and_the_others_are_there(
    tmp_path, monkeypatch
):
    for name in ("bad", "good"):
        write(tmp_path / "r" / name, rows_of(), model=name)
    command = reproduce.command

    def fails(config):
        return 1 / 0 if config.get("model") == "bad" else command(config)

    monkeypatch.setattr(reproduce, "command", fails)
    text = make(tmp_path / "page", tmp_path / "r")
    assert text.count("Damaged: ") == 1 and "Damaged: it cannot be shown: ZeroDivision" in text
    assert text.count("<td>damaged</td>") == 1 and text.count("<td>complete</td>") == 1
    assert "--model good" in text and "bad/results.csv" in text and "2 folders, 8 runs" in text


def test_integers_that_no_float_can_hold_are_infinite(tmp_path):
    rows = rows_of(seeds=(0,))
    rows[3]["test_loss"], rows[7]["test_loss"] = 10**400, -(10**400)
    first, second, *_ = series.cells(rows)
    assert [*first.last("test_loss"), *second.last("test_loss")] == [math.inf, -math.inf]
    write(tmp_path / "run", rows)
    assert "Damaged" not in make(tmp_path / "page", tmp_path / "run")


def test_settings_of_many_values_are_no_measurements():
    for name, varied in (("byzantine", ()), ("told", ("told",))):
        rows = [row | {name: n} for n in range(25) for row in rows_of(("sgd",), ("none",))]
        found = series.cells(rows, varied)
        assert [cell.plot for cell in found] == [f"{name} {n}" for n in range(25)]
        assert not any(name in cell.measured for cell in found)
    assert all("told" in cell.measured for cell in series.cells(rows))


@pytest.mark.parametrize("order", [(0.1, 0.2), (0.2, 0.1)])
@pytest.mark.parametrize("column", ["test_accuracy", "test_loss"])
def test_a_step_size_that_ends_in_nan_is_not_the_best(order, column):
    rows = [
        {"method": "sgd", "step_size": step, "seed": 0, "event": event}
        | {column: math.nan if (step, event) == (0.2, 2) else 0.5}
        for step in order
        for event in (1, 2)
    ]
    assert [cell.step for cell in series.best_steps(series.cells(rows))] == ["0.1"]


def test_cells_are_the_runs_that_differ_in_their_seed():
    found = series.cells(rows_of())
    assert [(c.line, c.names["attack"], c.plot) for c in found] == [
        ("far_sign", "none", ""), ("far_sign", "alie:z=1.5", ""),
        ("basgd median", "none", ""), ("basgd median", "alie:z=1.5", ""),
    ]  # fmt: skip
    assert found[3].seeds == ("0", "3")
    np.testing.assert_allclose(found[3].last("test_accuracy"), [54, 57])
    np.testing.assert_allclose(found[3].spent["evaluations"], [100, 200, 300, 400])
    # What varies beside, and says more, tells plots apart; step sizes are told apart, and the
    # one that ends best is drawn.
    varied = [row | {"partition": "two_camps", "told": 1} for row in rows_of()]
    assert {c.plot for c in series.cells(rows_of() + varied)} == {
        "partition iid", "partition two_camps"}  # fmt: skip
    less = [
        row | {"step_size": 0.1, "test_accuracy": row["test_accuracy"] / 2} for row in rows_of()
    ]
    both = series.cells([row | {"step_size": 0.2} for row in rows_of()] + less)
    assert len(both) == 8
    assert [cell.step for cell in series.best_steps(both)] == ["0.2"] * 4


def test_runs_of_different_length_are_averaged_where_all_are():
    rows = [
        row for row in rows_of(("sgd",), ("none",)) if (row["seed"], row["event"]) != (3, 200)
    ]
    (cell,) = series.cells(rows)
    np.testing.assert_allclose(cell.last("test_accuracy"), [4, 6])
    (drawn,) = vega.data([cell], ["sgd"])["cells"]
    assert drawn["y"]["test_accuracy"] == [[2.5, 3.5, 4.5, None], [1, 2, 3, 4], [4, 5, 6, None]]


@pytest.mark.parametrize(("times", "scale"), [(8, None), (12, "log")])
def test_axes_are_logarithmic_where_one_curve_is_much_longer(times, scale):
    rows = [
        {"method": method, "seed": 0, "event": event, "evaluations": event * each}
        | {"test_accuracy": 0.5}
        for method, each in (("a", 1), ("b", times))
        for event in (10, 20, 30)
    ]
    found = series.cells(rows)
    drawn = vega.data(found, [cell.line for cell in found])
    assert drawn["x"]["evaluations"]["scale"].get("type") == scale
    assert drawn["x"]["event"]["scale"].get("type") is None
    shown = plots_lib.draw([row | {"aggregator": "", "attack": "none"} for row in rows])
    assert shown.axes[0].get_xscale() == (scale or "linear")


def test_long_curves_are_thinned_and_numbers_that_json_has_not_are_named():
    rows = [
        {"method": "sgd", "seed": seed, "event": event, "test_loss": float(event)}
        for seed in range(12)
        for event in range(1, 1001)
    ]
    rows[0]["test_loss"], rows[999]["test_loss"] = math.inf, math.nan
    data = vega.data(series.cells(rows), ["sgd"])
    (cell,) = data["cells"]
    assert cell["x"]["event"][0] == 1 and cell["x"]["event"][-1] == 1000
    assert len(cell["x"]["event"]) == vega.RECORDS
    assert data["runs"] == ["lowest", "highest"]  # of more seeds than can be read
    mean, low, high = cell["y"]["test_loss"]
    assert (mean[0], low[0], high[0]) == ("Infinity", 1, "Infinity")
    assert (mean[-1], low[-1]) == ("NaN", "NaN")
    assert json.loads(vega.script(data)) == json.loads(json.dumps(data))


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (compare, []),
        (compare, ["--seeds=7,", "--attacks=alie:,sign_flip", "--aggregators=median,krum:f=3"]),
        (compare, ["--vary=partition=iid,label_skew:heterogeneity=2", "--vary=byzantine=0,5"]),
        (
            compare,
            ["--methods=far_sign:step_size=0.1,sgd", "--partition=dirichlet:heterogeneity=0.3"],
        ),
        (table3, ["--preset=smoke", "--directions=7"]),
        (table3, ["--preset=tuned", "--arrivals=bimodal:slow=3,share=0.1", "--seeds=3"]),
        (asynchrony, ["--panels=a,c", "--events=100"]),
    ],
)
def test_the_command_that_is_told_makes_the_same_folder(command, flags, tmp_path):
    name = command.__name__.rpartition(".")[2]

    def config(*argv):
        with flagsaver.flagsaver():
            FLAGS([name, *argv])
            if command is not compare:
                more = {"panels": FLAGS.panels} if command is asynchrony else {}
                return folder_for(name, configure(command.CONFIG), **more).config
            fixed, varied = compare.asked()
            return folder_for(name, compare.grid(fixed, varied)[0][1], varied=varied).config

    made = json.loads(json.dumps(config(*flags)))
    words = shlex.split(reproduce.command(made))
    assert words[:3] == ["python", "-m", f"experiments.{name}"]
    assert json.loads(json.dumps(config(*words[3:]))) == made
    assert len(words) <= 5 + 2 * len(flags)  # what is usual is not told


def test_commands_of_other_folders():
    cluster = {"experiment": "cluster", "workers": 8, "attacks": ["none", "alie:z=1,ddof=1"]}
    told = reproduce.command(cluster | {"behaviours": [], "seed": 3})
    assert told == ("python -m experiments.cluster --workers 8 --attacks none,alie:z=1,ddof=1 "
                    "--behaviours none --seeds 3")  # fmt: skip
    rates = {"experiment": "rates", "preset": "full", "claims": ["rates"], "seeds": 24}
    assert reproduce.command(rates) == "python -m experiments.rates --claims rates"
    assert reproduce.command({"workers": 8}) is None
    assert reproduce.command({"experiment": "os"}) is None


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
    """The page without a network; afterwards: nothing was asked of one, and no errors but one
    that is expected."""
    context = browser.new_context(**options)
    context.set_offline(True)
    page, told = context.new_page(), []
    page.on("console", lambda m: told.append(m.text) if m.type in ("error", "warning") else 0)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    asked: list[str] = []
    page.goto((root / "page" / "index.html").as_uri())
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    see(page.locator(PLOT).first)
    yield page
    assert (len(told) == 1 and expected in told[0]) if expected else not told
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
    context.close()


def run_section(page):
    return page.locator("section").filter(has=page.locator("h2", has_text="a run, 100 %"))


def see(plot):
    plot.scroll_into_view_if_needed()
    plot.locator("svg path").first.wait_for(state="attached")


def test_curves_tell_method_attack_seed_and_value(browser, root):
    told = json.loads((root / "r" / "a run, 100 %" / "results.json").read_text())["rows"]
    last = {
        row["seed"]: 100 * row["test_accuracy"]
        for row in told
        if (row["method"], row["attack"], row["event"]) == ("async_sgd", "none", 60)
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
        said = dict(re.findall(r"(.+?)\t(.+)", tooltip.inner_text()))
        assert said.pop("method") == "async_sgd" and said.pop("attack") == "none"
        assert said.pop("events") == "60"
        assert float(said.pop("mean")) == pytest.approx(np.mean([*last.values()]), abs=0.01)
        assert {k: float(v) for k, v in said.items()} == {
            f"seed {seed}": pytest.approx(value, abs=0.01) for seed, value in last.items()
        }
        with page.expect_download() as download:
            section.get_by_role("button", name="Save the plotted curves").click()
        saved = json.loads(pathlib.Path(download.value.path()).read_text())
        assert [cell["line"] for cell in saved] == [
            "far_sign",
            "far_sign",
            "async_sgd",
            "async_sgd",
        ]


def test_filters_hold_for_tables_and_curves_by_keyboard_alone(browser, root):
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
        assert not box.is_checked()
        assert rows.count() == 4 and plots.count() == 1
        assert "sign_flip" not in "".join(rows.all_inner_texts())
        see(plots.first)
        page.get_by_label("async_sgd", exact=True).press("Space")
        assert rows.count() == 2
        page.wait_for_function(
            """([plot]) => !plot.querySelector("[aria-label*='async_sgd']")
                 && plot.querySelector("[aria-label*='far_sign']")""",
            arg=[plots.first.element_handle()],
        )
        # Of the other table, the attack has a column.
        page.get_by_label("none", exact=True).press("Space")
        assert rows.count() == 0 and plots.count() == 0
        assert (
            page.locator("#shown")
            .inner_text()
            .endswith(f"of {page.locator(PLOT).count()} plots")
        )
        page.get_by_role("button", name="All attacks").press("Enter")
        page.get_by_role("button", name="All methods").press("Enter")
        assert rows.count() == 8 and plots.count() == 2


def test_tables_sort_by_keyboard_alone_and_say_so(browser, root):
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
        told = dates.all_inner_texts()
        assert told[:2] == ["2025-09-22 05:16", "2025-11-22 05:16"] and told == sorted(told)
        column.get_by_role("button").press("Enter")
        assert dates.all_inner_texts() == sorted(told, reverse=True)
        for texts in (
            ["7 B", "575 kB", "1.26 MB", "2 GB"], ["4.5 ± 3.0", "24.9 ± 4.0", "1,000", "nan"],
            ["155 k", "6.98 M"], ["10xyz", "3abc", "none"], ["-inf", "-.5", "1e-3", "inf", "-"],
        ):  # fmt: skip
            assert page.evaluate("texts => sorted(texts, texts)", texts[::-1]) == texts


def test_what_folders_say_is_shown_and_never_obeyed(browser, root):
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
