"""Table 3 of the paper: accuracy and wall-clock time of all methods and attacks on MNIST.

    python -m experiments.table3                            35 minutes on two cores
    python -m experiments.table3 --preset tuned --seeds 5   45 minutes
    python -m experiments.table3 --preset smoke             a minute, embedded digits

The durations were measured while other work ran on the same cores from time to time.

The table has 200 runs of 10,000 events, with 2e6 evaluations of a mini-batch loss each:
FAR-SIGN, and the buffered CYBER-0 with seven aggregators, of which `mean` is no defence.
`experiments.figure1` plots the same runs. An attack or aggregator without options has the
values of this table (`krum` is `krum:f=4`).

`alie` is `alie:z=1.5,space=measured`: a worker of CYBER-0 measures k derivatives along
directions of its own, and a Byzantine worker replaces them by mean - z std of the derivatives
that honest workers measured along theirs, which is about the same number in every direction.
With `space=message`, mean - z std of their gradients, all baselines collapse, unlike in the
paper. For FAR-SIGN the two are the same.

Evaluations, bits and seconds are those of the first record (every 50 events) at which the mean
accuracy over seeds reaches 80 or 85 %. Seconds are the number of events times the time of an
event, which is measured separately: each method alone on the machine, after compilation,
without measurements of accuracy, and without attack, as the computation of an adversary is not
a cost of the method.

The values of `--preset paper` are inferred, because the text of the paper does not contain
them. `tuned` has the step sizes that `python -m experiments.tune` chose for every method on a
validation split, by the worst case over attacks, from the same number of candidates.

Writes table.md, table.tex, wins.md, figure1.png/pdf, clock.json, results.csv and results.json
under --out.
"""

import dataclasses
import pathlib

from farsign_jax.config import panel_config
from farsign_jax.harness import captions, plots, timing, verdicts
from farsign_jax.harness import summary as summary_lib
from farsign_jax.harness.command import main, run_panel
from farsign_jax.harness.flags import FLAGS
from farsign_jax.io import files, run_folder, tables

CONFIG = panel_config.PanelConfig(methods=("far_sign", "cyber0"))
SMOKE = {"aggregators": ("median", "krum:f=4", "rfa:iterations=32")}

# Table 3 of arXiv 2605.09337: best accuracy in percent, seconds to 80 % and to 85 %, for the
# five attacks; None where the table has a dash.
_PUBLISHED = {
    "far_sign": (
        (89.6, 86.2, 88.6, 89.0, 86.9),
        (11, 19, 15, 24, 37),
        (24, 70, 35, 51, 120),
    ),
    "cyber0 rfa:iterations=32": (
        (87.5, 86.0, 87.5, 85.4, 85.5),
        (223, 285, 205, 312, 262),
        (417, 604, 446, 839, 697),
    ),
    "cyber0 multi_krum:f=4": (
        (86.9, 83.8, 87.2, 87.2, 86.0),
        (288, 268, 236, 249, 233),
        (594, 634, 599, 480, 566),
    ),
    "cyber0 median": (
        (87.6, 86.6, 86.8, 83.8, 85.7),
        (247, 280, 293, 350, 280),
        (467, 608, 542, None, 723),
    ),
    "cyber0 trimmed_mean:f=2": (
        (87.5, 86.2, 10.4, 8.3, 85.5),
        (260, 266, None, None, 257),
        (511, 604, None, None, 649),
    ),
    "cyber0 krum:f=4": (
        (85.8, 80.0, 85.5, 85.5, 84.1),
        (314, 643, 303, 331, 372),
        (803, None, 867, None, None),
    ),
    "cyber0 bulyan:f=2": (
        (85.8, 81.9, 85.5, 85.1, 84.4),
        (374, 408, 321, 420, 372),
        (772, None, 747, 885, 872),
    ),
}
PUBLISHED = {
    (name, attack): (row[0][i], row[1][i], row[2][i])
    for name, row in _PUBLISHED.items()
    for i, attack in enumerate(panel_config.PAPER_ATTACKS)
}

TIMED = "Afterwards each method is timed alone on the machine, which is not counted."


def measured() -> tuple[panel_config.PanelConfig, run_folder.RunFolder, list, list]:
    """The panel that the flags request, with the `seconds` of each method alone."""
    given, folder, rows, _ = run_panel("table3", CONFIG, (TIMED,), SMOKE)
    times = timing.alone(given, folder, FLAGS.data_dir)
    for row in rows:
        us = times[row["method"], row["aggregator"]]["us"]
        row["seconds"] = 1e-6 * us * row["event"]
    summary = summary_lib.summarise(rows)
    folder.write_rows(rows, summary)
    return given, folder, rows, summary


def _or_dash(value: float | None, form: str = "{:,.0f}") -> str:
    return "-" if value is None else form.format(value)


