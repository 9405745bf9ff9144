"""What each variant of FAR-SIGN learns from the same number of loss evaluations.

    python -m experiments.ablation                            MNIST, 5 seeds
    python -m experiments.ablation --seeds 1 --variants tuned,forward
    python -m experiments.ablation --arrivals exponential --timing_attack flood:rate=5 \\
        --attacks sign_flip --variants combined,weighted,vote,vote_weighted,vote_hashed

The setting and the budget are those of Table 3: the cost of --events answers with two
evaluations per direction. A variant that needs fewer evaluations per answer gets more answers,
and its step size decreases equally often per evaluation. Each variant is measured separately,
on top of the one that its description names.

Writes table.md (the mean accuracy over seeds after the last event, for every attack),
results.csv and results.json under --out. The same command continues there.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

from absl import flags

from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import captions, multi_host, panel
from farsign_jax.harness import summary as summary_lib
from farsign_jax.harness.command import folder_for, main, perform
from farsign_jax.harness.flags import FLAGS, all_but, configure
from farsign_jax.io import files, tables
from farsign_jax.oracles.zeroth_order import evaluations
from farsign_jax.validation import lookup, require

flags.DEFINE_list("variants", None, "Variants to run. Default: all.")


class Variant(NamedTuple):
    """Options of far_sign, or of the method to compare with, and their description."""

    options: dict[str, Any]
    description: str
    name: str = "far_sign"
    aggregator: str = "mean"  # used by methods that take one

    def method(self, q: int) -> str:
        """The text of the method for q Byzantine workers."""
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.name}:{options}".format(q=q) if options else self.name


_TUNED = {"step_size": 0.035}
_FORWARD = {"step_size": 0.015, "scheme": "forward"}
_ALIVE = _FORWARD | {"sampler": "alive"}
_COMBINED = _ALIVE | {"weights": "inverse", "soft": 1, "step_size": 0.02, "last_layer": 0.5}
_NNM = "nnm:f={q}+trimmed_mean:f={q}"
_VOTE = _COMBINED | {"vote": _NNM, "soft": 0, "step_size": 0.007}
_HASHED = _VOTE | {"vote": "median", "storage": "hashed", "slots": 3000}
_RFA = {"step_size": 0.44}

VARIANTS = {
    "paper": Variant({}, "the setting of the paper"),
    "tuned": Variant(_TUNED, "half the step size"),
    "small": Variant({"step_size": 0.0175}, "a quarter of the step size"),
    "averaged": Variant(_TUNED | {"averaging": 2}, "tuned, average of iterates, weights n^2"),
    "forward": Variant(_FORWARD, "forward differences: k + 1 evaluations for k derivatives"),
    "alive": Variant(_ALIVE, "forward, coordinates of dead units sampled less often"),
    "alive_unbiased": Variant(
        _ALIVE | {"weights": "inverse"}, "alive, steps weighted by 1 / probability"
    ),
    "rank": Variant(
        _FORWARD | {"sampler": "rank", "floor": 0.3},
        "forward, large derivatives sampled more often",
    ),
    "rank_unbiased": Variant(
        _FORWARD | {"sampler": "rank", "floor": 0.3, "weights": "inverse"},
        "rank, steps weighted by 1 / probability",
    ),
    "last_layer": Variant(
        _ALIVE | {"last_layer": 0.5}, "alive, half the step size in the last layer"
    ),
    "soft": Variant(_ALIVE | {"soft": 0.5}, "alive, smaller steps where y is small"),
    "alive_averaged": Variant(_ALIVE | {"averaging": 2}, "alive, average of iterates"),
    "combined": Variant(
        _COMBINED,
        "alive_unbiased, softer steps, half the step size in the last layer",
    ),
    "bfloat16": Variant(_TUNED | {"storage": "bfloat16"}, "tuned, y in 1/2 of the memory"),
    "hashed": Variant(
        _TUNED | {"storage": "hashed", "slots": 3000}, "tuned, y in 1/4 of the memory"
    ),
    "sketch": Variant(
        _TUNED | {"storage": "sketch", "slots": 2000}, "tuned, y in 1/4 of the memory"
    ),
    "blocks": Variant(
        _TUNED | {"storage": "blocks", "slots": 6363}, "tuned, y in 1/4 of the memory"
    ),
    "hashed_less": Variant(
        _TUNED | {"storage": "hashed", "slots": 100}, "tuned, y in 1/127 of the memory"
    ),
    "weighted": Variant(
        _COMBINED | {"arrival_rates": "estimate"},
        "combined, workers that answer often have smaller steps",
    ),
    "vote": Variant(_VOTE, "combined without soft steps, with a vote and smaller steps"),
    "vote_weighted": Variant(
        _VOTE | {"arrival_rates": "estimate"}, "vote, and weighted as above"
    ),
    "vote_hashed": Variant(_HASHED, "vote, by a median over 1/4 of the memory"),
    "rfa": Variant(_RFA, "the best method of Table 3, tuned", "cyber0", "rfa:iterations=32"),
    "rfa_forward": Variant(
        _RFA | {"scheme": "forward"}, "rfa, forward", "cyber0", "rfa:iterations=32"
    ),
}

CONFIG = PanelConfig(eval_every=500)
READ = all_but("methods", "aggregators", "buffers")  # the variants choose these


def _budgeted(config: PanelConfig, scheme: str) -> PanelConfig:
    """The config with as many evaluations as it needs for central differences."""
    cost, usual = (evaluations(config.directions, s) for s in (scheme, "central"))
    events = config.events * usual // cost
    scaled = {n: getattr(config, n) * usual // cost for n in ("decay_every", "eval_every")}
    return dataclasses.replace(config, events=events, **scaled)


def ablation() -> pathlib.Path:
    names = list(VARIANTS) if FLAGS.variants is None else FLAGS.variants
    require(len(names) > 0, f"--variants is empty: known: {', '.join(VARIANTS)}")
    chosen = {name: lookup("variant", name, VARIANTS) for name in names}
    base = configure(CONFIG)
    folder = folder_for("ablation", base, variants=sorted(chosen))
    panels = []
    for name, variant in chosen.items():
        config = _budgeted(base, variant.options.get("scheme", "central"))
        method, rule = variant.method(base.byzantine), variant.aggregator
        config = dataclasses.replace(config, methods=(method,), aggregators=(rule,))
        panels.append(panel.ready(config, FLAGS.data_dir, name=name, labels={"variant": name}))
    rows = perform(panels, folder)
    multi_host.part()
    lines, summary, header = [], [], []
    for name, variant in chosen.items():
        entries = summary_lib.summarise([row for row in rows if row["variant"] == name])
        summary += [{"variant": name} | entry for entry in entries]
        worst = min(entries, key=lambda entry: entry["last"])
        cells = [summary_lib.accuracy(entry, "last") for entry in (*entries, worst)]
        attacks = [tables.markdown_text(entry["attack"]) for entry in entries]
        header = ["variant", *attacks, "worst", "method", "what it is"]
        rule = f" with `{variant.aggregator}`" if variant.name != "far_sign" else ""
        method = f"`{variant.method(base.byzantine)}`{rule}"
        lines.append([name, *cells, method, variant.description])
    folder.write_rows(rows, summary)
    table = tables.markdown_table(header, lines, markup=True)
    budget = base.events * evaluations(base.directions, "central")
    caption = captions.of_accuracies(base, best=False)
    table = f"{budget:,} evaluations in each run\n\n{table}\n{caption}"
    files.write_text(folder.path / "table.md", table)
    print(f"\n{table}\nThe results are in {folder.path}.")
    return folder.path


if __name__ == "__main__":
    main(ablation, many=True, base=CONFIG, own=("variants",), reads=READ)
