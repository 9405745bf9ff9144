"""What `experiments.worst_case` measures of a method, and its tables."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from experiments.parts import robustness_constants
from experiments.parts.certificate import Certificate
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import captions, summary, verdicts
from farsign_jax.harness.adversary import Adversary
from farsign_jax.io import tables

GAP = 0.05  # of accuracy, by which fixed attacks over-estimate a method


class Outcome(NamedTuple):
    """What is measured of a method.

    Attributes:
        method: its name and options.
        aggregator: its aggregator, or "".
        multiple: of the step size of the preset.
        attacks: the fixed attacks.
        fixed: f[attacks, seeds], accuracies under them on the held-out seeds.
        adversary: the strongest that was found.
        searched: its accuracy on the search seeds.
        found: f[seeds], accuracies under it on the held-out seeds.
        values_alone: the strongest adversary that does not control time, and the accuracies
            f[seeds] under it; None if one adversary was given.
        certificate: what theory predicts of it, if it does.
        tried: how many adversaries were tried.
        evaluations: of losses or gradients, of all runs.
    """

    method: str
    aggregator: str
    multiple: float
    attacks: list[str]
    fixed: np.ndarray
    adversary: Adversary
    searched: float
    found: np.ndarray
    tried: int
    evaluations: int
    values_alone: tuple[Adversary, np.ndarray] | None = None
    certificate: Certificate | None = None

    @property
    def name(self) -> str:
        return f"{self.method} {self.aggregator}".strip()

    @property
    def worst_fixed(self) -> int:
        """The fixed attack with the lowest mean accuracy."""
        return int(self.fixed.mean(axis=1).argmin())

    @property
    def gap(self) -> verdicts.Difference:
        """By how much the worst fixed attack over-estimates the accuracy."""
        return verdicts.paired(self.fixed[self.worst_fixed].tolist(), self.found.tolist())


def rows_of(outcome: Outcome, config: PanelConfig) -> list[dict[str, Any]]:
    """A row for each held-out run."""
    fixed = zip(outcome.attacks, outcome.fixed, strict=True)
    named = [("fixed", attack, values) for attack, values in fixed]
    named.append(("found", str(outcome.adversary), outcome.found))
    return [
        {
            "method": outcome.method,
            "aggregator": outcome.aggregator,
            "attack": attack,
            "adversary": kind,
            "partition": config.partition,
            "arrivals": config.arrivals,
            "seed": seed,
            "event": config.events,
            "test_accuracy": float(value),
        }
        for kind, attack, values in named
        for seed, value in zip(config.seeds, values, strict=True)
    ]


def record_of(outcome: Outcome) -> dict[str, Any]:
    """What results.json says of a method."""
    gap = outcome.gap
    return {
        "method": outcome.method,
        "aggregator": outcome.aggregator,
        "step_size_multiple": outcome.multiple,
        "adversary": outcome.adversary.settings(),
        "accuracy_when_searched": outcome.searched,
        "tried": outcome.tried,
        "evaluations": outcome.evaluations,
        "overestimated_by": gap.mean,
        "half_width": gap.half_width,
    }


def table(outcomes: Sequence[Outcome]) -> str:
    """What every method ends with under the fixed attacks and under what was found."""
    header = ["method", "without attack", "worst fixed attack", "strongest found"]
    header += ["over-estimated by", "the adversary", "without control of time", "tried"]
    lines = []
    for outcome in outcomes:
        clean = outcome.attacks.index("none") if "none" in outcome.attacks else None
        mean = outcome.fixed.mean(axis=1)
        worst = outcome.worst_fixed
        gap = outcome.gap
        mark = " !" if gap.mean > GAP else ""
        lines.append(
            [
                outcome.name,
                "" if clean is None else summary.percent(mean[clean]),
                f"{summary.percent(mean[worst])} ({outcome.attacks[worst]})",
                summary.percent(outcome.found.mean()),
                gap.points + mark,
                str(outcome.adversary),
                _values_alone(outcome),
                f"{outcome.tried:,}",
            ]
        )
    return tables.markdown_table(header, lines)


def _values_alone(outcome: Outcome) -> str:
    """The accuracy under the strongest adversary without control of time, and which it is."""
    if outcome.values_alone is None:
        return ""
    adversary, values = outcome.values_alone
    if adversary == outcome.adversary:
        return "the same"
    return f"{summary.percent(values.mean())} ({adversary})"


def ranking(outcomes: Sequence[Outcome]) -> str:
    """The methods in the order of their lowest accuracy, under fixed adversaries and under all
    of them, and how alike the orders are."""
    by_fixed = [o.fixed[o.worst_fixed].mean() for o in outcomes]
    # A search is luck too: what is known to be worse on these seeds counts.
    by_found = [min(o.found.mean(), fixed) for o, fixed in zip(outcomes, by_fixed, strict=True)]
    places = [scipy.stats.rankdata([-v for v in values]) for values in (by_fixed, by_found)]
    order = np.argsort(places[1], kind="stable")
    header = ["method", "place under fixed attacks", "place under all adversaries"]
    lines = [[outcomes[i].name, f"{places[0][i]:g}", f"{places[1][i]:g}"] for i in order]
    text = tables.markdown_table(header, lines)
    if len(outcomes) > 2:
        alike = scipy.stats.spearmanr(by_fixed, by_found).statistic
        text += f"\nRank correlation (Spearman): {alike:.2f}.\n"
    return text


def caption(config: PanelConfig) -> str:
    """What the table shows, and the command that made it."""
    return (
        f"Accuracy after {config.events:,} answers in %, the mean of {len(config.seeds)} seeds "
        f"that the search did not use; {config.byzantine} of {config.workers} workers are "
        "Byzantine. Of the adversaries that were tried, most ran in short runs only. `!` marks "
        f"methods that the fixed attacks over-estimate by more than {100 * GAP:g} points; "
        f"intervals are of 95 %, paired over seeds. {captions.command_line()}"
    )


def certificates(outcomes: Sequence[Outcome]) -> str:
    """What is predicted from runs without attack, beside the strongest that was found."""
    header = ["method", "share of the descent, first and last tenth", "without attack"]
    header += ["predicted at least", "strongest found without control of time", "the adversary"]
    lines = []
    for outcome in outcomes:
        found = outcome.certificate
        if found is None or outcome.values_alone is None:
            continue
        adversary, accuracies = outcome.values_alone
        part = max(len(found.shares) // 10, 1)
        first, last = found.shares[:part].mean(), found.shares[-part:].mean()
        mark = " (below)" if accuracies.mean() < found.predicted.mean() else ""
        cells = [outcome.name, f"{first:.2f}, {last:.2f}", summary.percent(found.clean.mean())]
        cells += [summary.percent(found.predicted.mean())]
        cells += [summary.percent(accuracies.mean()) + mark, str(adversary)]
        lines.append(cells)
    return tables.markdown_table(header, lines) if lines else "No method has a certificate.\n"


def constants(config: PanelConfig) -> str:
    """The largest error of each aggregator that a search finds, and the one that is proved."""
    n, f = config.workers, config.byzantine
    lines = []
    for name in config.aggregators:
        found = robustness_constants.searched(name, n, f)
        proved = robustness_constants.bound(name, n, f)
        text = "unbounded" if found > 1e6 else f"{found:.2f}"
        lines.append([name, text, "" if np.isnan(proved) else f"{proved:.2f}"])
    least = f / (n - 2 * f) if n > 2 * f else float("inf")
    table = tables.markdown_table(["aggregator", "kappa, found", "kappa, proved"], lines)
    return f"{table}\nOf {n} rows, {f} lie. No aggregator has less than {least:.2f}.\n"
