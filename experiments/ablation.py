"""How much FAR-SIGN can learn from the same number of evaluations, idea by idea.

    python -m experiments.ablation                            MNIST, 5 seeds
    python -m experiments.ablation --seeds 1 --variants tuned,forward

The setting of Table 3, and its budget: what --events answers of two evaluations per direction
cost. Ideas that need fewer evaluations per answer are given more answers, and their steps
shrink as often per evaluation. Each idea is measured by itself, on top of the one it names.
Writes table.md (best accuracy of each seed, mean over seeds, for every attack), results.csv and
results.json under --out; the same command continues there.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

from absl import flags

from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import multi_host, panel
from farsign_jax.harness import summary as summary_lib
from farsign_jax.harness.command import folder_for, main, perform
from farsign_jax.harness.flags import FLAGS, all_but, configure
from farsign_jax.io import files, tables
from farsign_jax.oracles.zeroth_order import evaluations
from farsign_jax.validation import lookup, require

flags.DEFINE_list("variants", None, "Which ones; default: all.")


class Idea(NamedTuple):
    """Options of far_sign, and what they are."""

    options: dict[str, Any]
    says: str

    @property
    def method(self) -> str:
        told = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"far_sign:{told}" if told else "far_sign"


_TUNED = {"step_size": 0.035}
_FORWARD = {"step_size": 0.015, "scheme": "forward"}
_ALIVE = _FORWARD | {"sampler": "alive"}

IDEAS = {
    "paper": Idea({}, "the paper's setting"),
    "tuned": Idea(_TUNED, "half the step"),
    "small": Idea({"step_size": 0.0175}, "a quarter of the step"),
    "averaged": Idea(_TUNED | {"averaging": 2}, "tuned, averages of iterates, weights n^2"),
    "forward": Idea(_FORWARD, "forward differences: k + 1 evaluations for k answers"),
    "alive": Idea(_ALIVE, "forward, dead coordinates asked for less often"),
    "alive_unbiased": Idea(_ALIVE | {"weights": "inverse"}, "alive, steps by 1 / probability"),
    "rank": Idea(
        _FORWARD | {"sampler": "rank", "floor": 0.3}, "forward, large derivatives more often"
    ),
    "rank_unbiased": Idea(
        _FORWARD | {"sampler": "rank", "floor": 0.3, "weights": "inverse"},
        "rank, steps by 1 / probability",
    ),
    "last_layer": Idea(_ALIVE | {"last_layer": 0.5}, "alive, half the step in the last layer"),
    "soft": Idea(_ALIVE | {"soft": 0.5}, "alive, smaller steps where an average is small"),
    "alive_averaged": Idea(_ALIVE | {"averaging": 2}, "alive, averages of iterates"),
    "combined": Idea(
        _ALIVE | {"weights": "inverse", "soft": 1, "step_size": 0.02, "last_layer": 0.5},
        "alive_unbiased, softer steps, half of them in the last layer",
    ),
    "bfloat16": Idea(_TUNED | {"storage": "bfloat16"}, "tuned, y in half the memory"),
    "hashed": Idea(_TUNED | {"storage": "hashed", "slots": 3000}, "y in a quarter of it"),
    "sketch": Idea(_TUNED | {"storage": "sketch", "slots": 2000}, "y in a quarter of it"),
    "blocks": Idea(_TUNED | {"storage": "blocks", "slots": 6363}, "y in a quarter of it"),
    "hashed_less": Idea(_TUNED | {"storage": "hashed", "slots": 100}, "y in 1/127 of it"),
}

CONFIG = PanelConfig(eval_every=500)
READ = all_but("methods", "aggregators", "buffers")  # it has its own


def _budgeted(config: PanelConfig, scheme: str) -> PanelConfig:
    """As many evaluations as `config` needs for central differences."""
    cost, usual = (evaluations(config.directions, s) for s in (scheme, "central"))
    events = config.events * usual // cost
    scaled = {n: getattr(config, n) * usual // cost for n in ("decay_every", "eval_every")}
    return dataclasses.replace(config, events=events, **scaled)


def ablation() -> pathlib.Path:
    names = list(IDEAS) if FLAGS.variants is None else FLAGS.variants
    require(len(names) > 0, f"--variants names none: known: {', '.join(IDEAS)}")
    chosen = {name: lookup("idea", name, IDEAS) for name in names}
    base = configure(CONFIG)
    folder = folder_for("ablation", base, ideas=sorted(chosen))
    panels = []
    for name, idea in chosen.items():
        config = _budgeted(base, idea.options.get("scheme", "central"))
        config = dataclasses.replace(config, methods=(idea.method,))
        panels.append(panel.ready(config, FLAGS.data_dir, name=name, told={"idea": name}))
    rows = perform(panels, folder)
    multi_host.part()
    lines, summary = [], []
    for name, idea in chosen.items():
        entries = summary_lib.summarise([row for row in rows if row["idea"] == name])
        summary += [{"idea": name} | entry for entry in entries]
        best = [entry["best"] for entry in entries]
        cells = [summary_lib.percent(value) for value in (*best, min(best))]
        lines.append([name, *cells, f"`{idea.method}`", idea.says])
    header = ["idea", *(e["attack"] for e in entries), "worst", "method", "what it is"]
    folder.write_rows(rows, summary)
    table = tables.markdown_table(header, lines)
    budget = base.events * evaluations(base.directions, "central")
    table = f"{budget:,} evaluations in each run; seeds: {len(base.seeds)}\n\n{table}"
    files.write_text(folder.path / "table.md", table)
    print(f"\n{table}\nall of it is in {folder.path}")
    return folder.path


if __name__ == "__main__":
    main(ablation, many=True, base=CONFIG, own=("variants",), reads=READ)
