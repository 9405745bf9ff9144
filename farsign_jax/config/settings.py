"""The settings that a single run and a panel of runs have in common.

Each field documents itself: its metadata holds the sentence that `--help` prints, the group
under which it is printed there, and the simple checks of its value. Flags, JSON files, the
record in a folder of results and the server of `farsign_jax.runtime` are all made from these
fields, so a setting is named, described and checked once.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np

from farsign_jax import attacks
from farsign_jax.arrivals.delays import DELAYS
from farsign_jax.attacks.timing import TIMING_ATTACKS
from farsign_jax.data import partitions
from farsign_jax.data.datasets import DATASETS
from farsign_jax.data.partitions import PARTITIONS
from farsign_jax.directions.subspaces import SUBSPACES
from farsign_jax.models.networks import MODELS
from farsign_jax.validation import InvalidConfig, lookup, require

COMPARED = "what is compared"
PROBLEM = "the problem"
STEPS = "answers and steps"

NO_SUBSPACE = "none"
PLACEMENTS = {
    "first": "The first q workers are Byzantine",
    "one_buffer": "The q Byzantine workers share as few buffers as possible",
    "rotating": "At every event q other workers are Byzantine",
}


def setting(default: Any, group: str, help: str, **more: Any) -> Any:
    """A field with its documentation.

    Args:
        default: of the field.
        group: the heading under which `--help` lists it.
        help: what it is, in sentences; the first one fits on a line of `--help`.
        more: `positive=True` requires 0 < value < 2^31; `names` is the registry that it is
            looked up in.
    """
    return dataclasses.field(default=default, metadata={"group": group, "help": help} | more)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything that decides the numbers of a run beside method, attack and seed.

    The defaults are the MNIST setting of the paper as far as it can be inferred: the numbers
    are missing from its text; these reproduce most figures of its Table 3.
    """

    preset: str = setting(
        "paper", COMPARED, "The preset. It names a group of settings, which flags override."
    )
    buffers: int = setting(
        11,
        COMPARED,
        "The number of buffers. Only methods that keep buffers use it.",
        positive=True,
    )
    dataset: str = setting("mnist", PROBLEM, "The data set.", names=DATASETS)
    model: Any = setting(  # noqa: RUF009
        "mlp",
        PROBLEM,
        "The network, as in mlp:hidden=256x128. From Python, a Flax module will do, too.",
        names=MODELS,
    )
    subspace: str = setting(
        NO_SUBSPACE,
        PROBLEM,
        "The directions in which parameters move. none moves all parameters; a few directions "
        "from a seed are written as in low_rank:size=512,rank=1,layers=blocks/*, and the "
        "parameters of methods are then their amounts.",
        names=SUBSPACES,
    )
    partition: str = setting(
        "iid",
        PROBLEM,
        "How examples are divided. A partition may name its heterogeneity, as in "
        "dirichlet:heterogeneity=0.3.",
        names=PARTITIONS,
    )
    heterogeneity: float | None = setting(
        None,
        PROBLEM,
        "How unevenly they are. The concentration of dirichlet and unbalanced, the number of "
        "pieces per worker of label_skew, or the size of the first camp of two_camps.",
    )
    validation: float = setting(
        0.0,
        PROBLEM,
        "The fraction of the training set to measure on. 0 measures on the test set. The "
        "commands that draw panels choose step sizes by it, and measure on the test set.",
    )
    workers: int = setting(25, PROBLEM, "The number of workers, m.")
    byzantine: int = setting(5, PROBLEM, "How many are Byzantine, q.")
    byzantine_placement: str = setting(
        "first",
        PROBLEM,
        "Who is Byzantine. One of first, one_buffer (in as few buffers as possible) and "
        "rotating (other workers at every event).",
    )
    timing_attack: str = setting(
        "none",
        PROBLEM,
        "The timing attack. What Byzantine workers do with the time of their answers, on top "
        "of their attack, as in flood:rate=10.",
        names=TIMING_ATTACKS,
    )
    batch_size: int = setting(
        64, STEPS, "The number of examples in a mini-batch, b.", positive=True
    )
    directions: int = setting(100, STEPS, "The directions of a query, k.", positive=True)
    delta: float = setting(
        1e-3, STEPS, "The perturbation. Two-point differences move x by it.", positive=True
    )
    step_size: float | None = setting(
        None,
        STEPS,
        "The initial step size of all methods. By default each has its own, from the preset.",
    )
    decay: float = setting(
        0.9,
        STEPS,
        "The decay of step sizes. All are multiplied by it every so many answers; brsgd has a "
        "power of the round instead.",
    )
    decay_every: int = setting(1000, STEPS, "Answers between decays.", positive=True)
    arrivals: str = setting(
        "uniform",
        STEPS,
        "The order of arrivals, as in pareto:shape=1.5,spread=4. Every model of delays takes "
        "spread, how many times as fast as the slowest worker the fastest is, and fast, how "
        "many workers are fast while all others are slow. uniform and weighted have no clock; "
        "trace:path=FILE replays a recorded order.",
        names=DELAYS,
    )
    delivery: str = setting(
        "fresh",
        STEPS,
        "How answers are delivered. fresh answers belong to the current iterate, outstanding "
        "ones to the iterate at which they were asked for, and with outstanding:L each worker "
        "has L open questions. With inconsistent:L, coordinates of the iterate that a worker "
        "reads are 0 to L - 1 events old, each by itself. Rounds are always fresh.",
    )
    rounds: str = setting(
        "barrier",
        STEPS,
        "What ends a round. Servers that work in rounds wait for all workers (barrier), for "
        "the first ones (fastest:wait=20), or for those that take part "
        "(partial:participation=0.4).",
    )
    events: int = setting(10_000, STEPS, "The answers of a run, T.", positive=True)
    eval_every: int = setting(50, STEPS, "Answers between records.", positive=True)

    def __post_init__(self) -> None:
        if ":" in str(self.partition):
            name, heterogeneity = partitions.parse(self.partition)
            rule = f"heterogeneity={self.heterogeneity} and partition={self.partition} name "
            require(self.heterogeneity is None, rule + "one each")
            object.__setattr__(self, "partition", name)
            object.__setattr__(self, "heterogeneity", heterogeneity)

    def byzantine_mask(self) -> np.ndarray:
        """bool[m], who is Byzantine; bool[m, m] where it changes from event to event."""
        mask = attacks.byzantine_mask(self.workers, self.byzantine)
        if self.byzantine_placement == "rotating":
            return np.stack([np.roll(mask, n) for n in range(self.workers)])
        if self.byzantine_placement == "one_buffer":  # worker i mod B is its buffer
            ids = np.arange(self.workers)
            order = np.lexsort((ids, ids % self.buffers))
            mask = mask[np.argsort(order)]
        return mask

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, as JSON can hold them.

        Raises:
            InvalidConfig: if the model is not a text.
        """
        require(isinstance(self.model, str), f"only a named model is JSON: got {self.model!r}")
        found = dataclasses.asdict(self)
        return {n: list(v) if isinstance(v, tuple) else v for n, v in found.items()}


def hints(kind: type[RunSettings]) -> dict[str, Any]:
    """The declared type of each setting."""
    return {field.name: field.type for field in dataclasses.fields(kind)}


def members(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows: those of a union, or the one."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


_NAMES = {int: "an integer", float: "a finite number", str: "a name"}


def convert(name: str, hint: Any, value: Any) -> Any:
    """A value of a flag or of JSON as the type of its setting.

    Raises:
        InvalidConfig: naming the setting, the type and the value.
    """
    allowed = members(hint)
    (kind,) = {int, float, str} & {*allowed} or {str}
    if value is None and types.NoneType in allowed:
        return None
    good = isinstance(value, str | int | float) and not isinstance(value, bool)
    rule = f"{name} is {_NAMES[kind]}: got {value!r}"
    require(good, rule)
    try:
        made = kind(value)
    except (ValueError, OverflowError):
        raise InvalidConfig(rule) from None
    require(kind is not int or not isinstance(value, float), rule)
    return made


def from_dict(kind: type[RunSettings], settings: Mapping[str, Any]) -> Any:
    """Settings from their names and values; what is not named has its default.

    Raises:
        InvalidConfig: naming what is unknown, of another type, or cannot run.
    """
    known, found = hints(kind), {}
    for name, value in settings.items():
        hint = lookup("setting", name, known)
        if typing.get_origin(hint) is tuple:
            each = typing.get_args(hint)[0]
            require(isinstance(value, list | tuple), f"{name} is a list: got {value!r}")
            found[name] = tuple(convert(name, each, one) for one in value)
        else:
            found[name] = convert(name, hint, value)
    return kind(**found)
