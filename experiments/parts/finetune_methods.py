"""What fine-tuning learns, and the methods that `experiments.finetune` compares.

A step size is the best of three, a factor of about 3 apart, without attack and with one seed.
"""

import pathlib
from typing import Any, NamedTuple

from farsign_jax import specs
from farsign_jax.config.systems import method_of
from farsign_jax.harness import pretraining
from farsign_jax.io import cache

# Which letters follow in the paragraphs of a licence, each of which is a user.
TASK: dict[str, Any] = {
    "dataset": "license_users",
    "model": "transformer:layers=2,width=64,heads=4,context=24",
    "subspace": "low_rank:size=256",
    "partition": "by_user",
    "directions": 8,
    "batch_size": 8,
    "delta": 0.1,
    "decay": 0.8,
    "decay_every": 400,
}


def with_base(dataset: str, model: str, out: str | None) -> str:
    """The model of the task with a base that is trained once, and kept in the cache, or in
    `out`; a model of another task, or with a path of its own, as it is."""
    if dataset != TASK["dataset"] or "path=" in model:
        return model
    where = cache.folder() or pathlib.Path(out or ".")
    trained = pretraining.base_model(pretraining.Plan(model=model), where, progress=True)
    return specs.extended(trained, f"vocabulary={pretraining.TOKENS}")


class Entry(NamedTuple):
    """A line of the table.

    Attributes:
        method: with its options.
        step_size: the initial step size.
        aggregator: where the method takes one.
        all_parameters: whether it moves all parameters instead of those of the subspace.
    """

    method: str
    step_size: float
    aggregator: str = "median"
    all_parameters: bool = False

    @property
    def name(self) -> str:
        """The method, with what distinguishes it from the others."""
        short = self.method.partition(":")[0]
        if "vote=" in self.method:
            short += ", vote"
        if short in ("decomfl", "cyber0_rounds"):
            short += f", {self.aggregator}"
        return short + (", all parameters" if self.all_parameters else "")

    @property
    def in_rounds(self) -> bool:
        return method_of(self.method).works_in_rounds


VOTE = "vote=nnm:f=5+trimmed_mean:f=5"
ENTRIES = (
    Entry("far_sign:scheme=forward", 0.05),
    Entry(f"far_sign:scheme=forward,{VOTE}", 0.05),
    Entry("async_zo_sgd", 0.01),
    Entry("mezo", 0.01),
    Entry("mezo", 0.0003, all_parameters=True),
    Entry("async_feed_sign", 0.003),
    Entry("feed_sign", 0.03),
    Entry("decomfl", 0.3, "mean"),
    Entry("decomfl", 0.3),
    Entry("cyber0_rounds", 0.3),
    Entry("fed_kseed", 10.0),
)
