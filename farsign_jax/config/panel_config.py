"""What a panel of runs is told: methods, attacks, data, numbers; and whether that can run."""

import dataclasses
import functools
import inspect
from typing import Any, NamedTuple

import numpy as np

from farsign_jax import aggregators as aggregators_lib
from farsign_jax import attacks as attacks_lib
from farsign_jax import models, simulation
from farsign_jax.aggregators.rule import Count
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing as timing_lib
from farsign_jax.data import datasets, partitions
from farsign_jax.methods import METHODS, OracleConfig, hyper_of, options_of
from farsign_jax.specs import parse
from farsign_jax.validation import InvalidConfig, lookup, require

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


# Its aggregators, and none. Five liars can spoil 5 of 11 buffers, but Krum takes at most 4
# and Bulyan at most 2 of 11; a trimmed mean that cut 5 would be the median, which survives
# where the paper's does not. RFA's smoothed Weiszfeld needs more than its usual 4 iterations
# where liars are far away.
PAPER_AGGREGATORS = (
    "mean",
    "median",
    "trimmed_mean:f=2",
    "krum:f=4",
    "multi_krum:f=4",
    "rfa:iterations=32",
    "bulyan:f=2",
)


# Laws of who comes next that have no clock, and their options.
CLOCKLESS = {"uniform": set(), "weighted": {"spread", "fast"}}


class Round(NamedTuple):
    """Whom a server that works in rounds waits for."""

    says: str
    needs: tuple[str, ...] = ()


ROUNDS = {
    "barrier": Round("For everybody"),
    "fastest": Round("For the first `wait` that answer", ("wait",)),
    "partial": Round(
        "For those who take part, each with probability `participation`", ("participation",)
    ),
}


PLACEMENTS = {
    "first": "The first q workers",
    "one_buffer": "q workers in as few buffers as possible",
    "rotating": "q others at every event",
}


@dataclasses.dataclass(frozen=True)
class PanelConfig:
    """Everything that decides the numbers of a panel.

    The defaults are the paper's MNIST setting as far as it can be inferred: its text lost
    the numbers; these reproduce most figures of its Table 3.
    """

    methods: tuple[str, ...] = ("far_sign",)
    aggregators: tuple[str, ...] = PAPER_AGGREGATORS  # of the methods that take one
    attacks: tuple[str, ...] = PAPER_ATTACKS
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    preset: str = "paper"
    dataset: str = "mnist"
    model: str = "mlp"
    partition: str = "iid"
    heterogeneity: float | None = None
    workers: int = 25
    byzantine: int = 5
    batch_size: int = 64
    buffers: int = 11  # of the methods that have some
    directions: int = 100
    delta: float = 1e-3
    decay: float = 0.9
    decay_every: int = 1000
    step_size: float | None = None  # None: the method's own, from its preset
    events: int = 10_000
    eval_every: int = 50
    delivery: str = "fresh"
    arrivals: str = "uniform"  # or a model of `services`, or trace:path=FILE
    timing_attack: str = "none"  # what liars do with time, on top of their attack
    byzantine_placement: str = "first"  # who lies, of `LIARS`
    rounds: str = "barrier"  # whom servers that work in rounds wait for
    validation: float = 0.0  # share of the training set to measure on instead of the test set

    @property
    def in_rounds(self) -> bool:
        """Does any of the methods work in rounds?"""
        return any(METHODS[parse(method)[0]].works_in_rounds for method in self.methods)

    def byzantine_mask(self) -> np.ndarray:
        """bool[m], who lies; bool[m, m] where it changes from event to event."""
        mask = attacks_lib.byzantine_mask(self.workers, self.byzantine)
        if self.byzantine_placement == "rotating":
            return np.stack([np.roll(mask, n) for n in range(self.workers)])
        if self.byzantine_placement == "one_buffer":  # worker mod B is its buffer
            order = np.lexsort(
                (np.arange(self.workers), np.arange(self.workers) % self.buffers)
            )
            mask = mask[np.argsort(order)]
        return mask

    def fleet(self, honest: bool = False) -> list[delays.DelayModel]:
        """How long each worker takes; `honest`: if nobody played with time."""
        (model, speeds), (timing, options) = self._pace(), parse(self.timing_attack)
        fleet = [model.at_speed(speed) for speed in speeds]
        if timing == "none" or honest:
            return fleet
        mask = self.byzantine_mask()
        spoil = functools.partial(timing_lib.apply_timing_attack, name=timing, **dict(options))
        return [spoil(s) if lies else s for s, lies in zip(fleet, mask, strict=True)]

    def _pace(self) -> tuple[delays.DelayModel, np.ndarray]:
        """What all services have in common, and how fast each worker is."""
        name, options = parse(self.arrivals)
        told = dict(options)
        spread, fast, m = told.pop("spread", 1.0), told.pop("fast", None), self.workers
        speeds = delays.geometric_speeds(m, spread)
        # Some order, the same for all seeds: speed has nothing to do with who lies.
        speeds = np.random.default_rng(0).permutation(speeds)
        if fast is not None:
            rule = f"fast is a number of workers, 0..{m}: got {fast}"
            require(isinstance(fast, int) and 0 <= fast <= m, rule)
            require("spread" in dict(options), f"fast={fast} needs spread, how much faster")
            speeds = np.where(np.arange(m) < fast, 1.0, 1 / spread)
        if name in CLOCKLESS:
            return delays.exponential(), speeds
        return delays.make(name, **told), speeds

    def rates(self) -> tuple[float, ...]:
        """How often each worker claims to answer, relative to the others."""
        typical = [service.typical for service in self.fleet(honest=True)]
        rule = (
            f"arrivals {self.arrivals!r} have no rate: an answer typically takes {typical[0]} s"
        )
        require(np.array(typical) > 0, rule)
        return tuple(1 / seconds for seconds in typical)

    def waiting(self) -> dict[str, Any]:
        """The options of `arrivals.rounds`."""
        name, options = parse(self.rounds)
        expected = lookup("rounds", name, ROUNDS).needs
        got = tuple(option for option, _ in options)
        require(got == expected, f"rounds {name!r} needs {list(expected)}: got {self.rounds!r}")
        wait, share = (dict(options).get(o, 1) for o in ("wait", "participation"))
        rule = f"need a whole number 1 <= wait <= workers: got {wait}, workers={self.workers}"
        require(isinstance(wait, int) and 1 <= wait <= self.workers, rule)
        rule = f"need 0 < participation <= 1: got {share}"
        require(isinstance(share, int | float) and 0 < share <= 1, rule)
        return dict(options)

    @property
    def feedback(self) -> OracleConfig:
        waiting = self.waiting()
        answers = waiting.get("wait") or self.workers * waiting.get("participation", 1.0)
        return OracleConfig(
            self.batch_size,
            self.directions,
            self.delta,
            self.decay,
            self.decay_every,
            answers,
        )


