"""Writes the tables of README and pages that come from measured results.

    python -m docs.figures
    python -m docs.figures README.md docs/pages/table3.md

A table stands between `<!-- figures: NAME -->` and `<!-- end -->`, where NAME is a key of
`BLOCKS`. `tests/docs/test_figures.py` checks that every table is current, and that the figures
in the text agree with the same files. Writes the pages that are named, or all with such tables,
in their places or under --out.
"""

import functools
import pathlib
import re
from collections.abc import Callable, Iterator

from docs import layers
from farsign_jax.io import files, tables

RESULTS = layers.ROOT / "experiments" / "results"
BENCHMARKS = layers.ROOT / "benchmarks" / "results"
PAGES = [layers.ROOT / "README.md", *sorted((layers.ROOT / "docs" / "pages").glob("*.md"))]
BLOCK = re.compile(r"(<!-- figures: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

AS_THEY_ARE = ["finetune", *(f"worst-case-{name}" for name in ("certificate", "constants"))]
ATTACKS = ["none", "alie", "gaussian", "constant", "sign_flip"]


@functools.cache
def read(path: pathlib.Path) -> list[list[list[str]]]:
    """The Markdown tables of a file, each a list of rows of cells, the header first."""
    found: list[list[list[str]]] = [[]]
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not set("".join(cells)) <= set("-:"):
                found[-1].append(cells)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def _by_run(name: str, number: int) -> dict[tuple[str, str], dict[str, str]]:
    """From (method, bare attack) to the cells of a row by column; of two, it is the first."""
    header, *rows = read(RESULTS / f"table3-{name}.md")[number]
    named = [dict(zip(reversed(header), reversed(row), strict=True)) for row in rows]
    return {(row["method"], row["attack"].split(":")[0]): row for row in named}


@functools.cache
def table3(name: str) -> dict[tuple[str, str], dict[str, str]]:
    """The rows of a version of Table 3."""
    return _by_run(name, 0)


def methods_of(name: str) -> list[str]:
    return list(dict.fromkeys(method for method, _ in table3(name)))


def accuracy(name: str, method: str, attack: str, column: str = "last, %") -> float:
    """The mean accuracy in percent after the last event, or in another column."""
    return float(table3(name)[method, attack][column].split(" ± ")[0])


@functools.cache
def leads(name: str) -> dict[tuple[str, str], dict[str, str]]:
    """FAR-SIGN's lead, and how many times as much a method needs to 80 %."""
    return _by_run(name, 1)


def lead(name: str, method: str, attack: str) -> float:
    """The points by which FAR-SIGN ends above a method."""
    cell = next(v for n, v in leads(name)[method, attack].items() if n.endswith("points"))
    return float(cell.split(" ± ")[0])


def accuracies(name: str, published: bool = False) -> str:
    """A row for each method, a column for each attack, with the best and the published best."""
    rows = []
    for method in methods_of(name):
        row = [f"`{method}`"]
        for attack in ATTACKS:
            cell = f"{accuracy(name, method, attack)}"
            ours = accuracy(name, method, attack, "best, %")
            theirs = table3(name)[method, attack]["published best"].replace("-", "–")
            row.append(f"{cell} ({ours}; {theirs})" if published else cell)
        rows.append(row)
    return tables.markdown_table(["", *ATTACKS], rows, markup=True)


def time_to_accuracy() -> str:
    """What FAR-SIGN needs to reach 80 %, and the smallest multiple that a baseline needs."""
    ours = {attack: table3("paper")["far_sign", attack] for attack in ATTACKS}
    rows = [
        ["FAR-SIGN, thousands of evaluations"],
        ["fewest evaluations of a baseline, times as many"],
        ["FAR-SIGN, seconds"],
        ["shortest time of a baseline, times as long"],
        ["fewest bits of a baseline, times as many"],
    ]
    for attack in ATTACKS:
        others = [cells for (_, which), cells in leads("paper").items() if which == attack]
        least = [
            min((cells[column] for cells in others if cells[column] != "always"), key=float)
            for column in ("evaluations to 80 %", "seconds", "bits")
        ]
        needed = int(ours[attack]["evaluations to 80 %"].replace(",", ""))
        rows[0].append(f"{needed / 1000:g}")
        rows[1].append(least[0])
        rows[2].append(ours[attack]["seconds to 80 %"])
        rows[3].append(least[1])
        rows[4].append(f"{float(least[2]):,.0f}")
    return tables.markdown_table(["to 80 %", *ATTACKS], rows, markup=True)


def ablation() -> str:
    """Each variant, without attack, under the worst one, and in a flood if it was measured."""
    header, *rows = read(RESULTS / "ablation.md")[0]
    flood = {row[0]: row[1] for row in read(RESULTS / "ablation-flood.md")[0]}
    columns = [header.index("none"), header.index("worst")]
    kept = [
        [f"`{row[0]}`", *(row[column] for column in columns), flood.get(row[0], ""), row[-1]]
        for row in rows
    ]
    named = ["variant", "none", "worst", "flood", "description"]
    return tables.markdown_table(named, kept, markup=True)


OTHER_TABLES = ("tuned", "fashion", "asynchronous")
WHOLE, BUFFERS = "25,450 numbers", "buffers on the server"
TRUSTED, WAITING = "trusted data on the server", "waiting for all workers"
HEADLINES = [
    ("paper", "far_sign", "FAR-SIGN", "100 numbers", "none"),
    ("paper", "cyber0 median", "CYBER-0, median", WHOLE, BUFFERS),
    ("tuned", "far_sign", "FAR-SIGN, tuned", "100 numbers", "none"),
    ("tuned", "cyber0 multi_krum:f=4", "CYBER-0, Multi-Krum, tuned", WHOLE, BUFFERS),
    ("tuned", "cyber0 rfa:iterations=32", "CYBER-0, RFA, tuned", WHOLE, BUFFERS),
    ("asynchronous", "async_sgd", "asynchronous SGD", WHOLE, "honest workers"),
    ("asynchronous", "zeno_pp", "Zeno++", WHOLE, TRUSTED),
    ("asynchronous", "aflguard", "AFLGuard", WHOLE, TRUSTED),
    ("asynchronous", "sign_sgd_mv", "signSGD, majority vote", "25,450 signs", WAITING),
]


def headlines() -> str:
    """The accuracy of the methods that a reader compares first."""
    rows = []
    for name, method, title, answer, requirement in HEADLINES:
        values = [accuracy(name, method, attack) for attack in ATTACKS]
        rows.append([title, answer, requirement, str(values[0]), str(min(values[1:]))])
    header = ["method", "each answer", "extra requirement", "no attack, %", "worst attack, %"]
    return tables.markdown_table(header, rows, markup=True)


def throughput() -> str:
    """Microseconds per event of a few cases."""
    wanted = [
        ("far_sign", "1"),
        ("far_sign", "25"),
        ("far_sign, generic oracle", "1"),
        ("far_sign_first_order", "25"),
        ("async_sgd", "25"),
        ("cyber0 median", "1"),
        ("cyber0 median", "25"),
    ]
    measured = {
        (row[0], row[2]): row
        for row in read(BENCHMARKS / "cpu-epyc-2cores.md")[0][1:]
        if row[1] == "fresh" and row[3] == "25,450"
    }
    rows = []
    for key in wanted:
        _, _, runs, _, time, _, _, evaluations, compiling, _, distance, *_ = measured[key]
        rows.append([f"`{key[0]}`", runs, time, evaluations, distance, compiling])
    for name, time, *_ in read(BENCHMARKS / "torch-cpu-epyc-2cores.md")[-1][1:]:
        rows.append([name, "1", time, "", "", ""])
    header = ["", "runs side by side", "µs per event and run", "evaluations/s"]
    return tables.markdown_table([*header, "times its floor", "compile, s"], rows, markup=True)


def gpu() -> str:
    """Microseconds per event on a GPU, by method and number of runs."""
    times: dict[str, list[str]] = {}
    for name, delivery, _, _, time, *_ in read(BENCHMARKS / "h200.md")[0][1:]:
        if delivery == "fresh":
            times.setdefault(f"`{name}`", []).append(time)
    rows = [[name, *cells] for name, cells in times.items() if len(cells) == 3]
    header = ["µs per event and run", "1 run", "25 runs", "625 runs"]
    return tables.markdown_table(header, rows, markup=True)


def answers_per_second() -> str:
    """Answers per second of a real server, by dimension and number of workers."""
    rows: dict[str, list[str]] = {}
    for size, _, answers, *_ in read(BENCHMARKS / "runtime-cpu-epyc-2cores.md")[0][1:]:
        rows.setdefault(size, []).append(answers)
    header = ["d", *(f"{m} worker{'s' if m > 1 else ''}" for m in (1, 2, 4, 8))]
    return tables.markdown_table(
        header, [[size, *answers] for size, answers in rows.items()], markup=True
    )


def claims(*sources: str, name: str = "rates") -> str:
    """The claims that come from these sources, and what was measured."""
    rows = [row for row in read(RESULTS / f"{name}.md")[0][1:] if row[0] in sources]
    return tables.markdown_table(["source", "claim", "measured", "verdict"], rows)


def ahead() -> str:
    """The methods that end above FAR-SIGN of their table, and under which attacks."""
    found: dict[tuple[str, str], list[str]] = {}
    for table, method, attack, points, verdict in read(RESULTS / "prior-art-ahead.md")[0][1:]:
        if verdict == "ahead":
            found.setdefault((table, f"`{method}`"), []).append(f"{attack} ({points})")
    rows = [[*key, ", ".join(cases)] for key, cases in found.items()]
    header = ["table", "method", "attacks (points above FAR-SIGN, 95 %)"]
    return tables.markdown_table(header, rows, markup=True)


def vote_cases() -> str:
    """A row for each case and a column for each vote, or for each other method."""
    (_, *cases), *rows = read(RESULTS / "vote-cases.md")[0]
    lines = [row for row in rows if "staleness" not in row[0]]
    body = zip(cases, *(row[1:] for row in lines), strict=True)
    return tables.markdown_table(["case", *(row[0] for row in lines)], list(body), markup=True)


def worst_cases() -> str:
    """Each method with the aggregator that does best under all adversaries, found or fixed."""
    header, *rows = read(RESULTS / "worst-case.md")[0]
    best: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: -min(float(row[2].split()[0]), float(row[3]))):
        best.setdefault(row[0].partition(" ")[0], row)
    shown = [0, 1, 2, 3, 5, 6]  # without the differences, and how many were tried
    return tables.markdown_table(
        [header[n] for n in shown], [[row[n] for n in shown] for row in best.values()]
    )


