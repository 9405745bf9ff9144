"""How much a subspace can learn, and when averages over time begin to matter.

    python -m experiments.subspaces                 both panels, about 25 minutes on two cores
    python -m experiments.subspaces --panels a      one of them

    a   accuracy against the number K of directions, for three weights of the newest answer in
        the moving averages; weight 1 forgets all others
    b   accuracy against the rank of the directions

FAR-SIGN learns the task of `experiments.finetune`, without attack and under sign flips, with a
few step sizes, the best of which is shown. A pair of a worker and a direction is visited
T k / (m K) times by T answers about k directions each.

Writes results.csv and results.json (all runs) and, for each panel X, X.md (the figures shown)
and X.png/pdf under --out.
"""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

from experiments.parts.finetune_methods import TASK, with_base
from farsign_jax import specs
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness.command import main
from farsign_jax.harness.figure_command import run_figures
from farsign_jax.harness.figure_grid import Cell, Figure
from farsign_jax.harness.flags import FLAGS, all_but, configure

READ = all_but("subspace", "aggregators", "timing_attack", "rounds")
CONFIG = PanelConfig(
    methods=("far_sign:scheme=forward",),
    attacks=("none", "sign_flip:scale=10"),
    seeds=(0,),
    arrivals="pareto",
    delivery="outstanding",
    step_size=0.2,
    events=2400,
    eval_every=600,
    **TASK,
)
SIZES = (64, 256, 1024)
RANKS = (1, 4, 16)
WEIGHTS = (1.0, 0.5, 0.1)


def _each(base: PanelConfig, subspace: str, **changes: Any) -> Iterable[PanelConfig]:
    """The configuration in a subspace, with each of its methods and attacks alone."""
    for method in base.methods:
        for attack in base.attacks:
            yield dataclasses.replace(
                base, methods=(method,), attacks=(attack,), subspace=subspace, **changes
            )


def _sizes(base: PanelConfig) -> Iterable[Cell]:
    for size in SIZES:
        for config in _each(base, f"low_rank:size={size}"):
            for weight in WEIGHTS:
                method = specs.extended(config.methods[0], f"average_step={weight:g}")
                own = dataclasses.replace(config, methods=(method,))
                yield Cell(config.attacks[0], size, own, f"weight {weight:g}")


def _ranks(base: PanelConfig) -> Iterable[Cell]:
    for rank in RANKS:
        for config in _each(base, f"low_rank:size={SIZES[1]},rank={rank}"):
            yield Cell(config.attacks[0], rank, config)


PANELS = {
    "a": Figure(_sizes, "How many directions", "directions K"),
    "b": Figure(_ranks, f"Of which rank, K = {SIZES[1]}", "rank of a direction"),
}


def subspaces() -> pathlib.Path | None:
    base = configure(CONFIG)
    model = with_base(base.dataset, str(base.model), FLAGS.out)
    base = dataclasses.replace(base, model=model)
    return run_figures("subspaces", base, PANELS)


if __name__ == "__main__":
    main(subspaces, base=CONFIG, own=("panels",), reads=READ)