class Preset(NamedTuple):
    """Settings by one name, which flags override."""

    says: str
    settings: dict[str, Any]


_SMOKE = {"dataset": "mnist_subset", "seeds": (0, 1), "events": 300, "directions": 50}


PRESETS = {
    "paper": Preset("The numbers of the paper, as far as they can be inferred", {}),
    "tuned": Preset("The step sizes that experiments.tune chose", {"preset": "tuned"}),
    "smoke": Preset("Minutes become seconds: does everything work?", _SMOKE),
}


def parse_attack(text: str) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """`parse`, and the attack is made once, so that what cannot be made fails here."""
    name, options = parse(text)
    parameters = inspect.signature(lookup("attack", name, attacks_lib.ATTACKS)).parameters
    told = []
    for option, value in options:
        if option in parameters and parameters[option].annotation is str:
            value = str(value)
        elif option in parameters:
            good = isinstance(value, int | float) and np.isfinite(value)
            rule = f"attack {name!r} needs a finite number for {option}: got {value!r}"
            require(good, rule)
        told.append((option, value))
    attacks_lib.make(name, **dict(told))
    return name, tuple(told)


def _check_kind(method: str, option: str, value: Any) -> None:
    """Raises `InvalidConfig` on an option that is not of the kind of its default."""
    default = inspect.signature(METHODS[method].build).parameters[option].default
    if isinstance(default, str):
        kind, good = "a name", isinstance(value, str)
    elif isinstance(default, int) or "rank" in option:
        kind, good = "a whole number", isinstance(value, int) and abs(value) < 2**31
    else:
        kind, good = "a number", isinstance(value, int | float)
    require(good, f"{method} needs {kind} for {option}: got {value!r}")


def parse_method(text: str, preset: str = "paper") -> tuple[str, tuple[tuple[str, Any], ...]]:
    """`parse`, and every option is one of the method, of the kind that it takes."""
    name, options = parse(text)
    numbers = hyper_of(name, preset)
    for option, value in options:
        known = [*options_of(name), *numbers]
        lookup(f"option of {name}", option, dict.fromkeys(known))
        if option in numbers:
            good = isinstance(value, int | float)
            require(good, f"{name} needs a number for {option}: got {value!r}")
            continue
        require(option != "aggregator", f"aggregators are --aggregators: got {text!r}")
        _check_kind(name, option, value)
    return name, options