def whole(name: str, part: int = 0) -> str:
    """A table of a file, as it is."""
    header, *rows = read(RESULTS / f"{name}.md")[part]
    return tables.markdown_table(header, rows, markup=True)


BLOCKS: dict[str, Callable[[], str]] = {
    "headlines": headlines,
    "table3-paper": lambda: accuracies("paper", published=True),
    **{f"table3-{n}": functools.partial(accuracies, n) for n in OTHER_TABLES},
    "time-to-accuracy": time_to_accuracy,
    "ablation": ablation,
    "vote-cases": vote_cases,
    "theory-rates": lambda: claims("Theorem 2.5", "Theorem 2.7", "Prop. C.5"),
    "theory-tracking": lambda: claims("Table 4", "Corollary C.3"),
    "theory-convergence": lambda: claims("Theorem 2.3"),
    "theory-time-scales": lambda: claims("Karimireddy et al., 2019", "Section 3"),
    "theory-directions": lambda: claims("Assumption 6", "Ganesh et al., 2023", "Section 2.3"),
    "theory-recursion": lambda: claims("Prop. A.2", name="rates-recursion"),
    "theory-votes": lambda: claims("Votes", "Votes, median", "Votes, nnm", name="rates-votes"),
    **{f"prior-art-{n}": functools.partial(whole, f"prior-art-{n}") for n in (1, 2)},
    **{f"prior-art-{n}-rates": functools.partial(whole, f"prior-art-{n}", 1) for n in (1, 2)},
    "prior-art-ahead": ahead,
    "worst-case": worst_cases,
    **{n: functools.partial(whole, n) for n in AS_THEY_ARE},
    "throughput": throughput,
    "gpu": gpu,
    "answers-per-second": answers_per_second,
}


def current(text: str) -> str:
    """A page with its blocks made again."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{BLOCKS[match[2]]()}\n{match[3]}", text)


def stale() -> Iterator[pathlib.Path]:
    """The pages with a block that differs from the results."""
    yield from (
        page
        for page in PAGES
        if page.read_text(encoding="utf-8") != current(page.read_text(encoding="utf-8"))
    )


def rewrite(*names: str) -> None:
    """Writes the tables of the pages that are named, or of all pages."""
    from farsign_jax.harness.flags import FLAGS

    wanted = [pathlib.Path(name).resolve() for name in names]
    for page in list(stale()):
        if not wanted or page in wanted:
            path = files.expanded(FLAGS.out or page.parent) / page.name
            files.write_text(path, current(page.read_text(encoding="utf-8")))
            print(path)


if __name__ == "__main__":
    from farsign_jax.harness.command import main

    main(rewrite, reads=("out",), positional=True)
