"""The configuration of a panel: methods x aggregators x attacks x seeds on one data set."""

import dataclasses
from typing import Any, NamedTuple

from farsign_jax import aggregators as aggregators_lib
from farsign_jax.aggregators.registry import AGGREGATORS
from farsign_jax.attacks.registry import ATTACKS
from farsign_jax.config import checks, systems
from farsign_jax.config.settings import COMPARED, RunSettings, setting
from farsign_jax.methods import METHODS

# The attacks of the paper's Table 3 and their magnitudes (inferred, the text lost them).
# ALIE and the constant spoil the derivatives that a worker of CYBER-0 measures: spoiling the
# gradient made of them is fatal to baselines that the paper's table shows alive.
PAPER_ATTACKS = (
    "none",
    "alie:z=1.5,space=measured",
    "gaussian:std=100",
    "constant:value=100",
    "sign_flip",
)


# Its aggregators, and none. Five Byzantine workers can spoil 5 of 11 buffers, but Krum takes
# at most 4 and Bulyan at most 2 of 11; a trimmed mean that cut 5 would be the median, which
# survives where the paper's does not. RFA's smoothed Weiszfeld needs more than its usual 4
# iterations where Byzantine messages are far away.
PAPER_AGGREGATORS = (
    "mean",
    "median",
    "trimmed_mean:f=2",
    "krum:f=4",
    "multi_krum:f=4",
    "rfa:iterations=32",
    "bulyan:f=2",
)

# What a bare name stands for on a command line and in a file: the paper's Table 3.
USUAL = {
    name: {text.partition(":")[0]: text for text in texts}
    for name, texts in (("attacks", PAPER_ATTACKS), ("aggregators", PAPER_AGGREGATORS))
}


def usual(setting: str, text: str) -> str:
    """The text that a name stands for: `alie` has the magnitude of Table 3, `alie:` has not.

    Args:
        setting: "attacks", "aggregators", or another one, of which every text is itself.
        text: a name, with or without options; of aggregators in the spelling of ByzFL, too.
    """
    if setting == "aggregators" and not text.endswith(":"):
        text = aggregators_lib.canonical(text)
    return USUAL.get(setting, {}).get(text, text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PanelConfig(RunSettings):
    """Everything that decides the numbers of a panel of runs."""

    methods: tuple[str, ...] = setting(
        ("far_sign",),
        COMPARED,
        "The methods. Names with options, as in far_sign:step_size=0.02.",
        names=METHODS,
    )
    aggregators: tuple[str, ...] = setting(
        PAPER_AGGREGATORS,
        COMPARED,
        "The aggregation rules. Methods that take one run with each of them. A bare name has "
        "the numbers of the paper's Table 3; options as in krum:f=3, stages as in "
        "nnm:f=3+median.",
        names=AGGREGATORS,
    )
    attacks: tuple[str, ...] = setting(
        PAPER_ATTACKS,
        COMPARED,
        "The attacks. A bare name has the magnitude of the paper's Table 3; options as in "
        "alie:z=0.5,ddof=1; `alie:` has the defaults of farsign_jax.attacks.",
        names=ATTACKS,
    )
    seeds: tuple[int, ...] = setting(
        (0, 1, 2, 3, 4),
        COMPARED,
        "The seeds, as in 5 or 0,3,7. A single number is a count of seeds, from 0 on.",
    )

    @property
    def in_rounds(self) -> bool:
        """Whether any of the methods works in rounds."""
        return any(systems.method_of(method).works_in_rounds for method in self.methods)

    def flood_events(self, rate: float) -> int:
        """The events in the same virtual time if Byzantine workers are `rate` times as fast."""
        honest = self.workers - self.byzantine
        return round(self.events * (honest + rate * self.byzantine) / self.workers)


def check(config: PanelConfig) -> None:
    """Raises `InvalidConfig` on what can be known to be wrong without the data."""
    checks.check_settings(config)
    for name in ("methods", "attacks", "aggregators", "seeds"):
        checks.check_distinct(name, getattr(config, name))
    for seed in config.seeds:
        checks.check_seed(seed)
    for attack in config.attacks:
        checks.check_attack(config, attack)
    for aggregator in config.aggregators:
        aggregators_lib.make(aggregator)
    for method in config.methods:
        checks.check_method(config, method, config.aggregators)


class Preset(NamedTuple):
    """A named group of settings, which flags override."""

    summary: str
    settings: dict[str, Any]


_SMOKE = {"dataset": "mnist_subset", "seeds": (0, 1), "events": 300, "directions": 50}


PRESETS = {
    "paper": Preset(
        "The numbers of the paper, as far as they can be inferred", {"preset": "paper"}
    ),
    "tuned": Preset("The step sizes that experiments.tune chose", {"preset": "tuned"}),
    "smoke": Preset("Minutes become seconds: does everything work?", _SMOKE),
}