def parse_seeds(text: str) -> tuple[int, ...]:
    """`5` as seeds 0..4; `0,3,7`, or `7,`, as they are."""
    try:
        seeds = tuple(int(part) for part in text.removesuffix(",").split(","))
    except ValueError:
        raise InvalidConfig(f"--seeds is a count or a list like 0,3,7: got {text!r}") from None
    if "," not in text:
        require(seeds[0] > 0, f"--seeds needs at least one seed: got {text}")
        return tuple(range(seeds[0]))
    require(len(set(seeds)) == len(seeds), f"--seeds names one twice: {text}")
    require(min(seeds) >= 0 and max(seeds) < 2**31, f"seeds are 0..2147483647: got {text}")
    return seeds


def check(config: PanelConfig) -> None:
    """Raises `InvalidConfig` on what can be known to be wrong without the data."""
    require(config.workers > 0, f"need workers > 0: got {config.workers}")
    attacks_lib.byzantine_mask(config.workers, config.byzantine)  # which says what can be
    for name in ("methods", "attacks", "aggregators"):
        values = getattr(config, name)
        require(len(values) > 0, f"--{name} names none")
        require(
            len(set(values)) == len(values), f"--{name} names one twice: {','.join(values)}"
        )
    for method in config.methods:
        name, options = parse_method(method, config.preset)
        if "buffers" in options_of(name):
            count, q = dict(options).get("buffers", config.buffers), config.byzantine
            rule = f"{name} needs buffers >= 2q + 1: got buffers={count}, q={q}"
            require(count >= 2 * q + 1, rule)
            rule = f"liars share the buffers of --buffers={config.buffers}: got {method!r}"
            require(config.byzantine_placement != "one_buffer" or count == config.buffers, rule)
        entry, heard = METHODS[name], config.waiting().get("wait", config.workers)
        rules = (entry.fixed_aggregator,) if entry.fixed_aggregator else ()
        if "aggregator" in options_of(name):
            rules = config.aggregators
            rows = heard
            if "buffers" in options_of(name):
                rows = dict(options).get("buffers", config.buffers)
            for rule in rules:  # which must take as many rows as there are
                aggregators_lib.make(rule).check(Count(rows, rows))
        robust = [rule for rule in rules if rule != "mean"]
        if entry.works_in_rounds and robust:
            told = f"got q={config.byzantine}, m={heard}"
            enough = 2 * config.byzantine < heard
            require(enough, f"{name} with {robust[0]} needs q < m/2: {told}")
    for attack in config.attacks:
        name, options = parse_attack(attack)
        told, honest = dict(options), config.workers - config.byzantine
        rule = f"{attack!r} needs target < honest workers: got {honest} of these"
        require(told.get("among") != "honest" or told["target"] < honest, rule)
    for aggregator in config.aggregators:
        aggregators_lib.make(aggregator)
    lookup("dataset", config.dataset, datasets.DATASETS)
    models.make(config.model)
    lookup("partition", config.partition, partitions.PARTITIONS)
    simulation.depth(config.delivery)
    lookup("byzantine_placement", config.byzantine_placement, PLACEMENTS)
    rule = f"who plays with time always lies: got timing_attack {config.timing_attack!r}, "
    rule += "byzantine_placement rotating"
    require(config.byzantine_placement != "rotating" or config.timing_attack == "none", rule)
    config.waiting()
    rule = f"timing_attack none takes no options: got {config.timing_attack!r}"
    require(not config.timing_attack.startswith("none:"), rule)
    name, options = parse(config.arrivals)
    if name == "trace":
        require(set(dict(options)) == {"path"}, "trace needs a file: trace:path=FILE")
        require(
            config.timing_attack == "none", "what happened in a trace cannot be played with"
        )
        require(not config.in_rounds, "rounds need a model of delays, not a trace")
    else:
        lookup("arrivals", name, CLOCKLESS | delays.DELAYS | {"trace": None})
        clockless = name in CLOCKLESS
        rule = f"arrivals {name!r} have no clock to play with: try exponential"
        require(not clockless or config.timing_attack == "none", rule)
        takes = ", ".join(sorted(CLOCKLESS.get(name, ()))) or "no options"
        rule = f"arrivals {name!r} take {takes}: got {config.arrivals!r}"
        require(not clockless or set(dict(options)) <= CLOCKLESS[name], rule)
        config.fleet()
    attacks_lib.byzantine_mask(config.workers, config.byzantine)
    for name in (
        "batch_size",
        "buffers",
        "directions",
        "delta",
        "events",
        "eval_every",
        "decay_every",
    ):
        value = getattr(config, name)
        require(0 < value < 2**31, f"need 0 < {name} < 2147483648: got {value}")
    require(0 < config.decay <= 1, f"need 0 < decay <= 1: got {config.decay}")
    step, share = config.step_size, config.validation
    require(step is None or 0 < step < np.inf, f"need a finite step_size > 0: got {step}")
    require(0 <= share < 1, f"need 0 <= validation < 1: got {share}")