def accuracy_table(given: panel_config.PanelConfig, summary: list) -> tuple[list, list]:
    """The header and lines of table.md, with published values where the settings are equal."""
    ours = {
        name: getattr(CONFIG, name) for name in ("methods", "attacks", "seeds", "aggregators")
    }
    comparable = dataclasses.replace(given, **ours, preset=CONFIG.preset) == CONFIG
    header = ["method", "attack", "last, %", "best, %", "published best"]
    header += ["evaluations to 80 %", "to 85 %"]
    header += ["seconds to 80 %", "to 85 %", "published to 80 %", "to 85 %"]
    lines = []
    for e in summary:
        nothing = (None, None, None)
        name = summary_lib.label(e)
        best, *published = (
            PUBLISHED.get((name, e["attack"]), nothing) if comparable else nothing
        )
        lines.append(
            [
                name,
                e["attack"],
                summary_lib.accuracy(e, "last", with_std=True),
                summary_lib.accuracy(e, "best", with_std=True),
                _or_dash(best, "{:.1f}"),
            ]
            + [_or_dash(e[f"evaluations_to_{t}"]) for t in (80, 85)]
            + [_or_dash(e[f"seconds_to_{t}"], "{:.3g}") for t in (80, 85)]
            + [_or_dash(seconds) for seconds in published]
        )
    return header, lines


def wins_table(summary: list) -> tuple[list, list]:
    """The header and lines of wins.md: each other method compared with FAR-SIGN.

    FAR-SIGN wins where a ratio is above 1 or `verdicts` says that it is ahead.
    """
    header = ["method", "attack", "last accuracy, points", "verdict", "evaluations to 80 %"]
    header += ["seconds", "bits"]
    ours = {e["attack"]: e for e in summary if e["method"] == "far_sign"}
    lines = []
    for e in summary:
        mine = ours.get(e["attack"])
        if mine is None or e["method"] == "far_sign":
            continue
        lead = verdicts.paired(mine["last_per_seed"], e["last_per_seed"])
        cells = [lead.points, lead.verdict]
        for name in ("evaluations", "seconds", "bits"):
            theirs, own = e[f"{name}_to_80"], mine[f"{name}_to_80"]
            if own is None:
                cells.append("-" if theirs is None else "never")
            else:
                cells.append("always" if theirs is None else f"{theirs / own:,.3g}")
        lines.append([summary_lib.label(e), e["attack"], *cells])
    return header, lines


def fastest(summary: list, attack: str) -> dict | None:
    """The other method that reaches 80 % first under this attack, or None."""
    others = [e for e in summary if e["attack"] == attack and e["method"] != "far_sign"]
    others = [e for e in others if e["seconds_to_80"] is not None]
    return min(others, key=lambda e: e["seconds_to_80"], default=None)


def check_clock(
    given: panel_config.PanelConfig, folder: run_folder.RunFolder, summary: list
) -> list[str]:
    """Runs FAR-SIGN and the fastest other method to 80 % without attack, alone, as a check."""
    lines = []
    mine = [e for e in summary if e["method"] == "far_sign" and e["attack"] == "none"]
    for e in (*mine, fastest(summary, "none")):
        if e is None or e["events_to_80"] is None:
            continue
        events, run = round(e["events_to_80"]), (e["method"], e["aggregator"])
        took = timing.end_to_end(given, folder, FLAGS.data_dir, run, events)
        lines.append(
            f"{summary_lib.label(e)}: {events} events to 80 % without attack, "
            f"{e['seconds_to_80']:.3g} s as computed, {took:.3g} s end to end"
        )
    return lines


def table3() -> pathlib.Path:
    given, folder, rows, summary = measured()
    header, lines = accuracy_table(given, summary)
    table = tables.markdown_table(header, lines)
    files.write_text(folder.path / "table.tex", tables.latex_table(header, lines))
    text = [table, captions.of_accuracies(given)]
    if (
        any(e["method"] == "far_sign" for e in summary)
        and len({*map(summary_lib.label, summary)}) > 1
    ):
        wins = tables.markdown_table(*wins_table(summary))
        files.write_text(folder.path / "wins.md", wins)
        text += [
            "FAR-SIGN's lead after the last event, with an interval of 95 % over pairs of "
            "seeds, and how many times as much the others need:\n",
            wins,
        ]
    text += [f"{line}\n" for line in check_clock(given, folder, summary)]
    files.write_text(folder.path / "table.md", "\n".join(text))
    plots.curves(rows, folder.path / "figure1.png", ("evaluations", "seconds"))
    print("\n" + "\n".join(text) + f"\nThe results are in {folder.path}.")
    return folder.path


if __name__ == "__main__":
    main(table3, many=True, base=CONFIG)
